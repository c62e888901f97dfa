"""A trained clustering: what it says of rows, from the method's weights, how rows are scaled, and ids of clusters."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from raydc import methods
from raydc.clustering.distances import Distances
from raydc.core import source_file
from raydc.core.autocast import exact_float32
from raydc.core.settings import build
from raydc.core.storage import Store
from raydc.data.encoding import Encoding
from raydc.data.inputs import is_table, rows_of
from raydc.data.scaling import Scaling
from raydc.methods.base import ROWS, Method, in_batches
from raydc.networks.losses.hardening import exact_squared_distances
from raydc.training import model_files
from raydc.training.baseline import Baseline
from raydc.training.labels import NOWHERE, Asked, LabelMap, cells_of, memberships_of

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
    baseline: Baseline | None = None
    """What the training rows were like; none before the end of a training."""

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
        return self.assigned_of_scaled(self.rows(data), asked)

    def assigned_of_scaled(self, x: Tensor, asked: Asked = AS_THEY_ARE) -> Assigned:
        """`assign` of rows [B, ...] that are scaled already, as `rows` gives them."""
        own, clusters, memberships, membership = self._told(x, asked.level)
        distance = self._standing(x, own)
        clusters = np.where(asked.leaves_out(distance), NOWHERE, clusters)
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
        located = torch.from_numpy(self._located(x))
        return self.distances.of(located, torch.from_numpy(clusters)).numpy()

    def located(self, data: Any) -> np.ndarray:
        """Where rows lie when their distances are taken, float32 [B, D]."""
        return self._located(self.rows(data))

    def _located(self, x: Tensor) -> np.ndarray:
        return self._map(lambda part: (self.method.located(part),), x)[0]

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
        """The model as files by name, as `raydc.training.model_files` says."""
        files = {
            model_files.WEIGHTS: model_files.state_bytes(self.method),
            model_files.LABELS: self.labels.model_dump_json(indent=1).encode(),
        }
        files |= {
            model_files.replica_file(i): model_files.state_bytes(replica.method)
            for i, replica in enumerate(self.replicas)
        }
        if self.distances is not None:
            files[model_files.DISTANCES] = model_files.tensor_bytes(vars(self.distances))
        if self.encoding is not None:
            files |= self.encoding.files()
        if self.baseline is not None:
            files |= self.baseline.files()
        code = source_file.of(type(self.method))
        if code is not None:
            files[model_files.CODE] = code.text.encode()
        about = {
            "method": self.method_name,
            "package": methods.package_of(self.method_name),
            "config": self.config,
            "shape": list(self.shape),
            "columns": list(self.columns),
            "id_column": self.id_column,
            "scaling": self.scaling.to_json(),
            "notes": self.notes,
            "replicas": [replica.names.tolist() for replica in self.replicas],
        }
        return model_files.sealed(files, about)

    def weights_hash(self) -> str:
        """sha256 of the weights, without those of replicas."""
        return model_files.weights_hash(self.method)

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files().items():
            (folder / name).write_bytes(data)

    @staticmethod
    def load(folder: str | Path, allow_code: Collection[str] = ()) -> "ClusteringModel":
        """As `of`, from a folder."""
        return ClusteringModel.of(model_files.read_folder(folder), str(folder), allow_code)

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
        the hash of that code; and so the encoder module:NAME. ModelError says which file is missing or damaged and
        where (`at`) it belongs, or what the model is refused for.
        """
        with model_files.as_model_errors(at):
            about = model_files.checked(files)
            kind, shape = model_files.method_of(about, files, allow_code), tuple(about["shape"])

            def method(name: str) -> Method:
                made = kind(build(kind.Config, about["config"], at="method"), shape)
                try:
                    made.load_state_dict(model_files.tensors_of(files, name))
                except RuntimeError as other:
                    raise model_files.ModelError(
                        f"{name} holds other weights than a {about['method']} has: {other}"
                    ) from None
                return made.eval()

            trained = method(model_files.WEIGHTS)
            return ClusteringModel(
                about["method"],
                trained,
                Scaling.from_json(about["scaling"]),
                shape,
                tuple(about["columns"]),
                notes=about["notes"],
                replicas=tuple(
                    Replica(method(model_files.replica_file(i)), np.array(names, np.int64))
                    for i, names in enumerate(about["replicas"])
                ),
                distances=Distances(**model_files.tensors_of(files, model_files.DISTANCES))
                if model_files.DISTANCES in about["sha256"]
                else None,
                id_column=about["id_column"],
                encoding=model_files.permitted_encoding(files, allow_code),
                renamed=model_files.labels_of(files, trained.n_clusters),
                baseline=_baseline_of(files),
            )


def _baseline_of(files: Mapping[str, bytes]) -> Baseline | None:
    """What the training rows were like, where the model says; ModelError where the file that says so is damaged."""
    if model_files.BASELINE not in files:
        return None
    try:
        return Baseline.of(files)
    except (ValueError, TypeError, SafetensorError) as damage:
        raise model_files.ModelError(
            f"{model_files.BASELINE} does not say what the training rows were like: {damage}; {model_files.ANEW}"
        ) from None
