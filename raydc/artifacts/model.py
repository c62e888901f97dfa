"""A trained clustering: the method's weights, how rows are scaled, and what the rows were. No pickle."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from raydc import methods
from raydc.clustering.distances import Distances
from raydc.data.inputs import rows_of
from raydc.data.scaling import Scaling
from raydc.methods.base import Method, in_batches
from raydc.settings import build
from raydc.utils import source_file
from raydc.utils.autocast import exact_float32
from raydc.utils.storage import Store

FORMAT = 4
ABOUT, WEIGHTS = "model.json", "state.safetensors"
"""The files that make a model; its replicas' weights and the distances lie beside them."""
DISTANCES = "distances.safetensors"
CODE = "method.py"
"""The code of a method that a file of its own defines."""
FILE = re.compile(r"model\.json|state\.safetensors|distances\.safetensors|replica-\d+\.safetensors|method\.py")
"""Names of a model's files; its folder holds no others."""
ALLOW_CODE = "RAYDC_ALLOW_CODE"
"""Environment variable: names of methods from elsewhere, parted by commas, whose code models may have run."""
ANEW = "copy the whole folder anew from where it was made, or name another model"


class ModelError(ValueError):
    """A model folder that is damaged or was made by something else."""


TRUST = {
    "membership": "largest membership: is it this cluster rather than another?",
    "agreement": "share of the model's replicas that say the same: would another training?",
    "distance": "share of the cluster's training rows that are nearer to a centre: is the row like any that was seen?",
}
"""How far an assignment can be trusted: a column for each of three questions, of which none answers another.

A row between two clusters has a small membership, and one whose cluster is a matter of a training's chances a small
agreement. Noise may well have both near 1, as replicas agree on it too; it has a large distance.
"""


class Assigned(NamedTuple):
    """What a model says of rows: their clusters, and the columns of TRUST."""

    clusters: np.ndarray
    """int64 [B]."""
    membership: np.ndarray
    """float32 [B] in [1/K, 1]: the row's largest membership."""
    agreement: np.ndarray
    """float32 [B] in [0, 1]: share of the model's replicas, trained with other seeds on other rows, that put the row
    into the same cluster; NaN where the model has none."""
    distance: np.ndarray
    """float32 [B] in [0, 1]: share of the cluster's training rows that are nearer to a centre of the rows, so that of
    those one in a hundred is above .99; 1 at the farthest of them and beyond. Centres are k-means' own, and of other
    methods those of k-means on the training rows as scaled."""
    memberships: np.ndarray
    """float32 [B, K]."""


@dataclass(frozen=True)
class Replica:
    """The model's configuration trained anew, with another seed and on other rows: a witness of its assignments."""

    method: Method
    names: np.ndarray
    """int64 [K], the model's cluster that each of the replica's clusters stands for."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model's files say of it without any code of its method being imported."""

    method_name: str
    n_clusters: int
    shape: tuple[int, ...]
    columns: tuple[str, ...]

    @property
    def n_features(self) -> int:
        return int(np.prod(self.shape))


