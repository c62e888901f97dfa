"""Two workers must give the loss and the gradient of one worker with the same global batch, for every method."""

import datetime
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.overrides import TorchFunctionMode

from raydc.clustering.collective import CollectiveClusters
from raydc.core.registries import registered
from raydc.core.schedule import Clustering
from raydc.core.source_file import loaded
from raydc.data import Batch, Shard
from raydc.data.shard import DenseRows, split
from raydc.distributed import collectives
from raydc.methods import PLUGINS, load
from raydc.methods.base import Method, StepState
from raydc.testing.cases import blobs, settings
from raydc.testing.contract import require
from raydc.training.loop import Loop, share_gradients

ROWS, GROUP, FIRST = 48, 8, 32
"""Rows in all, in a row group, and in the first of two shards."""
POSITIONS = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))[:31].sort().values
"""The global batch."""
ALONE = torch.arange(FIRST - 5)
"""Another, of which the second worker has no row."""
TOLERANCE = 1e-6


class GlobalDraws(TorchFunctionMode):
    """Random draws with an entry per row become slices of one draw for the global batch.

    So that two workers and one see the same noise at the same row; raydc's workers draw independently.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        start = sum(sizes[: collectives.rank()])
        self.own, self.total = sizes[collectives.rank()], sum(sizes)
        self.mine = slice(start, start + self.own)

    def _sliced(self, size: tuple[int, ...], draw: Any) -> Tensor:
        if size and size[0] == self.own:
            return draw((self.total, *size[1:]))[self.mine]
        return draw(size)

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.rand, torch.randn, torch.randint):
            before = args[:-1] if function is torch.randint else ()
            size = args[-1] if isinstance(args[-1], tuple | list | torch.Size) else args
            return self._sliced(tuple(size), lambda shape: function(*before, shape, **kwargs))
        if function in (torch.rand_like, torch.randn_like):
            draw = torch.rand if function is torch.rand_like else torch.randn
            return self._sliced(tuple(args[0].shape), lambda shape: draw(shape, dtype=args[0].dtype))
        if function is torch.nn.functional.dropout:
            x, p, *rest = [*args, *[kwargs[key] for key in ("p", "training") if key in kwargs]]
            if p == 0 or (rest and not rest[0]):
                return x
            return x * (self._sliced(tuple(x.shape), torch.rand) >= p).to(x) / (1 - p)
        if function in (torch.Tensor.bernoulli_, torch.Tensor.uniform_, torch.Tensor.normal_, torch.bernoulli):
            raise NotImplementedError(f"{function}: draw by torch.rand, torch.randn or dropout, rows first")
        return function(*args, **kwargs)


def shard_of(x: Tensor, workers: int, rank: int) -> Shard:
    groups = split(len(x), GROUP)
    if workers == 1:
        return Shard(DenseRows(x, x.device), groups, (len(x),))
    mine = slice(0, FIRST) if rank == 0 else slice(FIRST, len(x))
    held = tuple(g for g in groups if mine.start <= g.start < mine.stop)
    return Shard(DenseRows(x[mine], x.device), held, (FIRST, len(x) - FIRST))


def measure(name: str, workers: int, rank: int) -> dict[str, Any]:
    """Losses and gradients by phase and player, and final labels of methods that do not train."""
    cls = load(name)
    x = blobs(cls, ROWS)[0].double()
    shard = shard_of(x, workers, rank)
    clusters = CollectiveClusters(shard, 0)
    torch.manual_seed(0)
    method = cls(settings(name), tuple(x.shape[1:])).double()
    loop = Loop(method, shard, clusters, len(POSITIONS))
    for value in method.rows.values():
        if isinstance(value, torch.nn.Parameter):  # made by `prepare`, in single precision
            value.data = value.data.double()
    found: dict[str, Any] = {}
    begun = False
    for phase_name, phase in loop.phases.items():
        clustering = isinstance(phase, Clustering)
        state = StepState(phase_name, phase.alpha_at(1.0), 0.5, 0, 1)
        if clustering and not begun:
            torch.manual_seed(1)
            with torch.no_grad():
                method.eval().init_clusters(shard, clusters)
            begun = True
        elif clustering:
            torch.manual_seed(1)
            with torch.no_grad():
                method.eval().update_clusters(shard, clusters, state)
        found |= step(method, shard, clusters, state, phase_name)
        found |= step(method, shard, clusters, state, f"{phase_name}, one has no rows", index=1)
        if clustering:
            torch.manual_seed(2)
            with torch.no_grad():
                method.eval().update_clusters(shard, clusters, state)
            found |= step(method, shard, clusters, state, f"{phase_name}, updated")
        if clustering and hasattr(method.config, "reset") and "reset.every" not in method.config.idle(method.shape):
            torch.manual_seed(3)
            with torch.no_grad():
                method.reset_network()
                method.eval().init_clusters(shard, clusters)
            found |= step(method, shard, clusters, state, f"{phase_name}, reset")
    if not loop.phases:
        found["labels"] = clusters.gather(method.eval().finalize_clusters(shard, clusters))
    return found


def step(
    method: Method, shard: Shard, clusters: CollectiveClusters, state: StepState, at: str, index: int = 0
) -> dict[str, Any]:
    method.train()
    batch = method.sample_batch(shard, state.phase, 5, index, 2)
    found: dict[str, Any] = {}
    for key, player in method.players(state.phase).items():
        for group in player.groups:
            for parameter in group.parameters:
                parameter.grad = None
        torch.manual_seed(4)
        with GlobalDraws(batch.sizes):
            parts = method.loss(batch, state, key)
        loss = torch.stack([weight * value for weight, value in parts.values()]).sum()
        loss.backward()
        share_gradients(player)
        gradients = [
            clusters.gather(p.grad) if group.local and p.grad is not None else p.grad
            for group in player.groups
            for p in group.parameters
        ]
        mean = collectives.total(loss.detach()) / collectives.workers()
        found[f"{at}|{key}"] = {"loss": mean, "gradients": [g.clone() for g in gradients if g is not None]}
    return found


def same_rows(self: Method, shard: Shard, phase: str, seed: int, index: int, count: int) -> Batch:
    """The same global batch on any number of workers, in place of each worker's own share of its shard."""
    return shard.batch(ALONE if index else POSITIONS)


