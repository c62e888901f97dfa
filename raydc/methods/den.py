"""Deep Embedding Network. Huang, Huang, Wang & Wang, ICPR 2014.

An autoencoder's code is to keep each row near its neighbours (locality, by a heat kernel of their distances among the
rows) and to be zero but for one of K groups of units, a cluster's own (group sparsity); k-means on the code ends it.
L = reconstruction + alpha locality + beta group sparsity, each a sum over features and a mean over rows.

From the abstract: first the autoencoder, then its code's constraints, k-means last. The paper's constants are not known
here; alpha .5, beta 1, two units a group, and the rate are those of a later implementation (ClustPy). Decided here: the
heat kernel's width is the mean squared distance of neighbours, for a fixed one makes all weights 0 or 1 by the rows'
units; four neighbours, of which the row is none. Known failure: both terms shrink the code, and only the reconstruction
holds it up; where rows have few features, lower `sparsity`.
"""

from typing import Any, ClassVar

from pydantic import Field

from raydc.clustering import Clusters
from raydc.clustering.graph import NearestRows
from raydc.core.schedule import Clustering
from raydc.data import Batch, Shard
from raydc.methods.base import AutoencoderMethod, FinalKMeansMethod, MethodInfo, Parts, Player, StepState
from raydc.networks.losses.locality import group_sparsity, locality
from raydc.networks.losses.reconstruction import squared_error


class DEN(FinalKMeansMethod, AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Huang et al. 2014",
        architecture="MLP",
        features="encoder output in K groups",
        network_loss="autoencoder reconstruction",
        clustering_loss="locality preserving, group sparsity",
        combination="pretraining, then joint training",
        updates="none",
        after="k-means",
    )

    class Config(AutoencoderMethod.Config):
        group_size: int = Field(2, ge=1)
        """Units of the code in each of the K groups."""
        neighbours: int = Field(4, ge=1)
        """Nearest rows that a row's code is held near to."""
        width: float = Field(1.0, gt=0)
        """Width t of the heat kernel, times the mean squared distance of neighbours."""
        locality: float = Field(0.5, ge=0)
        """alpha, the weight of locality."""
        sparsity: float = Field(1.0, ge=0)
        """beta, the weight of group sparsity."""
        cluster: Clustering = Clustering(length="100 epochs", update_every="10 epochs")

        def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
            return super().idle(shape) | {"network.latent": "the code has group_size units for each cluster"}

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "20 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape, config.group_size * config.n_clusters)
        self.hold_centroids(self.net.latent)

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        return {"all": Player(self.groups(self.net.parameters()), fresh=True)}  # sums over features, after means

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        x = shard.map(lambda rows: rows.flatten(1))
        self.graph = NearestRows.of(x, self.config.neighbours, self.config.width, clusters)

    def sample_batch(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        if phase != "cluster":
            return super().sample_batch(shard, phase, seed, index, count)
        return self.graph.batch(shard, seed, index, count)

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if state.phase != "cluster":
            return super().loss(batch, state, player)
        everyone, own = self.features(batch.x), batch.extra["own"]
        partners = batch.gather(everyone)[batch.extra["partners"]]
        x, z = batch.x[own].flatten(1), everyone[own]
        return {
            "network": (1.0, batch.mean(squared_error(x, self.net.decode(z).flatten(1)))),
            "locality": (self.config.locality, batch.mean(locality(z, partners, batch.extra["weight"]))),
            "sparsity": (self.config.sparsity, batch.mean(group_sparsity(z, self.n_clusters))),
        }
