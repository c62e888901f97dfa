"""Autoencoder, then k-means on its code: the baseline that every deep method has to beat.

What the papers leave open: nothing is trained after the autoencoder; k-means has 20 restarts as in DEC's code.
"""

from typing import ClassVar

from raydc.methods.base import AutoencoderMethod, FinalKMeansMethod, MethodInfo


class AEKMeans(FinalKMeansMethod, AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="baseline of Xie et al. 2016",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="none",
        combination="pretraining only",
        updates="none",
        after="k-means",
    )

    def __init__(self, config: AutoencoderMethod.Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.hold_centroids(self.net.latent)
