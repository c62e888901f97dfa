"""A trained clustering: the method's weights, how rows are scaled, and what the rows were. No pickle."""

import hashlib
import io
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydc import methods
from raydc.data.inputs import rows_of
from raydc.data.scaling import Scaling
from raydc.methods.base import Method
from raydc.precision import exact_float32
from raydc.settings import build

FORMAT = 1
FILE = re.compile(r"model\.json|state\.pt|replica-\d+\.pt")
"""Names of a model's files; its folder holds no others."""
ANEW = "copy the whole folder anew from where it was made, or name another model"


class ModelError(ValueError):
    """A model folder that is damaged or was made by something else."""


class Assigned(NamedTuple):
    """What a model says of rows."""

    clusters: np.ndarray
    """int64 [B]."""
    confidence: np.ndarray
    """float32 [B]: share of the model's replicas that agree on the row; its largest membership without replicas."""
    memberships: np.ndarray
    """float32 [B, K]."""


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
    batch: int = 256
    """Rows of a batch in prediction."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Plain data that travels with the model, such as the stability of its clusters."""
    replicas: tuple[Replica, ...] = ()
    """What confidence comes from, where a search chose the model."""

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
        return self.method.card.refuses

    def rows(self, data: Any) -> Tensor:
        """x [B, ...] of a DataFrame (columns by name), an array or a tensor, in the data's units: checked, scaled.

        ValueError says what is wrong. Whatever asks this model takes rows in the data's units, and scales them here.
        """
        return self.scaling.apply(rows_of(data, self.columns, self.shape, self.n_features))

    def memberships(self, data: Any) -> np.ndarray:
        """Memberships, float32 [B, K], rows summing to 1. NotImplementedError where the method refuses new rows."""
        return self._map(self.method.assign, self.rows(data))

    def predict(self, data: Any) -> np.ndarray:
        """Cluster of each row, int64 [B]."""
        return self.memberships(data).argmax(1)

    def assign(self, data: Any) -> Assigned:
        """Cluster, confidence and memberships of each row; raises as `memberships` does."""
        x = self.rows(data)
        memberships = self._map(self.method.assign, x)
        clusters = memberships.argmax(1)
        if not self.replicas:
            return Assigned(clusters, memberships.max(1), memberships)
        votes = [replica.names[self._map(replica.method.assign, x).argmax(1)] == clusters for replica in self.replicas]
        return Assigned(clusters, np.stack(votes).mean(axis=0, dtype=np.float32), memberships)

    def to(self, device: str) -> None:
        """Move the networks; rows follow them."""
        for method in (self.method, *(replica.method for replica in self.replicas)):
            method.to(device)

    def transform(self, data: Any) -> np.ndarray:
        """Embedding of each row, float32 [B, D]."""
        return self._map(self.method.features, self.rows(data))

    def samples(self, per_cluster: int) -> np.ndarray | None:
        """Generated rows [K, per_cluster, ...] in the data's own units, by methods that generate."""
        with self._evaluating():
            drawn = self.method.samples(per_cluster)
        if drawn is None:
            return None
        flat = self.scaling.invert(drawn.reshape(-1, self.n_features).cpu())
        return flat.view(*drawn.shape[:2], *self.shape).numpy()

    def _map(self, function: Any, x: Tensor) -> np.ndarray:
        """function(x) of every scaled row, in fp32 and in batches of one size, the last one filled up with zeros.

        A matrix product rounds by its shape, so that only then a row's answer does not depend on the rows beside it.
        """
        device = next(iter(self.method.state_dict().values()), torch.empty(0)).device
        parts = []
        with self._evaluating():
            for start in range(0, max(len(x), 1), self.batch):
                part = x[start : start + self.batch].to(device)
                filled = torch.cat([part, part.new_zeros(self.batch - len(part), *part.shape[1:])])
                parts.append(function(filled)[: len(part)].float().cpu())
        return torch.cat(parts).numpy()

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
        files = {"state.pt": _state(self.method)}
        files |= {f"replica-{i}.pt": _state(replica.method) for i, replica in enumerate(self.replicas)}
        about = {
            "format": FORMAT,
            "method": self.method_name,
            "config": self.config,
            "shape": list(self.shape),
            "columns": list(self.columns),
            "scaling": self.scaling.to_json(),
            "notes": self.notes,
            "replicas": [replica.names.tolist() for replica in self.replicas],
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        return {**files, "model.json": json.dumps(about, indent=1).encode()}

    def weights_hash(self) -> str:
        """sha256 of the weights, without those of replicas."""
        return weights_hash(self.method)

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files().items():
            (folder / name).write_bytes(data)

    @staticmethod
    def load(folder: str | Path) -> "ClusteringModel":
        """Raises ModelError if a file is missing, damaged, or of another format."""
        paths = [path for path in Path(folder).glob("*") if path.is_file()]
        return ClusteringModel.of({path.name: path.read_bytes() for path in paths}, str(folder))

    @staticmethod
    def of(files: Mapping[str, bytes], at: str = "") -> "ClusteringModel":
        """From what `files` gave, not in training mode.

        ModelError names the file that is missing or damaged, and where (`at`) it belongs.
        """
        try:
            return ClusteringModel._read(files)
        except KeyError as missing:
            problem = f"{missing.args[0]} is missing; {ANEW}"
        except (json.JSONDecodeError, UnicodeDecodeError) as damage:
            problem = f"model.json is damaged, it cannot be read as JSON ({damage}); {ANEW}"
        except ModelError as damage:
            problem = str(damage)
        raise ModelError(f"{at}: {problem}" if at else problem)

    @staticmethod
    def _read(files: Mapping[str, bytes]) -> "ClusteringModel":
        about = json.loads(files["model.json"])
        if about.get("format") != FORMAT:
            raise ModelError(f"expected a model of format {FORMAT}, got {about.get('format')!r}: update raydc")
        for name, digest in about["sha256"].items():
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise ModelError(f"{name} is damaged: it does not have the checksum that model.json states; {ANEW}")
        kind, shape = methods.load(about["method"]), tuple(about["shape"])

        def method(name: str) -> Method:
            made = kind(build(kind.Config, about["config"], at="method"), shape)
            try:
                state = torch.load(io.BytesIO(files[name]), weights_only=True, map_location="cpu")
            except pickle.UnpicklingError:
                raise ModelError(f"{name} holds more than tensors, which may be code: it is not read") from None
            made.load_state_dict(state)
            return made.eval()

        return ClusteringModel(
            about["method"],
            method("state.pt"),
            Scaling.from_json(about["scaling"]),
            shape,
            tuple(about["columns"]),
            notes=about["notes"],
            replicas=tuple(
                Replica(method(f"replica-{i}.pt"), np.array(names, np.int64))
                for i, names in enumerate(about.get("replicas", []))
            ),
        )


def _state(method: Method) -> bytes:
    buffer = io.BytesIO()
    torch.save({key: value.cpu() for key, value in method.state_dict().items()}, buffer)
    return buffer.getvalue()


def weights_hash(method: Method) -> str:
    """sha256 over every weight's name and bytes: equal for equal models, whatever the container's format."""
    digest = hashlib.sha256()
    for name, value in sorted(method.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
