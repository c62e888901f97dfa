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
from raydc.core import source_file
from raydc.core.autocast import exact_float32
from raydc.core.settings import build
from raydc.core.storage import Store
from raydc.data import encoding as coding
from raydc.data.encoding import Encoding
from raydc.data.inputs import is_table, rows_of
from raydc.data.scaling import Scaling
from raydc.methods.base import ROWS, Method, in_batches
from raydc.networks.losses.hardening import exact_squared_distances
from raydc.training.labels import NOWHERE, Asked, LabelMap, cells_of, memberships_of

FORMAT = 5
ABOUT, WEIGHTS = "model.json", "state.safetensors"
"""The files that make a model; its replicas' weights, the distances and the clusters' ids lie beside them."""
DISTANCES, LABELS = "distances.safetensors", "labels.json"
CODE = "method.py"
"""The code of a method that a file of its own defines."""
FILE = re.compile(
    r"model\.json|labels\.json|encoding\.(json|safetensors)|state\.safetensors|distances\.safetensors|replica-\d+\.safetensors|method\.py"
)
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


AS_THEY_ARE = Asked()
"""Every cluster by itself, and a place for every row."""


class Assigned(NamedTuple):
    """What a model says of rows: their clusters, and the columns of TRUST."""

    clusters: np.ndarray
    """int64 [B], ids; NOWHERE of rows of a cluster that was dropped, and of outliers where they are asked for."""
    membership: np.ndarray
    """float32 [B]: the row's membership in its cluster, before it is called an outlier. It is the largest, and at least
    1/K, unless clusters were merged."""
    agreement: np.ndarray
    """float32 [B] in [0, 1]: share of the model's replicas, trained with other seeds on other rows, that put the row
    into the same cluster; NaN where the model has none."""
    distance: np.ndarray
    """float32 [B] in [0, 1]: share of the cluster's training rows that are nearer to a centre of the rows, so that of
    those one in a hundred is above .99; 1 at the farthest of them and beyond. Centres are k-means' own, and of other
    methods those of k-means on the training rows as scaled. The cluster is the method's, before any edit."""
    memberships: np.ndarray
    """float32 [B, K] in the clusters by ascending id; rows sum to 1, without what is in clusters that were dropped."""


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
    clusters: tuple[int, ...]
    """Ids, ascending."""
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    encoding: Encoding | None
    """How columns become features, where they are no numbers already."""

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
    encoding: Encoding | None = None
    """How columns become features, where they are no numbers already."""
    renamed: LabelMap | None = None
    """What the clusters are called; none where each has the method's own number."""

    @property
    def config(self) -> dict[str, Any]:
        return self.method.config.model_dump(mode="json")

    @property
    def n_features(self) -> int:
        return int(np.prod(self.shape))

    @property
    def labels(self) -> LabelMap:
        """What the clusters are called."""
        return self.renamed or LabelMap.plain(self.method.n_clusters)

    @property
    def clusters(self) -> tuple[int, ...]:
        """Ids, ascending."""
        return self.labels.cells.alive

    @property
    def n_clusters(self) -> int:
        return len(self.clusters)

    @property
    def refuses(self) -> str:
        """Why new rows cannot be assigned; empty if they can."""
        return self.method.info.refuses

    def rows(self, data: Any) -> Tensor:
        """x [B, ...] of a DataFrame (columns by name), an array or a tensor, in the data's units: checked, scaled.

        Where columns are encoded, an array holds rows that are encoded already. ValueError says what is wrong. Whatever
        asks this model takes rows in the data's units, and scales them here.
        """
        if self.encoding is None:
            return self.scaling.apply(rows_of(data, self.columns, self.shape, self.n_features))
        encoded = self.encoding.rows(data) if is_table(data) else data
        return self.scaling.apply(rows_of(encoded, (), self.shape, self.n_features))

    def memberships(self, data: Any) -> np.ndarray:
        """Memberships in the clusters by ascending id, float32 [B, K], as `assign` says.

        NotImplementedError where the method refuses new rows.
        """
        return self._told(self.rows(data), None)[2]

    def predict(self, data: Any, asked: Asked = AS_THEY_ARE) -> np.ndarray:
        """Cluster of each row, int64 [B]; raises as `assign` does."""
        if asked.outliers is None:
            return self._told(self.rows(data), asked.level)[1]
        return self.assign(data, asked).clusters

    def assign(self, data: Any, asked: Asked = AS_THEY_ARE) -> Assigned:
        """All that the model says of each row; raises as `memberships` and `check` do."""
        self.check(asked)
        x = self.rows(data)
        own, clusters, memberships, membership = self._told(x, asked.level)
        distance = self._standing(x, own)
        if asked.outliers is not None:
            clusters = np.where(distance > 1 - asked.outliers, NOWHERE, clusters)
        return Assigned(clusters, membership, self._agreement(x, own), distance, memberships)

    def check(self, asked: Asked) -> None:
        """ValueError for a level that there is not, and for outliers where the model does not know distances."""
        self.labels.ids_at(asked.level)
        if asked.outliers is not None and self.distances is None:
            raise ValueError("outliers: the model does not know how far its training rows lie from their centres")

    def _told(self, x: Tensor, level: int | None) -> tuple[np.ndarray, ...]:
        """Of scaled rows the method's own clusters [B], ids [B], memberships [B, K] by id, and that in the id [B]."""
        labels = self.labels
        cells, ids, alive = labels.cells, labels.ids_at(level), labels.clusters_at(level)
        own, memberships = self._map(self.method.decide, x)
        parts = [self._nearest(x, torch.tensor(split.centroids)) for split in cells.splits]
        clusters = ids[cells_of(cells, own, parts)]
        columns = np.where(ids == NOWHERE, len(alive), np.searchsorted(alive, ids))
        order = columns.argsort(kind="stable")
        present, starts = np.unique(columns[order], return_index=True)
        grouped = np.zeros((len(own), len(alive) + 1), np.float32)  # NOWHERE comes last
        for start in range(0, len(own), ROWS):  # as many rows as stay near the processor
            some = slice(start, start + ROWS)
            in_cells = memberships_of(cells, memberships[some], [part[some] for part in parts])
            grouped[some, present] = np.add.reduceat(in_cells[:, order], starts, axis=1)
        place = np.where(clusters == NOWHERE, len(alive), np.searchsorted(alive, clusters))
        membership = np.take_along_axis(grouped, place[:, None], 1)[:, 0]
        return own, clusters, grouped[:, :-1], membership

    def _nearest(self, x: Tensor, centroids: Tensor) -> np.ndarray:
        """The nearest of centroids [P, D] of features to each scaled row, int64 [B]."""

        def nearest(part: Tensor) -> tuple[Tensor]:
            features = self._features(part)
            return (exact_squared_distances(features, centroids.to(features.device)).argmin(1),)

        return self._map(nearest, x)[0]

    def features(self, data: Any) -> np.ndarray:
        """Where rows lie when clusters are split, float32 [B, D]: in the embedding, where the method has one."""
        return self.features_of_scaled(self.rows(data))

    def features_of_scaled(self, x: Tensor) -> np.ndarray:
        """`features` of rows [B, ...] that are scaled already."""
        return self._map(lambda part: (self._features(part),), x)[0]

    def _features(self, x: Tensor) -> Tensor:
        try:
            return self.method.features(x).flatten(1).float()
        except NotImplementedError:
            return self.method.located(x).float()

    def _agreement(self, x: Tensor, own: np.ndarray) -> np.ndarray:
        """Of rows in the method's clusters [B]; clusters that were merged are one."""
        if not self.replicas:
            return np.full(len(own), np.nan, np.float32)
        ids = np.array(self.labels.cells.ids)
        votes = [ids[replica.names[self._labels(replica.method, x)]] == ids[own] for replica in self.replicas]
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
        files = {WEIGHTS: _state(self.method), LABELS: self.labels.model_dump_json(indent=1).encode()}
        files |= {_replica(i): _state(replica.method) for i, replica in enumerate(self.replicas)}
        if self.distances is not None:
            files[DISTANCES] = _tensors(vars(self.distances))
        if self.encoding is not None:
            files |= self.encoding.files()
        code = source_file.of(type(self.method))
        if code is not None:
            files[CODE] = code.text.encode()
        about = {
            "format": FORMAT,
            "method": self.method_name,
            "package": methods.package_of(self.method_name),
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

        A method that an installed package offers, or this process registered, is had by its name, as those of raydc
        are: it was installed by intent. A model of any other has a module imported, or runs the code that lies in it,
        so only if `allow_code`, or the environment variable RAYDC_ALLOW_CODE, names the method: in full, with
        the hash of that code. ModelError says which file is missing or damaged and where (`at`) it belongs, or what the
        model is refused for.
        """
        with _complaining(at):
            about = _checked(files)
            kind, shape = _method_of(about, files, allow_code), tuple(about["shape"])

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

            trained = method(WEIGHTS)
            return ClusteringModel(
                about["method"],
                trained,
                Scaling.from_json(about["scaling"]),
                shape,
                tuple(about["columns"]),
                notes=about["notes"],
                replicas=tuple(
                    Replica(method(_replica(i)), np.array(names, np.int64)) for i, names in enumerate(about["replicas"])
                ),
                distances=Distances(**tensors(DISTANCES)) if DISTANCES in about["sha256"] else None,
                id_column=about["id_column"],
                encoding=_encoding_of(files),
                renamed=_labels_of(files, trained.n_clusters),
            )


def relabel(place: Store, change: Callable[[LabelMap], LabelMap]) -> LabelMap:
    """Give the clusters of a model on storage other names; the map as it is then. No weight is read or written."""
    labels = change(_labels_of({LABELS: place.read_bytes(LABELS)}))
    about, written = json.loads(place.read_bytes(ABOUT)), labels.model_dump_json(indent=1).encode()
    about["sha256"][LABELS] = hashlib.sha256(written).hexdigest()
    place.write_bytes(LABELS, written)
    place.write_bytes(ABOUT, json.dumps(about, indent=1).encode())
    return labels


def facts_of(folder: str | Path) -> ModelFacts:
    """What a model's folder says of it, once its checksums are compared; ModelError as `ClusteringModel.of` raises."""
    with _complaining(str(folder)):
        files = _read_folder(folder)
        about, clusters = _checked(files), _labels_of(files).cells.alive
        shape, columns = tuple(about["shape"]), tuple(about["columns"])
        return ModelFacts(about["method"], clusters, shape, columns, _encoding_of(files))


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


def _encoding_of(files: Mapping[str, bytes]) -> Encoding | None:
    """How columns are encoded, where they are."""
    if coding.ABOUT not in files:
        return None
    try:
        return Encoding.of(files)
    except (ValueError, TypeError, SafetensorError) as damage:
        raise ModelError(f"{coding.ABOUT} holds no encoding of columns: {damage}; {ANEW}") from None


def _labels_of(files: Mapping[str, bytes], n_clusters: int | None = None) -> LabelMap:
    """What the clusters are called, if it fits a method of as many."""
    try:
        labels = LabelMap.model_validate_json(files[LABELS])
        labels.cells  # noqa: B018 - raises where the edits contradict each other
    except ValueError as damage:
        raise ModelError(f"{LABELS} holds no ids of clusters: {damage}") from None
    if n_clusters is not None and len(labels.given) != n_clusters:
        raise ModelError(f"{LABELS} has ids for {len(labels.given)} clusters, and the model has {n_clusters}")
    return labels


def _method_of(about: Mapping[str, Any], files: Mapping[str, bytes], allow_code: Collection[str]) -> type[Method]:
    """The method that a model names: one that is there by name, or one that whoever loads it has named too."""
    name = about["method"]
    if about.get("package") and name not in methods.available():
        raise ModelError(
            f"the model's method {name!r} came from {about['package']}, which is not installed: install it"
        )
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
