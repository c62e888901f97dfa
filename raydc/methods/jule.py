"""JULE: representations and image clusters learned jointly. Yang, Parikh & Batra, CVPR 2016, arXiv:1604.03628.

Many small clusters, made of nearest-neighbour chains of the rows, are merged by the affinity of their rows' neighbour
graph; between two rounds of merging a network learns, by triplets, to tell a cluster from the others. Each period
merges the share `rate` of the clusters and then trains 20 epochs, until K are left and were trained on; before them
the network is trained on the chains. RC, the better one, repeats the whole agglomeration on the final features; SF
takes the last labels as they are.

As the authors' code has it: a triplet's negative is any row of the batch that is in another cluster (the paper's is in
one of the K_c nearest, which are of the same kind while clusters are many), hinge with margin .2 on unit features,
chains of 50 rows at most, SGD whose rate falls by an inverse power, weights N(0, .01^2), rate .9 (.2 for faces). The
paper's criterion counts the second term always, the code only while more than 100 clusters remain; here always. Decided
here: graph and affinities are sparse and merging is exact; a batch is made of anchors, each with two rows of its
cluster and five of any; a few rows whose neighbours do not return it are not left to be a cluster, but join a
neighbour's; what no neighbour links is merged by average linkage; when all is merged, every row, of training or new,
goes to the cluster whose mean feature is nearest, so that it has one answer. Workers train together; merging is the
work of worker 0, in the memory of its machine.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.clustering.linkage import agglomerate, check_memory, draw_rows
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import CentroidMethod, MethodInfo, StepState
from raydc.networks.encoder import Encoder
from raydc.networks.losses.agglomerative import agglomerative_triplets

SGD = Optimizer(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-5, schedule="inverse", factor=1e-4, power=0.75)


class JULE(CentroidMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Yang et al. 2016",
        architecture="CNN",
        features="encoder output of length one",
        network_loss="none",
        clustering_loss="agglomerative",
        combination="clustering loss only",
        updates="agglomerative merging, once a period",
        after="agglomerative clustering anew",
    )
    batch_size: ClassVar[int] = 100
    scaling: ClassVar[ScalingKind] = "unit"
    renames: ClassVar[bool] = True

    class Config(CentroidMethod.Config):
        network: Encoder = Encoder()
        neighbours: int = Field(20, ge=1)
        """K_s, nearest rows that a row has an affinity to."""
        nearest: int = Field(5, ge=2)
        """K_c, clusters that a cluster is compared with."""
        rate: float = Field(0.9, gt=0, le=1)
        """Unrolling rate: share of the clusters that a period merges away."""
        margin: float = Field(0.2, ge=0)
        """Margin of the triplets."""
        final: Literal["rc", "sf"] = "rc"
        """rc: agglomerate the final features anew; sf: straight from the last period."""
        cluster: Clustering = Clustering(length="500 epochs", optimizer=SGD, update_every="20 epochs")

    quick: ClassVar[dict[str, Any]] = {
        "network.channels": 8,
        "cluster.length": "20 epochs",
        "cluster.update_every": "4 epochs",
    }
    config: Config
    done: Tensor

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape)
        self.hold_centroids(config.network.latent)
        self.register_buffer("done", torch.zeros((), dtype=torch.bool))
        self._known: tuple[Tensor | None, Tensor] = (None, torch.zeros(0))

    def check_memory(self, total: int) -> None:
        check_memory(total, self.config.neighbours)

    def features(self, x: Tensor) -> Tensor:
        return F.normalize(self.net(x), dim=1)

    def sample_batch(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        if self._known[0] is not self.rows["merged"]:  # new ones are gathered once
            self._known = (self.rows["merged"], shard.gather(self.rows["merged"]).cpu())
        draw = torch.Generator().manual_seed((seed + index) % 2**63)
        positions = draw_rows(self._known[1], -(-shard.total // count), draw)
        return shard.batch(positions.to(shard.device), merged=self._known[1][positions].to(shard.device))

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        return agglomerative_triplets(batch.gather(self.features(batch.x)), batch.extra["merged"], self.config.margin)

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        return self._merge(clusters, shard.map(lambda x: x.flatten(1)), None, 1.0)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        labels = clusters.gather(self.rows["merged"])
        self.done.fill_(bool(labels.max() < self.n_clusters))
        return self._merge(clusters, shard.map(self.features), labels, 1 - self.config.rate)

    def converged(self) -> bool:
        return bool(self.done)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        z = shard.map(self.features)
        straight = self.config.final == "sf" and "merged" in self.rows
        labels = self._merge(clusters, z, clusters.gather(self.rows["merged"]) if straight else None, 0.0)
        one_hot = F.one_hot(labels, self.n_clusters).to(z.dtype)
        self.centroids.copy_(F.normalize(clusters.total(one_hot.T @ z), dim=1))
        return super().finalize_clusters(shard, clusters)

    def _merge(self, clusters: Clusters, z: Tensor, labels: Tensor | None, left: float) -> Tensor:
        """Merge clusters, by default chains, until the share `left` of them is left, and at least K; labels [N]."""
        of = self.config
        self.rows["merged"] = agglomerate(z, clusters, of.neighbours, labels, left, self.n_clusters, of.nearest)
        return self.rows["merged"].clone()
