"""What the columns of an assignment are worth: is membership calibrated, and does distance tell noise from rows?

    python -m benchmarks.trust --methods kmeans dec --texts rows.npz

Distance: a model is trained on 85 % of the rows, and asked for the others and for 100 rows of noise. Of the others one
in a hundred should stand above .99, as of the training rows; of noise all should. Membership: of rows from overlapping
mixtures the mean largest membership should be the share that is with its own component, also within each tenth of
memberships (the expected calibration error is the mean gap there). What is noise, and which component a row is from, is
known because it is made here; no class labels are read.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits

from raydc import DeepClustering
from raydc.clustering.distances import FAR

NOISE = 100
Rows = NDArray[np.float32]


def unit(x: NDArray[Any]) -> Rows:
    """Rows of length one."""
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def embeddings(draw: np.random.Generator, rows: int = 2934, dim: int = 64, clusters: int = 10) -> Rows:
    """Directions around `clusters` random ones."""
    centres = unit(draw.normal(size=(clusters, dim)))
    return unit(centres[draw.integers(clusters, size=rows)] + 0.7 * draw.normal(size=(rows, dim)) / np.sqrt(dim))


def permuted(draw: np.random.Generator, x: Rows) -> Rows:
    """Noise with the rows' own values in each feature, drawn from another row for each."""
    return np.stack([draw.choice(x[:, j], NOISE) for j in range(x.shape[1])], axis=1)


def sets(draw: np.random.Generator, texts: str | None) -> Iterator[tuple[str, int, Rows, dict[str, Rows]]]:
    """Name, number of clusters, rows, and noise by its kind."""
    x = embeddings(draw)
    yield "embeddings", 10, x, {"any direction": unit(draw.normal(size=(NOISE, 64))), "permuted": permuted(draw, x)}
    x = load_digits().data.astype(np.float32)
    uniform = draw.uniform(0, 16, size=(NOISE, 64)).astype(np.float32)
    yield "digits", 10, x, {"uniform": uniform, "permuted": permuted(draw, x)}
    if texts is not None:
        x = np.load(texts)["X"].astype(np.float32)
        x = x[draw.permutation(np.flatnonzero(x.any(axis=1)))[:2350]]
        yield "texts", 20, x, {"permuted": unit(permuted(draw, x))}


def mixtures(draw: np.random.Generator, rows: int = 4000) -> Iterator[tuple[str, Rows, NDArray[np.int64]]]:
    """Name, rows, and the component of each, of five."""
    of = draw.integers(5, size=rows)
    for dim in (2, 5, 20, 100):
        centres = 3 / np.sqrt(dim) * draw.normal(size=(5, dim))
        yield f"round, {dim} features", (centres[of] + draw.normal(size=(rows, dim))).astype(np.float32), of
    spread = np.geomspace(1, 0.05, 20)
    x = 1.8 * draw.normal(size=(5, 20))[of] + draw.normal(size=(rows, 20))
    yield "long, 20 features", (x * spread).astype(np.float32), of
    of = draw.choice(5, size=rows, p=[0.5, 0.25, 0.15, 0.07, 0.03])
    x = 2 * draw.normal(size=(5, 5))[of] + draw.normal(size=(rows, 5))
    yield "unequal sizes, 5 features", x.astype(np.float32), of


def right(clusters: NDArray[np.int64], of: NDArray[np.int64], k: int = 5) -> NDArray[np.bool_]:
    """Whether each row's cluster is the one that stands for its component (one to one, as many rows as possible)."""
    table = np.zeros((k, k), np.int64)
    np.add.at(table, (clusters, of), 1)
    return linear_sum_assignment(-table)[1][clusters] == of


def gap(membership: Rows, correct: NDArray[np.bool_]) -> float:
    """Expected calibration error (Naeini, Cooper & Hauskrecht, AAAI 2015) over tenths."""
    tenth = np.minimum((10 * membership).astype(int), 9)
    found = [(tenth == t, abs(membership[tenth == t].mean() - correct[tenth == t].mean())) for t in np.unique(tenth)]
    return float(sum(inside.mean() * apart for inside, apart in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["kmeans"])
    parser.add_argument("--texts", help="an .npz whose X are tf-idf rows")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for method in given.methods:
        draw = np.random.default_rng(given.seed)
        for name, x, of in mixtures(draw):
            model = DeepClustering(method, 5).fit(x[:3000])
            found = model.assign(x[3000:])
            correct = right(found.clusters, of[3000:])
            said = f"mean membership {found.membership.mean():.3f}, right {correct.mean():.3f}"
            print(f"{method}, {name}: {said}, calibration error {gap(found.membership, correct):.3f}", flush=True)
        for name, k, x, noises in sets(draw, given.texts):
            order = draw.permutation(len(x))
            cut = int(0.85 * len(x))
            model = DeepClustering(method, k).fit(x[order[:cut]])
            others = model.assign(x[order[cut:]])
            said = f"others {(others.distance > FAR).mean():.1%} (mean membership {others.membership.mean():.3f})"
            for kind, noise in noises.items():
                found = model.assign(noise)
                said += f", {kind} noise {(found.distance > FAR).mean():.0%} ({found.membership.mean():.3f})"
            print(f"{method}, {name}, above {FAR}: {said}", flush=True)


if __name__ == "__main__":
    main()
