"""Deep Adaptive Image Clustering. Chang, Wang, Meng, Xiang & Pan, ICCV 2017.

A network gives each row a label feature, non-negative and of length one. Of all pairs of the batch, those with a cosine
above u(lambda) are taken for pairs of one cluster, those not above l(lambda) for pairs of two, and both are learned by
binary cross-entropy; lambda grows, so that u and l meet, u = .95 - lambda, l = .455 + .1 lambda.

From the authors' code: the network (identity-initialised dense layers with batch norm after the random features keep
it from collapsing at the start), batches of 128, and augmentation by 10 degrees, .1 shift and .05 zoom that takes the
nearest pixel: a mean of four blurs what is learned, and the sharp rows on which pairs are chosen look otherwise.
Decided here: a third of the paper's rate, falling as 1 / (1 + t / 1000), for RMSprop steps as far when little is left
to learn, and nothing but themselves holds the clusters in place: at the paper's constant rate (recipe "paper") those
of MNIST came apart again after some 1000 steps. Lambda grows evenly over the phase, which at 46 epochs is the paper's
step; pairs are chosen on the rows as they are and learned on augmented ones; rows that are no images get an mlp, and
noise and dropout alone can augment them. Pairs are those of the global batch.
"""

from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raydc.clustering import Clusters
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import Method, MethodInfo, StepState
from raydc.networks.allconv import ConvClassifier
from raydc.networks.augment import Augment
from raydc.networks.losses.information import likeliest
from raydc.networks.losses.pairwise import (
    confident_pairs,
    cosines,
    falling_thresholds,
    label_features,
    pairwise_cross_entropy,
)
from raydc.networks.norm import batch_statistics_only


class DAC(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Chang et al. 2017",
        architecture="CNN",
        features="softmax output of length one",
        network_loss="none",
        clustering_loss="pairwise binary cross-entropy",
        combination="clustering loss only",
        updates="pairs chosen anew in each batch, by moving thresholds",
    )
    batch_size: ClassVar[int] = 128
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(Method.Config):
        network: ConvClassifier = ConvClassifier()
        augment: Augment = Augment(shift=0.1, rotate=10.0, zoom=0.05, interpolation="nearest")
        upper: float = Field(0.95, gt=0, le=1)
        """Cosine above which a pair is taken for one cluster, at the start; it falls by lambda."""
        lower: float = Field(0.455, ge=0, lt=1)
        """Cosine up to which a pair is taken for two clusters, at the start; it rises by lambda / 10."""
        cluster: Clustering = Clustering(
            length="46 epochs",
            optimizer=Optimizer(name="rmsprop", lr=3e-4, schedule="inverse", factor=1e-3, power=1.0),
        )

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {"cluster.optimizer.lr": 1e-3, "cluster.optimizer.schedule": "constant"}
        }

        @model_validator(mode="after")
        def _thresholds_in_order(self) -> Self:
            if self.lower >= self.upper:
                raise ValueError(f"expected lower under upper, got {self.lower:g} and {self.upper:g}")
            return self

    quick: ClassVar[dict[str, Any]] = {
        "network.channels": (16, 32),
        "network.depth": 2,
        "augment.shift": 0.0,  # turned or shifted, the tests' blobs are others
        "augment.rotate": 0.0,
        "augment.zoom": 0.0,
        "cluster.length": "30 epochs",
        "cluster.optimizer.lr": 1e-3,
    }
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape, config.n_clusters)

    def features(self, x: Tensor) -> Tensor:
        return label_features(self.net(x))

    def view(self, batch: Batch) -> Batch:
        return batch

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        with torch.no_grad(), batch_statistics_only(self.net):
            seen = batch.gather(self.features(batch.x))
        thresholds = falling_thresholds(self.config.upper, self.config.lower, state.progress)
        pairs = confident_pairs(cosines(seen, seen), *thresholds)
        learned = batch.gather(self.features(self.config.augment(batch.x)))
        return pairwise_cross_entropy(cosines(learned, learned), *pairs)

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        return self.finalize_clusters(shard, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self.finalize_clusters(shard, clusters)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.net(x))
