"""Raw rows to vectors, once: nothing is lost or doubled, and a model of the vectors takes the raw rows again."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raydc
from raydc.cli.main import main
from raydc.core.errors import WorkersLost
from raydc.core.settings import SettingsError, build
from raydc.data import DataError, DataSettings, open_source
from raydc.data.encoders import EncoderError
from raydc.data.settings import ENCODERS
from raydc.distributed.ray_cluster import connected
from raydc.pipelines import chunks, embed
from raydc.pipelines.assign import assign
from raydc.training.model import ClusteringModel
from raydc.training.model_files import ModelError
from tests.support import run_cases

OWN = """
import numpy as np
from raydc.data.encoders import Encoder

class Letters(Encoder):
    takes = "text"
    version, digest, width, batch = "letters 1", "a" * 64, 3, 8

    def vectors(self, values):
        return np.array([[text.count(letter) for letter in "abc"] for text in values], float)
"""
WORDS = ("aa a b", "bb b c", "cc c a")
TEXTS = [" ".join([WORDS[i % 3]] * (1 + i % 5)) for i in range(300)]


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A table of texts, and an encoder of one's own."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_encoders.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "code"), *sys.path]))
    frame = pd.DataFrame({"key": [f"k{i}" for i in range(300)], "body": TEXTS, "y": [i % 3 for i in range(300)]})
    frame.to_parquet(tmp_path / "texts.parquet", index=False)
    yield tmp_path / "texts.parquet"
    if "my_encoders:Letters" in ENCODERS:
        ENCODERS.forget("my_encoders:Letters")  # other tests' workers do not find its module


def settings(path: Path | str, **values: Any) -> DataSettings:
    return build(DataSettings, {"path": str(path), **values}, at="data")


def of_texts(path: Path, **values: Any) -> DataSettings:
    return settings(path, encoder="my_encoders:Letters", types="body=text", id_column="key", **values)


def clusters(folder: Path | str) -> np.ndarray:
    found: np.ndarray = pd.read_parquet(folder).sort_values("row")["cluster"].to_numpy()
    return found


def test_rows_keep_ids_labels_and_excerpts_and_are_read_as_vectors(texts: Path, tmp_path: Path) -> None:
    found = embed.embed(of_texts(texts, label_column="y"), str(tmp_path / "out"))
    assert (found["rows"], found["width"], found["dropped"]) == (300, 3, 0) and "letters 1" in found["by"]
    rows = pd.read_parquet(tmp_path / "out")
    assert rows["key"].tolist() == [f"k{i}" for i in range(300)] and rows["y"].tolist() == [i % 3 for i in range(300)]
    assert rows["excerpt"].tolist() == TEXTS
    vectors = np.stack(rows["embedding"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    source = open_source(settings(tmp_path / "out", label_column="y"))
    block = source.read(source.pieces[0])
    assert source.identified == "key" and source.columns == ("body",) and source.shape == (3,)
    assert block.x.tobytes() == vectors[: len(block.x)].tobytes() and block.stored["body"][0].as_py() == TEXTS[0]
    assert embed.embed(of_texts(texts, label_column="y"), str(tmp_path / "out"))["written"] == 0
    with pytest.raises(ValueError, match="holds vectors by another encoder than"):
        embed.embed(settings(texts, encoder="wordllama", types="body=text", id_column="key"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="holds other files"):
        embed.embed(of_texts(texts), str(tmp_path))


def test_a_killed_run_goes_on_and_a_damaged_file_is_made_again(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "CHUNK_ROWS", 100)
    monkeypatch.setenv("RAYDC_FAILPOINT", f"embedded:{tmp_path / 'marker'}")
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:  # kills itself once its first file is there
        embed.embed(of_texts(texts), str(out))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (first,) = out.glob("part-*")
    stamp = first.stat().st_mtime_ns
    found = embed.embed(of_texts(texts), str(out))
    assert found["written"] == found["files"] - 1 >= 2 and first.stat().st_mtime_ns == stamp
    whole = pd.read_parquet(out)
    assert whole["key"].tolist() == [f"k{i}" for i in range(300)]
    first.write_bytes(first.read_bytes()[:-20])
    assert embed.embed(of_texts(texts), str(out))["written"] == 1
    pd.testing.assert_frame_equal(pd.read_parquet(out), whole)
    os.utime(texts, (1, 1))
    assert embed.embed(of_texts(texts), str(out))["written"] == found["files"]


@pytest.mark.slow
@pytest.mark.ray
def test_workers_make_the_same_files_also_when_one_dies(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "CHUNK_ROWS", 100)
    embed.embed(of_texts(texts), str(tmp_path / "here"))
    monkeypatch.setenv("RAYDC_FAILPOINT", f"embedded:{tmp_path / 'marker'}")
    with connected(2):
        embed.embed(of_texts(texts), str(tmp_path / "there"), workers=2)
        assert (tmp_path / "marker").exists()
        frame = pd.read_parquet(texts)
        frame.loc[7, "key"] = None
        frame.to_parquet(tmp_path / "bad.parquet", index=False)
        with pytest.raises(DataError, match="row 7, column key: null"):
            embed.embed(of_texts(tmp_path / "bad.parquet"), str(tmp_path / "bad"), workers=1)
        found = embed.embed(of_texts(tmp_path / "bad.parquet", on_bad_row="drop"), str(tmp_path / "bad"), workers=1)
    assert found["dropped"] == 1 and "key,null" in (tmp_path / "bad" / "_dropped.csv").read_text()
    for part in (tmp_path / "here").glob("part-*"):
        assert pq.read_table(part).equals(pq.read_table(tmp_path / "there" / part.name))


def test_a_model_of_vectors_takes_raw_rows_and_no_vectors_of_another_encoder(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = embed.with_vectors(of_texts(texts, label_column="y"), str(tmp_path / "run"), 0, print, lambda: None)
    run = run_cases.finished(tmp_path / "run", data.path, **run_cases.KMEANS)
    expected = clusters(f"{run}/assignments")
    assert len(set(zip(expected, [i % 3 for i in range(300)], strict=True))) == 3
    for raw in (texts, data.path):
        assign(run, settings(raw), str(tmp_path / f"of-{Path(raw).name}"))
        np.testing.assert_array_equal(clusters(tmp_path / f"of-{Path(raw).name}"), expected)
    model = ClusteringModel.load(f"{run}/model")
    np.testing.assert_array_equal(model.predict(pd.read_parquet(texts)), expected)
    assign(run, settings(texts, encoder="my_encoders:Letters"), str(tmp_path / "named"))
    with pytest.raises(DataError, match="wordllama, but the model was trained on vectors by my_encoders:Letters"):
        assign(run, settings(texts, encoder="wordllama"), str(tmp_path / "other"))
    embed.embed(settings(texts, encoder="wordllama", types="body=text"), str(tmp_path / "others"))
    with pytest.raises(EncoderError, match=r"holds vectors by wordllama .*, and the model takes those by my_encoders"):
        assign(run, settings(tmp_path / "others"), str(tmp_path / "other"))
    monkeypatch.setattr("raydc.core.registries._registered", {})
    with pytest.raises(ModelError, match=r"the model's encoder is my_encoders:Letters, .* --allow-code my_encoders"):
        ClusteringModel.load(f"{run}/model")
    allowed = ClusteringModel.load(f"{run}/model", ["my_encoders:Letters"])
    np.testing.assert_array_equal(allowed.predict(pd.read_parquet(texts)), expected)


def test_nothing_is_encoded_into_a_directory_of_something_else(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds other files"):
        embed.with_vectors(of_texts(texts), str(tmp_path), 0, print, lambda: None)
    assert not (tmp_path / "embedded").exists()
    with pytest.raises(SettingsError, match="expected an encoder, such as wordllama"):
        embed.embed(settings(texts), str(tmp_path / "out"))
    embed.embed(of_texts(texts), str(tmp_path / "out"))
    with pytest.raises(DataError, match="all features of a row; leave them out"):
        embed.embed(settings(tmp_path / "out", encoder="wordllama"), str(tmp_path / "again"))


def test_a_column_is_not_written_over_by_what_stands_beside_vectors(texts: Path, tmp_path: Path) -> None:
    pd.read_parquet(texts).rename(columns={"key": "excerpt"}).to_parquet(tmp_path / "named.parquet")
    named = settings(tmp_path / "named.parquet", encoder="my_encoders:Letters", types="body=text", id_column="excerpt")
    with pytest.raises(DataError, match="column excerpt has a name that vectors are written with; rename it"):
        embed.embed(named, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_a_worker_cannot_be_given_back_is_said(texts: Path, tmp_path: Path) -> None:
    found = embed.embed(of_texts(texts), str(tmp_path / "out"))
    (tmp_path / "out" / f"part-{0:012d}.parquet").unlink()
    source = open_source(of_texts(texts))
    with pytest.raises(WorkersLost, match="1 file missing; run the same command again"):
        embed._summarise(embed.Store(found["out"]), chunks.cut(source.pieces, embed.FEWEST), source, {})


def draw(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(seed + i).integers(0, 60, (50, 70, 3), np.uint8)
        pixels[..., i % 3] += 150
        Image.fromarray(pixels).save(folder / f"{i:03d}.{'png' if i % 2 else 'jpg'}")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("kind", ["efficientnet-lite0", "wordllama"])
def test_raw_files_get_the_clusters_of_training_by_command_and_from_the_registry(
    kind: str, texts: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    there, raw, more = ["--tracking-uri", uri], texts, ["--data.types", "body=text"]
    if kind == "efficientnet-lite0":
        draw(tmp_path / "pictures", 18, 0)
        raw, more = tmp_path / "pictures", []
    train = ["train", "--data", str(raw), "--encoder", kind, "--method", "kmeans", "--n-clusters", "3", *more, *there]
    assert main([*train, "--workers", "2", "--out", str(tmp_path / "run"), "--register", "raw"]) == 0
    assert main([*train, "--workers", "0", "--out", str(tmp_path / "alone")]) == 0
    expected = clusters(tmp_path / "run" / "assignments")
    np.testing.assert_array_equal(clusters(tmp_path / "alone" / "assignments"), expected)
    for workers in "02":
        out = str(tmp_path / f"assigned-{workers}")
        line = ["assign", "--model", "models:/raw/1", "--data", str(raw), "--out", out, "--workers", workers, *there]
        assert main(line) == 0
        np.testing.assert_array_equal(clusters(out), expected)
    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model("models:/raw/1")
    if kind == "wordllama":
        rows = pd.read_parquet(raw)[["body"]]
    else:
        rows = pd.DataFrame({"image": [path.read_bytes() for path in sorted(raw.iterdir())]})
    np.testing.assert_array_equal(served.predict(rows)["cluster"], expected)
    assert main(["report", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 0


def test_python_makes_the_vectors_that_the_command_makes(texts: Path, tmp_path: Path) -> None:
    asked = {"data.types": ["body=text"], "data.id_column": "key"}
    made = raydc.embed(texts, "my_encoders:Letters", tmp_path / "vectors", settings=asked)
    embed.embed(
        settings(texts, encoder="my_encoders:Letters", types="body=text", id_column="key"), str(tmp_path / "as")
    )
    assert made["rows"] == 300 and made["out"] == str(tmp_path / "vectors")
    ours, theirs = (pd.read_parquet(tmp_path / name) for name in ("vectors", "as"))
    pd.testing.assert_frame_equal(ours, theirs)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    of_vectors = raydc.train(tmp_path / "vectors", "kmeans", 3, out=tmp_path / "run", workers=0, tracking_uri=uri)
    at_once = raydc.train(
        texts, "kmeans", 3, out=tmp_path / "at-once", encoder="my_encoders:Letters", workers=0, tracking_uri=uri,
        settings=asked,
    )  # fmt: skip
    assert (of_vectors.labels == at_once.labels).all()
    with pytest.raises(SettingsError, match=r"data.encoder: is given twice"):
        raydc.tune(texts, out=tmp_path / "twice", encoder="wordllama", settings={"data.encoder": "wordllama"})
    with pytest.raises(SettingsError, match="method: embed takes settings of data alone"):
        raydc.embed(texts, "wordllama", tmp_path / "other", settings={"method.name": "kmeans"})
