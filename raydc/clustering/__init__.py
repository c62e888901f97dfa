"""Section 2.6 of the taxonomy: clustering over all shards."""

from raydc.clustering.interface import ClusteringResult, Clusters, KMeansResult

__all__ = ["ClusteringResult", "Clusters", "KMeansResult"]
