"""Neural Clustering: concatenating layers for better projections. Saito & Tan, ICLR 2017 workshop.

An autoencoder is trained on its reconstruction alone, and k-means runs on the outputs of all layers of its encoder,
side by side, rather than on its code.

The paper's .966 on MNIST is of "k-nearest neighbours", which classify by known labels: no cluster accuracy, and not to
be set beside one. Its layers, normalisation and optimizer are not known here. Decided here: every layer counts, each
brought to length one for each row, for a layer's width would weigh it otherwise; autoencoder as DEC's; k-means as in
`ae_kmeans`, with 20 restarts. A row of images of MNIST's size has 3,010 such numbers.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from raydc.methods.base import AutoencoderMethod, FinalKMeansMethod, MethodInfo


class NeuralClustering(FinalKMeansMethod, AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Saito & Tan 2017",
        architecture="MLP",
        features="outputs of all encoder layers",
        network_loss="autoencoder reconstruction",
        clustering_loss="none",
        combination="pretraining only",
        updates="none",
        after="k-means",
    )

    def __init__(self, config: AutoencoderMethod.Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.hold_centroids(sum(self.net.widths))

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([F.normalize(layer.flatten(1), dim=1) for layer in self.net.activations(x)], 1)
