"""Losses to compose a method of (`custom`): those of sections 2.3 and 2.4 of Aljalbout et al. 2018, arXiv:1801.07648.

Each is a group of settings that knows its loss; a weight of 0 leaves it out. One of your own is a class like these and
a field of a Config derived from that of `custom`.
"""

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.clustering.graph import NearestRows, neighbour_distance
from raydc.core.settings import Settings, fields
from raydc.data import Batch, Shard
from raydc.methods.base import StepState
from raydc.methods.rim import information
from raydc.networks.losses.agglomerative import agglomerative_triplets
from raydc.networks.losses.hardening import hardening, sharpen
from raydc.networks.losses.information import adversarial_direction, cross_entropy, entropy
from raydc.networks.losses.kmeans import kmeans_loss
from raydc.networks.losses.locality import group_sparsity, locality
from raydc.networks.losses.pairwise import confident_pairs, cosines, falling_thresholds, pairwise_cross_entropy
from raydc.networks.losses.reconstruction import mean_squared_error, squared_error
from raydc.networks.norm import batch_statistics_only

if TYPE_CHECKING:
    from raydc.methods.composed import Composed


class Seen:
    """A batch as losses see it. What the network makes of it is worked out once, where a loss asks for it."""

    def __init__(self, method: "Composed", batch: Batch, state: StepState) -> None:
        self.method, self.batch, self.state = method, batch, state
        own = batch.extra.get("own", slice(None))
        self.own: Tensor | slice = own
        """Places of the rows that losses are of: without the neighbours that stand beside them."""
        self.x, self.row = batch.x[own], batch.row[own]

    @cached_property
    def layers(self) -> list[Tensor]:
        """What each layer of the encoder makes of the rows and their neighbours."""
        return self.method.net.activations(self.batch.x)

    @cached_property
    def everyone(self) -> Tensor:
        """Features of the rows and of their neighbours [B, D]."""
        return self.method.joined(self.layers)

    @cached_property
    def code(self) -> Tensor:
        """The encoder's output for the rows [A, latent]."""
        return self.layers[-1][self.own]

    @cached_property
    def z(self) -> Tensor:
        """Features of the rows [A, D]."""
        return self.code if self.everyone is self.layers[-1] else self.everyone[self.own]

    @cached_property
    def decoded(self) -> Tensor:
        """The rows as they are decoded from their code [A, inputs]."""
        return self.method.net.decode(self.code).flatten(1)

    @cached_property
    def everyones_memberships(self) -> Tensor:
        """q [B, K] of the rows and of their neighbours."""
        return self.method.soft(self.method.scores(self.everyone))

    @cached_property
    def memberships(self) -> Tensor:
        """q [A, K] of the rows."""
        return self.everyones_memberships[self.own]

    def head(self, loss: "Loss") -> nn.Module:
        """The layer of the loss's own."""
        names = [name for name, each in self.method.config.losses.items() if each is loss]
        return self.method.heads[names[0]]

    def remembered(self, name: str) -> Tensor:
        """What was kept of the rows [A, ...] when clusters were last updated."""
        return self.method.rows[name][self.row]


class Loss(Settings):
    """A loss and its weight."""

    weight: float = Field(0.0, ge=0)
    """Weight of the loss; 0 leaves it out."""

    soft: ClassVar[bool] = False
    """Whether it is a loss of the memberships."""
    labelled: ClassVar[bool] = False
    """Whether it is a loss of the rows' clusters at the last update."""
    decodes: ClassVar[bool] = False
    """Whether it has a gradient in the decoder."""

    @property
    def used(self) -> bool:
        return self.weight > 0

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        own = [path for path, _ in fields(type(self)) if path != "weight"]
        return super().idle(shape) if self.used else dict.fromkeys(own, "the loss has weight 0")

    @property
    def augments(self) -> bool:
        """Whether it changes rows itself as the group `augment` says, and is to see them as they are."""
        return False

    def value(self, seen: Seen) -> Tensor:
        """A scalar, reduced by the batch."""
        raise NotImplementedError

    def moves_centroids(self, memberships: str) -> bool:
        """Whether it has a gradient in the centroids, where memberships are of this kind."""
        return self.soft and memberships in ("student", "gaussian")

    def code_size(self, n_clusters: int) -> int | None:
        """The size that the code must have, if that is not free."""
        return None

    def head(self, size: int, n_clusters: int) -> nn.Module | None:
        """A layer of its own on features of this size, which `Seen.head` gives."""
        return None

    def neighbourhood(self, x: Tensor, clusters: Clusters) -> NearestRows | None:
        """The graph of the rows whose neighbours are to stand beside them in a batch; x [N, D] are this worker's."""
        return None

    def begun(self, shard: Shard, clusters: Clusters) -> dict[str, Tensor]:
        """What is kept of the shard's rows, by name, each [N, ...], from before clusters form."""
        return {}

    def updated(self, memberships: Tensor, clusters: Clusters) -> dict[str, Tensor]:
        """The same, anew at each update of clusters, from all rows' memberships [N, K]."""
        return {}


