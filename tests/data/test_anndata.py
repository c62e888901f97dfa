"""Cells of AnnData files are rows, sparse or dense, a piece at a time; genes are known by their names."""

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from raydc.core.settings import build
from raydc.data import DataError, DataSettings, Source, open_source
from raydc.pipelines.assign import assign
from tests.support import run_cases

N, GENES = 240, [f"gene{i}" for i in range(12)]
DRAWN = np.random.default_rng(0).poisson(0.3, (N, len(GENES))).astype(np.float32)
X = DRAWN + 4 * (np.arange(N)[:, None] % 3 == np.arange(len(GENES)) // 4)


def write(path: Path, genes: list[str] = GENES, kind: str = "csr_matrix") -> Path:
    """A file as the format's documentation says, of cells with these genes in this order."""
    x = X[:, [GENES.index(gene) for gene in genes]]
    with h5py.File(path, "w") as file:
        if kind == "array":
            file["X"] = x
        else:
            held, group = (sparse.csr_matrix if kind == "csr_matrix" else sparse.csc_matrix)(x), file.create_group("X")
            group.attrs.update({"encoding-type": kind, "shape": x.shape})
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(held, name)
        file["obsm/X_pca"], file["layers/half"] = x[:, :3], x / 2
        for frame, names in (("obs", [f"cell{i}" for i in range(N)]), ("var", genes)):
            file[f"{frame}/_index"] = names
            file[frame].attrs["_index"] = "_index"
        file["obs/kind/codes"], file["obs/kind/categories"] = np.arange(N) % 3 - 1, ["a", "b"]
        file["obs/count"], file["obs/key"] = x.sum(1), np.arange(N)
    return path


def at(path: Path, **settings: Any) -> Source:
    return open_source(build(DataSettings, {"path": str(path), **settings}, at="data"))


def rows(source: Source) -> np.ndarray:
    parts = [source.read(piece).x for piece in source.pieces]
    return np.concatenate([part.toarray() if sparse.issparse(part) else part for part in parts])


@pytest.mark.parametrize("kind", ["csr_matrix", "array"])
def test_cells_are_rows_with_their_names_labels_and_weights(kind: str, tmp_path: Path) -> None:
    source = at(write(tmp_path / "cells.h5ad", kind=kind), label_column="kind", weight_column="count")
    assert source.kind == ("array" if kind == "array" else "sparse") and source.columns == tuple(GENES)
    assert sparse.issparse(source.read(source.pieces[1]).x) == (kind == "csr_matrix")
    np.testing.assert_array_equal(rows(source), X)
    block = source.read(source.pieces[1])
    start = source.pieces[1].start
    assert block.ids[0] == f"cell{start}" and block.weights is not None and block.weights[0] == X[start].sum()
    labels = source.labels()
    assert labels is not None and [*labels[:4]] == [None, "a", "b", None]
    assert at(tmp_path / "cells.h5ad", id_column="key").read(source.pieces[1]).ids[0] == start


def test_other_matrices_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cells.h5ad")
    assert any("layers/half, obsm/X_pca" in note for note in at(path).notes)
    np.testing.assert_array_equal(rows(at(path, matrix="obsm/X_pca")), X[:, :3])
    assert at(path, matrix="obsm/X_pca").columns == () and at(path, matrix="layers/half").columns == tuple(GENES)
    np.testing.assert_array_equal(rows(at(path, matrix="layers/half", columns="gene3,gene1")), X[:, [3, 1]] / 2)


@pytest.mark.parametrize("matrix", ["X", "obsm/X_pca"])
def test_a_model_finds_its_genes_by_name_whatever_their_order(matrix: str, tmp_path: Path) -> None:
    path = write(tmp_path / "cells.h5ad")
    found = {"data.matrix": matrix, "data.label_column": None}
    run = run_cases.finished(tmp_path / "run", str(path), **run_cases.KMEANS, **found)
    expected = pd.read_parquet(f"{run}/assignments").sort_values("row")["cluster"].tolist()
    other = write(tmp_path / "other.h5ad", GENES[::-1]) if matrix == "X" else path
    assign(run, DataSettings(path=str(other), matrix=matrix), str(tmp_path / "out"))
    assigned = pd.read_parquet(tmp_path / "out").sort_values("row")
    assert assigned["cluster"].tolist() == expected and assigned["id"][5] == "cell5"
    if matrix == "X":
        with pytest.raises(DataError, match=r"has no variable gene11 \(1 of 12\)"):
            assign(run, DataSettings(path=str(write(tmp_path / "few.h5ad", GENES[:11]))), str(tmp_path / "no"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"matrix": "obsm/X_umap"}, "has no obsm/X_umap; there are X, layers/half, obsm/X_pca"),
        ({"matrix": "obs/key"}, "has no obs/key; there are X"),
        ({"matrix": "obsm/X_pca", "columns": "a"}, "have no names; leave it out"),
        ({"columns": "TP53"}, "has no variable TP53"),
        ({"label_column": "type"}, "has no column type in obs; its columns: _index, count, key, kind"),
        ({"weight_column": "kind"}, "kind in .* holds text, expected numbers"),
        ({"encoder": "wordllama"}, "is AnnData, whose rows are numbers already"),
    ],
)
def test_what_a_file_has_not_is_said(settings: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        at(write(tmp_path / "cells.h5ad"), **settings)


def test_files_that_cannot_be_read_by_rows_or_at_all_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"lies as csc.*write it as CSR: adata.X = adata.X.tocsr\(\)"):
        at(write(tmp_path / "columns.h5ad", kind="csc_matrix"))
    with pytest.raises(DataError, match="expected a name of its own for each of 12 variables"):
        at(write(tmp_path / "twice.h5ad", ["gene0", *GENES[:11]]))
    path = write(tmp_path / "cells.h5ad")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="cannot be read as AnnData"):
        at(path)
    with pytest.raises(DataError, match=r"data.matrix: digits is no AnnData file"):
        at(Path("digits"), matrix="obsm/X_pca")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"h5py is missing .*raydc\[anndata\]"):
        at(path)
