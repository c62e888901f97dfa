"""How a method is composed of an autoencoder and of losses (`blocks.py`), with centroids or a softmax.

`custom` has all losses as settings. A method of your own may have some of them, and others:

    class Mine(Composed):
        class Config(Composed.Config):
            hardening: Hardening = Hardening(weight=1.0)
            mine: MyLoss = MyLoss(weight=0.1)
"""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from raydc.clustering import Clusters, KMeansOptions, spread
from raydc.clustering.graph import NearestRows
from raydc.clustering.linkage import agglomerate, check_memory
from raydc.core.schedule import Joint, Optimizer, Pretraining
from raydc.core.settings import fields
from raydc.data import Batch, Shard
from raydc.methods.base import AutoencoderMethod, CentroidMethod, Group, Parts, Player, StepState
from raydc.methods.blocks import ClusteringLoss, Loss, Seen
from raydc.networks.composed import ComposedNetwork
from raydc.networks.losses.hardening import squared_distances, student_memberships
from raydc.networks.losses.information import likeliest, probabilities
from raydc.networks.losses.posterior import nearest_student, posterior

NEIGHBOURS = 20  # nearest rows that have an affinity to a row, in an agglomeration
STEEPEST = 1e30
"""Of a softmax layer, whose squares float32 still holds."""