@dataclass
class ClusteringModel:
    """Assigns rows to clusters."""

    method_name: str
    method: Method
    scaling: Scaling
    shape: tuple[int, ...]
    """Of a row: (D,) or (C, H, W)."""
    columns: tuple[str, ...] = ()
    """Feature columns by name, in order; empty where features go by position."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Plain data that travels with the model: what was noted of its rows, the stability of its clusters."""
    replicas: tuple[Replica, ...] = ()
    """What agreement comes from, where a search chose the model."""
    distances: Distances | None = None
    """How far the training rows lie from their centres; none before the end of a training."""
    id_column: str | None = None
    """The column that identified the training rows, for tables to be assigned; it says nothing of clusters."""

    @property
    def config(self) -> dict[str, Any]:
        return self.method.config.model_dump(mode="json")

    @property
    def n_features(self) -> int:
        return int(np.prod(self.shape))

    @property
    def n_clusters(self) -> int:
        return self.method.n_clusters

    @property
    def refuses(self) -> str:
        """Why new rows cannot be assigned; empty if they can."""
        return self.method.info.refuses

    def rows(self, data: Any) -> Tensor:
        """x [B, ...] of a DataFrame (columns by name), an array or a tensor, in the data's units: checked, scaled.

        ValueError says what is wrong. Whatever asks this model takes rows in the data's units, and scales them here.
        """
        return self.scaling.apply(rows_of(data, self.columns, self.shape, self.n_features))

    def memberships(self, data: Any) -> np.ndarray:
        """Memberships, float32 [B, K], rows summing to 1. NotImplementedError where the method refuses new rows."""
        return self._map(lambda x: (self.method.assign(x),), self.rows(data))[0]

    def predict(self, data: Any) -> np.ndarray:
        """Cluster of each row, int64 [B]; raises as `memberships` does."""
        return self._labels(self.method, self.rows(data))

    def assign(self, data: Any) -> Assigned:
        """All that the model says of each row; raises as `memberships` does."""
        x = self.rows(data)
        clusters, memberships = self._map(self.method.decide, x)
        found = (memberships.max(1), self._agreement(x, clusters), self._standing(x, clusters))
        return Assigned(clusters, *found, memberships)

    def _agreement(self, x: Tensor, clusters: np.ndarray) -> np.ndarray:
        if not self.replicas:
            return np.full(len(clusters), np.nan, np.float32)
        votes = [replica.names[self._labels(replica.method, x)] == clusters for replica in self.replicas]
        return np.stack(votes).mean(axis=0, dtype=np.float32)

    def _standing(self, x: Tensor, clusters: np.ndarray) -> np.ndarray:
        if self.distances is None:
            return np.full(len(clusters), np.nan, np.float32)
        located = torch.from_numpy(self._map(lambda part: (self.method.located(part),), x)[0])
        return self.distances.of(located, torch.from_numpy(clusters)).numpy()

    def to(self, device: str) -> None:
        """Move the networks; rows follow them."""
        for method in (self.method, *(replica.method for replica in self.replicas)):
            method.to(device)

    def transform(self, data: Any) -> np.ndarray:
        """Embedding of each row, float32 [B, D]."""
        return self._map(lambda x: (self.method.features(x).float(),), self.rows(data))[0]

    def samples(self, per_cluster: int) -> np.ndarray | None:
        """Generated rows [K, per_cluster, ...] in the data's own units, by methods that generate."""
        with self._evaluating():
            drawn = self.method.samples(per_cluster)
        if drawn is None:
            return None
        flat = self.scaling.invert(drawn.reshape(-1, self.n_features).cpu())
        return flat.view(*drawn.shape[:2], *self.shape).numpy()

    def _labels(self, method: Method, x: Tensor) -> np.ndarray:
        """Clusters of scaled rows by the model's method or a replica's, int64 [B]."""
        return self._map(lambda part: (method.label(part),), x)[0]

    def _map(self, function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor) -> list[np.ndarray]:
        """What a function says of every scaled row, in fp32 and in batches of one size."""
        device = next(iter(self.method.state_dict().values()), torch.empty(0)).device
        with self._evaluating():
            found = in_batches(lambda part: tuple(each.cpu() for each in function(part.to(device))), x)
        return [each.numpy() for each in found]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was = self.method.training
        self.method.eval()
        try:
            with torch.no_grad(), exact_float32():
                yield
        finally:
            self.method.train(was)

    def files(self) -> dict[str, bytes]:
        """The model as files by name; `model.json` has the others' checksums."""
        files = {WEIGHTS: _state(self.method)}
        files |= {_replica(i): _state(replica.method) for i, replica in enumerate(self.replicas)}
        if self.distances is not None:
            files[DISTANCES] = _tensors(vars(self.distances))
        code = source_file.of(type(self.method))
        if code is not None:
            files[CODE] = code.text.encode()
        about = {
            "format": FORMAT,
            "method": self.method_name,
            "n_clusters": self.n_clusters,
            "config": self.config,
            "shape": list(self.shape),
            "columns": list(self.columns),
            "id_column": self.id_column,
            "scaling": self.scaling.to_json(),
            "notes": self.notes,
            "replicas": [replica.names.tolist() for replica in self.replicas],
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        return {**files, ABOUT: json.dumps(about, indent=1).encode()}

    def weights_hash(self) -> str:
        """sha256 of the weights, without those of replicas."""
        return weights_hash(self.method)

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files().items():
            (folder / name).write_bytes(data)

    @staticmethod
    def load(folder: str | Path, allow_code: Collection[str] = ()) -> "ClusteringModel":
        """As `of`, from a folder."""
        return ClusteringModel.of(_read_folder(folder), str(folder), allow_code)

    @staticmethod
    def stored(place: Store, allow_code: Collection[str] = ()) -> "ClusteringModel":
        """As `of`, from a folder on storage."""
        return ClusteringModel.of({name: place.read_bytes(name) for name in place.list()}, place.root, allow_code)

    @staticmethod
    def of(files: Mapping[str, bytes], at: str = "", allow_code: Collection[str] = ()) -> "ClusteringModel":
        """From what `files` gave, not in training mode.

        A model of a method that does not come with raydc has that method's module imported, or runs the code that lies
        in it, so only if `allow_code`, or the environment variable RAYDC_ALLOW_CODE, names the method: in full, with
        the hash of that code. ModelError says which file is missing or damaged and where (`at`) it belongs, or what the
        model is refused for.
        """
        with _complaining(at):
            about = _checked(files)
            kind, shape = _method_of(about["method"], files, allow_code), tuple(about["shape"])

            def tensors(name: str) -> dict[str, Tensor]:
                try:
                    return safetensors.torch.load(files[name])
                except SafetensorError as damage:
                    raise ModelError(f"{name} is no safetensors file ({damage}): it is not read") from None

            def method(name: str) -> Method:
                made = kind(build(kind.Config, about["config"], at="method"), shape)
                try:
                    made.load_state_dict(tensors(name))
                except RuntimeError as other:
                    raise ModelError(f"{name} holds other weights than a {about['method']} has: {other}") from None
                return made.eval()

            return ClusteringModel(
                about["method"],
                method(WEIGHTS),
                Scaling.from_json(about["scaling"]),
                shape,
                tuple(about["columns"]),
                notes=about["notes"],
                replicas=tuple(
                    Replica(method(_replica(i)), np.array(names, np.int64)) for i, names in enumerate(about["replicas"])
                ),
                distances=Distances(**tensors(DISTANCES)) if DISTANCES in about["sha256"] else None,
                id_column=about["id_column"],
            )


def facts_of(folder: str | Path) -> ModelFacts:
    """What a model's folder says of it, once its checksums are compared; ModelError as `ClusteringModel.of` raises."""
    with _complaining(str(folder)):
        about = _checked(_read_folder(folder))
        return ModelFacts(about["method"], about["n_clusters"], tuple(about["shape"]), tuple(about["columns"]))


def _read_folder(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*") if path.is_file()}


@contextmanager
def _complaining(at: str) -> Iterator[None]:
    """What is wrong with a model's files, as a ModelError that says where they are."""
    try:
        yield
        return
    except KeyError as missing:
        problem = f"{missing.args[0]} is missing; {ANEW}"
    except (json.JSONDecodeError, UnicodeDecodeError) as damage:
        problem = f"{ABOUT} is damaged, it cannot be read as JSON ({damage}); {ANEW}"
    except ModelError as damage:
        problem = str(damage)
    raise ModelError(f"{at}: {problem}" if at else problem)


def _checked(files: Mapping[str, bytes]) -> dict[str, Any]:
    """model.json, if it is of this format and the other files have its checksums."""
    about = json.loads(files[ABOUT])
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        older = isinstance(found, int) and found < FORMAT
        what = "train the model anew, or use the raydc that made it" if older else "update raydc"
        raise ModelError(f"expected a model of format {FORMAT}, got {found!r}: {what}")
    for name, digest in about["sha256"].items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ModelError(f"{name} is damaged: it does not have the checksum that {ABOUT} states; {ANEW}")
    return about


def _method_of(name: str, files: Mapping[str, bytes], allow_code: Collection[str]) -> type[Method]:
    """The method that a model names: one of raydc's, or one that whoever loads it has named too."""
    if name not in {*methods.available(), *allow_code, *os.environ.get(ALLOW_CODE, "").split(",")}:
        read = f", once you have read {CODE} beside it" if CODE in files else ""
        raise ModelError(
            f"the model's method is {name!r}, which does not come with raydc: to have its code imported and run, name "
            f"it by --allow-code {name}, allow_code=[{name!r}] or {ALLOW_CODE}={name}{read}"
        )
    try:
        if CODE in files:
            methods.receive(name, files[CODE].decode())
        return methods.load(name)
    except ValueError as problem:
        raise ModelError(f"the model's method {name!r} cannot be had: {problem}") from problem


def _replica(index: int) -> str:
    return f"replica-{index}.safetensors"


def _state(method: Method) -> bytes:
    return _tensors(method.state_dict())


def _tensors(values: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors; those that share memory are written each by itself."""
    return safetensors.torch.save({key: value.detach().cpu().contiguous().clone() for key, value in values.items()})


def weights_hash(method: Method) -> str:
    """sha256 over every weight's name and bytes: equal for equal models, whatever the container's format."""
    digest = hashlib.sha256()
    for name, value in sorted(method.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
