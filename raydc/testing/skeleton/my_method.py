"""My method: what it follows, and what is decided here where the paper leaves it open.

An autoencoder is pretrained; then the code of each row is pulled to its nearest centroid while the network goes on
rebuilding rows, and the centroids are made anew by k-means every so often. Change what your paper changes; the methods
of raydc are examples, and the manual goes through one line by line.
"""

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.core.schedule import Joint, Optimizer
from raydc.data import Batch, Shard
from raydc.methods.base import AutoencoderMethod, CentroidMethod, MethodInfo, StepState
from raydc.networks.losses.kmeans import kmeans_loss


# AutoencoderMethod brings the network and its pretraining, CentroidMethod how rows are assigned to centroids
class MyMethod(CentroidMethod, AutoencoderMethod):
    # its row in the table of methods; what says "exact" in `parallel`, as by default, is held to it by the contract
    info: ClassVar[MethodInfo] = MethodInfo(
        source="where it was published",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="k-means loss",
        combination="pretraining, then joint training",
        updates="alternatingly updated",
    )

    class Config(AutoencoderMethod.Config):
        # each field is a setting, --method.pull 2, and the string below it is its help
        pull: float = Field(1.0, gt=0)
        """How strongly codes are pulled to their centroids."""
        # a phase: how long, by which optimizer, how often clusters are updated, and how the two losses are weighed
        cluster: Joint = Joint(length="50 epochs", optimizer=Optimizer(lr=1e-4), update_every="5 epochs", alpha=0.1)

    # settings for a few hundred rows, which the contract trains with
    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "10 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        """For rows of `shape`, (D,) or (C, H, W); what is remembered is a parameter, a buffer, or in `self.rows`."""
        super().__init__(config, shape)
        self.hold_centroids(self.net.latent)

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        """Once, before the phase that clusters: labels [N] of this worker's rows."""
        return self._kmeans(shard, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        """Every `update_every`: labels [N], by which the loop tells how many rows have changed cluster."""
        return self._kmeans(shard, clusters)

    def _kmeans(self, shard: Shard, clusters: Clusters) -> Tensor:
        # `clusters` is all that a method sees of other workers: this is the k-means of the rows of all of them
        found = clusters.kmeans(shard.map(self.features), self.n_clusters)
        self.centroids.copy_(found.centroids)
        self.rows["label"] = found.labels
        return found.labels

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        """A scalar. `batch.mean` divides by the rows of all workers, so that gradients add up to those of one."""
        z = self.features(batch.x)
        return self.config.pull * batch.mean(kmeans_loss(z, self.centroids, self.rows["label"][batch.row]))
