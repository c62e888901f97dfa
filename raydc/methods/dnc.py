"""Deep Nonparametric Clustering. Gang Chen 2015, arXiv:1501.03084.

A deep belief network learns a layer at a time by contrastive divergence. Clusters of its code have large margins, and
come from a Dirichlet process, so that their number is found: rows are sampled one by one, and join a cluster or begin
one (`raydc.clustering.margin`). The network is refined by the margins' hinge loss; then rows are sampled again.

The paper's constants are not known here. Decided here: codes are centred and of length one; a cluster's weights begin
at the mean of its codes at each update, and descend the hinge loss with the network; sampling goes on from the clusters
that there are and takes the likeliest in its last sweep; a row, old or new, is in the cluster of the largest score,
and its memberships are the softmax of `sharpness` times the scores. The sampler is sequential: it is one worker's work,
on the codes of all rows. `sharpness`, `step` and the layers' rate were chosen with the classes of digits in view, so
figures on digits are no evidence for dnc. Known failure: classes near each other share a cluster; more `sharpness` or
`concentration` makes more of them.
"""

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.clustering.margin import sample_margin_clusters
from raydc.core.schedule import Clustering, Optimizer, Pretraining
from raydc.data import Batch, Shard
from raydc.data.memory import refuse_beyond_memory
from raydc.methods.base import AutoencoderMethod, FoundInRows, Group, MethodInfo, Player, StepState
from raydc.networks import Network
from raydc.networks.losses.information import likeliest
from raydc.networks.losses.margin import margin_violation

BYTES = 24
"""A code's number costs this much while rows are sampled: float32 as gathered, and float64."""


class DNC(AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Chen 2015",
        architecture="DBN",
        features="encoder output",
        network_loss="contrastive divergence",
        clustering_loss="nonparametric maximum margin",
        combination="pretraining and fine tuning",
        updates="alternatingly updated",
    )
    renames: ClassVar[bool] = True

    class Config(AutoencoderMethod.Config):
        n_clusters: FoundInRows = 0
        network: Network = Network(family="dbn", hidden=(500, 250), latent=100)
        layerwise: Pretraining = Pretraining(length="100 epochs", optimizer=Optimizer(lr=0.01))
        pretrain: Pretraining = Pretraining(length="0 epochs")
        most: int = Field(100, ge=2)
        """Clusters at most."""
        concentration: float = Field(1.0, gt=0)
        """Of the Dirichlet process: how many rows a new cluster counts for."""
        sharpness: float = Field(40.0, gt=0)
        """How much a margin counts in the sampler and in memberships, beside the sizes of clusters."""
        step: float = Field(0.1, gt=0)
        """How far a row moves its cluster's weights at most while rows are sampled."""
        sweeps: int = Field(5, ge=1)
        """Sweeps of the sampler at each update."""
        cluster: Clustering = Clustering(length="10 epochs", optimizer=Optimizer(lr=1e-4), update_every="5 epochs")

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {
        "network.latent": 20,
        "layerwise.length": "20 epochs",
        "cluster.length": "4 epochs",
        "cluster.update_every": "2 epochs",
    }
    config: Config
    centre: Tensor

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.weights = nn.Parameter(torch.zeros(config.most, self.net.latent))
        self.register_buffer("centre", torch.zeros(self.net.latent))

    def check_memory(self, total: int) -> None:
        advice = "set a smaller method.network.latent, or train on a sample of the rows and assign the others"
        refuse_beyond_memory("are sampled on one machine", total, BYTES * self.net.latent, 1, advice)

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        return {"all": Player([*self.groups(self.net.encoder_parameters()), Group([self.weights])], fresh=True)}

    def features(self, x: Tensor) -> Tensor:
        return F.normalize(self.net.encode(x) - self.centre, dim=1)

    def scores(self, x: Tensor) -> Tensor:
        """w_k'z of each row and cluster [B, K]."""
        return self.features(x) @ self.weights[: self.n_clusters].T

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        return batch.mean(margin_violation(self.scores(batch.x), self.rows["label"][batch.row]))

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        return self._sample(shard, clusters, torch.full((len(shard),), -1, device=shard.device))

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self._sample(shard, clusters, self.rows["label"])

    @torch.no_grad()
    def _sample(self, shard: Shard, clusters: Clusters, before: Tensor) -> Tensor:
        """Clusters of the codes as they are now, from labels [N] before; their weights, and labels [N] of the rows."""
        self.centre.copy_(clusters.sum(shard.map(self.net.encode)) / shard.total)
        z, of = shard.map(self.features), self.config
        everywhere, known = (clusters.gather(part).cpu().numpy() for part in (z, before))
        seed = int(torch.randint(2**31, ()))

        def sampled() -> Tensor:
            rows = everywhere.astype(np.float64)
            numbers = {"concentration": of.concentration, "sharpness": of.sharpness, "step": of.step}
            return torch.from_numpy(
                sample_margin_clusters(rows, known, **numbers, most=of.most, sweeps=of.sweeps, seed=seed)
            )

        label = clusters.label_on_one_worker(sampled)
        one_hot = F.one_hot(label, of.most)
        counts = clusters.total(one_hot.sum(0))
        self.weights.copy_(clusters.products(one_hot, z) / counts.clamp_min(1)[:, None])
        self.found.copy_((counts > 0).sum())
        self.rows["label"] = label.clone()
        return label

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.config.sharpness * self.scores(x))
