"""Training state on storage, such that a kill at any moment loses at most what came after the last checkpoint.

Each worker writes its rows' state, rank 0 the shared state, and last of all the manifest with everybody's checksums: a
checkpoint without a valid manifest does not exist. Rows are named by their positions in the data, so that another
number of workers finds its own.
"""

import hashlib
import io
import logging
import pickle
import re
from typing import Any

import torch
from torch import Tensor

from raydc.core.fault_injection import failpoint
from raydc.core.storage import Store, sealed, unsealed
from raydc.distributed import collectives
from raydc.training.loop import Loop

log = logging.getLogger("raydc")

KEEP = 2
ROWS = re.compile(r"rows-(\d+)-(\d+)\.pt")


class CheckpointError(RuntimeError):
    """Checkpoints are there, and none of them is whole."""


def save(store: Store, loop: Loop, history: list[dict[str, Any]]) -> None:
    """Write the loop's state; every worker must call it at the same step."""
    shard, name = loop.shard, f"checkpoints/{_name(loop.step, loop.phase_index)}"
    own = f"rows-{shard.start:012d}-{shard.start + len(shard):012d}.pt"
    digest = _write(store, f"{name}/{own}", {key: value.cpu() for key, value in loop.row_state().items()})
    failpoint("checkpoint.rows")
    digests = collectives.gather(torch.frombuffer(bytearray(digest), dtype=torch.uint8).view(1, 32).to(shard.device))
    if collectives.rank() == 0:
        files = {"shared.pt": _write(store, f"{name}/shared.pt", loop.shared_state()).hex()}
        start = 0
        for size, digest_row in zip(shard.sizes, digests.cpu().tolist(), strict=True):
            files[f"rows-{start:012d}-{start + size:012d}.pt"] = bytes(digest_row).hex()
            start += size
        failpoint("checkpoint.manifest")
        manifest = {"step": loop.step, "sizes": list(shard.sizes), "files": files, "history": history}
        store.write_bytes(f"{name}/manifest.json", sealed(manifest))
        for old in _names(store)[:-KEEP]:
            store.delete(f"checkpoints/{old}")
    collectives.total(torch.zeros(1, device=shard.device))  # nobody goes on before the manifest stands
    failpoint("checkpoint.after")


def load(store: Store, loop: Loop) -> list[dict[str, Any]]:
    """Put the newest checkpoint that is whole for all workers back into `loop`; its history, empty if there is none.

    Every worker must call it. Raises CheckpointError if there are checkpoints and every one is damaged.
    """
    device, damage = loop.shard.device, []
    names = _names(store) if collectives.rank() == 0 else []
    if collectives.rank() == 0:
        _clear(store, names)
    while name := _offered(names, device):
        problem, history = "", []
        try:
            manifest = unsealed(store.read_bytes(f"checkpoints/{name}/manifest.json"))
            shared = _read(store, name, "shared.pt", manifest)
            rows, history = _own_rows(store, name, manifest, loop), manifest["history"]
        except (OSError, ValueError, KeyError) as trouble:
            problem = str(trouble)
        # all go on from the same one: who cannot read its own part holds back the others
        if not collectives.maximum(torch.tensor([bool(problem)], dtype=torch.int64, device=device)).item():
            loop.load_state(shared, rows)
            return history
        damage.append(f"{name}: {problem or 'another worker cannot read its part'}")
        log.warning("checkpoint %s is left out", damage[-1])
    if damage:
        raise CheckpointError(
            f"no checkpoint in {store.root}/checkpoints is whole ({'; '.join(damage)}); "
            "remove that folder to train from the start"
        )
    return []


def history_of(store: Store) -> list[dict[str, Any]]:
    """The epochs before the newest checkpoint that says so, whether or not the rest of it is whole."""
    for name in reversed(_names(store)):
        try:
            return list(unsealed(store.read_bytes(f"checkpoints/{name}/manifest.json"))["history"])
        except (OSError, ValueError, KeyError) as trouble:
            log.warning("checkpoint %s is left out: %s", name, trouble)
    return []


def _offered(names: list[str], device: torch.device) -> str:
    """The last of rank 0's names, which is taken away, on every worker; empty if there is none."""
    parts = [int(part) for part in names.pop().split("-")] if names else [-1, -1]
    offer = torch.tensor(parts, dtype=torch.int64, device=device)
    collectives.broadcast([offer])
    step, phase = offer.tolist()
    return _name(step, phase) if step >= 0 else ""


def _name(step: int, phase: int) -> str:
    return f"{step:010d}-{phase:03d}"


def _clear(store: Store, names: list[str]) -> None:
    """Remove what a death left of checkpoints that were never committed."""
    for begun in {name.split("/")[1] for name in store.list("checkpoints")} - {*names}:
        store.delete(f"checkpoints/{begun}")


def _names(store: Store) -> list[str]:
    """Committed checkpoints, oldest first."""
    return sorted({name.split("/")[1] for name in store.list("checkpoints") if name.endswith("/manifest.json")})


def _own_rows(store: Store, name: str, manifest: dict[str, Any], loop: Loop) -> dict[str, Tensor]:
    """This worker's rows, cut from the files that overlap them."""
    first, stop = loop.shard.start, loop.shard.start + len(loop.shard)
    parts: list[dict[str, Tensor]] = []
    for file in sorted(manifest["files"]):
        found = ROWS.fullmatch(file)
        if not found:
            continue
        a, b = int(found[1]), int(found[2])
        if a < stop and first < b:
            state = _read(store, name, file, manifest)
            parts.append({key: value[max(first - a, 0) : stop - a] for key, value in state.items()})
    if not parts:
        return {}
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _write(store: Store, name: str, state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    store.write_bytes(name, buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).digest()


def _read(store: Store, name: str, file: str, manifest: dict[str, Any]) -> dict[str, Any]:
    data = store.read_bytes(f"checkpoints/{name}/{file}")
    if hashlib.sha256(data).hexdigest() != manifest["files"][file]:
        raise ValueError(f"{file} does not have the checksum that its manifest states")
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise ValueError(f"{file} holds more than tensors, which may be code: it is not read") from None