class Composed(CentroidMethod, AutoencoderMethod):
    class Config(AutoencoderMethod.Config):
        features: Literal["code", "layers"] = "code"
        """What is clustered. code: the encoder's output; layers: all its layers side by side, each of length one."""
        network: ComposedNetwork = ComposedNetwork()
        memberships: Literal["student", "gaussian", "softmax", "code"] = "student"
        """How a row belongs to clusters: by Student's t around centroids, by Gaussians around them as wide as the rows
        lie, by a softmax layer on the features, or by the softmax of a code with a unit for each cluster."""
        nu: float = Field(1.0, gt=0)
        """Degrees of freedom of Student's t."""
        centroids: Literal["descent", "running", "kmeans", "agglomerative", "none"] = "descent"
        """How centroids follow, k-means' at the start. descent: by gradients; running: each batch moves them by
        1 / count, and k-means goes on from there at each update; kmeans: at each update alone; agglomerative: from an
        agglomeration of all rows at the start and at each update; none: there are none, clusters are the code's."""
        centroid_rate: float = Field(1.0, gt=0)
        """Learning rate of centroids that descend, times the network's."""
        first_count: float = Field(100.0, gt=0)
        """Rows that each running centroid is taken to stand for at the start."""
        iterations: int = Field(300, ge=1)
        """Lloyd iterations of an update at most."""
        cluster: Joint = Joint(length="100 epochs", optimizer=Optimizer(lr=1e-3), alpha=0.1 / 1.1, tolerance=1e-3)
        moments: Literal["kept", "fresh", "cleared"] = "kept"
        """The optimizer's moments: kept from pretraining on, fresh when clusters begin, or cleared at each update."""
        after: Literal["none", "kmeans", "continued"] = "none"
        """Clustering after training: none; k-means of the final features; k-means continued from the centroids."""

        @property
        def answers_by_logits(self) -> bool:
            """Whether a row's cluster is that of its largest logit, and not its nearest centroid's."""
            return self.memberships in ("softmax", "code")

        @property
        def losses(self) -> dict[str, Loss]:
            """Those with a weight, by name, in the order of the settings."""
            groups = {name: getattr(self, name) for name in type(self).model_fields}
            return {name: loss for name, loss in groups.items() if isinstance(loss, Loss) and loss.used}

        @property
        def acting(self) -> dict[str, Loss]:
            """Of these, those whose share of eq. 11 is above 0 while clusters form."""
            alone = self.cluster.alpha == 1 and not self.cluster.ramp
            return {name: loss for name, loss in self.losses.items() if isinstance(loss, ClusteringLoss) or not alone}

        @property
        def code_size(self) -> int | None:
            """The size of the code, where memberships or a loss ask for one."""
            sizes = [loss.code_size(self.n_clusters) for loss in self.acting.values()]
            return next((size for size in sizes if size), self.n_clusters if self.memberships == "code" else None)

        @model_validator(mode="after")
        def _clusters_something(self) -> Self:
            if self.cluster.left_out and (self.after != "kmeans" or self.answers_by_logits):
                raise ValueError(
                    "expected after=kmeans, and memberships other than softmax and code, where cluster.length is 0: "
                    "else nothing is clustered"
                )
            if not self.cluster.left_out and not any(isinstance(loss, ClusteringLoss) for loss in self.losses.values()):
                raise ValueError(
                    "expected a clustering loss with a weight above 0, or cluster.length=0 and after=kmeans: without "
                    "one nothing is learned of clusters"
                )
            return self

        @model_validator(mode="after")
        def _fits_together(self) -> Self:
            pulled = any(loss.moves_centroids(self.memberships) for loss in self.acting.values())
            if self.centroids == "descent" and not pulled and not self.cluster.left_out:
                raise ValueError(
                    "expected centroids=running, kmeans or agglomerative: no loss that acts has a gradient by which "
                    "centroids could descend"
                )
            if self.after != "none" and self.answers_by_logits:
                raise ValueError(f"expected after=none where memberships are {self.memberships}: it answers for rows")
            return self

        @model_validator(mode="after")
        def _code_says_clusters(self) -> Self:
            by_code, acting = self.memberships == "code", self.acting.values()
            if self.centroids == "none" and (not by_code or any(loss.moves_centroids("code") for loss in acting)):
                raise ValueError("expected centroids other than none: memberships or a loss ask for them")
            if by_code and self.centroids != "none" and not any(loss.labelled for loss in acting):
                raise ValueError("expected centroids=none where memberships are code: no loss asks for any")
            if by_code and (self.features != "code" or self.code_size != self.n_clusters):
                raise ValueError("expected features=code, of a unit for each cluster, where memberships are code")
            if not self.network.decodes and not by_code:
                raise ValueError("expected memberships=code where network.family is classifier: its code is logits")
            if not self.network.decodes and any(loss.decodes for loss in acting):
                raise ValueError(
                    "expected reconstruction.weight=0 where network.family is classifier: it has no decoder"
                )
            return self

        def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
            idle, none = super().idle(shape), "the phase cluster has length 0"
            losses = [name for name in type(self).model_fields if isinstance(getattr(self, name), Loss)]
            for name in losses:
                if self.cluster.left_out or (getattr(self, name).used and name not in self.acting):
                    why = none if self.cluster.left_out else "cluster.alpha is 1, the clustering losses alone"
                    idle |= {f"{name}.{path}": why for path, _ in fields(type(getattr(self, name)))}
            if self.cluster.left_out:
                idle |= dict.fromkeys(["centroids", "centroid_rate", "first_count", "iterations", "moments"], none)
            rules = {"centroid_rate": ("descent",), "first_count": ("running",), "iterations": ("running", "kmeans")}
            for name, values in rules.items():
                if self.centroids not in values:
                    idle[name] = f"it acts where centroids is {' or '.join(values)}, and it is {self.centroids}"
            if self.memberships != "student":
                idle["nu"] = f"it acts where memberships is student, and it is {self.memberships}"
            if self.code_size:
                idle["network.latent"] = "the code has as many units as memberships or a loss ask for"
            if not self.network.decodes:
                phases = ("layerwise", "denoise", "pretrain")
                blind = [f"{phase}.{path}" for phase in phases for path, _ in fields(Pretraining)]
                idle |= dict.fromkeys(blind, "the network has no decoder that could be pretrained")
            return idle

    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape, config.code_size)
        size = self.net.latent if config.features == "code" else sum(self.net.widths)
        learning = not config.cluster.left_out
        self.hold_centroids(size, descended=learning and config.centroids == "descent")
        self.hold_counts(config.first_count)
        acting = config.acting if learning else {}
        heads = {name: loss.head(size, config.n_clusters) for name, loss in acting.items()}
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})
        if config.memberships == "softmax":
            self.layer = nn.Linear(size, config.n_clusters)
        self.neighbourhood: NearestRows | None = None

    @property
    def clears_moments(self) -> bool:
        return self.config.moments == "cleared"

    def check_memory(self, total: int) -> None:
        if self.config.centroids == "agglomerative" and not self.config.cluster.left_out:
            check_memory(total, NEIGHBOURS)

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        decodes = any(loss.decodes for loss in self.config.acting.values())
        groups = self.groups(self.net.parameters() if decodes else self.net.encoder_parameters())
        if self.config.centroids == "descent":
            groups.append(Group([self.centroids], rate=self.config.centroid_rate))
        layers = [*self.heads.parameters(), *(self.layer.parameters() if self.config.memberships == "softmax" else [])]
        if layers:
            groups.append(Group(layers))
        return {"all": Player(groups, fresh=self.config.moments != "kept")}

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        x = shard.map(lambda rows: rows.flatten(1))
        found = [loss.neighbourhood(x, clusters) for loss in self.config.acting.values()]
        self.neighbourhood = next((graph for graph in found if graph is not None), None)

    def sample_batch(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        if phase != "cluster" or self.neighbourhood is None:
            return super().sample_batch(shard, phase, seed, index, count)
        return self.neighbourhood.batch(shard, seed, index, count)

    def view(self, batch: Batch) -> Batch:
        """As they are, where a loss changes rows itself."""
        return batch if any(loss.augments for loss in self.config.acting.values()) else super().view(batch)

    def joined(self, layers: list[Tensor]) -> Tensor:
        """Features [B, D] of the encoder's activations."""
        if self.config.features == "code":
            return layers[-1]
        return torch.cat([F.normalize(layer.flatten(1), dim=1) for layer in layers], 1)

    def features(self, x: Tensor) -> Tensor:
        return self.joined(self.net.activations(x))

    def scores(self, z: Tensor) -> Tensor:
        """[B, K] of features z [B, D], largest for a row's own cluster: logits, or squared distances, negated."""
        match self.config.memberships:
            case "softmax":
                return self.layer(z)
            case "code":
                return z
            case _:
                return -squared_distances(z, self.centroids)

    def soft(self, scores: Tensor) -> Tensor:
        """Memberships q [B, K] of scores [B, K]."""
        match self.config.memberships:
            case "student":
                return student_memberships(-scores, self.config.nu)
            case "gaussian":
                return posterior(scores.double(), self.sharpness).to(scores.dtype)
            case _:
                return probabilities(scores)

    def logits(self, scores: Tensor) -> Tensor:
        """What the memberships are the softmax of [B, K], of scores [B, K]."""
        if self.config.answers_by_logits:
            return scores
        q = self.soft(scores)
        return q.clamp_min(torch.finfo(q.dtype).tiny).log()

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if state.phase != "cluster":
            return super().loss(batch, state, player)
        seen, parts = Seen(self, batch, state), {}
        for name, loss in self.config.acting.items():
            share = state.alpha if isinstance(loss, ClusteringLoss) else 1 - state.alpha
            if share > 0:
                parts[name] = (share * loss.weight, loss.value(seen))
        return parts

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        for loss in self.config.acting.values():
            self.rows |= loss.begun(shard, clusters)
        self.counts.fill_(self.config.first_count)
        return self._update(shard, clusters, None)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self._update(shard, clusters, self.centroids.detach())

    def after_step(self, batch: Batch, clusters: Clusters, state: StepState) -> None:
        if self.config.centroids == "running":
            own = batch.extra.get("own", slice(None))
            self.rows["label"][batch.row[own]] = self.follow(batch.x[own], clusters)

    @torch.no_grad()
    def _update(self, shard: Shard, clusters: Clusters, before: Tensor | None) -> Tensor:
        """Centroids by their rule, from those before or anew, and what losses remember; labels [N] of the rows."""
        z = shard.map(self.features)
        if self.config.centroids == "agglomerative":
            label = agglomerate(z, clusters, NEIGHBOURS, None, 0.0, self.n_clusters)
            one_hot = F.one_hot(label, self.n_clusters)
            counts = clusters.total(one_hot.sum(0)).clamp_min(1)
            self.centroids.copy_(clusters.products(one_hot, z) / counts[:, None])
        elif self.config.centroids != "none" and (before is None or self.config.centroids != "descent"):
            options = KMeansOptions() if before is None else KMeansOptions(iterations=self.config.iterations)
            found = clusters.kmeans(z, self.n_clusters, options, centroids=before)
            self.centroids.copy_(found.centroids)
            label = found.labels
        if before is None and self.config.memberships == "softmax":
            self._begin_layer(z, clusters)
        if self.config.memberships == "gaussian":
            self.sharpness.fill_(spread.of_rows(z, self.centroids, clusters))
        scores = shard.map(self.scores, z)
        if self.config.centroids == "descent":
            label = shard.map(lambda part: squared_distances(part, self.centroids), z).argmin(1)
        elif self.config.centroids == "none":
            label = scores.argmax(1)
        self.rows["label"] = label.clone()
        for loss in self.config.acting.values():
            self.rows |= loss.updated(self.soft(scores), clusters)
        return scores.argmax(1) if self.config.answers_by_logits else label

    def _begin_layer(self, z: Tensor, clusters: Clusters) -> None:
        """Let the softmax layer say the posterior of equal Gaussians around the centroids, of features z [N, D]."""
        steep = min(2 * spread.of_rows(z, self.centroids, clusters), STEEPEST)
        mean = self.centroids.mean(0)
        apart = self.centroids - mean
        self.layer.weight.copy_(steep * apart)
        self.layer.bias.copy_(-steep * (apart.square().sum(1) / 2 + apart @ mean))

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        if self.config.centroids == "none":
            return super(CentroidMethod, self).finalize_clusters(shard, clusters)
        if self.config.after != "none":
            before = self.centroids.detach() if self.config.after == "continued" else None
            found = clusters.kmeans(shard.map(self.features), self.n_clusters, centroids=before)
            with torch.no_grad():
                self.centroids.copy_(found.centroids)
        return super().finalize_clusters(shard, clusters)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        match self.config.memberships:
            case "student":
                return nearest_student(self.features(x), self.centroids, self.config.nu)
            case "gaussian":
                return super().decide(x)
            case _:
                return likeliest(self.scores(self.features(x)))
