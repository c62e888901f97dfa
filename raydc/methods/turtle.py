"""TURTLE, "Let Go of Your Labels with Unsupervised Transfer". Gadetsky, Jiang & Brbic, ICML 2024, arXiv:2406.07236.

For rows that are embeddings, of one frozen network or of several, side by side. It looks for the labelling that linear
classifiers find easiest: tau is the mean over spaces of a softmax of a linear map; in every step a
fresh linear classifier of each space learns the batch's tau by 10 steps of Adam, and then tau descends

    sum over spaces of CE(classifier(z), tau) + gamma KL(mean softmax || pi),

the classifiers held. With pi uniform (`unequal` 0) that is the paper's entropy; pi_k ~ k^-a, by falling size, is the
form of PET-TURTLE (2026) for unequal clusters. Means and the classifiers' gradients are those of the global batch.

From the authors' code: 6,000 steps on 10,000 rows, Adam at 1e-3 for both, gamma 10 (recipe "paper"). They choose among
labellings by the accuracy of logistic regression in ten folds, and so do `heads` here, which train side by side; at
most SCORED rows are asked. Decided here: classifiers begin at 0, on all workers alike; each space is divided by its
root mean square, and the classifiers' rate by its number of features (.77 is the authors' 1e-3 for 768); 500 steps,
after which the label-free score is as high as after 2,000 (embeddings of MNIST and of two sets of texts, 1,000 rows).
"""

from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from raydc.clustering import Clusters
from raydc.clustering.metrics.separability import linear_separability
from raydc.core.schedule import Clustering, Optimizer
from raydc.core.settings import SettingsError
from raydc.data import Batch, Shard
from raydc.methods.base import Method, MethodInfo, Parts, StepState, in_batches
from raydc.networks.losses.information import likeliest
from raydc.networks.losses.separation import imbalance, labelling_error, linear_classifiers
from raydc.networks.task_encoder import TaskEncoder

SCORED = 2_000
"""Rows on which labellings are compared, at most."""


class TURTLE(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Gadetsky et al. 2024",
        architecture="MLP",
        features="softmax output",
        network_loss="none",
        clustering_loss="cross-entropy of linear classifiers",
        combination="clustering loss only",
        updates="jointly updated",
        after="labels of the labelling that is separated best",
    )
    batch_size: ClassVar[int] = 10_000

    class Config(Method.Config):
        heads: int = Field(4, ge=1)
        """Labellings, from starts of their own, of which the one is taken that linear classifiers separate best."""
        spaces: tuple[PositiveInt, ...] = ()
        """Features of each space, in order, such as 384,768; none: all features are one space."""
        inner_steps: int = Field(10, ge=1)
        """Steps of the classifiers in each step."""
        inner_rate: float = Field(1.0, gt=0)
        """Learning rate of the classifiers, over the number of a space's features: logits go as far in each space."""
        balance: float = Field(10.0, gt=0)
        """gamma, the weight of what holds the clusters' sizes to the prior."""
        unequal: float = Field(0.0, ge=0)
        """a: the prior's k-th largest cluster is in proportion to k^-a; 0: all are equal."""
        cluster: Clustering = Clustering(length="500 steps", optimizer=Optimizer(lr=1e-3), update_every="100 steps")

        recipes: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"inner_rate": 0.77, "cluster.length": "6000 steps"}}

    quick: ClassVar[dict[str, Any]] = {"heads": 2, "cluster.length": "200 steps", "cluster.optimizer.lr": 1e-2}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.sizes = config.spaces or (torch.Size(shape).numel(),)
        self.net = TaskEncoder(self.sizes, config.n_clusters, config.heads)
        self.register_buffer("size", torch.ones(len(self.sizes), dtype=torch.float64))
        self.register_buffer("best", torch.zeros((), dtype=torch.int64))
        self.size: Tensor
        self.best: Tensor

    @classmethod
    def check_settings(cls, config: Config, shape: tuple[int, ...]) -> None:  # type: ignore[override]
        super().check_settings(config, shape)
        features = torch.Size(shape).numel()
        if config.spaces and sum(config.spaces) != features:
            got = f"{' + '.join(map(str, config.spaces))} = {sum(config.spaces)}"
            raise SettingsError(f"method.spaces: expected sizes that add up to {features} features, got {got}")

    def spaces(self, x: Tensor) -> list[Tensor]:
        """The rows x [B, ...] in each space [B, D], of mean square 1 over all rows of training."""
        return [z / size.to(z) for z, size in zip(x.flatten(1).split(self.sizes, 1), self.size, strict=True)]

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        spaces = self.spaces(batch.x)
        each = self.net(spaces).exp()
        labelling = each.mean(0)
        how = self.config.inner_steps, self.config.inner_rate, batch.global_products
        learned = [linear_classifiers(z, labelling.detach(), *how) for z in spaces]
        errors = [labelling_error(z, labelling, own) for z, own in zip(spaces, learned, strict=True)]
        uneven = [imbalance(batch.global_mean(own), self.config.unequal) for own in each]
        return {
            "clustering": (1.0, batch.mean(torch.stack(errors, 1).sum(1)).mean()),
            "imbalance": (self.config.balance, torch.stack(uneven).sum(0).mean()),
        }

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        squares = clusters.sum(shard.map(lambda x: x.flatten(1).double().square())).split(self.sizes)
        self.size.copy_(torch.stack([part.mean() / shard.total for part in squares]).sqrt().clamp_min(1e-12))
        return super().finalize_clusters(shard, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return super().finalize_clusters(shard, clusters)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        places = torch.linspace(0, shard.total - 1, min(shard.total, SCORED), dtype=torch.float64).round().long()
        own = shard[shard.among(places)]
        x = shard.thinned(places, own).gather(own)
        self.best.fill_(clusters.choose_on_one_worker(lambda: self._best(x, clusters.seed)))
        return super().finalize_clusters(shard, clusters)

    def _best(self, x: Tensor, seed: int) -> int:
        """The labelling of rows x [n, ...] that is separated best, in the mean over spaces."""
        labels = in_batches(lambda part: (self.labellings(part).argmax(2),), x)[0].T.cpu().numpy()
        spaces = [z.cpu().numpy() for z in self.spaces(x)]
        scores = [sum(linear_separability(z, one, seed) for z in spaces) for one in labels]
        return scores.index(max(scores))

    def labellings(self, x: Tensor) -> Tensor:
        """Logits [B, S, K], of each labelling the log of its mean over spaces."""
        return self.net(self.spaces(x)).logsumexp(0)

    def features(self, x: Tensor) -> Tensor:
        return self.assign(x)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.labellings(x)[:, int(self.best)])
