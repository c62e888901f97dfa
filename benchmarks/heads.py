"""What heads make of embeddings beside k-means, spherical k-means, Ward and IMSAT: last iterates, over seeds.

    python -m benchmarks.heads --data embeddings.npz --out heads/embeddings

Takes at most --rows rows at random and --components principal components of them, of length 1 each, and hands them to
`benchmarks.quality`, which trains, scores and keeps the tables, one for each of RUNS. Classes give K and the scores,
and nothing else.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from benchmarks import quality

RUNS = {
    "spherical": ["--methods=kmeans", "--set=method.spherical=true"],
    "heads": ["--methods=turtle,temi", "--set=method.network.heads=8", "--set=method.network.hidden=[128,64]"],
    "others": ["--methods=kmeans,imsat"],
}
"""Tables, and what they hold; TEMI's heads are small, as rows have few features."""


def prepared(path: str, rows: int, components: int, out: Path) -> str:
    """The embeddings' part as .npz; its path."""
    with np.load(path) as given:
        x, y = given["X"], given["y"]
    kept = np.sort(np.random.default_rng(0).permutation(len(x))[:rows])
    found = PCA(min(components, x.shape[1]), random_state=0).fit_transform(x[kept].astype(np.float32))
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / Path(path).name, X=normalize(found).astype(np.float32), y=y[kept])
    return str(out / Path(path).name)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "benchmarks.heads", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help=".npz with embeddings X [N, D] and classes y")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", required=True)
    given = parser.parse_args(arguments)
    out = Path(given.out)
    common = ["--data", prepared(given.data, given.rows, given.components, out), f"--seeds={given.seeds}"]
    for name, asked in RUNS.items():
        quality.main([*common, *asked, f"--out={out / name}"])


if __name__ == "__main__":
    main()
