"""A method is the taxonomy of Aljalbout et al. 2018, arXiv:1801.07648, with some of its parts filled in."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from raydc.clustering import ClusteringResult, Clusters, spread
from raydc.core.autocast import exact_float32
from raydc.core.schedule import Clustering, Length, Optimizer, Phase, Pretraining, Reset
from raydc.core.settings import Settings, SettingsError, fields, flatten, unflatten
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.index import MethodInfo
from raydc.networks import Autoencoder, Network
from raydc.networks.augment import Augment
from raydc.networks.init import redraw
from raydc.networks.losses.posterior import nearest
from raydc.networks.losses.reconstruction import mean_squared_error

NO_LENGTH = "0 steps"
"""Of a phase that is left out."""

ROWS = 256
"""Rows of a batch that is answered."""


@dataclass(frozen=True)
class StepState:
    """Where in training a step stands."""

    phase: str
    alpha: float
    """Weight of the clustering loss (eq. 11)."""
    progress: float
    """Share of the phase that is over, in [0, 1)."""
    epoch: int
    """Epochs of this phase that are over."""
    step: int
    """Steps of the whole run that are over."""


@dataclass(frozen=True)
class Group:
    """Parameters that step alike."""

    parameters: Sequence[Tensor]
    rate: float = 1.0
    """Times the optimizer's learning rate."""
    local: bool = False
    """Row-local: one entry per row of this worker's shard. Never averaged, and checkpointed by row."""


@dataclass(frozen=True)
class Player:
    """Who descends its own loss. One player is a minimiser; adversarial methods have two."""

    groups: Sequence[Group]
    optimizer: Optimizer | None = None
    """Its step rule, where it is not the phase's."""
    fresh: bool = False
    """Whether it begins the phase without moments: those of a loss on another scale (a sum after a mean) are wrong."""


Parts = dict[str, tuple[float, Tensor]]
"""A loss by its named parts: (weight, value)."""


def _not_given(value: Any) -> Any:
    if value != 0:
        raise ValueError("this method finds the number of clusters in the rows: leave it out, or take another method")
    return value


FoundInRows = Annotated[
    Literal[0], BeforeValidator(_not_given), Field(description="Not given: the number of clusters is found.")
]
"""The type of `n_clusters = 0` in a method that finds their number; any other value is refused with the reason."""

BiasRate = Annotated[
    float, Field(gt=0, description="Learning rate of the network's biases, times that of its weights.")
]