class NetworkLoss(Loss):
    """Section 2.3: what keeps the features true to the rows, weighed by 1 - alpha."""


class ClusteringLoss(Loss):
    """Section 2.4: what makes the features friendly to clusters, weighed by alpha."""


class Reconstruction(NetworkLoss):
    """The autoencoder's reconstruction of the rows, while clusters form."""

    decodes: ClassVar[bool] = True
    over: Literal["mean", "sum"] = "mean"
    """Whether a row's squared errors are averaged over its features or added up."""

    def value(self, seen: Seen) -> Tensor:
        error = squared_error if self.over == "sum" else mean_squared_error
        return seen.batch.mean(error(seen.x.flatten(1), seen.decoded))


class SelfAugmentation(NetworkLoss):
    """KL(q(x) || q(T(x))), q(x) a constant (IMSAT): memberships are to stay when rows are changed."""

    soft: ClassVar[bool] = True
    change: Literal["vat", "augment"] = "vat"
    """T. vat: a step in the direction that changes the memberships most; augment: what the group augment says."""
    radius: float = Field(0.25, gt=0)
    """Length of vat's step, times the distance to the neighbour."""
    neighbour: int = Field(10, ge=1)
    """Which neighbour's distance that is."""
    probe: float = Field(10 / 28, gt=0)
    """Where vat's power iteration starts, times the square root of the number of features."""

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        ours = ["radius", "neighbour", "probe"] if self.augments else []
        return super().idle(shape) | dict.fromkeys(ours, "rows are changed by augment")

    @property
    def augments(self) -> bool:
        return self.used and self.change == "augment"

    def value(self, seen: Seen) -> Tensor:
        method, p = seen.method, seen.memberships.detach()

        def logits(x: Tensor) -> Tensor:
            return method.logits(method.scores(method.features(x.view_as(seen.x))))

        with batch_statistics_only(method.net):
            if self.change == "augment":
                changed = method.config.augment(seen.x)
            else:
                x = seen.x.flatten(1)
                direction = adversarial_direction(logits, x, p, self.probe * x.shape[1] ** 0.5)
                changed = x + seen.remembered("radius")[:, None] * direction
            return seen.batch.mean(cross_entropy(p, logits(changed)))

    def begun(self, shard: Shard, clusters: Clusters) -> dict[str, Tensor]:
        if self.augments:
            return {}
        x = shard.map(lambda rows: rows.flatten(1))
        return {"radius": self.radius * neighbour_distance(x, self.neighbour, clusters)}


class KMeansLoss(ClusteringLoss):
    """Squared distance to the row's centroid (DCN)."""

    labelled: ClassVar[bool] = True

    def value(self, seen: Seen) -> Tensor:
        return seen.batch.mean(kmeans_loss(seen.z, seen.method.centroids, seen.remembered("label")))

    def moves_centroids(self, memberships: str) -> bool:
        return True


class Hardening(ClusteringLoss):
    """KL(P || Q) to memberships sharpened by the clusters' frequencies, as they were at the last update (DEC)."""

    soft: ClassVar[bool] = True
    power: float = Field(2.0, gt=1)
    """Exponent that sharpens memberships into the target."""

    def value(self, seen: Seen) -> Tensor:
        return seen.batch.mean(hardening(seen.remembered("target"), seen.memberships))

    def updated(self, memberships: Tensor, clusters: Clusters) -> dict[str, Tensor]:
        return {"target": sharpen(memberships, clusters.sum(memberships), self.power)}


