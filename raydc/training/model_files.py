"""The files of a trained clustering: their names, checksums and tensors, and what they say without a method's code.

No pickle. `raydc.training.model` makes a model of them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from raydc import methods
from raydc.core.fault_injection import failpoint
from raydc.core.registries import allowed, how_to_allow
from raydc.core.storage import Store
from raydc.data import encoders
from raydc.data import encoding as coding
from raydc.data.encoding import Encoding
from raydc.methods.base import Method
from raydc.training.labels import LabelMap

FORMAT = 6
READABLE = (5, FORMAT)
"""Formats that are read: models of 5 say nothing of the rows that they were trained on."""
ABOUT, WEIGHTS = "model.json", "state.safetensors"
"""The files that make a model; its replicas' weights, the distances and the clusters' ids lie beside them."""
DISTANCES, LABELS = "distances.safetensors", "labels.json"
BASELINE, BASELINE_COUNTS = "baseline.json", "baseline.safetensors"
"""What the training rows were like."""
CODE = "method.py"
"""The code of a method that a file of its own defines."""
FILE = re.compile(
    r"model\.json|labels\.json|(encoding|baseline)\.(json|safetensors)|state\.safetensors|distances\.safetensors|replica-\d+\.safetensors|method\.py"
)
"""Names of a model's files; its folder holds no others."""
ANEW = "copy the whole folder anew from where it was made, or name another model"


class ModelError(ValueError):
    """A model folder that is damaged or was made by something else."""


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


def relabel(place: Store, change: Callable[[LabelMap], LabelMap]) -> LabelMap:
    """Give the clusters of a model on storage other names; the map as it is then. No weight is read or written."""
    labels = change(labels_of({LABELS: place.read_bytes(LABELS)}))
    amend(place, {LABELS: labels.model_dump_json(indent=1).encode()})
    return labels


def amend(place: Store, files: Mapping[str, bytes]) -> None:
    """Write some of a model's files anew on storage, and model.json with their checksums."""
    about = json.loads(place.read_bytes(ABOUT))
    for name, data in files.items():
        place.write_bytes(name, data)
        about["sha256"][name] = hashlib.sha256(data).hexdigest()
    failpoint("model.amended")
    place.write_bytes(ABOUT, json.dumps(about, indent=1).encode())


def facts_of(folder: str | Path) -> ModelFacts:
    """What a model's folder says of it, once its checksums are compared; ModelError as `ClusteringModel.of` raises."""
    with as_model_errors(str(folder)):
        files = read_folder(folder)
        about, clusters = checked(files), labels_of(files).cells.alive
        shape, columns = tuple(about["shape"]), tuple(about["columns"])
        return ModelFacts(about["method"], clusters, shape, columns, encoding_of(files))


def read_folder(folder: str | Path) -> dict[str, bytes]:
    """Every file of a local folder by its name."""
    return {path.name: path.read_bytes() for path in Path(folder).glob("*") if path.is_file()}


@contextmanager
def as_model_errors(at: str) -> Iterator[None]:
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


def checked(files: Mapping[str, bytes]) -> dict[str, Any]:
    """model.json, if it is of this format and the other files have its checksums; ModelError if not."""
    about = json.loads(files[ABOUT])
    found = about.get("format") if isinstance(about, dict) else None
    if found not in READABLE:
        older = isinstance(found, int) and found < FORMAT
        what = "train the model anew, or use the raydc that made it" if older else "update raydc"
        raise ModelError(f"expected a model of format {' or '.join(map(str, READABLE))}, got {found!r}: {what}")
    for name, digest in about["sha256"].items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ModelError(f"{name} is damaged: it does not have the checksum that {ABOUT} states; {ANEW}")
    return about


def sealed(files: Mapping[str, bytes], about: Mapping[str, Any]) -> dict[str, bytes]:
    """The files with model.json, which has their checksums beside what it says of the model."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    written = {"format": FORMAT, **about, "sha256": digests}
    return {**files, ABOUT: json.dumps(written, indent=1).encode()}


def tensors_of(files: Mapping[str, bytes], name: str) -> dict[str, Tensor]:
    """What a file of safetensors holds; ModelError where it is none."""
    try:
        return safetensors.torch.load(files[name])
    except SafetensorError as damage:
        raise ModelError(f"{name} is no safetensors file ({damage}): it is not read") from None


def encoding_of(files: Mapping[str, bytes]) -> Encoding | None:
    """How columns are encoded, where they are; ModelError where the file that says so is damaged."""
    if coding.ABOUT not in files:
        return None
    try:
        return Encoding.of(files)
    except (ValueError, TypeError, SafetensorError) as damage:
        raise ModelError(f"{coding.ABOUT} holds no encoding of columns: {damage}; {ANEW}") from None


def permitted_encoding(files: Mapping[str, bytes], allow_code: Collection[str]) -> Encoding | None:
    """The same, if the code of its encoders may be run; ModelError if whoever loads it has not named one."""
    found = encoding_of(files)
    for code in found.encoders if found else ():
        if not encoders.installed(code.encoder) and not allowed(code.encoder, allow_code):
            raise ModelError(
                f"the model's encoder is {code.encoder}, which does not come with raydc: {how_to_allow(code.encoder)}"
            )
        encoders.permit(code.encoder)
    return found


def labels_of(files: Mapping[str, bytes], n_clusters: int | None = None) -> LabelMap:
    """What the clusters are called; ModelError if it does not fit a method of as many."""
    try:
        labels = LabelMap.model_validate_json(files[LABELS])
        labels.cells  # noqa: B018 - raises where the edits contradict each other
    except ValueError as damage:
        raise ModelError(f"{LABELS} holds no ids of clusters: {damage}") from None
    if n_clusters is not None and len(labels.given) != n_clusters:
        raise ModelError(f"{LABELS} has ids for {len(labels.given)} clusters, and the model has {n_clusters}")
    return labels


def method_of(about: Mapping[str, Any], files: Mapping[str, bytes], allow_code: Collection[str]) -> type[Method]:
    """The method that a model names: one that is there by name, or one that whoever loads it has named too."""
    name = about["method"]
    if about.get("package") and name not in methods.available():
        raise ModelError(
            f"the model's method {name!r} came from {about['package']}, which is not installed: install it"
        )
    if name not in methods.available() and not allowed(name, allow_code):
        read = f", once you have read {CODE} beside it" if CODE in files else ""
        raise ModelError(f"the model's method is {name!r}, which does not come with raydc: {how_to_allow(name)}{read}")
    try:
        if CODE in files:
            methods.receive(name, files[CODE].decode())
        return methods.load(name)
    except ValueError as problem:
        raise ModelError(f"the model's method {name!r} cannot be had: {problem}") from problem


def replica_file(index: int) -> str:
    """Name of the file that holds a replica's weights."""
    return f"replica-{index}.safetensors"


def state_bytes(method: Method) -> bytes:
    """A method's weights and buffers as safetensors."""
    return tensor_bytes(method.state_dict())


def tensor_bytes(values: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors; those that share memory are written each by itself."""
    return safetensors.torch.save({key: value.detach().cpu().contiguous().clone() for key, value in values.items()})


def weights_hash(method: Method) -> str:
    """sha256 over every weight's name and bytes: equal for equal models, whatever the container's format."""
    digest = hashlib.sha256()
    for name, value in sorted(method.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
