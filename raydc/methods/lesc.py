"""Learning Embedding Space for Clustering from deep representations. Dahal, IEEE BigData 2018.

A second network learns an embedding e of the autoencoder's code z in which the same rows are near: the cross-entropy of
the neighbour probabilities of e, Student's t with one degree of freedom, to those of z, with twice as many degrees as z
has numbers. The encoder descends it beside the reconstruction, the decoder the reconstruction alone, the second network
the cross-entropy alone; k-means on e ends it.

From the author's code: neighbour probabilities of each row add up to 1 over the batch, here the global one; batches of
100, in which a sum over the batch's rows with weight .01 is a mean with weight 1; Adam, 50 epochs, layers of the second
network. Decided here: the second network begins as the identity by adding what it says to its input, its last layer at
0: identity matrices between ReLUs would lose what is negative, and never use units beyond the code's size; the
reconstruction is the squared error, as rows are not held between 0 and 1; the last iterate is taken, where the code
keeps the one with the best labels. Pretraining as for DEC.
"""

from typing import Any, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from raydc.core.schedule import Clustering
from raydc.data import Batch
from raydc.methods.base import AutoencoderMethod, FinalKMeansMethod, MethodInfo, Parts, Player, StepState
from raydc.networks.losses.embedding import neighbour_cross_entropy
from raydc.networks.losses.reconstruction import squared_error
from raydc.networks.mlp import ResidualMLP


class LESC(FinalKMeansMethod, AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Dahal 2018",
        architecture="MLP",
        features="embedding of the encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="neighbour probabilities matched",
        combination="pretraining, then joint training",
        updates="none",
        after="k-means",
    )
    batch_size: ClassVar[int] = 100

    class Config(AutoencoderMethod.Config):
        hidden: tuple[PositiveInt, ...] = (2000, 500, 500, 500)
        """Widths of the hidden layers of the second network."""
        freedom: float = Field(2.0, gt=0)
        """Degrees of freedom of the code's neighbour probabilities, times its size."""
        weight: float = Field(1.0, gt=0)
        """Weight of the cross-entropy for the encoder."""
        cluster: Clustering = Clustering(length="50 epochs", update_every="10 epochs")

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"hidden": (32,), "cluster.length": "20 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.embedding = ResidualMLP(self.net.latent, config.hidden)
        self.hold_centroids(self.net.latent)

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        return {"all": Player(self.groups(self.parameters()), fresh=True)}  # sums over features, after means

    def features(self, x: Tensor) -> Tensor:
        return self.embedding(super().features(x))

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if state.phase != "cluster":
            return super().loss(batch, state, player)
        z = self.net.encode(batch.x)
        rebuilt = squared_error(batch.x.flatten(1), self.net.decode(z).flatten(1))
        weighed = z.detach() + self.config.weight * (z - z.detach())  # the encoder's gradient has the weight, no other
        code, embedded = batch.gather(weighed), batch.gather(self.embedding(weighed))
        apart = neighbour_cross_entropy(code, embedded, self.config.freedom * self.net.latent)
        return {"network": (1.0, batch.mean(rebuilt)), "clustering": (1.0, apart.mean())}
