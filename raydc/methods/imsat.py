"""Information Maximising Self-Augmented Training. Hu, Miyato, Tokui, Matsumoto & Sugiyama, ICML 2017, arXiv:1702.08720.

RIM whose regulariser asks predictions to stay when a row is perturbed: R_SAT = KL(p(x) || p(x + r)), p(x) a constant.
r has length alpha times the distance to the row's 10th neighbour, in the most harmful direction (VAT, one power
iteration) or a random one (RPT).

From the authors' code: the penalty form, L = R_SAT + .1 (H(Y|X) - 4 H(Y)) with H(Y) of the global batch, in place of
the paper's constraint on H(Y) (eq. 11 scales that by 1 / 1.1, which Adam does not see). Perturbed rows pass the batch
norms with their own statistics and leave the running ones alone. Decided here: the power iteration starts at a distance
that grows with the square root of the number of features and is the authors' 10 for 784 of them; clusters of rows are
predicted with the running statistics.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.clustering.graph import neighbour_distance
from raydc.core.schedule import Clustering, Joint, Optimizer
from raydc.data import Batch, Shard
from raydc.methods.base import MethodInfo
from raydc.methods.rim import RIM
from raydc.networks.losses.information import adversarial_direction, cross_entropy, probabilities
from raydc.networks.norm import batch_statistics_only


class IMSAT(RIM):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Hu et al. 2017",
        architecture="MLP",
        features="softmax output",
        network_loss="self-augmentation",
        clustering_loss="mutual information",
        combination="joint training",
        updates="jointly updated",
    )

    class Config(RIM.Config):
        acts_with: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {"probe": ("perturbation", ("vat",))}
        weight_decay: float = Field(0.0, ge=0)
        """Weight of the squared weights, beside self-augmentation."""
        balance: float = Field(4.0, gt=0)
        """mu, the weight of the marginal entropy H(Y) beside the conditional one."""
        perturbation: Literal["vat", "rpt"] = "vat"
        """vat: the direction that changes the prediction most; rpt: a random one."""
        radius: float = Field(0.25, gt=0)
        """alpha, the length of a perturbation over the distance to the neighbour."""
        neighbour: int = Field(10, ge=1)
        """Which neighbour's distance that is."""
        probe: float = Field(10 / 28, gt=0)
        """xi: where the power iteration starts, times the square root of the number of features."""
        start: Clustering = Clustering(length="0 steps", optimizer=Optimizer(lr=2e-3))
        cluster: Joint = Joint(length="50 epochs", optimizer=Optimizer(lr=2e-3), alpha=0.1 / 1.1)

    config: Config

    def regulariser(self, batch: Batch, logits: Tensor) -> Tensor:
        x, p = batch.x.flatten(1), probabilities(logits.detach())
        with batch_statistics_only(self.net):
            if self.config.perturbation == "vat":
                direction = adversarial_direction(self.net, x, p, self.config.probe * x.shape[1] ** 0.5)
            else:
                direction = F.normalize(torch.randn_like(x), dim=1)
            changed = self.net(x + self.rows["radius"][batch.row, None] * direction)
        return super().regulariser(batch, logits) + batch.mean(cross_entropy(p, changed))

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor | None:
        x = shard.map(lambda rows: rows.flatten(1))
        self.rows["radius"] = self.config.radius * neighbour_distance(x, self.config.neighbour, clusters)
        return None if self.config.start.left_out else super().init_clusters(shard, clusters)
