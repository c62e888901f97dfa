"""What an iteration of the centroid service costs: constants measured here, put into the cost model of its docstring.

    python -m benchmarks.scale                     # measure, then the table for large machines
    python -m benchmarks.scale --large             # also 10000 x 768, whose starts alone take minutes
    python -m benchmarks.scale --parquet 4         # also k-means of 4 GB of Parquet in one process

The first table is measured: push, close (with its snapshot) and pull of the service, called directly, beside a gloo
all-reduce of the same bytes between two processes. The second is arithmetic: 1e9 rows of 768 on GPUs, 8 to a node, of
`--flops` flop/s and `--link` bytes/s, for three ways to bring the sums together:

    star      every worker pushes all sums to one service
    nodes     the workers of a node add theirs up first (raydc.clusters.service.combine)
    sharded   sums are reduce-scattered between workers, and each pushes its slice to one of 8 services

raydc does the first two. The third is what it would take where the second is no longer small beside the assignment.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from raydc.clusters.service import CentroidService, Plan
from raydc.clusters.stream import contribution, work
from raydc.data.shard import RowGroup, split

SIZES = [(10, 10), (100, 64), (1000, 512)]
LARGE = (10_000, 768)


def service(clusters: int, dim: int, repeats: int) -> tuple[float, float, float]:
    """Median seconds of push, close and pull of K x D sums."""
    x = np.random.default_rng(0).normal(size=(2 * clusters, dim)).astype(np.float32)
    groups = split(len(x), clusters)
    plan = Plan(run="scale", n_clusters=clusters, dim=dim, rows=tuple(map(len, groups)), sample=1, tolerance=0.0)
    seconds: dict[str, list[float]] = {"push": [], "close": [], "pull": []}

    def read(group: RowGroup) -> np.ndarray:
        return x[group.start : group.stop]

    with tempfile.TemporaryDirectory() as folder:
        near = CentroidService(folder, plan)
        work(near, plan, groups, read)
        while len(seconds["pull"]) < repeats and not near.done:
            start = time.perf_counter()
            state = near.state()
            seconds["pull"].append(time.perf_counter() - start)
            for name, group in zip(("push", "close"), groups, strict=True):  # the second completes the version
                part = contribution(plan, state, [group], read)
                start = time.perf_counter()
                near.push(part)
                seconds[name].append(time.perf_counter() - start)
    push, close, pull = (float(np.median(seconds[name])) for name in ("push", "close", "pull"))
    return push, max(close - push, 0.0), pull


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
    """Print the first table; bytes a second into the service at the largest size."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"{folder}/rendezvous", sizes, repeats, f"{folder}/seconds.npy")
        multiprocessing.start_processes(all_reduce, arguments, nprocs=2, start_method="fork")
        reduced = np.load(f"{folder}/seconds.npy")
    print("| K x D | sums MB | push ms | close ms | pull ms | all-reduce ms |\n|---|---|---|---|---|---|")
    speed = 0.0
    for (clusters, dim), other in zip(sizes, reduced, strict=True):
        push, close, pull = service(clusters, dim, repeats)
        megabytes = 8e-6 * clusters * (dim + 1)
        speed = megabytes * 1e6 / push
        print(
            f"| {clusters} x {dim} | {megabytes:.2f} | {1e3 * push:.2f} | {1e3 * close:.1f} | {1e3 * pull:.2f} "
            f"| {1e3 * other:.2f} |",
            flush=True,
        )
    return speed


def model(flops: float, link: float, into: float, rows: float = 1e9, dim: int = 768, per_node: int = 8) -> None:
    """Print the second table."""
    print(
        f"\n{flops:.0e} flop/s of a GPU, {link:.0e} bytes/s of its link, {into:.1e} bytes/s into a service [measured]"
    )
    print("| K | GPUs | assign s | star s | nodes s | sharded s | rows GB a GPU | centroids and sums GB a GPU |")
    print("|---|---|---|---|---|---|---|---|")
    for clusters in (100_000, 1_000_000):
        for workers in (64, 128, 256, 512):
            sums = 8.0 * clusters * (dim + 1)
            assign = 2 * rows * clusters * dim / (workers * flops)
            star, nodes = workers * sums / into, workers / per_node * sums / into
            sharded = 2 * (workers - 1) / workers * sums / link + sums / (8 * into)
            print(
                f"| {clusters} | {workers} | {assign:.1f} | {star:.1f} | {nodes:.1f} | {sharded:.1f} "
                f"| {2e-9 * rows * dim / workers:.0f} | {1e-9 * (4 * clusters * dim + sums):.1f} |"
            )


def parquet(gigabytes: float, clusters: int, dim: int = 128, group_rows: int = 65_536) -> None:
    """Two iterations of k-means over a Parquet file of this size: seconds beside reading it alone, and peak memory."""
    groups = split(int(gigabytes * 1e9 / 4 / dim), group_rows)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        schema = pa.schema([("x", pa.list_(pa.float32(), dim))])
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for group in groups:
                x = centres[rng.integers(clusters, size=len(group))] + rng.normal(size=(len(group), dim)).astype("f4")
                column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), dim)
                writer.write_table(pa.table([column], schema), row_group_size=group_rows)
        file = pq.ParquetFile(path)

        def read(group: RowGroup) -> np.ndarray:
            column = file.read_row_group(group.id, use_threads=False)["x"].combine_chunks()
            return column.flatten().to_numpy().reshape(-1, dim)

        start = time.perf_counter()
        for group in groups:
            read(group)
        reading = time.perf_counter() - start
        plan = Plan(run="parquet", n_clusters=clusters, dim=dim, rows=tuple(map(len, groups)), iterations=2)
        near = CentroidService(Path(folder) / "run", plan)
        seconds = []
        while not near.done:
            start = time.perf_counter()
            work(near, plan, groups, read)
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    iterations = ", ".join(f"{each:.1f}" for each in seconds[1:])
    print(f"\n{gigabytes:g} GB of Parquet, {plan.total} x {dim}, K = {clusters}: reading alone {reading:.1f} s, survey")
    print(f"and k-means++ {seconds[0]:.1f} s, iterations {iterations} s, peak memory of the process {peak:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--large", action="store_true", help="measure 10000 x 768 too")
    parser.add_argument("--flops", type=float, default=2e14, help="sustained flop/s of a GPU in the assignment")
    parser.add_argument("--link", type=float, default=25e9, help="bytes/s of a GPU's network link")
    parser.add_argument("--parquet", type=float, default=0.0, metavar="GB", help="stream a Parquet file of this size")
    parser.add_argument("--clusters", type=int, default=1000, help="K of --parquet")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} CPUs; medians of {arguments.repeats}")
    model(arguments.flops, arguments.link, measured([*SIZES, *([LARGE] if arguments.large else [])], arguments.repeats))
    if arguments.parquet:
        parquet(arguments.parquet, arguments.clusters)


if __name__ == "__main__":
    main()
