"""What searching neighbours in cells finds and costs, beside faiss's inverted file and PyNNDescent where they are.

    python -m benchmarks.neighbours --sizes 50000 200000 --features 384

Rows are made: 200 clusters of 24 dimensions, turned into as many features, with noise, of length 1. Recall is the share
of the exact neighbours of 1,000 rows that are found; seconds are of this process's processors.
"""

import argparse
import importlib.util
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from raydc.clustering.collective import CollectiveClusters
from raydc.data import Shard

ASKED = 1000
"""Rows of which the exact neighbours are known."""
CLUSTERS, DIMENSIONS, NOISE = 200, 24, 0.3


def made(rows: int, features: int) -> np.ndarray:
    """Directions float32 [rows, features]."""
    draw = np.random.default_rng(0)
    centres, turn = draw.normal(size=(CLUSTERS, DIMENSIONS)) * 2, draw.normal(size=(DIMENSIONS, features))
    found = np.empty((rows, features), np.float32)
    for part in np.array_split(np.arange(rows), max(1, rows // 50_000)):
        inner = centres[draw.integers(CLUSTERS, size=len(part))] + draw.normal(size=(len(part), DIMENSIONS))
        x = inner @ turn / DIMENSIONS**0.5 + NOISE * draw.normal(size=(len(part), features))
        found[part] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found


def exact(x: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """The k nearest rows [n, k] of the asked ones, by products alone: lengths are 1."""
    found = []
    for some in np.array_split(asked, max(1, len(asked) // 50)):
        products = x[some] @ x.T
        products[np.arange(len(some)), some] = -np.inf
        found.append(np.argpartition(-products, k, axis=1)[:, :k])
    return np.concatenate(found)


def in_cells(x: np.ndarray, k: int, probes: int) -> np.ndarray:
    z = torch.from_numpy(x)
    return CollectiveClusters(Shard.of(z), 0).neighbours(z, k, probes)[0].numpy()


def by_faiss(x: np.ndarray, k: int, probes: int) -> np.ndarray:
    import faiss  # type: ignore[import-not-found]

    cells = int(2 * len(x) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(x.shape[1]), x.shape[1], cells)
    index.cp.max_points_per_centroid, index.cp.niter = 64, 10
    index.train(x)
    index.add(x)
    index.nprobe = probes
    return index.search(x, k + 1)[1][:, 1:]


def by_pynndescent(x: np.ndarray, k: int, probes: int) -> np.ndarray:
    from pynndescent import NNDescent  # type: ignore[import-not-found]

    return NNDescent(x, n_neighbors=k + 1, random_state=0, n_jobs=1).neighbor_graph[0][:, 1:]


SEARCHES: dict[str, tuple[str, Callable[[np.ndarray, int, int], np.ndarray]]] = {
    "cells": ("raydc", in_cells),
    "faiss IVF": ("faiss", by_faiss),
    "PyNNDescent": ("pynndescent", by_pynndescent),
}
"""By name: the package that it needs, and the search."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "benchmarks.neighbours", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000])
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--count", type=int, default=50, help="neighbours of each row")
    parser.add_argument("--probes", type=int, nargs="+", default=[16])
    parser.add_argument("--searches", nargs="+", choices=[*SEARCHES], default=[*SEARCHES])
    given = parser.parse_args(arguments)
    for rows in given.sizes:
        x = made(rows, given.features)
        asked = np.random.default_rng(1).permutation(rows)[:ASKED]
        true = exact(x, asked, given.count)
        for name in given.searches:
            package, search = SEARCHES[name]
            if importlib.util.find_spec(package) is None:
                print(f"{rows} rows, {name}: {package} is not installed", flush=True)
                continue
            for probes in given.probes:
                spent, clock = time.process_time(), time.monotonic()
                near = search(x, given.count, probes)[asked]
                spent, clock = time.process_time() - spent, time.monotonic() - clock
                recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(near, true, strict=True)]) / given.count
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                print(
                    f"{rows} rows x {given.features}, {name}, {probes} probes: recall {recall:.3f}, "
                    f"{spent:.0f} CPU-s, {clock:.0f} s, peak so far {peak:.1f} GB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
