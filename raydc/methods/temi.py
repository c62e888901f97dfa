"""Teacher Ensemble-weighted pointwise Mutual Information. Adaloglou, Michels, Kalisch & Kollmann, BMVC 2023.

For rows that are embeddings of a frozen network, arXiv:2303.17896. Several heads (D-512-256-K) learn that a row and one
of its 50 nearest rows by cosine, drawn anew each epoch, are in one cluster: per head, with teacher q that is a running
mean of the student's weights,

    L = -w(x, x') log sum_k (p(k|x) q(k|x'))^beta / m(k),   w(x, x') = mean over heads of sum_k q(k|x) q(k|x'),

both ways round; m is the running mean of q over the global batch, and w has no gradient. The head of the lowest loss
since the last update answers, by its teacher.

From the authors' code: initial weights, beta .6, temperature .1, decays .996 and .9, a last layer that is held in the
first epoch, and AdamW for 100 epochs, at 1e-4 for each 256 rows of the batch and with a warm-up of 20 epochs (recipe
"paper"). Decided here: thirty times that rate and no warm-up, as sets of some thousand rows have few steps in an epoch;
it is the largest of .003 and .01 that lost no clusters anywhere. On embeddings .01 has the higher label-free score, but
on the pixels of digits it lost all clusters in one of three seeds. Above `exact` rows, neighbours are searched in the
cells around a row. With `consensus` (in the manner of ICCE, 2025) the clusters of all heads are matched with those of
the best one, and one more head learns by cross-entropy from the rows on which they agree; it then answers.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.clustering.consensus import Consensus, matched_votes
from raydc.clustering.graph import Neighbours, paired
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, Shard
from raydc.methods.base import Group, Method, MethodInfo, Player, StepState, in_batches
from raydc.networks.heads import HeadNetwork
from raydc.networks.losses.information import cross_entropy, likeliest, probabilities
from raydc.networks.losses.pointwise_information import neighbour_losses

HELD = 1
"""Epochs in which the last layer does not learn."""
RULE = Optimizer(name="adamw", lr=3e-3, weight_decay=1e-4)


class TEMI(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Adaloglou et al. 2023",
        architecture="MLP",
        features="softmax output",
        network_loss="none",
        clustering_loss="pointwise mutual information of neighbours",
        combination="clustering loss only",
        updates="jointly updated, by teachers",
        after="labels of the head of the lowest loss",
    )

    renames: ClassVar[bool] = True

    class Config(Method.Config):
        network: HeadNetwork = HeadNetwork()
        neighbours: Neighbours = Neighbours()
        power: float = Field(0.6, gt=0, le=1)
        """beta: 1 is mutual information, which leaves clusters empty."""
        teacher_decay: float = Field(0.996, ge=0, lt=1)
        """Share of the teacher's weights that a step keeps."""
        marginal_decay: float = Field(0.9, ge=0, lt=1)
        """Share of the marginal that a step keeps."""
        cluster: Clustering = Clustering(length="100 epochs", optimizer=RULE)
        consensus: Consensus = Consensus(length="0 epochs", optimizer=RULE)

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {"cluster.optimizer.lr": 1e-4, "cluster.optimizer.warm_up": "20 epochs"}
        }

    quick: ClassVar[dict[str, Any]] = {
        "network.heads": 3,
        "network.hidden": (32, 16),
        "neighbours.count": 10,
        "cluster.length": "30 epochs",
        "consensus.length": "8 epochs",
        "consensus.optimizer.lr": 1e-2,
    }
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape, config.n_clusters)
        if not config.consensus.left_out:
            self.pupil = config.network.build_one(shape, config.n_clusters)
        self.register_buffer("agreed", torch.zeros((), dtype=torch.bool))
        self.agreed: Tensor

    def players(self, phase: str) -> dict[str, Player]:
        parameters = [*(self.net if phase == "cluster" else self.pupil).parameters()]
        vectors, matrices = ([p for p in parameters if p.dim() == dim] for dim in (2, 3))  # of each head
        return {"all": Player([Group(matrices), Group(vectors, decays=False)])}

    def sample_batch(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        batch = super().sample_batch(shard, phase, seed, index, count)
        return paired(batch, self.rows["near"], shard, seed) if phase == "cluster" else batch

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        if state.phase != "cluster":
            known = F.one_hot(self.rows["vote"][batch.row], self.n_clusters)
            return batch.mean(self.rows["taught"][batch.row] * cross_entropy(known, self.pupil(batch.x)[:, 0]))
        student = batch.gather(probabilities(self.net.student(batch.x, held=state.epoch < HELD)))
        with torch.no_grad():
            teacher = batch.gather(probabilities(self.net.teacher(batch.x)))
            seen = teacher[batch.extra["ends"].flatten()].mean(0)
            self.net.marginal.lerp_(seen, 1 - self.config.marginal_decay)
        losses = neighbour_losses(student, teacher, batch.extra["ends"], self.net.marginal, self.config.power)
        self.net.losses += losses.detach()
        return losses.mean()

    def after_step(self, batch: Batch, clusters: Clusters, state: StepState) -> None:
        if state.phase == "cluster":
            self.net.teacher.follow(self.net.student, self.config.teacher_decay)

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self.rows["near"] = self.config.neighbours.of(shard.map(lambda x: x.flatten(1)), clusters)
        return super().finalize_clusters(shard, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        self.net.choose()
        if state.phase != "cluster" and not self.agreed:
            labels = shard.map(lambda x: in_batches(lambda part: (self.net.teacher(part).argmax(2),), x)[0])
            votes = matched_votes(labels, int(self.net.best), self.n_clusters, clusters)
            share, self.rows["vote"] = votes.max(1)
            self.rows["taught"] = (share >= self.config.consensus.agreement).to(votes)
            self.agreed.fill_(True)
        return super().finalize_clusters(shard, clusters)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self.net.choose()
        return super().finalize_clusters(shard, clusters)

    def features(self, x: Tensor) -> Tensor:
        return self.assign(x)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.pupil(x)[:, 0] if self.agreed else self.net(x))
