"""What the rules share: easy rows, a method with its short settings, a run. A method is had by its name."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydc.clustering.collective import CollectiveClusters
from raydc.core.settings import build, fields, unflatten
from raydc.core.storage import Store
from raydc.data import Shard
from raydc.methods import load
from raydc.methods.base import Method
from raydc.training import worker_job
from raydc.training.config import RunConfig
from raydc.training.loop import Loop

K, BATCH = 4, 64


def wants_images(method: type[Method]) -> bool:
    return method.needs_image or method.info.architecture not in ("MLP", "DBN", "none")


def blobs(method: type[Method], rows: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [N, 20] or [N, 1, 8, 8] in K well separated groups, scaled as the method asks, and their groups [N]."""
    draw = torch.Generator().manual_seed(100)  # the groups are the same for every seed
    if wants_images(method):
        centres = torch.rand(K, 1, 4, 4, generator=draw).round().repeat_interleave(2, 2).repeat_interleave(2, 3)
        low, high, noise = -0.5, 1.5, 0.1
    else:
        centres, low, high, noise = 3 * torch.randn(K, 20, generator=draw), -12.0, 12.0, 1.0
    draw.manual_seed(seed)
    y = torch.randint(K, (rows,), generator=draw)
    x = centres[y] + noise * torch.randn(rows, *centres.shape[1:], generator=draw)
    if method.scaling == "unit":
        return ((x - low) / (high - low)).clamp(0, 1), y
    if method.scaling == "symmetric":
        return (2 * (x - low) / (high - low) - 1).clamp(-1, 1), y
    return x / centres.square().mean().sqrt(), y


def quick_for(method: type[Method], shape: tuple[int, ...]) -> dict[str, Any]:
    """The method's quick settings, but for sizes of a network that rows of this shape do not get."""
    found: dict[str, Any] = {}
    for path, value in method.quick.items():
        config = build(method.Config, unflatten(found | {path: value}), at="method")
        if path not in config.idle(shape):
            found[path] = value
    return found


def settings(name: str) -> Method.Config:
    method = load(name)
    known = {path for path, _ in fields(method.Config)}
    values = unflatten({key: value for key, value in method.quick.items() if key in known})
    given = {} if method.finds_clusters() else {"n_clusters": K}
    return build(method.Config, given | values, at="method")


def make(name: str, shape: tuple[int, ...]) -> Method:
    torch.manual_seed(0)
    return load(name)(settings(name), shape)


def loop_over(name: str, x: Tensor) -> Loop:
    shard = Shard.of(x)
    return Loop(make(name, tuple(x.shape[1:])), shard, CollectiveClusters(shard, 0), BATCH)


def saved(loop: Loop) -> bytes:
    """The loop's state as a checkpoint holds it."""
    file = io.BytesIO()
    torch.save((loop.shared_state(), loop.row_state()), file)
    return file.getvalue()


def restored(name: str, x: Tensor, state: bytes) -> Loop:
    loop = loop_over(name, x)
    loop.load_state(*torch.load(io.BytesIO(state), weights_only=True))
    return loop


def flat(state: Any, at: str = "") -> dict[str, Any]:
    """Nested state by path, to compare leaf by leaf."""
    items = state.items() if isinstance(state, dict) else enumerate(state)
    leaves: dict[str, Any] = {}
    for key, value in items:
        path = f"{at}/{key}"
        leaves |= flat(value, path) if isinstance(value, dict | list | tuple) else {path: value}
    return leaves


def short_settings(name: str, folder: Path) -> dict[str, Any]:
    """A run of few steps in every phase, on rows that are written to the folder."""
    kind = load(name)
    rows, _ = blobs(kind, 120)
    np.save(folder / "rows.npy", rows.numpy())
    known = {path for path, _ in fields(kind.Config, "method")}
    of_rows = quick_for(kind, shape := tuple(rows.shape[1:]))
    quick = {f"method.{key}": value for key, value in of_rows.items()} | {"method.n_clusters": K}
    idle = build(kind.Config, unflatten(of_rows), at="method").idle(shape)
    lengths = [path for path in known if path.endswith(".length") and path.removeprefix("method.") not in idle]
    short = dict.fromkeys(lengths, "2 epochs")
    own = {path: value for path, value in (quick | short).items() if path in known}
    if kind.finds_clusters():
        del own["method.n_clusters"]
    training: dict[str, Any] = {"checkpoint_every": 0, "workers": 0}
    if kind.trains:
        training |= {"batch_size": 60, "precision": "fp32"}
    place = {"method.name": name, "data.path": str(folder / "rows.npy")}
    return own | place | {f"training.{key}": value for key, value in training.items()}


def run_job(flat: dict[str, Any], out: Path, device: str, epochs: int | None = None) -> worker_job.Outcome:
    """The whole job, or its first epochs."""
    config = RunConfig.of(unflatten(flat | {"output.out": str(out)}))
    seen = iter(range(1, 1000))
    return worker_job.work(
        worker_job.prepare(config), store=Store(out), device=device, on_epoch=lambda progress: next(seen) == epochs
    )
