"""A method composed by settings. Its parts are those of the taxonomy, Aljalbout et al. 2018, arXiv:1801.07648.

L = alpha (weighted sum of clustering losses) + (1 - alpha) (weighted sum of network losses); a loss of weight 0 is left
out. Network (2.1): `network`, an autoencoder or a classifier. Features (2.2): `features`, its code or all layers of its
encoder. Network losses (2.3): `reconstruction`, `self_augmentation`. Clustering losses (2.4): `kmeans`, `hardening`,
`balance`, `information`, `pairwise`, `classification`, `agglomerative`, `locality`, `sparsity`. Combination (2.5):
`layerwise`, `denoise`, `pretrain`, then `cluster` with its alpha, constant or rising. Updates (2.6): `centroids`,
`memberships`, `cluster.update_every`, `moments`, `reset`. After training (2.7): `after`.

The defaults are IDEC's, and the recipes `ae_kmeans`, `neural_clustering`, `dec`, `dcn`, `den` and `imsat` these
methods, to the last bit where rows are scaled and batched alike (imsat: `data.scaling=symmetric`,
`training.batch_size=250`): a place to start from. Decided here: a softmax layer starts as the posterior of equal
Gaussians around the centroids of k-means; where clusters are agglomerated, centroids are the means of all rows'
clusters, merged anew from their features at each update, where JULE merges on from the last. What cannot be composed:
networks with a prior of their own, players against each other, self-expression, and clusters whose number is found.
"""

from typing import Any, ClassVar

from raydc.methods.base import AutoencoderMethod, MethodInfo
from raydc.methods.blocks import (
    Agglomerative,
    Balance,
    Classification,
    GroupSparsity,
    Hardening,
    Information,
    KMeansLoss,
    Locality,
    Pairwise,
    Reconstruction,
    SelfAugmentation,
)
from raydc.methods.composed import Composed

NO_CLUSTERING: dict[str, Any] = {
    "hardening.weight": 0.0,
    "cluster.length": "0 epochs",
    "memberships": "gaussian",
    "after": "kmeans",
}
"""k-means behind an autoencoder that knows nothing of clusters."""


class Custom(Composed):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Aljalbout et al. 2018, its taxonomy",
        architecture="MLP",
        features="encoder output, or all layers",
        network_loss="autoencoder reconstruction, self-augmentation",
        clustering_loss="any of nine, weighted",
        combination="pretraining, then joint training or fine tuning",
        updates="jointly or alternatingly updated",
        after="none, or k-means",
    )

    class Config(Composed.Config):
        reconstruction: Reconstruction = Reconstruction(weight=1.0)
        self_augmentation: SelfAugmentation = SelfAugmentation()
        kmeans: KMeansLoss = KMeansLoss()
        hardening: Hardening = Hardening(weight=1.0)
        balance: Balance = Balance()
        information: Information = Information()
        pairwise: Pairwise = Pairwise()
        classification: Classification = Classification()
        agglomerative: Agglomerative = Agglomerative()
        locality: Locality = Locality()
        sparsity: GroupSparsity = GroupSparsity()

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "image": AutoencoderMethod.Config.recipes["image"],
            "ae_kmeans": NO_CLUSTERING,
            "neural_clustering": NO_CLUSTERING | {"features": "layers"},
            "dec": {"cluster.alpha": 1.0, "cluster.optimizer.lr": 1e-4},
            "dcn": {
                "network.initial": "lecun_normal",
                "network.tied": True,
                "bias_rate": 2.0,
                "memberships": "gaussian",
                "centroids": "running",
                "hardening.weight": 0.0,
                "kmeans.weight": 2.0,
                "reconstruction.weight": 2.0,
                "reconstruction.over": "sum",
                "cluster.alpha": 0.5,
                "cluster.length": "50 epochs",
                "cluster.optimizer.lr": 1e-4,
                "cluster.update_every": "10 epochs",
                "cluster.tolerance": 0.0,
            },
            "den": {
                "memberships": "gaussian",
                "centroids": "kmeans",
                "hardening.weight": 0.0,
                "locality.weight": 1.0,
                "sparsity.weight": 2.0,
                "reconstruction.weight": 2.0,
                "reconstruction.over": "sum",
                "cluster.alpha": 0.5,
                "cluster.update_every": "10 epochs",
                "cluster.tolerance": 0.0,
                "moments": "fresh",
                "after": "kmeans",
            },
            "imsat": {
                "network.family": "classifier",
                "network.hidden": (1200, 1200),
                "memberships": "code",
                "centroids": "none",
                "reconstruction.weight": 0.0,
                "hardening.weight": 0.0,
                "self_augmentation.weight": 1.0,
                "information.weight": 1.0,
                "information.balance": 4.0,
                **dict.fromkeys(["denoise.length", "layerwise.length", "pretrain.length"], "0 epochs"),
                "cluster.length": "50 epochs",
                "cluster.optimizer.lr": 2e-3,
                "cluster.tolerance": 0.0,
            },
        }

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "20 epochs"}
    config: Config
