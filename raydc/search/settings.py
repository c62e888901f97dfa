"""What a search is asked to do."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from raydc.core.registries import Registry
from raydc.core.settings import Settings, public
from raydc.data.settings import DataSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from raydc.search.criteria import Criterion, OfOne

CRITERIA: "Registry[Criterion | OfOne]" = Registry("raydc.criteria", "criterion")
SPACES: "Registry[Callable[..., dict[str, Any] | None]]" = Registry("raydc.spaces", "search space")
"""What others add."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _known_criterion(name: str) -> str:
    """The name, if something is called so."""
    if name != "selector":
        from raydc.search import criteria  # here, as it takes what help does without

        criteria.load(name)
    return name


def _clusters(value: Any) -> Any:
    """10, "10" or "2..30" as (least, most)."""
    if isinstance(value, int):
        return (value, value)
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+)\s*(?:\.\.\s*(\d+)\s*)?", value)
        if not found:
            raise ValueError("expected a number such as 10, or a range such as 2..30")
        return (int(found[1]), int(found[2] or found[1]))
    return value


def _seconds(value: Any) -> Any:
    """ "90s", "30m", "2h", "1d" or a number of seconds, as seconds."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value)
        if not found:
            raise ValueError("expected a time such as 90s, 30m or 2h")
        return float(found[1]) * UNITS[found[2] or "s"]
    return value


class TuneSettings(Settings):
    """A search over settings that no label takes part in."""

    data: DataSettings
    """The rows; as for a run."""
    space: str = "any"
    """Search space: a method's name, such as dec; any, which tries every method that fits the rows (images, embeddings,
    texts or a table); or a Python file of your own."""
    n_clusters: Annotated[tuple[int, int], BeforeValidator(_clusters)] = (2, 30)
    """Number of clusters: 10, or a range to search in: 2..30, which is the default, with fewer where rows are few."""
    trials: int = Field(24, ge=1)
    """Configurations that the space is asked for, beside the baselines."""
    fixed: dict[str, Any] = Field(default_factory=dict)
    """Dotted settings that every trial has, whatever the space says; a method without such a setting ignores it."""
    workers_per_trial: int = Field(1, ge=1)
    """Data-parallel workers of a trial; one trains in the trial's own process."""
    gpus_per_trial: float = Field(1.0, ge=0, le=1)
    """GPUs for a trial of one worker, where the cluster has any: .25 lets four trials share one; 0 leaves them idle."""
    concurrent: int | None = Field(None, ge=0)
    """Trials at the same time; by default as CPUs and GPUs allow; 0: one by one in this process, without Ray."""
    time_budget: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_seconds)] = None
    """Seconds (or 90s, 30m, 2h) for everything; the last third is for the replicas of the finalists."""
    seed: int = Field(0, ge=0)
    """Seed of suggestions, trainings and samples."""
    criterion: Annotated[str, AfterValidator(_known_criterion)] = "selector"
    """What chooses among the finalists; selector: modularity times the root of the replicas' stability. Others:
    neighbour_score, modularity, stability ami, prediction strength, consensus, raw silhouette, ace and more."""
    replicas: int = Field(2, ge=1)
    """Further trainings of a finalist, each with a new seed and on a new subsample."""
    subsample: float = Field(0.8, gt=0, le=1)
    """Share of the rows that a replica is trained on."""
    finalists: float = Field(1 / 3, gt=0, le=1)
    """Share of the trials, the best ones, that get replicas; five at least."""
    early_stopping: bool = True
    """Stop the worse half of a method's trials at .3, and again at .6, of their training; two thirds of all at most."""
    evaluation_rows: int = Field(4000, ge=20, le=20000)
    """Rows at most, drawn at random by the seed, on which every trial is scored."""
    neighbours: int = Field(8, ge=1)
    """Neighbours of a row in the graph that scores are taken on."""
    reference: str | None = None
    """A .npy file with an embedding [N, F] of the rows, in whose space neighbours count; by default a view of them."""
    study: str | None = None
    """Where Optuna keeps the study: a database URL, or the path of a journal file; default: sqlite under --out."""
    out: str
    """Local directory for trials, tables and the winner."""
    register_as: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,128}$")
    """Name under which the winner is registered in MLflow."""
    align_to: Annotated[str, AfterValidator(public)] | None = None
    """An earlier model, such as models:/digits@champion, whose ids and names the winner's clusters keep that are the
    same: at least half of the rows of either are those of both."""
    promote: bool = False
    """Make the registered winner champion, whatever the present one scores."""
    tracking_uri: str | None = None
    """MLflow's store; by default as MLflow finds it."""
    experiment: str = "raydc"
    """MLflow experiment."""

    @property
    def settled(self) -> dict[str, Any]:
        """Dotted settings that every trial has, whatever the space says."""
        return self.fixed | ({} if self.data.scaling == "auto" else {"data.scaling": self.data.scaling})

    @field_validator("n_clusters")
    @classmethod
    def _ascending(cls, bounds: tuple[int, int]) -> tuple[int, int]:
        if not 2 <= bounds[0] <= bounds[1]:
            raise ValueError("expected two clusters or more, and a range that ascends")
        return bounds

    @field_validator("out")
    @classmethod
    def _local(cls, out: str) -> str:
        if "://" in out:
            raise ValueError("expected a local directory; the winner reaches other places through MLflow")
        return out

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.concurrent == 0 and self.workers_per_trial > 1:
            raise ValueError("concurrent 0 runs trials without Ray, so workers_per_trial must be 1")
        if self.promote and self.register_as is None:
            raise ValueError("promote: makes the registered winner champion; give register_as, or leave it out")
        if self.data.weight_column is not None:
            raise ValueError("data.weight_column: a search counts all rows alike; train kmeans with weights")
        if self.neighbours >= self.evaluation_rows:
            raise ValueError(f"neighbours: expected fewer than evaluation_rows={self.evaluation_rows}")
        return self
