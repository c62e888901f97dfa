"""Section 2.6 of the taxonomy: clustering over all shards."""

from raydc.clustering.interface import Clusters, Found, KMeansResult

__all__ = ["Clusters", "Found", "KMeansResult"]
