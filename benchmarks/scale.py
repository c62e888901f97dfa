"""What an iteration of the centroid service costs: constants measured here, put into the cost model of its docstring.

    python -m benchmarks.scale                     # measure, then the table for large machines
    python -m benchmarks.scale --parquet 4         # k-means of 4 GB of Parquet in one process, in place of both
    python -m benchmarks.scale --workers           # one worker beside two, in place of both
    python -m benchmarks.scale --shards            # one actor beside two and four, in place of both

The first table is measured: push, close (with its snapshot) and pull of the service, called directly and through its
actor, beside a gloo all-reduce of the same bytes between two processes. The second is arithmetic: 1e9 rows of 768 on
GPUs, 8 to a node, of `--flops` flop/s and `--link` bytes/s, for four ways to bring the sums together:

    star        every worker pushes all sums to one actor
    sharded     to as many actors as raydc starts at this size, each for its clusters (shards.py)
    nodes       the same, but the workers of a node add theirs up first (raydc.clustering.centroid_service.ledger.merge)
    scattered   sums are reduce-scattered between workers, and each pushes its slice to one of the actors

raydc does the first three. The fourth is what it would take where the third is no longer small beside the assignment.
"""

import argparse
import os
import resource
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from raydc.clustering.centroid_service import actors as over_ray
from raydc.clustering.centroid_service.service import CentroidService, Contribution, ServicePlan
from raydc.clustering.centroid_service.worker import Service, contribution, work
from raydc.core.settings import unflatten
from raydc.data import RowBlock, open_source, split
from raydc.training.config import RunConfig
from raydc.training.trainer import Watch, check, train

SIZES = [(10, 10), (100, 64), (1000, 512), (10_000, 768)]


def rows_of(clusters: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2 * clusters, dim)).astype(np.float32)


class Started(CentroidService):
    """A service that starts from the first K rows: k-means++ of 10,000 centroids would take minutes."""

    def __init__(
        self, folder: str | Path, plan: ServicePlan, save_every: int = 0, shards: Sequence[over_ray.RemoteShard] = ()
    ) -> None:
        super().__init__(folder, plan, save_every, shards)
        given = torch.from_numpy(rows_of(plan.n_clusters, plan.dim)[: plan.n_clusters])
        self.clustering = replace(self.clustering, given=given)


def service(clusters: int, dim: int, repeats: int, start: Callable[[ServicePlan, str], Service]) -> dict[str, float]:
    """Median seconds of push, close and pull of K x D sums."""
    x = rows_of(clusters, dim)
    groups = split(len(x), clusters)
    seconds: dict[str, list[float]] = {"push": [], "close": [], "pull": []}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        answer = call()
        seconds[name].append(time.perf_counter() - began)
        return answer

    def read(group: RowBlock) -> np.ndarray:
        return x[group.start : group.stop]

    while len(seconds["pull"]) < repeats:  # few rows are soon at rest: again, then
        sizes = tuple(map(len, groups))
        plan = ServicePlan(run=uuid.uuid4().hex, n_clusters=clusters, dim=dim, rows=sizes, restarts=1, tolerance=0.0)
        with tempfile.TemporaryDirectory() as folder:
            run = start(plan, folder)
            work(run, plan, groups, read)
            while len(seconds["pull"]) < repeats:
                state = timed("pull", run.state)
                if state.done:
                    break
                for name, group in zip(("push", "close"), groups, strict=True):  # the second completes the version
                    part = contribution(plan, state, [group], read)
                    timed(name, partial(run.push, part))
    found = {name: float(np.median(each)) for name, each in seconds.items()}
    return found | {"close": max(found["close"] - found["push"], 0.0)}


def all_reduce(rank: int, rendezvous: str, sizes: list[tuple[int, int]], repeats: int, out: str) -> None:
    """Median seconds of a gloo all-reduce of K x (D + 1) int64, for each size; one of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    medians = []
    for clusters, dim in sizes:
        sums, seconds = torch.zeros(clusters, dim + 1, dtype=torch.int64), []
        for _ in range(repeats + 1):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(sums)
            seconds.append(time.perf_counter() - start)
        medians.append(float(np.median(seconds[1:])))
    if rank == 0:
        np.save(out, medians)
    dist.destroy_process_group()


def measured(sizes: list[tuple[int, int]], repeats: int) -> float:
    """Print the first table; bytes a second into the service's actor at the largest size."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"{folder}/rendezvous", sizes, repeats, f"{folder}/seconds.npy")
        multiprocessing.start_processes(all_reduce, arguments, nprocs=2, start_method="fork")
        reduced = np.load(f"{folder}/seconds.npy")
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    ways: list[Callable[[ServicePlan, str], Service]] = [
        lambda plan, folder: Started(folder, plan),
        lambda plan, folder: over_ray.start(plan, folder, service=Started),
    ]
    print("| K x D | sums MB | ms: push, close, pull | by the actor: push, close, pull | all-reduce |")
    print("|---|---|---|---|---|")
    speed = 0.0
    for (clusters, dim), other in zip(sizes, reduced, strict=True):
        megabytes = 8e-6 * clusters * (dim + 1)
        near, far = (service(clusters, dim, repeats, way) for way in ways)
        speed = megabytes * 1e6 / far["push"]
        direct, remote = (", ".join(f"{1e3 * each[name]:.2f}" for name in each) for each in (near, far))
        print(f"| {clusters} x {dim} | {megabytes:.3f} | {direct} | {remote} | {1e3 * other:.2f} |", flush=True)
    ray.shutdown()
    return speed


