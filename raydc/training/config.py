"""One validated, frozen configuration of a run: the same from the command line, a YAML file, Python, or a search."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, model_validator

from raydc import methods
from raydc.core.redact import redact
from raydc.core.registries import Registered, registered
from raydc.core.settings import Settings, SettingsError, build, flatten, public, unflatten
from raydc.core.source_file import SourceFile
from raydc.data.settings import DataSettings

if TYPE_CHECKING:
    from raydc.methods.base import Method

SHORT = {
    "method": "method.name",
    "n-clusters": "method.n_clusters",
    "data": "data.path",
    "columns": "data.columns",
    "label-column": "data.label_column",
    "id-column": "data.id_column",
    "weight-column": "data.weight_column",
    "on-bad-row": "data.on_bad_row",
    "encoder": "data.encoder",
    "workers": "training.workers",
    "seed": "training.seed",
    "init-from": "training.init_from",
    "align-to": "training.align_to",
    "out": "output.out",
    "register": "output.register_as",
    "tracking-uri": "output.tracking_uri",
    "experiment": "output.experiment",
}
"""Short forms of settings, on the command line and in files."""
GROUPS = ("method", "data", "training", "output")
"""Of a run's settings."""
OF_WORKERS = ("max_failures", "hang_after", "patience")
"""Settings of training that say what becomes of workers."""


class Workers(int):
    """A number of workers: as an int the most there may be, and the `least` with which training goes on."""

    least: int

    def __new__(cls, most: int, least: int | None = None) -> "Workers":
        made = super().__new__(cls, most)
        made.least = most if least is None else least
        return made

    @staticmethod
    def of(value: Any) -> "Workers":
        """From 4, "4" or "1..4"; ValueError for anything else."""
        found = re.fullmatch(r"\s*(\d+)\s*(?:\.\.\s*(\d+)\s*)?", str(value))
        if not found or (found[2] and not 1 <= int(found[1]) <= int(found[2])):
            raise ValueError("expected a number of workers such as 2, or a range such as 1..4")
        return Workers(int(found[2] or found[1]), int(found[1]))

    def plain(self) -> int | str:
        """As `of` takes it."""
        return int(self) if self.least == self else f"{self.least}..{int(self)}"


class Training(Settings):
    """Where and how the method is trained."""

    workers: Annotated[Workers, PlainValidator(Workers.of), PlainSerializer(Workers.plain)] = Workers(1)
    """Data-parallel workers under Ray Train; 1..4: as many as there is room for, also when nodes are lost or added; 0
    trains in this process, without Ray."""
    batch_size: int | None = Field(None, ge=1)
    """Rows of the global batch, over all workers; by default what the method's paper uses."""
    seed: int = Field(0, ge=0)
    """Seed of weights, batches, noise and k-means."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast where the hardware has it (auto), always, or never; kept when a run goes on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU for every worker where the cluster has that many, else CPU."""
    threads: int = Field(1, ge=1)
    """Threads of a worker's matrix products, and CPUs that it asks Ray for."""
    checkpoint_every: float = Field(60.0, ge=0)
    """Seconds between two checkpoints, taken at the end of an epoch; 0: after every epoch."""
    max_failures: int = Field(3, ge=0)
    """Times that lost workers are replaced and training goes on from the last checkpoint."""
    hang_after: float = Field(20.0, gt=0)
    """Seconds in which a process of a worker or of the centroid service neither gives a sign of life nor has or waits
    for processor time (slow is not dead), until it is replaced; shorter to lose less time when one hangs."""
    patience: float = Field(1800.0, ge=0)
    """Seconds to wait until the cluster has room for the workers, at the start and when nodes were lost."""
    init_from: Annotated[str, AfterValidator(public)] | None = None
    """A finished run's output directory, whose network, as it ended, replaces this run's pretraining: that of ae_kmeans
    ends pretrained."""
    align_to: Annotated[str, AfterValidator(public)] | None = None
    """An earlier model, such as models:/digits@champion or a model's folder, whose ids and names clusters keep that are
    the same: at least half of the rows of either are those of both."""

    @model_validator(mode="after")
    def _nothing_without_workers(self) -> Self:
        usual = type(self).model_fields
        given = [name for name in OF_WORKERS if getattr(self, name) != usual[name].default]
        if not self.workers and given:
            raise ValueError(
                f"{', '.join(given)}: no effect where workers is 0, as there is no worker to be replaced or waited "
                "for; leave it out, or train with workers"
            )
        return self

    @model_validator(mode="after")
    def _a_row_for_every_worker(self) -> Self:
        if self.batch_size is not None and self.batch_size < int(self.workers):
            raise ValueError(
                f"batch_size is that of the global batch, over all workers: expected {int(self.workers)} or more for "
                f"as many workers, got {self.batch_size}"
            )
        return self


class Output(Settings):
    """Where results go."""

    out: Annotated[str, AfterValidator(public)]
    """Directory (or URI) for everything that the run writes."""
    register_as: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,128}$")
    """Name under which the model is registered in MLflow."""
    tracking_uri: str | None = None
    """MLflow's store; by default as MLflow finds it."""
    experiment: str = "raydc"
    """MLflow experiment."""


