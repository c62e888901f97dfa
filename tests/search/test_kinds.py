"""What rows are, and what is searched where nobody says it."""

import numpy as np
import pandas
import pytest

from raydc.cli.main import main
from raydc.data import ArraySource, DataSettings, open_source
from raydc.search import TuneSettings, kinds
from raydc.search.evaluation import ROWS_OF_A_CLUSTER, prepare
from raydc.search.kinds import Rows, methods_for
from raydc.search.space import default_method, load_space, method_choices

DRAWN = np.random.default_rng(0).normal(size=(120, 64)).astype(np.float32)


def of_array(rows, **settings):
    return kinds.kind_of(ArraySource(rows, settings=DataSettings(path="", **settings)), rows)


@pytest.mark.parametrize(
    ("rows", "settings", "kind"),
    [
        (DRAWN, {}, "embeddings"),
        (DRAWN[:, :63], {}, "table"),
        (abs(DRAWN), {}, "table"),
        (DRAWN, {"shape": (8, 8)}, "images"),
    ],
)
def test_arrays_are_told_apart_by_shape_width_and_sign(rows, settings, kind):
    assert of_array(rows, **settings) == kind


def test_columns_are_a_table_and_with_a_text_among_them_texts(tmp_path):
    words = "wide long plain green heavy round early quiet".split()
    notes = [" ".join(np.random.default_rng(i).choice(words, 5)) for i in range(120)]
    for name, more, kind in (("numbers", {}, "table"), ("notes", {"note": notes}, "texts")):
        frame = pandas.DataFrame({f"f{i}": DRAWN[:, i] for i in range(64)} | more)
        frame.to_parquet(tmp_path / f"{name}.parquet")
        source = open_source(DataSettings(path=str(tmp_path / f"{name}.parquet"), types=["note=text"] if more else ()))
        assert kinds.kind_of(source, DRAWN) == kind


def test_no_autoencoder_is_searched_for_embeddings_and_none_but_for_images_where_rows_are_none(caplog):
    embeddings, table = (set(methods_for(Rows(1000, (64,), kind))) for kind in ("embeddings", "table"))
    assert {"kmeans", "imsat", "rim", "temi", "turtle"} <= embeddings < table and not {
        "dec",
        "idec",
        "ae_kmeans",
        "vade",
    } & embeddings
    assert not caplog.records  # of networks that were only asked for
    space = load_space("any")
    rows = Rows(1000, (64,), "embeddings")
    assert method_choices(space, rows)[0] == default_method(space, rows) == "temi" and default_method(space) == "idec"


def test_where_nobody_says_how_many_clusters_the_range_has_rows_for_each(tmp_path):
    np.save(tmp_path / "rows.npy", DRAWN)
    settings = TuneSettings(data={"path": str(tmp_path / "rows.npy")}, out=str(tmp_path / "out"))
    context = prepare(settings)
    assert context.settings.n_clusters == (2, round(0.8 * 120) // ROWS_OF_A_CLUSTER) and context.kind == "embeddings"
    assert prepare(settings.model_copy(update={"n_clusters": (2, 30)})).settings.n_clusters == (2, 30)


@pytest.mark.parametrize(("given", "said"), [("imsta", "did you mean imsat"), ("x/dec.py", "did you mean dec")])
def test_a_space_that_is_not_there_is_answered_with_the_nearest_name(tmp_path, capsys, given, said):
    assert main(["tune", "--data", "digits", "--space", given, "--out", str(tmp_path)]) == 64
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_with_nothing_but_rows_says_what_they_are_and_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", DRAWN + 4 * np.eye(4, 64, dtype=np.float32)[np.arange(120) % 4])
    short = [
        "--trials",
        "2",
        "--replicas",
        "1",
        "--set",
        "method.pretrain.length=2",
        "--set",
        "method.cluster.length=2",
    ]
    assert main(["tune", "--data", "rows.npy", "--concurrent", "0", "--out", "out", *short]) == 0
    said = capsys.readouterr().out
    assert "methods that fit embeddings: temi, " in said and "numbers of clusters: 2..9" in said
