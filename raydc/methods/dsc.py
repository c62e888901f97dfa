"""Deep Subspace Clustering Networks. Ji, Zhang, Li, Salzmann & Reid, NeurIPS 2017, arXiv:1709.02508.

A layer without bias between encoder and decoder expresses every row's code by all others': C Z, with C of N x N trained
over the whole set at once. Rows are then cut by normalised cuts of an affinity made of C.

From the authors' code, which differs from the paper: the reconstruction is not halved, all losses are sums, C's
diagonal is free (L2 penalty), Adam begins anew with C, and C is cut, symmetrised, approximated and raised to a power
before the spectral step. The defaults are theirs for COIL-20, and so are the weights 1 and 150: sums make them belong
to a number of rows and pixels. Decided here: pretraining, which was only published as weights, is 300 epochs of Adam;
the decoder ends without a ReLU, which can die; rows that are no images get an mlp. The authors chose when to stop by
labels; here it is 30 steps on any data. C is kept by rows, each worker its own.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.clustering.subspace import affinity, keep_largest, spectral_labels
from raydc.core.schedule import Clustering, Pretraining
from raydc.data import Batch, ScalingKind, Shard
from raydc.data.memory import refuse_beyond_memory
from raydc.methods.base import AutoencoderMethod, Group, MethodInfo, Parts, Player, StepState
from raydc.networks.losses.reconstruction import squared_error
from raydc.networks.losses.self_expression import coefficient_energy, self_expression
from raydc.networks.strided_autoencoder import Strided

BYTES = 64
"""A pair of rows costs this much: a coefficient, its gradient and moments, and the copies of the spectral step."""


class DSC(AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Ji et al. 2017",
        architecture="CNN",
        features="self-expression coefficients",
        network_loss="autoencoder reconstruction",
        clustering_loss="self-expressiveness",
        combination="pretraining, then joint training on all rows at once",
        updates="none",
        after="spectral clustering of the coefficients",
        refuses="dsc expresses training rows by each other and has no rule for a row that was not among them",
    )
    scaling: ClassVar[ScalingKind] = "unit"
    renames: ClassVar[bool] = True

    class Config(AutoencoderMethod.Config):
        network: Strided = Strided(family="conv")
        pretrain: Pretraining = Pretraining(length="300 epochs")
        cluster: Clustering = Clustering(length="30 epochs", update_every="10 epochs")
        recipes: ClassVar[dict[str, dict[str, Any]]] = {}
        unreset: ClassVar[str] = "the coefficients express the codes that they began with"
        penalty: float = Field(1.0, ge=0)
        """Weight of the squared coefficients."""
        expression: float = Field(150.0, gt=0)
        """Weight of (half the squared) difference between codes and their expressions."""
        kept: float = Field(0.04, gt=0, le=1)
        """Share of each column's absolute sum that its largest coefficients must reach to be kept."""
        dimension: int = Field(12, ge=1)
        """Dimension of a cluster's subspace; the rank of the affinity is this times K, plus one."""
        power: float = Field(8.0, gt=0)
        """Exponent of the affinity."""

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {
        "network.channels": (8,),
        "pretrain.length": "30 epochs",
    }
    config: Config

    def check_memory(self, total: int) -> None:
        advice = "train on a sample of the rows, or use a method without pairs of all rows, such as imsat or idec"
        refuse_beyond_memory("have a coefficient for every pair of them", total, BYTES, 2, advice)

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        groups = [*self.groups(self.net.parameters()), Group([self.rows["expression"]], local=True)]
        return {"all": Player(groups, fresh=True)}

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        self.rows["expression"] = nn.Parameter(torch.full((len(shard), shard.total), 1e-8, device=shard.device))

    def batches(self, shard: Shard, batch_size: int, phase: str) -> int:
        return 1 if phase == "cluster" else super().batches(shard, batch_size, phase)

    def sample_batch(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        if phase != "cluster":
            return super().sample_batch(shard, phase, seed, index, count)
        return shard.batch(torch.arange(shard.total, device=shard.device))

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if state.phase != "cluster":
            return super().loss(batch, state, player)
        z, coefficients = self.features(batch.x), self.rows["expression"][batch.row]
        expressed = coefficients @ batch.gather(z)
        rebuilt = squared_error(batch.x.flatten(1), self.net.decode(expressed).flatten(1))
        return {
            "network": (float(batch.total), batch.mean(rebuilt)),
            "expression": (self.config.expression * batch.total, batch.mean(self_expression(z, expressed))),
            "penalty": (self.config.penalty * batch.total, batch.mean(coefficient_energy(coefficients))),
        }

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self.finalize_clusters(shard, clusters)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        """The spectral step is one machine's work, which tells the others."""
        coefficients = clusters.gather(self.rows["expression"].detach())
        return clusters.label_on_one_worker(lambda: self._spectral(coefficients, clusters.seed))

    def _spectral(self, coefficients: Tensor, seed: int) -> Tensor:
        kept = keep_largest(coefficients.cpu().numpy(), self.config.kept)
        alike = affinity(kept, self.config.dimension * self.n_clusters + 1, self.config.power)
        return torch.from_numpy(spectral_labels(alike, self.n_clusters, seed))
