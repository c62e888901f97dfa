"""Section 2.6 of the taxonomy: clustering over all shards."""

from raydc.clustering.interface import ClusteringResult, Clusters, KMeansResult
from raydc.clustering.kmeans.options import KMeansOptions

__all__ = ["ClusteringResult", "Clusters", "KMeansOptions", "KMeansResult"]
