"""Ward's clusters, learnt by a network.

Ward, Journal of the American Statistical Association 1963: of a sample of the rows, every two clusters are merged whose
union adds the least squared error, until K are left. That has no answer for further rows; a network that learns the
clusters has, and is what is kept. `raydc tune` compares every method with this one.

Decided here: the sample and the network.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydc.clustering import shallow
from raydc.methods.base import DistilledMethod, MethodInfo


class Ward(DistilledMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Ward 1963",
        architecture="MLP",
        features="softmax output",
        network_loss="none",
        clustering_loss="cross-entropy to Ward's clusters",
        combination="clustering loss only",
        updates="none",
    )

    def cluster_sample(self, rows: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
        return shallow.ward(rows, self.n_clusters)