class Balance(ClusteringLoss):
    """KL(G || uniform) of the clusters' shares G in the global batch: balanced assignments."""

    soft: ClassVar[bool] = True

    def value(self, seen: Seen) -> Tensor:
        shares = seen.batch.global_mean(seen.memberships)
        return torch.log(shares.new_tensor(len(shares))) - entropy(shares)


class Information(ClusteringLoss):
    """H(Y|X) - balance H(Y) of rows and clusters, H(Y) of the global batch (RIM, IMSAT)."""

    soft: ClassVar[bool] = True
    balance: float = Field(1.0, gt=0)
    """mu, the weight of the marginal entropy H(Y) beside the conditional one."""

    def value(self, seen: Seen) -> Tensor:
        return information(seen.batch, seen.memberships, self.balance)


class Pairwise(ClusteringLoss):
    """Cross-entropy of the batch's confident pairs, by thresholds that meet at the end of the phase (DAC)."""

    soft: ClassVar[bool] = True
    upper: float = Field(0.95, gt=0, le=1)
    """Cosine of memberships above which a pair is taken for one cluster, at the start; it falls by lambda."""
    lower: float = Field(0.455, ge=0, lt=1)
    """Cosine up to which a pair is taken for two clusters, at the start; it rises by lambda / 10."""

    def value(self, seen: Seen) -> Tensor:
        features = seen.batch.gather(F.normalize(seen.everyones_memberships, dim=1))
        cosine = cosines(features, features)
        thresholds = falling_thresholds(self.upper, self.lower, seen.state.progress)
        return pairwise_cross_entropy(cosine, *confident_pairs(cosine.detach(), *thresholds))

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"expected lower under upper, got {self.lower:g} and {self.upper:g}")
        return self


class Classification(ClusteringLoss):
    """Cross-entropy of a softmax layer of its own to the rows' clusters at the last update (CCNN)."""

    labelled: ClassVar[bool] = True

    def value(self, seen: Seen) -> Tensor:
        logits = seen.head(self)(seen.z)
        return seen.batch.mean(F.cross_entropy(logits, seen.remembered("label"), reduction="none"))

    def head(self, size: int, n_clusters: int) -> nn.Module:
        return nn.Linear(size, n_clusters)


class Agglomerative(ClusteringLoss):
    """Triplets of the global batch: rows of a cluster are to be nearer to each other than to others (JULE)."""

    labelled: ClassVar[bool] = True
    margin: float = Field(0.2, ge=0)
    """Margin of the triplets."""

    def value(self, seen: Seen) -> Tensor:
        z = seen.batch.gather(F.normalize(seen.everyone, dim=1))
        labels = seen.batch.gather(seen.method.rows["label"][seen.batch.row])
        return agglomerative_triplets(z, labels, self.margin)


class Locality(ClusteringLoss):
    """Squared distances of features to those of the row's neighbours, by a heat kernel (DEN)."""

    neighbours: int = Field(4, ge=1)
    """Nearest rows that a row's features are held near to."""
    width: float = Field(1.0, gt=0)
    """Width t of the heat kernel, times the mean squared distance of neighbours."""

    def value(self, seen: Seen) -> Tensor:
        partners = seen.batch.gather(seen.everyone)[seen.batch.extra["partners"]]
        return seen.batch.mean(locality(seen.z, partners, seen.batch.extra["weight"]))

    def neighbourhood(self, x: Tensor, clusters: Clusters) -> NearestRows:
        return NearestRows.of(x, self.neighbours, self.width, clusters)


class GroupSparsity(ClusteringLoss):
    """The code is to be zero but for one of K groups of units (DEN)."""

    group_size: int = Field(2, ge=1)
    """Units of the code in each group."""

    def value(self, seen: Seen) -> Tensor:
        return seen.batch.mean(group_sparsity(seen.code, seen.method.n_clusters))

    def code_size(self, n_clusters: int) -> int:
        return self.group_size * n_clusters
