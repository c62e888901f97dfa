"""A method is the taxonomy of Aljalbout et al. 2018, arXiv:1801.07648, with some of its parts filled in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from raydc.clustering import ClusteringResult, Clusters
from raydc.core.autocast import exact_float32
from raydc.core.schedule import Clustering, Length, Optimizer, Phase, Refinement
from raydc.core.settings import Settings, SettingsError, flatten, unflatten
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.index import MethodInfo
from raydc.networks.augment import Augment

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
    decays: bool = True
    """Whether the optimizer's weight decay acts."""


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
            clustering = {name: p for name, p in phases.items() if isinstance(p, Clustering)}
            *_, name = [None, *(name for name, p in clustering.items() if not isinstance(p, Refinement))]
            if name is not None and phases[name].left_out:
                raise ValueError(
                    f"expected {name}.length above 0, else nothing is clustered; to cluster what an autoencoder alone "
                    "has learned, take ae_kmeans"
                )
            return self

    config: Config
    rows: dict[str, Tensor]
    found: Tensor

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        """For rows of `shape`, (D,) or (C, H, W), scaled."""
        super().__init__()
        self.config, self.shape, self.rows = config, shape, {}
        if self.finds_clusters():
            self.register_buffer("found", torch.zeros((), dtype=torch.int64))

    @classmethod
    def finds_clusters(cls) -> bool:
        """Whether the number of clusters comes out of the rows, and is not given."""
        return cls.Config.model_fields["n_clusters"].default == 0

    @property
    def n_clusters(self) -> int:
        """K; where it is found, how many clusters there are now: an update may make more of them, or fewer."""
        return int(self.found) if self.finds_clusters() else self.config.n_clusters

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


def require_probabilities(shard: Shard, clusters: Clusters) -> None:
    """ValueError, with their number, where rows of any worker do not lie in [0, 1], as a Bernoulli's must."""
    if rows := int(clusters.total(shard.map(lambda x: ((x < 0) | (x > 1)).flatten(1).any(1)).sum())):
        raise ValueError(
            f"a bernoulli likelihood needs rows in [0, 1], {rows} of {shard.total} are not: "
            "use data.scaling=unit or method.network.likelihood=gaussian"
        )
