"""Two workers: by gloo on one device, by NCCL on two."""

import datetime
from functools import partial, partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from benchmarks.gpu.answers import TRAINED, folder
from benchmarks.gpu.row import DrawsOfTheCPU, LeftOut, Row, differ, states_apart
from raydc.clustering.collective import CollectiveClusters
from raydc.testing.cases import run_job, short_settings
from raydc.training.model import ClusteringModel

PATIENCE = datetime.timedelta(seconds=120)


def trained(rank: int, backend: str, devices: tuple[str, str], flats: dict[str, Any], meeting: str, out: str) -> None:
    """What a worker's process does: every method's short run, in turn."""
    torch.set_num_threads(1)
    if devices[rank].startswith("cuda"):
        torch.cuda.set_device(devices[rank])
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=2, timeout=PATIENCE)
    whole = CollectiveClusters.kmeans
    for name, flat in flats.items():
        short = partialmethod(whole, restarts=2, iterations=4)
        with DrawsOfTheCPU(), patch.object(CollectiveClusters, "kmeans", short):
            outcome = run_job(flat, Path(out, name), devices[rank])
        state = {key: value.cpu() for key, value in outcome.model.method.state_dict().items()}
        torch.save({"labels": torch.from_numpy(outcome.labels), "state": state}, f"{out}/{name}-{rank}.pt")
    dist.destroy_process_group()


def two(backend: str, devices: tuple[str, str], flats: dict[str, Any], out: Path) -> dict[str, list[Any]]:
    """What both workers have at the end of each method's run, by two processes."""
    out.mkdir()
    arguments = (backend, devices, flats, f"file://{out}/meeting", str(out))
    multiprocessing.spawn(trained, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    return {name: [torch.load(out / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)] for name in flats}


def same_as_on_the_cpu(backend: str, device: str) -> dict[str, Any]:
    """Two workers on the device beside two on the CPU, and one beside the other; the most of any method."""
    if backend == "nccl" and (device != "cuda" or torch.cuda.device_count() < 2):
        raise LeftOut("NCCL needs two devices")
    devices = (f"{device}:0", f"{device}:{int(backend == 'nccl')}") if device == "cuda" else (device, device)
    with folder() as place:
        flats = {}
        for name in NAMES:
            (place / name).mkdir()
            flats[name] = short_settings(name, place / name)
        near, far = two("gloo", ("cpu", "cpu"), flats, place / "near"), two(backend, devices, flats, place / "far")
        found = dict.fromkeys(ALLOWED, 0.0)
        for name in NAMES:
            (one, other), expected = far[name], near[name]
            model = ClusteringModel.load(place / "far" / name / "model").method.state_dict()
            labels = [torch.cat([each["labels"] for each in both]) for both in (far[name], expected)]
            here = {
                "labels": differ(*labels),
                "weights": states_apart(one["state"], expected[0]["state"]),
                "tensors that workers do not share": unequal(one["state"], other["state"]),
                "tensors that the model's file does not share": unequal(one["state"], model),
            }
            found = {key: max(value, here[key]) for key, value in found.items()}
    return found


def unequal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> int:
    return sum(not torch.equal(value, other[key]) for key, value in one.items())


NAMES = ("dec", "imsat", "depict")
ALLOWED = {
    "labels": 0,
    "weights": TRAINED,
    "tensors that workers do not share": 0,
    "tensors that the model's file does not share": 0,
}
ROWS = [
    Row(f"{', '.join(NAMES)}: two workers by {backend}", partial(same_as_on_the_cpu, backend), ALLOWED)
    for backend in ("gloo", "nccl")
]