def attempt(name: str, workers: int, rank: int) -> dict[str, Any]:
    """What `measure` gives, or how it failed: the other methods are still to be measured."""
    try:
        return measure(name, workers, rank)
    except Exception:
        return {"failure": traceback.format_exc()}


def measure_all(names: list[str], workers: int, rank: int) -> dict[str, Any]:
    kept = Method.sample_batch
    Method.sample_batch = same_rows  # type: ignore[method-assign]
    try:
        return {name: attempt(name, workers, rank) for name in names}
    finally:
        Method.sample_batch = kept  # type: ignore[method-assign]


def worker(rank: int, folder: str, names: list[str], added: tuple[Any, ...]) -> None:
    """A worker of two. Of `added`, what the process that began it registered or read, it has all by receiving it."""
    torch.set_num_threads(1)
    address, patience = f"file://{folder}/rendezvous", datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=patience)
    torch.save(measure_all(names, 2, rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def is_script() -> bool:
    """Whether this process runs a file, which another process can import; a notebook or a prompt is none."""
    return hasattr(sys.modules["__main__"], "__file__")


@dataclass(frozen=True)
class Measured:
    """What one worker and each of two come to, by method."""

    one: dict[str, Any]
    both: list[dict[str, Any]]


def compare_all(names: list[str]) -> Measured:
    """Measure these methods by one worker and by two processes with gloo.

    AssertionError where one of them was made in a notebook, whose classes another process cannot have.
    """
    own = [one for one in registered() if one.group == PLUGINS.group and one.name in names]
    here = [one.name for one in own if one.thing.__module__ == "__main__"]
    require(
        is_script() or not here,
        f"{', '.join(here)} was made in a notebook, so two processes cannot have it: write it to a file "
        "(%%writefile my_method.py), and check that",
    )
    with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        mp.spawn(worker, (folder, names, (*own, *loaded())), nprocs=2)
        both = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return Measured(measure_all(names, 1, 0), both)


def apart(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Relative differences of loss and gradient."""
    size = max(float(g.abs().max()) for g in one["gradients"])
    most = max(float((a - b).abs().max()) for a, b in zip(one["gradients"], other["gradients"], strict=True))
    loss = float(abs(one["loss"] - other["loss"]) / abs(one["loss"]).clamp_min(1e-12))
    return loss, most / size if size else most


def two_workers_are_one(name: str, measured: Measured | None = None) -> None:
    """Losses and gradients of two workers are those of one, where `info.parallel` is exact; there are some anyway."""
    found = measured or compare_all([name])
    one, both = found.one[name], [each[name] for each in found.both]
    for result in (one, *both):
        require("failure" not in result, f"cannot be measured:\n{result.get('failure')}")
    exact, steep = load(name).info.parallel == "exact", "labels" in one
    for at, reference in one.items():
        for rank, other in enumerate(both):
            if at == "labels":
                require(torch.equal(reference, other[at]), f"worker {rank} has other labels than one worker alone")
                continue
            loss, gradient = apart(reference, other[at])
            steep |= any(bool(g.any()) for g in reference["gradients"])
            require(
                not exact or max(loss, gradient) <= TOLERANCE,
                f"in phase {at.replace('|', ', player ')}, worker {rank} of two: the loss is off by {loss:.1e}, the "
                f"gradient by {gradient:.1e}; reduce by batch.mean and clusters.sum, or say in info.parallel what "
                "differs",
            )
    require(steep, "no gradient anywhere: nothing is trained")