class Method(nn.Module):
    """L = alpha * clustering_loss + (1 - alpha) * network_loss (eq. 11).

    A subclass overrides what its paper changes and nothing else. What a method must remember is in its `state_dict`
    (the same on every worker) and in `rows` (this worker's own, one entry per row of its shard).
    """

    info: ClassVar[MethodInfo]
    batch_size: ClassVar[int] = 256
    """Rows of the global batch, unless `training.batch_size` says otherwise."""
    scaling: ClassVar[ScalingKind] = "power"
    """How rows whose features have one unit are scaled, unless `data.scaling` says otherwise."""
    needs_image: ClassVar[bool] = False
    weighs_rows: ClassVar[bool] = False
    """Whether rows count by their weights, where the data have any; a method that does not refuses such data."""
    trains: ClassVar[bool] = True
    """Whether a network is trained: in batches, at a precision, perhaps from weights of another run."""
    renames: ClassVar[bool] = False
    """Whether clusters are numbered anew at each update; what changed is then told by which rows are together."""
    quick: ClassVar[dict[str, Any]] = {}
    """Settings (dotted) for a first look at a few hundred small rows; what the contract tests run."""

    class Config(Settings):
        recipes: ClassVar[dict[str, dict[str, Any]]] = {}
        """Named sets of settings (dotted), such as a paper's own schedule."""
        n_clusters: int = Field(10, ge=1)
        """Number of clusters K."""
        recipe: str = "default"
        """Named set of settings that these start from; what is given beside it wins."""
        augment: Augment = Augment()

        @model_validator(mode="before")
        @classmethod
        def _from_recipe(cls, values: Any) -> Any:
            if not isinstance(values, dict):
                return values
            name = values.get("recipe", "default")
            if name == "default" or not isinstance(name, str):
                return values
            if name not in cls.recipes:
                raise ValueError(f"no recipe {name!r}; there are {', '.join(['default', *cls.recipes])}")
            return cls(**unflatten(cls.recipes[name])).completed(values)

        @model_validator(mode="after")
        def _clusters_something(self) -> Self:
            phases = {name: getattr(self, name) for name in type(self).model_fields}
            *_, name = [None, *(name for name, phase in phases.items() if isinstance(phase, Clustering))]
            if name is not None and phases[name].left_out:
                raise ValueError(
                    f"expected {name}.length above 0, else nothing is clustered; to cluster what an autoencoder alone "
                    "has learned, take ae_kmeans"
                )
            return self

    config: Config
    rows: dict[str, Tensor]

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        """For rows of `shape`, (D,) or (C, H, W), scaled."""
        super().__init__()
        self.config, self.shape, self.rows = config, shape, {}

    @classmethod
    def finds_clusters(cls) -> bool:
        """Whether the number of clusters comes out of the rows, and is not given."""
        return cls.Config.model_fields["n_clusters"].default == 0

    @property
    def n_clusters(self) -> int:
        return self.config.n_clusters

    @property
    def reset_every(self) -> Length:
        """2.6: interval at which `reset_network` and then `init_clusters` are called anew."""
        return NO_LENGTH

    @property
    def clears_moments(self) -> bool:
        """2.5: whether the optimizers begin without moments after every update of clusters."""
        return False

    @classmethod
    def check_settings(cls, config: Config, shape: tuple[int, ...]) -> None:
        """SettingsError naming those that differ from their recipe's and have no effect on rows of this shape.

        A phase of length 0 is named nowhere: that it does not run is what it says.
        """
        given, usual = flatten(config.model_dump()), flatten(type(config)(recipe=config.recipe).model_dump())
        idle = {path: why for path, why in config.idle(shape).items() if given[path] not in (usual[path], NO_LENGTH)}
        lines = [
            f"method.{path}: {given[path]} has no effect on rows of shape {shape}: {why}; leave it out"
            for path, why in idle.items()
        ]
        recipe = config.recipes.get(config.recipe, {})
        if recipe and recipe.keys() <= config.idle(shape).keys():
            lines.append(
                f"method.recipe: {config.recipe} has no effect on rows of shape {shape}: "
                f"{config.idle(shape)[next(iter(recipe))]}; leave it out"
            )
        if lines:
            raise SettingsError("\n".join(lines))

    @classmethod
    def settled(cls, config: Config, shape: tuple[int, ...]) -> Config:
        """The settings as they act on rows of this shape: a phase of the recipe that cannot run has length 0.

        SettingsError as `check_settings`.
        """
        cls.check_settings(config, shape)
        left_out = {path: NO_LENGTH for path in config.idle(shape) if path.endswith(".length")}
        return type(config).model_validate(config.completed(unflatten(left_out))) if left_out else config

    def check(self, total: int) -> None:
        """Raise ValueError, with both numbers, where the method cannot take `total` rows."""

    def check_memory(self, total: int) -> None:
        """Raise MemoryError, with both numbers, where this machine has no room for what is kept of `total` rows.

        Asked before training in the process that trains: what is free elsewhere tells nothing.
        """

    def phases(self) -> dict[str, Phase]:
        """2.5: the stretches of training, by name: those of the settings, in their order."""
        own = {name: getattr(self.config, name) for name in type(self.config).model_fields}
        return {name: phase for name, phase in own.items() if isinstance(phase, Phase)}

    def players(self, phase: str) -> dict[str, Player]:
        """2.5: who steps in this phase, in order. Parameters that are named take part, whatever their gradient."""
        return {"all": Player([Group([*self.parameters()])])}

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        """Before training, and before a checkpoint is put back: row-local parameters, and what rows alone decide.

        What is kept elsewhere than in `state_dict` and `rows`, such as a neighbour graph, must be made here.
        """

    def sample_batch(self, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
        """Batch `index` of the `count` batches of an epoch: every row once an epoch, shuffled by `seed`.

        Each worker gives its shard's share, so unequal shards need as many steps; what its rows leave over comes at
        other steps than its neighbours', for batches of like sizes. `seed` is the same on every worker;
        a method that picks pairs or edges of rows draws positions among all rows and cuts them by `Shard.batch`.
        """

        def span(size: int, first: int) -> tuple[int, int]:
            return (index * size + first % count) // count, ((index + 1) * size + first % count) // count

        start, stop = span(len(shard), shard.start)
        row = shard.order(seed)[start:stop]
        sizes = tuple(b - a for a, b in map(span, shard.sizes, accumulate(shard.sizes, initial=0)))
        return Batch(shard[row], row, sum(sizes), sizes)

    def view(self, batch: Batch) -> Batch:
        """The batch as losses see it: augmented. Clusters and targets are made from rows as they are.

        With DEC this is DEC-DA (Guo, Zhu, Liu & Yin, ACML 2018), and so for every other method.
        """
        return replace(batch, x=self.config.augment(batch.x))

    def batches(self, shard: Shard, batch_size: int, phase: str) -> int:
        """Batches in an epoch of this phase."""
        return -(-shard.total // batch_size)

    def features(self, x: Tensor) -> Tensor:
        """2.2: z [B, D], what is clustered."""
        raise NotImplementedError

    def network_loss(self, batch: Batch, state: StepState) -> Tensor:
        """2.3: a scalar, reduced by the batch."""
        return batch.x.new_zeros(())

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        """2.4: a scalar, reduced by the batch."""
        return batch.x.new_zeros(())

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        """2.5: what `player` descends, by parts; adversarial methods override it."""
        parts: Parts = {}
        if state.alpha < 1:
            parts["network"] = (1 - state.alpha, self.network_loss(batch, state))
        if state.alpha > 0:
            parts["clustering"] = (state.alpha, self.clustering_loss(batch, state))
        return parts

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor | None:
        """2.6, once, before the first phase that clusters. Labels [N] of the shard's rows, where there are any."""
        return None

    def after_step(self, batch: Batch, clusters: Clusters, state: StepState) -> None:
        """2.6, after every step with alpha above 0."""

    def reset_network(self) -> None:
        """2.6, every `reset_every` of a phase that clusters: draw a part of the network anew, on all workers alike."""

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor | None:
        """2.6, every `update_every` of the phase. Labels [N] of the shard's rows, where there are any."""
        return None

    def converged(self) -> bool:
        """2.5: the method's own rule that ends a phase before its length, asked after each update.

        The same on every worker.
        """
        return False

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        """2.7, after training: final labels, int64 [N], of the shard's rows.

        They are what `label` says of these rows, whatever came before: a row has one answer, now and later.
        """
        return shard.map(lambda x: in_batches(lambda part: (self.label(part),), x)[0])

    def streamed(self) -> dict[str, Any] | None:
        """2.6 of a method that trains nothing: the options of the k-means of its features, which is all it does.

        Its rows are then streamed, not held, and `load_result` gets what is found. None: rows are held, the loop runs.
        """
        return None

    def load_result(self, found: ClusteringResult) -> None:
        """Take over a clustering of the features, from streamed rows or from this worker's."""

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cluster of each row, int64 [B], and memberships, float32 [B, K], rows summing to 1.

        The cluster is exact and is decided by itself: of equals it is the first. Memberships are consistent with it, so
        that no other is larger. NotImplementedError: see the info.
        """
        raise NotImplementedError(self.info.refuses or f"{type(self).__name__} does not say how it assigns rows")

    def label(self, x: Tensor) -> Tensor:
        """Cluster of each row, int64 [B], as `decide` says; the only source of labels."""
        return self.decide(x)[0]

    def assign(self, x: Tensor) -> Tensor:
        """Memberships, float32 [B, K], as `decide` says."""
        return self.decide(x)[1]

    def located(self, x: Tensor) -> Tensor:
        """x [B, D], where it is asked how far a row is from those that were seen: the rows themselves, scaled.

        Not the features: a network makes those of the rows it was trained on alike, and of new rows less so, and it
        may put noise right among them.
        """
        return x.flatten(1)

    def centres(self) -> Tensor | None:
        """Centres [C, D] of `located` rows, where the method keeps any; else some are made at the end of training."""
        return None

    def samples(self, per_cluster: int) -> Tensor | None:
        """Rows drawn from each cluster [K, per_cluster, ...] by methods that can generate, else None."""
        return None


@torch.no_grad()
@exact_float32()
def in_batches(function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor) -> tuple[Tensor, ...]:
    """What a function says of rows x [B, ...], each [B, ...], in batches of one size, the last filled up with zeros.

    A matrix product rounds by its shape, so that only then a row's answer does not depend on the rows beside it, nor on
    their number. Whatever answers for rows goes this way: the end of training as well as the saved model.
    """
    parts = []
    for start in range(0, max(len(x), 1), ROWS):
        part = x[start : start + ROWS]
        filled = torch.cat([part, part.new_zeros(ROWS - len(part), *part.shape[1:])])
        parts.append([each[: len(part)] for each in function(filled)])
    return tuple(map(torch.cat, zip(*parts, strict=True)))


class UntrainedConfig(Method.Config):
    """Settings of a method that trains no network."""

    @model_validator(mode="after")
    def _trains_nothing(self) -> Self:
        if self.augment != Augment():
            raise ValueError("no network is trained that could see augmented rows: leave augment out")
        return self


class CentroidMethod(Method):
    """Shared by the methods whose clusters are centroids of the features, and whose papers give no memberships.

    A row is with its nearest centroid. Memberships are the posterior of equal Gaussians around the centroids, as wide
    as the training rows lie around theirs (`raydc.clustering.spread`): the units of the features do not matter.
    """

    centroids: Tensor
    sharpness: Tensor

    def hold_centroids(self, dim: int) -> None:
        """Set room aside for centroids [K, dim]."""
        self.register_buffer("centroids", torch.zeros(self.n_clusters, dim))
        self.register_buffer("sharpness", torch.zeros((), dtype=torch.float64))

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self.sharpness.fill_(spread.of_rows(shard.map(self.features), self.centroids, clusters))
        return super().finalize_clusters(shard, clusters)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nearest(self.features(x), self.centroids, self.sharpness)


class FinalKMeansMethod(CentroidMethod):
    """Shared by the methods whose losses know no clusters: k-means finds them in the final features.

    Until then k-means goes on from its last centroids at each update, to show what it would find; no loss sees that.
    """

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        return self._kmeans(shard, clusters, None)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self._kmeans(shard, clusters, self.centroids)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self._kmeans(shard, clusters, None)
        return super().finalize_clusters(shard, clusters)

    def _kmeans(self, shard: Shard, clusters: Clusters, centroids: Tensor | None) -> Tensor:
        found = clusters.kmeans(shard.map(self.features), self.n_clusters, centroids=centroids)
        self.centroids.copy_(found.centroids)
        return found.labels


class AutoencoderMethod(Method):
    """Shared by the methods that pretrain an autoencoder on its reconstruction loss and then cluster its code.

    Pretraining is the same for every data set: Glorot's weights and 300 epochs of Adam, rate .001 falling as a cosine,
    on rows as they are; a method whose source has another says so in its own settings. Recipes: "paper" is DEC's Caffe
    code: every layer 50,000 steps as a denoising autoencoder, then the whole 100,000 steps, by SGD whose rate is
    divided by 10 every 20,000 steps and whose biases step twice as far. "keras" is the end-to-end pretraining of
    DEC-keras on MNIST. "image" is the augmentation of DEC-DA (Guo, Zhu, Liu & Yin, ACML 2018), of pretraining too.
    """

    class Config(Method.Config):
        network: Network = Network()
        layerwise: Pretraining = Pretraining(length="0 steps", corruption=0.2)
        denoise: Pretraining = Pretraining(length="0 epochs", corruption=0.2)
        pretrain: Pretraining = Pretraining(length="300 epochs", optimizer=Optimizer(schedule="cosine"))
        bias_rate: BiasRate = 1.0
        reset: Reset = Reset()

        unreset: ClassVar[str] = ""
        """Why the network cannot be reset while clusters form, where it cannot."""

        def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
            paths = [f"layerwise.{path}" for path, _ in fields(Pretraining) if self.network.convolutional(shape)]
            unreset = self._why_never_reset(shape)
            return (
                super().idle(shape)
                | dict.fromkeys(paths, "layers are pretrained one at a time in an mlp alone")
                | (dict.fromkeys(["reset.every", "reset.keep"], unreset) if unreset else {})
            )

        def _why_never_reset(self, shape: tuple[int, ...]) -> str:
            if not any(isinstance(getattr(self, name), Clustering) for name in type(self).model_fields):
                return "nothing is clustered while the network learns"
            layers = self.network.channels if self.network.convolutional(shape) else self.network.hidden
            return self.unreset or ("" if layers else "the encoder has no hidden layer")

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {
                "network.initial": "normal",
                **{
                    f"{phase}.{key}": value
                    for phase in ("layerwise", "pretrain")
                    for key, value in {
                        "optimizer.name": "sgd",
                        # theirs is .1, of half the mean over features, on rows of a mean square of 2.92
                        "optimizer.lr": 0.15,
                        "optimizer.momentum": 0.9,
                        "optimizer.momentum_ramp": "1000 steps",
                        "optimizer.schedule": "step",
                        "optimizer.factor": 0.1,
                        "optimizer.every": "20000 steps",
                    }.items()
                },
                "layerwise.length": "50000 steps",
                "pretrain.length": "100000 steps",
                "bias_rate": 2.0,
            },
            "keras": {
                "network.initial": "fan_in",
                "pretrain.optimizer.name": "sgd",
                "pretrain.optimizer.lr": 0.1,  # theirs is 1, of rows in [0, 1], whose mean square is .112
                "pretrain.optimizer.momentum": 0.9,
                "pretrain.optimizer.schedule": "constant",
            },
            "image": {"augment.shift": 0.1, "augment.rotate": 10.0},
        }

    quick: ClassVar[dict[str, Any]] = {
        "network.hidden": (64,),
        "network.latent": 5,
        "network.channels": (8, 16),
        "pretrain.length": "15 epochs",
    }
    config: Config
    net: Autoencoder

    @property
    def reset_every(self) -> Length:
        return self.config.reset.every

    @torch.no_grad()
    def reset_network(self) -> None:
        """keep * weight + (1 - keep) * draw, in the encoder's hidden layers; the embedding layer is spared."""
        for layer in self.net.hidden_layers():
            redraw(layer, self.config.reset.keep)

    def __init__(self, config: Config, shape: tuple[int, ...], latent: int | None = None) -> None:
        """`latent` is the size of the code, where that is no setting but follows from the method."""
        super().__init__(config, shape)
        self.net = config.network.build(shape, latent)

    def phases(self) -> dict[str, Phase]:
        """Those of the settings, and in place of `layerwise` one for every layer."""
        phases = super().phases()
        layer = phases.pop("layerwise")
        return {f"layer {i + 1}": layer for i in range(self.net.layers)} | phases

    def players(self, phase: str) -> dict[str, Player]:
        layer = self._layer(phase)
        return {
            "all": Player(self.groups(self.net.parameters() if layer is None else self.net.layer_parameters(layer)))
        }

    def groups(self, parameters: Iterable[Tensor]) -> list[Group]:
        """The network's parameters as they step: weights, and biases at their own rate."""
        parameters = [*parameters]
        weights, biases = ([p for p in parameters if (p.dim() > 1) == many] for many in (True, False))
        return [Group(weights), Group(biases, self.config.bias_rate)]

    def features(self, x: Tensor) -> Tensor:
        return self.net.encode(x)

    def network_loss(self, batch: Batch, state: StepState) -> Tensor:
        phase = self.phases()[state.phase]
        corruption = phase.corruption if isinstance(phase, Pretraining) else 0.0
        layer = self._layer(state.phase)
        if layer is not None:
            clean, decoded = self.net.reconstruct_layer(batch.x, layer, corruption)
            return batch.mean(mean_squared_error(clean.flatten(1), decoded.flatten(1)))
        return batch.mean(self.reconstruction_error(batch.x, F.dropout(batch.x, corruption)))

    def reconstruction_error(self, x: Tensor, corrupted: Tensor) -> Tensor:
        """Of each row [B], rebuilt from its corrupted copy; the mean over features."""
        return mean_squared_error(x.flatten(1), self.net(corrupted).flatten(1))

    @staticmethod
    def _layer(phase: str) -> int | None:
        return int(phase.removeprefix("layer ")) - 1 if phase.startswith("layer ") else None


def require_probabilities(shard: Shard, clusters: Clusters) -> None:
    """ValueError, with their number, where rows of any worker do not lie in [0, 1], as a Bernoulli's must."""
    if rows := int(clusters.total(shard.map(lambda x: ((x < 0) | (x > 1)).flatten(1).any(1)).sum())):
        raise ValueError(
            f"a bernoulli likelihood needs rows in [0, 1], {rows} of {shard.total} are not: "
            "use data.scaling=unit or method.network.likelihood=gaussian"
        )


def copy_pretrained(method: Method, weights: dict[str, Tensor]) -> list[str]:
    """Copy another run's network weights `net.*` into `method`; the names copied.

    Raises ValueError naming the first weight that is missing or of another shape.
    """
    own = {name: value for name, value in method.state_dict().items() if name.startswith("net.")}
    for name, value in own.items():
        if name not in weights:
            raise ValueError(f"the other run has no weight {name}: was it trained with the same network?")
        if weights[name].shape != value.shape:
            theirs, mine = tuple(weights[name].shape), tuple(value.shape)
            raise ValueError(
                f"{name} is {theirs} in the other run and {mine} here: use the same method.network settings"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
    return [*own]
