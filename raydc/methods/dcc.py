"""Deep Continuous Clustering. Shah & Koltun 2018, arXiv:1803.01449.

Every row i has a trainable representative u_i beside its code z_i. The rows' mutual neighbours, joined by a minimum
spanning forest, pull their representatives together through a robust penalty whose scales are annealed (graduated
non-convexity); clusters are the connected components of what came within delta, so their number is found, not given.

From the authors' code: normalisation by the batch (rows times features), a row's terms weighted by the share of its
edges that the batch holds, so that it counts once an epoch, lambda and the scales' starts and floors, biases at twice
the rate, Adam begun anew with beta1 = .99, 128 edges a step, rows in [0, 1]. Decided here: one scale for all features
of one unit; pretraining as all methods'; no noise is added to the codes that representatives start from; an update is
due every 20 epochs (the code looks after every one), and is both the annealing step and the look at the components;
once the pairs' scale is at its floor, the third look at which fewer than .1% of the edges have changed between same
and other cluster ends it. Every worker knows all edges.

Known failure: parts of a class that no chain of near rows joins stay clusters of their own; `shortest` widens delta.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.clustering.graph import EdgeGraph
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import AutoencoderMethod, BiasRate, FoundInRows, Group, MethodInfo, Parts, Player, StepState
from raydc.networks.losses.reconstruction import mean_squared_error
from raydc.networks.losses.robust_continuous import annealing_scales, geman_mcclure, linked_pairs


class DCC(AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Shah & Koltun 2018",
        architecture="MLP",
        features="a trainable representative of each row",
        network_loss="autoencoder reconstruction",
        clustering_loss="robust continuous clustering",
        combination="pretraining, then joint training",
        updates="jointly updated, scales annealed",
        after="connected components",
        refuses="dcc's clusters are components of its training rows' graph, of which a new row is no part",
    )
    scaling: ClassVar[ScalingKind] = "unit"
    renames: ClassVar[bool] = True

    class Config(AutoencoderMethod.Config):
        n_clusters: FoundInRows = 0
        neighbours: int = Field(10, ge=1)
        """Nearest rows (by cosine) among which mutual ones are linked."""
        shortest: float = Field(0.01, gt=0, le=1)
        """Share of the edges, the shortest, whose mean length is delta; more make fewer and larger clusters."""
        edges: int = Field(128, ge=1)
        """Edges of a global batch, once clustering has begun."""
        bias_rate: BiasRate = 2.0
        settled: float = Field(1e-3, ge=0, lt=1)
        """Stop after three looks at which fewer than this share of the edges changed, the pairs' scale at its floor."""
        cluster: Clustering = Clustering(length="500 epochs", optimizer=Optimizer(beta1=0.99), update_every="20 epochs")

        unreset: ClassVar[str] = "the scales of the representatives would be annealed anew"

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {
        "neighbours": 30,
        "edges": 1024,
        "cluster.length": "160 epochs",
        "cluster.update_every": "8 epochs",
        "cluster.optimizer.lr": 0.02,
    }
    config: Config
    scales: Tensor
    constants: Tensor
    looks: Tensor

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.register_buffer("scales", torch.ones(2, 2))  # mu1 of rows and mu2 of pairs; below, where they end
        self.register_buffer("constants", torch.zeros(2))  # delta, and lambda, the weight of the pairs
        self.register_buffer("looks", torch.zeros((), dtype=torch.int64))  # that found the clusters settled

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        representatives = Group([self.rows["representative"]], local=True)
        return {"all": Player([*self.groups(self.net.parameters()), representatives], fresh=True)}

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        self.graph = EdgeGraph.mutual(shard.map(lambda x: x.flatten(1)), self.config.neighbours, clusters)
        self.rows["representative"] = nn.Parameter(torch.zeros(len(shard), self.net.latent, device=shard.device))

    def batches(self, shard: Shard, batch_size: int, phase: str) -> int:
        return self.graph.steps(self.config.edges) if phase == "cluster" else super().batches(shard, batch_size, phase)

    def sample_batch(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        if phase != "cluster":
            return super().sample_batch(shard, phase, seed, index, count)
        return self.graph.batch(shard, seed, index, count)

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if state.phase != "cluster":
            return super().loss(batch, state, player)
        z, u, share = self.features(batch.x), self.rows["representative"][batch.row], batch.extra["share"]
        rebuilt = mean_squared_error(batch.x.flatten(1), self.net.decode(z).flatten(1))
        pairs = linked_pairs(batch.gather(u), batch.extra["ends"], batch.extra["weight"], self.scales[0, 1])
        return {
            "network": (1.0, batch.mean(share * rebuilt)),
            "rows": (1 / self.net.latent, batch.mean(share * geman_mcclure(z - u, self.scales[0, 0]))),
            "pairs": (1 / self.net.latent, self.constants[1] * pairs / batch.total),
        }

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        z = clusters.gather(self.rows["representative"].data.copy_(shard.map(self.features)))
        self.scales[:], delta = annealing_scales(z, self.graph.lengths(z), self.config.shortest)
        self.constants.copy_(torch.stack([delta, torch.linalg.matrix_norm(z, 2) / (1 + self.graph.smoothness())]))
        return self.finalize_clusters(shard, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        before, labels = clusters.gather(self.rows["label"]), self.finalize_clusters(shard, clusters)
        changed = (self.graph.within(before) != self.graph.within(clusters.gather(labels))).double().mean()
        self.looks += (self.scales[0, 1] <= self.scales[1, 1]) & (changed < self.config.settled)
        self.scales[0] = torch.maximum(self.scales[0] / 2, self.scales[1])
        return labels

    def converged(self) -> bool:
        return int(self.looks) >= 3

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        labels = self.graph.components(clusters.gather(self.rows["representative"].data), self.constants[0])
        self.found.copy_(labels.max() + 1)
        self.rows["label"] = labels[shard.start :][: len(shard)].clone()
        return self.rows["label"].clone()