def model(flops: float, link: float, into: float, rows: float = 1e9, dim: int = 768, per_node: int = 8) -> None:
    """Print the second table."""
    print(
        f"\n{flops:.0e} flop/s of a GPU, {link:.0e} bytes/s of its link, {into:.1e} bytes/s into a service [measured]"
    )
    print(
        "| K | GPUs | assign s | star s, GB | actors | sharded s | nodes s, GB | scattered s, GB "
        "| a GPU's GB: rows, centroids and sums |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for clusters in (100_000, 1_000_000):
        actors = len(ServicePlan(run="model", n_clusters=clusters, dim=dim, rows=(1,), restarts=1).parts)
        for workers in (64, 128, 256, 512):
            sums = 8.0 * clusters * (dim + 1)
            assign = 2 * rows * clusters * dim / (workers * flops)
            star, nodes = workers * sums, workers / per_node * sums
            scattered = 2 * (workers - 1) / workers * sums  # of each GPU: sums scattered, centroids gathered
            slices = scattered / link + sums / (actors * into)
            print(
                f"| {clusters} | {workers} | {assign:.1f} | {star / into:.1f}, {star / 1e9:.0f} "
                f"| {actors} | {star / into / actors:.1f} | {nodes / into / actors:.1f}, {nodes / 1e9:.0f} "
                f"| {slices:.1f}, {(workers * scattered + sums) / 1e9:.0f} "
                f"| {2e-9 * rows * dim / workers:.0f}, {1e-9 * (4 * clusters * dim + sums):.1f} |"
            )


def shards(repeats: int, clusters: int = 10_000, dim: int = 768) -> None:
    """Print the seconds of push, close and pull by one actor, two and four, in turns."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    x = rows_of(clusters, dim)
    groups = split(len(x), clusters)
    with tempfile.TemporaryDirectory() as folder:
        runs, seconds = {}, dict[int, dict[str, list[float]]]()
        for many in (1, 2, 4):
            plan = ServicePlan(
                run=f"shards-{many}", n_clusters=clusters, dim=dim, rows=tuple(map(len, groups)),
                restarts=1, tolerance=0.0, shards=many,
            )  # fmt: skip
            runs[many] = over_ray.start(plan, f"{folder}/{many}", service=Started)
            work(runs[many], plan, groups, lambda group: x[group.start : group.stop])
            seconds[many] = {"push": [], "close": [], "pull": []}
        for _ in range(repeats + 1):  # the first warms up
            parts: list[Contribution] = []
            for many, run in runs.items():
                began = time.perf_counter()
                state = run.state()
                seconds[many]["pull"].append(time.perf_counter() - began)
                if not parts:  # the same for all
                    parts = [contribution(plan, state, [g], lambda g: x[g.start : g.stop]) for g in groups]
                for name, part in zip(("push", "close"), parts, strict=True):  # the second completes the version
                    own = replace(part, run=f"shards-{many}", targets=tuple(range(many + 1)) if many > 1 else (0,))
                    began = time.perf_counter()
                    run.push(own)
                    seconds[many][name].append(time.perf_counter() - began)
    print(f"{clusters} x {dim}, {8e-6 * clusters * (dim + 1):.1f} MB of sums")
    print("| actors | push s | close s | pull s | together |")
    print("|---|---|---|---|---|")
    for many, each in seconds.items():
        push, close, pull = (float(np.median(each[name][1:])) for name in ("push", "close", "pull"))
        print(f"| {many} | {push:.2f} | {close - push:.2f} | {pull:.2f} | {close + pull:.2f} |", flush=True)
    ray.shutdown()


def workers(repeats: int, rows: int = 1_000_000, dim: int = 128) -> None:
    """Seconds of an iteration over the service by one worker of one thread and by two, beside the matrix product."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    product = ray.remote(_product)
    print("| K | 1 worker s | 2 workers s | times faster | 2 processes of the matrix product alone: times faster |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/rows.npy"
        np.save(path, np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32))
        groups = split(rows)
        sizes = tuple(map(len, groups))
        for clusters in (100, 1000):
            seconds: dict[int, list[float]] = {1: [], 2: []}
            products: dict[int, list[float]] = {1: [], 2: []}
            runs = {}
            for many in seconds:
                run = f"workers-{clusters}-{many}"
                plan = ServicePlan(
                    run=run,
                    n_clusters=clusters,
                    dim=dim,
                    rows=sizes,
                    restarts=1,
                    tolerance=0.0,
                    iterations=2 * repeats + 2,
                )
                runs[many] = (over_ray.start(plan, f"{folder}/{run}", service=Started), plan)
            for at in range(repeats + 1):  # the first with the profile, and an iteration that warms up
                for many, (remote, plan) in runs.items():
                    marks: list[float] = []
                    two_versions = partial(_marked, marks)  # what `advance` itself starts belongs to the first
                    over_ray.advance(remote, plan, groups, Mapped(path), workers=many, on_version=two_versions)
                    if at > 0:
                        seconds[many].append(marks[1] - marks[0])
                    began = time.perf_counter()
                    ray.get([product.remote(clusters, dim) for _ in range(many)])
                    products[many].append((time.perf_counter() - began) / many)
            one, two = (float(np.median(seconds[many])) for many in (1, 2))
            ceiling = float(np.median(products[1][1:]) / np.median(products[2][1:]))
            print(f"| {clusters} | {one:.3f} | {two:.3f} | {one / two:.2f} | {ceiling:.2f} |", flush=True)
    ray.shutdown()


def _marked(marks: list[float]) -> bool:
    """Note when a version ended; whether it was the second."""
    marks.append(time.perf_counter())
    return len(marks) == 2


@dataclass(frozen=True)
class Mapped:
    """Reads row groups of a .npy file, which stays in the page cache."""

    path: str

    def __call__(self, group: RowBlock) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")[group.start : group.stop]


def _product(clusters: int, dim: int) -> None:
    torch.set_num_threads(1)
    x, centroids = torch.ones(2048, dim), torch.ones(dim, clusters)
    room = torch.empty(2048, clusters)
    for _ in range(max(1, 10**11 // (2 * 2048 * dim * clusters))):
        torch.mm(x, centroids, out=room)


def parquet(gigabytes: float, clusters: int, dim: int = 128, group_rows: int = 65_536) -> None:
    """Two iterations of `raydc train` over Parquet of this size: seconds beside reading it alone, and peak memory."""
    groups = split(int(gigabytes * 1e9 / 4 / dim), group_rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        for target, arguments in ((_write, (path, groups, clusters, dim)), (_stream, (path, folder, clusters))):
            process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{target.__name__} ended with {process.exitcode}")


def _write(path: Path, groups: Sequence[RowBlock], clusters: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dim)).astype(np.float32)
    schema = pa.schema([("x", pa.list_(pa.float32(), dim))])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for group in groups:
            x = centres[rng.integers(clusters, size=len(group))] + rng.normal(size=(len(group), dim)).astype("f4")
            column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), dim)
            writer.write_table(pa.table([column], schema), row_group_size=len(group))


def _stream(path: Path, folder: str, clusters: int) -> None:
    torch.set_num_threads(1)
    flat = {"method.name": "kmeans", "method.n_clusters": clusters, "method.restarts": 1, "method.iterations": 2}
    flat |= {"data.path": str(path), "data.scaling": "none", "training.workers": 0, "output.out": f"{folder}/run"}
    flat |= {"data.storage": "disk"}  # as if none of the rows could be kept
    config = RunConfig.of(unflatten(flat))
    began = time.perf_counter()
    source = open_source(config.data)
    for piece in source.pieces:
        source.read(piece)
    marks = [("reading alone", time.perf_counter() - began)]
    began = time.perf_counter()
    run = check(config)
    marks.append(("checking the rows", time.perf_counter() - began))
    heard = [time.perf_counter()]
    summary = train(run, Watch(progress=lambda progress: heard.append(time.perf_counter())))
    names = ("profile, start and first iteration", "second iteration")
    marks += zip(names, np.diff(heard).tolist(), strict=True)
    marks.append(("members, assignments and summary", time.perf_counter() - heard[-1]))
    size, peak = path.stat().st_size / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{size:.2f} GB of Parquet, {summary['rows']} rows of {source.n_features}, K = {clusters}, seconds:")
    print("".join(f"    {name:36} {seconds:8.1f}\n" for name, seconds in marks), end="")
    print(f"peak memory of the process {peak:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--flops", type=float, default=2e14, help="sustained flop/s of a GPU in the assignment")
    parser.add_argument("--link", type=float, default=25e9, help="bytes/s of a GPU's network link")
    parser.add_argument("--parquet", type=float, default=0.0, metavar="GB", help="stream a Parquet file of this size")
    parser.add_argument("--clusters", type=int, default=1000, help="K of --parquet")
    parser.add_argument("--workers", action="store_true", help="one worker beside two")
    parser.add_argument("--shards", action="store_true", help="one actor beside two and four")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} CPUs; medians of {arguments.repeats}")
    if arguments.parquet:
        parquet(arguments.parquet, arguments.clusters)
    elif arguments.workers:
        workers(arguments.repeats)
    elif arguments.shards:
        shards(arguments.repeats)
    else:
        model(arguments.flops, arguments.link, measured(SIZES, arguments.repeats))


if __name__ == "__main__":
    main()
