"""A worker's rows: read, cleaned, scaled, and put where they fit."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from raydc.data.profile import DataProfile, checksum, require_same
from raydc.data.scaling import Scaling
from raydc.data.settings import Storage
from raydc.data.shard import DenseRows, RowBlock, Rows, Shard
from raydc.data.source import Block, DataError, RowsChanged, Source, dense
from raydc.data.staged import Staged


@dataclass(frozen=True)
class SparseRows:
    """Rows in a sparse matrix [N, D], made dense and scaled when they are taken."""

    values: Any
    """CSR, as stored."""
    scaling: Scaling
    shape: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def take(self, rows: Tensor | slice) -> Tensor:
        """x [B, ...] of these rows."""
        chosen = self.values[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        return self.scaling.apply(dense(chosen)).view(-1, *self.shape).to(self.device)


def read_group(source: Source, profile: DataProfile, group: RowBlock, staged: Staged | None = None) -> Block:
    """The usable rows of one group as stored, with their ids and weights; of a piece that is `staged`, from there.

    Raises RowsChanged if they are not what the profile saw.
    """
    piece = profile.pieces[group.id]
    block = (staged.block(group) if staged else None) or source.read(piece)
    if checksum(block) != profile.checksums[group.id]:
        raise RowsChanged(
            f"{piece.file}, row group {piece.row_group}: its values have changed since they were checked; start again"
        )
    if len(group) == piece.rows:
        return replace(block, taken={})
    low, high = np.searchsorted(profile.dropped_rows, [piece.start, piece.start + piece.rows])
    keep = np.ones(piece.rows, bool)
    keep[profile.dropped_rows[low:high] - piece.start] = False
    weights = None if block.weights is None else block.weights[keep]
    return Block(block.x[keep], block.ids[keep], weights=weights)


def load_shard(
    source: Source,
    profile: DataProfile,
    scaling: Scaling,
    groups: Sequence[Sequence[RowBlock]],
    rank: int,
    device: torch.device | str = "cpu",
    storage: Storage = "auto",
    scratch_dir: str | Path | None = None,
) -> Shard:
    """The rows of worker `rank` out of the `groups` dealt to all, [N, channels, height, width] or [N, D], scaled.

    On disk, they are written once to a file in `scratch_dir` that goes when the process does. Raises DataError if the
    data are no longer what the profile saw.
    """
    require_same(profile.fingerprint, profile.files, source)
    device = torch.device(device)
    sizes = tuple(sum(map(len, mine)) for mine in groups)
    shape = (sizes[rank], *source.shape)
    place = _place(storage, 4 * prod(shape), device, len(groups))
    if source.kind == "sparse" and (storage == "memory" or (storage == "auto" and place == "disk")):
        rows, ids, weights = _sparse(source, profile, scaling, groups[rank], device)
    else:
        room = _empty(shape, place, device, scratch_dir)
        rows, ids, weights = _dense(source, profile, scaling, groups[rank], device, room)
    weighed = torch.from_numpy(weights).to(device) if source.weights else None
    return Shard(rows, tuple(groups[rank]), sizes, ids=ids, weights=weighed, device=device)


def read_labels(source: Source, profile: DataProfile) -> np.ndarray | None:
    """Known classes of the rows used as int64 [rows], numbered in sorted order; None where the data have none.

    A missing label is -1. For the final scores alone: nothing that trains may call this.
    """
    labels = source.labels()
    if labels is None:
        return None
    codes, classes = pd.factorize(np.delete(labels, profile.dropped_rows))
    names = [name if isinstance(name, (int, float, np.number)) else str(name) for name in classes]
    order = np.unique(np.array(names), return_inverse=True)[1]
    return np.where(codes < 0, -1, order[codes] if len(order) else -1).astype(np.int64)


def _dense(
    source: Source,
    profile: DataProfile,
    scaling: Scaling,
    groups: Sequence[RowBlock],
    device: torch.device,
    values: Tensor,
) -> tuple[Rows, np.ndarray, np.ndarray]:
    blocks, at = [], 0
    for group in groups:
        block = read_group(source, profile, group)
        scaled = scaling.apply(dense(block.x))
        values[at : at + len(group)] = scaled.view(-1, *source.shape)
        blocks.append(Block(None, block.ids, weights=block.weights))
        at += len(group)
    return DenseRows(values, device), *_joined(blocks)


def _sparse(
    source: Source, profile: DataProfile, scaling: Scaling, groups: Sequence[RowBlock], device: torch.device
) -> tuple[Rows, np.ndarray, np.ndarray]:
    blocks = [read_group(source, profile, group) for group in groups]
    empty = [sparse.csr_array((0, source.n_features), dtype=source.dtype)]
    matrix = sparse.csr_array(sparse.vstack([block.x for block in blocks] or empty))
    return SparseRows(matrix, scaling, source.shape, device), *_joined(blocks)


def _joined(blocks: list[Block]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and weights of all rows; no weights where they count alike."""
    ids = np.concatenate([block.ids for block in blocks]) if blocks else np.zeros(0, np.int64)
    weights = [block.weights for block in blocks if block.weights is not None]
    return ids, np.concatenate([np.zeros(0), *weights]).astype(np.float32)


def _place(storage: Storage, size: int, device: torch.device, workers: int) -> Storage:
    """Where `size` bytes go: up to half of what is free, taking all workers to share one machine."""
    if storage != "auto":
        return storage
    if device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] / 2:
        return "device"
    return "memory" if size * workers <= free_memory() / 2 else "disk"


def free_memory(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process may still take, by the machine and by its control group."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),  # version 2 of control groups, then 1
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        if (control_groups / limit).exists() and (most := (control_groups / limit).read_text().strip()) != "max":
            stat = (control_groups / limit).with_name("memory.stat").read_text()
            counts = dict(line.split() for line in stat.splitlines())
            taken = int((control_groups / used).read_text()) - int(counts[cache])  # file cache is given back on demand
            free = min(free, int(most) - taken)
    return max(0, free)


def _empty(shape: tuple[int, ...], place: Storage, device: torch.device, scratch_dir: str | Path | None) -> Tensor:
    """Room for rows where they are to live."""
    if place != "disk" or 0 in shape:
        return torch.empty(shape, device=device if place == "device" else "cpu")
    folder, size = scratch_dir or tempfile.gettempdir(), 4 * prod(shape)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(f"data.storage disk: needs {size:,} bytes in {folder}, which has {free:,}; add workers or disk")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="raydc-rows-") as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS; a write into a hole that the disk cannot fill kills
                os.posix_fallocate(file.fileno(), 0, size)
            mapped = np.memmap(file, np.float32, "r+", shape=shape)  # keeps the space until the process ends
    except OSError as error:
        raise DataError(
            f"data.storage disk: {size:,} bytes cannot be had in {folder}: {error}; add workers or disk"
        ) from error
    return torch.from_numpy(mapped)
