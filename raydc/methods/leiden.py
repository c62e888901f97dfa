"""Communities of the graph of nearest neighbours, by Leiden, learnt by a network.

Traag, Waltman & van Eck, Scientific Reports 2019, arXiv:1810.08473. What most of single-cell biology clusters with. Of
a sample of the rows, each tied to its nearest ones, Leiden looks for the partition with the most ties inside
communities, at the resolution that gives K of them, or nearly. It has no answer for further rows; a network that learns
its clusters has, and is what is kept. `raydc tune` compares every method with this one.

Decided here: the sample, the resolution by halving, and the network. Of more communities than K the smallest go where
their rows' neighbours are; where there are fewer, clusters stay empty.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydc.clustering import shallow
from raydc.methods.base import DistilledGraphMethod, MethodInfo


class Leiden(DistilledGraphMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Traag et al. 2019",
        architecture="MLP",
        features="softmax output",
        network_loss="none",
        clustering_loss="cross-entropy to communities",
        combination="clustering loss only",
        updates="none",
    )

    def cluster_sample(self, rows: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
        return shallow.communities(rows, self.n_clusters, self.config.neighbours, seed)
