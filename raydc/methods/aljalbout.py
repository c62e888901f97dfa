"""The method proposed in the taxonomy itself. Aljalbout, Golkov, Siddiqui, Strobel & Cremers 2018, arXiv:1801.07648.

A convolutional autoencoder is pretrained, then reconstruction and cluster assignment hardening are descended together,
and k-means runs on the final code. From the authors' code: targets over all rows once an epoch, Nesterov momentum .9,
rate .01, Glorot's weights, 120-d code. The paper gives no weights; the code adds a mean reconstruction loss to a
hardening loss *summed over the batch* of 100. By default both are means and weigh the same (alpha = .5): a sum would
make the weight of clustering depend on the batch; the halves step as their sum would with rate .005, and pretraining is
that of every autoencoder method here. The recipe "paper" pretrains as the code does, with an L2 penalty of 5e-5, and
has its sum: alpha 100 / 101 at the rate 1.01.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydc.clustering import Clusters
from raydc.core.schedule import Joint, Optimizer
from raydc.data import ScalingKind, Shard
from raydc.methods.base import MethodInfo
from raydc.methods.dec import DEC
from raydc.networks import Network

SGD = Optimizer(name="sgd", lr=0.01, momentum=0.9, nesterov=True)


class Aljalbout(DEC):
    info: ClassVar[MethodInfo] = replace(
        DEC.info,
        source="Aljalbout et al. 2018",
        architecture="CNN",
        combination="pretraining, then joint training",
        after="k-means",
    )
    batch_size: ClassVar[int] = 100
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(DEC.Config):
        network: Network = Network(family="conv", latent=120)
        cluster: Joint = Joint(length="100 epochs", optimizer=SGD, alpha=0.5, tolerance=1e-3)

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "image": DEC.Config.recipes["image"],
            "paper": {
                **{f"pretrain.optimizer.{key}": value for key, value in SGD.model_dump().items()},
                "pretrain.optimizer.weight_decay": 5e-5,
                "pretrain.optimizer.schedule": "step",
                "pretrain.optimizer.factor": 0.9999,
                "pretrain.optimizer.every": "1 epochs",
                "cluster.alpha": 100 / 101,
                "cluster.optimizer.lr": 1.01,
            },
        }

    @torch.no_grad()
    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        found = clusters.kmeans(shard.map(self.features), self.n_clusters, centroids=self.centroids.detach())
        self.centroids.copy_(found.centroids)
        return super().finalize_clusters(shard, clusters)
