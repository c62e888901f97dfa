"""One Lloyd iteration of raydc beside scikit-learn's and faiss's: CPU-seconds of one thread, on random normal rows.

    python -m benchmarks.kmeans            # the whole table
    python -m benchmarks.kmeans --quick    # small sizes
    python -m benchmarks.kmeans --sizes 200000x64 --clusters 10
    python -m benchmarks.kmeans --plain    # and beside plain torch and plain numba
    python -m benchmarks.kmeans --command  # the whole command beside scikit-learn with reading, in place of the table

Contenders take turns in one process, so that a busy machine troubles all of them alike; figures are medians. Each
assigns all rows and makes new centroids: `raydc` as `DeepClustering("kmeans")` with its rows in memory, `streamed` as a
worker of the centroid service, scikit-learn by its own iteration over chunks of rows, faiss (where it is installed) by
an iteration of `Clustering` on all points. `limit` is one product of the rows with the centroids, [N, D] x [D, K], in
float32 by torch's BLAS in tiles that fit the cache: a bfloat16 product can be faster. `read` is a float32 sum over the
rows.

raydc / best peer for K = 10, 100, 1000 (medians of 7) on one thread of an EPYC without AMX whose other core was busy,
and streamed / best peer: 200k x 64 .68, .58, .43 and 1.92, .79, .48; 200k x 512 .54, .58, .49 and .92, .71, .53; 1M x
64 .63, .56, .43 and 1.35, .70, .48; 1M x 128 .38, .52, .46 and .82, .65, .49. On a Xeon with AMX, raydc / best peer:
.92, .96, .52; .89, 1.03, .48; .88, .84, .52; .73, .82, .43.

What the kernels of `simd.py` are worth is seen beside the same iteration without them: `torch` is a product in tiles,
argmin and `index_add_`; `numba` is plain loops, which LLVM may reorder (`fastmath`). Neither has exact labels.

The whole command (medians of three turns, two busy cores): 15.1 CPU-seconds beside scikit-learn's 17.5 with reading, a
ratio of .86.
About 12 of them are spent whatever the rows: imports, MLflow and the report (20,000 x 8, K = 5, 3 iterations: 12.2).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raydc.clustering.centroid_service.service import ServicePlan, State
from raydc.clustering.centroid_service.worker import contribution
from raydc.clustering.kmeans import steps
from raydc.clustering.kmeans.iteration import Clustering
from raydc.clustering.kmeans.steps import FixedPoint, Geometry
from raydc.data import split

SIZES = [(200_000, 64), (200_000, 512), (1_000_000, 64), (1_000_000, 128)]
QUICK = [(50_000, 64), (20_000, 512)]


def in_memory(x: torch.Tensor, start: torch.Tensor) -> Callable[[], object]:
    """Sums of one iteration and the centroids that follow, as `DeepClustering("kmeans")` computes them."""
    geometry = Geometry(torch.zeros(x.shape[1]), FixedPoint.of(x.abs().amax(0), len(x)), 0.0)
    groups, centroids = [*x.split(4096)], start.double()[None]

    def iteration() -> object:
        return steps.means(*steps.statistics(groups, centroids, geometry), centroids, geometry)

    return iteration


def streamed(x: torch.Tensor, start: torch.Tensor) -> Callable[[], object]:
    """A worker's part of a version and what follows of it, without Ray and storage.

    Beside the sums that is the move to the origin, checksums of positions, and the rows that empty clusters would take.
    """
    rows, groups = x.numpy(), split(len(x))
    sizes = tuple(map(len, groups))
    plan = ServicePlan(run="rows", n_clusters=len(start), dim=x.shape[1], rows=sizes, restarts=1, tolerance=0.0)

    def iteration(now: Clustering) -> Clustering:
        part = contribution(plan, State(now.version, 0, False, (), now), groups, lambda g: rows[g.start : g.stop])
        return now.after({name: torch.from_numpy(value) for name, value in part.arrays.items()})

    return partial(iteration, iteration(replace(plan.begin(), given=start)))


def scikit_learn(x: torch.Tensor, start: torch.Tensor) -> Callable[[], object]:
    lloyd = import_module("sklearn.cluster._k_means_lloyd").lloyd_iter_chunked_dense
    rows, centroids, clusters = x.numpy(), start.numpy(), len(start)
    weights, labels = np.ones(len(rows), np.float32), np.zeros(len(rows), np.int32)
    after, members, moved = np.zeros_like(centroids), np.zeros(clusters, np.float32), np.zeros(clusters, np.float32)
    return lambda: lloyd(rows, weights, centroids, after, members, labels, moved, 1)


def faiss(x: torch.Tensor, start: torch.Tensor) -> Callable[[], object]:
    library = import_module("faiss")
    library.omp_set_num_threads(1)
    rows, centroids = x.numpy(), start.numpy()

    def iteration() -> object:
        clustering = library.Clustering(rows.shape[1], len(centroids))
        clustering.niter, clustering.max_points_per_centroid = 1, len(rows)
        library.copy_array_to_vector(centroids.ravel(), clustering.centroids)
        return clustering.train(rows, library.IndexFlatL2(rows.shape[1]))

    return iteration


def plain_torch(x: torch.Tensor, start: torch.Tensor) -> Callable[[], object]:
    """Labels by float32 products in tiles, sums in float64."""
    half = start.square().sum(1) / 2
    tiles = x.split(max(min((1 << 18) // len(start), 4096), 64))

    def iteration() -> object:
        sums = torch.zeros(start.shape, dtype=torch.float64)
        counts = torch.zeros(len(start), dtype=torch.int64)
        for tile in tiles:
            labels = torch.addmm(half, tile, start.T, alpha=-1).argmin(1)
            sums.index_add_(0, labels, tile.double())
            counts += torch.bincount(labels, minlength=len(start))
        return sums / counts[:, None]

    return iteration


def plain_numba(x: torch.Tensor, start: torch.Tensor) -> Callable[[], object]:
    """Labels by float32 loops, sums in float64."""
    numba = import_module("numba")

    @numba.njit(nogil=True, fastmath=True, error_model="numpy")
    def iteration(rows: np.ndarray, across: np.ndarray, half: np.ndarray) -> np.ndarray:
        dim, clusters = across.shape
        sums, counts = np.zeros((clusters, dim)), np.zeros(clusters)
        scores = np.empty(clusters, np.float32)
        for i in range(len(rows)):
            scores[:] = half
            for d in range(dim):  # clusters innermost: that loop becomes vectors
                value = rows[i, d]
                for k in range(clusters):
                    scores[k] -= value * across[d, k]
            label = np.argmin(scores)
            counts[label] += 1
            for d in range(dim):
                sums[label, d] += rows[i, d]
        return sums / counts.reshape(-1, 1)

    return partial(iteration, x.numpy(), np.ascontiguousarray(start.numpy().T), (start.square().sum(1) / 2).numpy())


def limit(x: torch.Tensor, start: torch.Tensor) -> Callable[[], object]:
    rows = max(min((1 << 18) // len(start), (1 << 18) // x.shape[1], 4096), 64)
    room = torch.empty(rows * len(start))

    def product() -> None:
        for tile in x.split(rows):
            torch.mm(start, tile.T, out=room[: len(start) * len(tile)].view(len(start), len(tile)))

    return product


def medians(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU-seconds of each, taking turns; the first turn only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: float(np.median(each[1:])) for name, each in seconds.items()}


PEER = """
import sys
import numpy, pyarrow.parquet
from sklearn.cluster import KMeans

