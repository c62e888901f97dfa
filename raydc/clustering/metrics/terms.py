"""Which words set clusters of texts apart: class-based tf-idf, in which all texts of a cluster are one.

Grootendorst, BERTopic, 2022, arXiv:2203.05794, eq. 2.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def class_tf_idf(counts: ArrayLike) -> NDArray[np.float64]:
    """Weight [K, V] of each word in each cluster from how often it occurs there [K, V]; 0 where it does not.

    tf ln(1 + A / f): tf is the word's share of the cluster's words, f how often it occurs in all clusters, and A how
    many words a cluster has on average.
    """
    found = np.asarray(counts, np.float64)
    lengths, often = found.sum(1, keepdims=True), found.sum(0)
    average = lengths.mean() if len(found) else 0.0
    return found / np.maximum(lengths, 1) * np.log1p(average / np.maximum(often, 1))
