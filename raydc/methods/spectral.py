"""Spectral clusters of the graph of nearest neighbours, learnt by a network.

Ng, Jordan & Weiss, NIPS 2001: of a sample of the rows, each tied to its nearest ones, eigenvectors of the normalised
Laplacian, as scikit-learn has them, with its "cluster_qr" behind them (Damle, Minden & Ying, arXiv:1609.08251). They
have no answer for further rows; a network that learns the clusters has, and is what is kept. `raydc tune` compares
every method with this one.

Decided here: the sample and the network.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydc.clustering import shallow
from raydc.methods.base import DistilledGraphMethod, MethodInfo


class Spectral(DistilledGraphMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Ng et al. 2001",
        architecture="MLP",
        features="softmax output",
        network_loss="none",
        clustering_loss="cross-entropy to spectral clusters",
        combination="clustering loss only",
        updates="none",
    )

    def cluster_sample(self, rows: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
        return shallow.spectral(rows, self.n_clusters, self.config.neighbours, seed)
