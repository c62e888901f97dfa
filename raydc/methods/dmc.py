"""In the style of Deep Multi-Manifold Clustering. Chen, Lv & Yi, AAAI 2017 workshop.

The paper's text and constants are not known here: this is a working form of what its abstract and a survey (Min et al.
2018) say, and no reproduction. An autoencoder's reconstruction is to lie near the row and near its neighbours, so that
near rows get codes alike (locality); a proximity penalty pulls codes to cluster centres, and each centre is the mean of
the codes, weighted by their proximity to it; in turn with the network.

Decided here: proximity is the posterior of equal Gaussians around the centres, as wide as the rows lie around theirs,
and constant between two updates of the centres; the neighbours' weights are a heat kernel as wide as their mean squared
distance. Weights .5 (DEN's in a later implementation, ClustPy) and .05 (DCN's), pretraining as for DEC.
"""

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters, spread
from raydc.clustering.graph import NearestRows
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, Shard
from raydc.methods.base import AutoencoderMethod, CentroidMethod, MethodInfo, Parts, Player, StepState
from raydc.networks.losses.hardening import exact_squared_distances
from raydc.networks.losses.kmeans import soft_kmeans_loss
from raydc.networks.losses.locality import locality
from raydc.networks.losses.posterior import posterior
from raydc.networks.losses.reconstruction import squared_error


class DMC(CentroidMethod, AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="in the style of Chen et al. 2017",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="locality preserving, proximity penalty",
        combination="pretraining, then joint training",
        updates="alternatingly updated",
    )

    class Config(AutoencoderMethod.Config):
        neighbours: int = Field(4, ge=1)
        """Nearest rows that a row's reconstruction is held near to."""
        width: float = Field(1.0, gt=0)
        """Width t of the heat kernel, times the mean squared distance of neighbours."""
        locality: float = Field(0.5, ge=0)
        """Weight of locality."""
        proximity: float = Field(0.05, gt=0)
        """Weight of the proximity penalty."""
        cluster: Clustering = Clustering(length="50 epochs", optimizer=Optimizer(lr=1e-4))

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "20 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
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
        everyone, own = batch.x.flatten(1), batch.extra["own"]
        x, partners = everyone[own], batch.gather(everyone)[batch.extra["partners"]]
        z = self.features(batch.x[own])
        rebuilt, near = self.net.decode(z).flatten(1), self.rows["proximity"][batch.row[own]]
        return {
            "network": (1.0, batch.mean(squared_error(x, rebuilt))),
            "locality": (self.config.locality, batch.mean(locality(rebuilt, partners, batch.extra["weight"]))),
            "proximity": (self.config.proximity, batch.mean(soft_kmeans_loss(z, self.centroids, near))),
        }

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        z = shard.map(self.features)
        self.centroids.copy_(clusters.kmeans(z, self.n_clusters).centroids)
        return self._refresh(z, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        z, near = shard.map(self.features), self.rows["proximity"]
        self.centroids.copy_(clusters.products(near, z) / clusters.sum(near)[:, None])
        return self._refresh(z, clusters)

    def _refresh(self, z: Tensor, clusters: Clusters) -> Tensor:
        """Proximities of codes z [N, D] to the centres as they are now; the nearest centre of each row [N]."""
        self.sharpness.fill_(spread.of_rows(z, self.centroids, clusters))
        squared = exact_squared_distances(z, self.centroids)
        self.rows["proximity"] = posterior(-squared, self.sharpness).to(z.dtype)
        return squared.argmin(1)