path, clusters, iterations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
table = pyarrow.parquet.read_table(path)
rows = numpy.stack([column.to_numpy() for column in table.columns], 1)
KMeans(clusters, n_init=1, max_iter=iterations, tol=0, random_state=0).fit(rows)
"""
"""What scikit-learn's side of `command` runs."""


def command(rows: int, dim: int, clusters: int, iterations: int, repeats: int) -> None:
    """Print CPU-seconds (user and system) of `raydc train`, with model, assignments and report, and of scikit-learn's
    `KMeans` in a process that reads the same Parquet; in turns, one thread each, k-means++ once and no tolerance.
    """
    with tempfile.TemporaryDirectory() as folder:
        draw, path = np.random.default_rng(0), f"{folder}/rows.parquet"
        centres = draw.normal(size=(clusters, dim))
        x = (centres[draw.integers(clusters, size=rows)] + draw.normal(size=(rows, dim))).astype(np.float32)
        pq.write_table(pa.table({f"f{at}": x[:, at] for at in range(dim)}), path, row_group_size=2**16)
        own = ["-m", "raydc", "train", "--method", "kmeans", "--workers", "0", "--data", path, "--n-clusters"]
        own += [str(clusters), "--method.iterations", str(iterations), "--method.tolerance", "0", "--method.restarts"]
        own += ["1", "--training.threads", "1", "--tracking-uri", f"sqlite:///{folder}/mlflow.db", "--out"]
        seconds: dict[str, list[float]] = {"raydc train": [], "scikit-learn": []}
        for turn in range(repeats):
            seconds["raydc train"].append(cpu_seconds([*own, f"{folder}/run{turn}"]))
            seconds["scikit-learn"].append(cpu_seconds(["-c", PEER, path, str(clusters), str(iterations)]))
    found = {name: float(np.median(each)) for name, each in seconds.items()}
    print(f"{rows} x {dim} of Parquet, K = {clusters}, {iterations} iterations, {repeats} turns: CPU-seconds")
    print("".join(f"    {name:12} {each:8.1f}\n" for name, each in found.items()), end="")
    print(f"    ratio        {found['raydc train'] / found['scikit-learn']:8.2f}", flush=True)


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of a Python process of one thread, and of the processes that it waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], env={**os.environ, **threads}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes")
    parser.add_argument("--sizes", nargs="+", default=[], metavar="NxD", help="these alone, say 200000x64")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clusters", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--plain", action="store_true", help="plain torch and plain numba, too")
    parser.add_argument(
        "--command", action="store_true", help="whole processes: 1,000,000 x 64, K = 100, 30 iterations"
    )
    arguments = parser.parse_args()
    if arguments.command:
        command(1_000_000, 64, 100, 30, arguments.repeats)
        return
    torch.set_num_threads(1)
    sizes = [tuple(map(int, each.split("x"))) for each in arguments.sizes] or (QUICK if arguments.quick else SIZES)
    peers: dict[str, Callable[[torch.Tensor, torch.Tensor], Callable[[], object]]] = {"scikit-learn": scikit_learn}
    if find_spec("faiss"):
        peers["faiss"] = faiss
    else:
        print("faiss is not installed: compared with scikit-learn alone")
    if arguments.plain:
        peers |= {"torch": plain_torch, "numba": plain_numba}
    names = ("raydc", "streamed", *peers, "limit", "read")
    ratios = ("raydc / best peer", "streamed / best peer", "raydc: share of limit")
    print(f"| N x D | K | {' s | '.join(names)} s | {' | '.join(ratios)} |")
    print(f"|---{'|---' * (1 + len(names) + len(ratios))}|")
    for rows, dim in sizes:
        x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))
        for clusters in arguments.clusters:
            start = x[:clusters].clone()
            contenders = {"raydc": in_memory, "streamed": streamed, **peers, "limit": limit}
            found = medians(
                {name: make(x, start) for name, make in contenders.items()} | {"read": x.sum}, arguments.repeats
            )
            peer = min(found[name] for name in peers)
            cells = [f"{rows} x {dim}", f"{clusters}", *(f"{found[name]:.4f}" for name in names)]
            cells += [f"{found['raydc'] / peer:.2f}", f"{found['streamed'] / peer:.2f}"]
            print(f"| {' | '.join(cells)} | {found['limit'] / found['raydc']:.0%} |", flush=True)


if __name__ == "__main__":
    main()