@dataclass(frozen=True)
class RunConfig:
    """A run: which method with which settings, on which rows, how trained, and where results go."""

    code: tuple[SourceFile | Registered, ...]
    """The file of a method that is named by one, and what this process registered. It comes first: what is unpickled
    after it needs its modules."""
    method_name: str
    method: "Method.Config"
    data: DataSettings
    training: Training
    output: Output

    @staticmethod
    def of(values: Mapping[str, Any]) -> "RunConfig":
        """From nested plain values. Raises SettingsError that lists every problem of every section."""
        problems: list[str] = []
        built: dict[str, Any] = {}
        for section, given in values.items():
            if section not in GROUPS:
                problems.append(f"{section}: no such group of settings; there are {', '.join(sorted(GROUPS))}")
            elif not isinstance(given, Mapping):
                problems.append(f"{section}: expected a group of settings, got {given!r}")
        if problems:
            raise SettingsError("\n".join(problems))
        method_values = dict(values.get("method", {}))
        name = method_values.pop("name", None)
        if name is None:
            problems.append(f"method.name: expected one of {', '.join(methods.available())} (--method)")
        sections: dict[str, tuple[type[Settings], Mapping[str, Any]]] = {
            "data": (DataSettings, values.get("data", {})),
            "training": (Training, values.get("training", {})),
            "output": (Output, values.get("output", {})),
        }
        try:
            if name is not None:
                name = methods.full_name(str(name))
                sections["method"] = (methods.load(name).Config, method_values)
        except SettingsError as problem:
            problems.append(str(problem))
        for section, (cls, given) in sections.items():
            try:
                built[section] = build(cls, given, at=section)
            except SettingsError as problem:
                problems.append(str(problem))
        if problems:
            raise SettingsError("\n".join(problems))
        source = methods.source_of(str(name))
        return RunConfig((*([] if source is None else [source]), *registered()), str(name), **built)

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, nested and plain; `RunConfig.of` takes it back."""
        return {
            "method": {"name": self.method_name, **self.method.model_dump(mode="json")},
            "data": self.data.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "output": self.output.model_dump(mode="json"),
        }

    def written(self) -> dict[str, Any]:
        """The same without passwords, for files."""
        values = self.resolved()
        return values | {"output": {name: _redacted(value) for name, value in values["output"].items()}}

    def yaml(self) -> str:
        """The same as text, with the place of the method's file, so that it is found again."""
        written = self.written()
        written["method"]["name"] = methods.path_of(self.method_name)
        return yaml.safe_dump(written, sort_keys=False)

    def flat(self) -> dict[str, Any]:
        """Dotted settings, as MLflow parameters and search spaces spell them."""
        return flatten(self.resolved())

    def with_settings(self, changes: Mapping[str, Any]) -> "RunConfig":
        """This configuration with some dotted settings changed."""
        return RunConfig.of(overlaid(self.resolved(), changes))


def overlaid(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with some dotted settings changed.

    Another method or recipe takes the place of what the one before stood for: of its settings, only those stay that
    are not as it had them. Else a file that lists all settings would leave a new recipe nothing to say.
    """
    before = values.get("method", {})
    named = [path for path in ("method.name", "method.recipe") if path in changes]
    if named and isinstance(before, Mapping) and "name" in before:
        usual = _by_recipe(before)
        own = {path: value for path, value in flatten(before, "method").items() if usual.get(path) != value}
        values = dict(values) | unflatten(own)
    return unflatten(flatten(values) | dict(changes))


def _by_recipe(method: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings of a method that its recipe decides, as a file has them."""
    config = methods.load(str(method["name"])).Config
    made = build(config, {"recipe": method["recipe"]} if "recipe" in method else {}, at="method")
    return flatten(made.model_dump(mode="json", exclude={"recipe"}), "method")


def _redacted(value: Any) -> Any:
    return redact(value) if isinstance(value, str) else value


def read_yaml(path: str, groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    """Settings of a YAML file, nested; it may have them nested, dotted, or in short forms of settings in these groups.

    SettingsError if it cannot be read as that.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except OSError as problem:
        raise SettingsError(f"--config {path}: cannot be read ({problem.strerror})") from None
    except yaml.YAMLError as problem:
        raise SettingsError(f"--config {path}: is no YAML ({problem})") from None
    if not isinstance(values, dict):
        raise SettingsError(f"--config {path}: expected settings such as 'method: dec', got {type(values).__name__}")
    return _spelled_out(values, {short: path for short, path in SHORT.items() if path.split(".")[0] in groups})


def _spelled_out(values: Mapping[Any, Any], short: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = str(key) if isinstance(value, Mapping) else short.get(str(key).replace("_", "-"), str(key))
        for name, one in flatten({path: value}).items():
            if name in found:
                raise SettingsError(f"{name}: is given twice, once as {key}")
            found[name] = one
    # a group without anything in it is none
    return unflatten({name: one for name, one in found.items() if "." in name or (one is not None and one != {})})
