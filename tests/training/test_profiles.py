"""profiles.parquet of a finished run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from raydc.core.storage import Store
from raydc.tracking.registry import load
from raydc.training import profiles
from raydc.training.summary import assignments
from tests.support import run_cases


def test_profiles_are_in_the_features_own_units(table_run):
    found, rows = pq.read_table(Path(table_run, "profiles.parquet")).to_pandas(), run_cases.table().to_pandas()
    labels = load(table_run).predict(rows)
    assert len(found) == 3 * 4
    for line in found.itertuples():
        own, rest = (rows.loc[labels == line.cluster, line.feature], rows.loc[labels != line.cluster, line.feature])
        np.testing.assert_allclose([line.mean, line.rest], [own.mean(), rest.mean()], rtol=1e-5)
        assert line.rows == len(own) and line.direction == ("high" if own.mean() > rest.mean() else "low")
    tall = labels[rows["height"].argmax()]  # of the blob at (0, 0, 9, 0)
    named = json.loads(Path(table_run, "summary.json").read_text())["suggested"]
    assert (
        named[str(tall)].startswith("high height")
        and found[found["cluster"] == tall]["name"].iloc[0] == named[str(tall)]
    )


MOOD, THEMES = "the and of", ("goal match team", "bank price fund", "star orbit moon")


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pd.DataFrame]:
    """A run on numbers far from 0, categories, dates and texts, some of them missing; and its rows."""
    folder, draw = tmp_path_factory.mktemp("mixed"), np.random.default_rng(0)
    y = np.arange(240) % 3
    rows = pd.DataFrame(
        {
            "price": np.where(draw.random(240) < 0.1, np.nan, 1e6 + 10 * y + draw.normal(size=240)),
            "colour": np.array(["red", "green", "blue"])[np.where(draw.random(240) < 0.8, y, 0)],
            "bought": pd.Timestamp("2020-01-01") + pd.to_timedelta(400 * y + draw.integers(0, 30, 240), unit="D"),
            "note": [" ".join(draw.choice(f"{THEMES[kind]} {MOOD}".split(), 9)) for kind in y],
            "y": y,
        }
    )
    rows.loc[::17, "note"] = None
    rows.to_parquet(folder / "rows.parquet")
    types = {"data.types": {"note": "text"}, "data.missing": "impute"}
    return run_cases.finished(folder / "run", str(folder / "rows.parquet"), **run_cases.KMEANS, **types), rows


def test_encoded_columns_are_told_in_their_own_units(mixed_run: tuple[str, pd.DataFrame]) -> None:
    run, rows = mixed_run
    found = pq.read_table(Path(run, "profiles.parquet")).to_pandas()
    assert not found["feature"].str.contains(r"\[").any()  # components of texts say nothing to people
    labels = next(assignments(Store(run)))["cluster"].to_numpy()
    values = {
        "price": rows["price"],
        "colour=red": (rows["colour"] == "red").astype(float),
        "year of bought": 1970 + (rows["bought"] - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=365.2425),
    }
    for feature, numbers in values.items():
        for line in found[(found["feature"] == feature) & (found["kind"] != "term")].itertuples():
            assert line.kind == ("share" if feature == "colour=red" else "feature")
            own, rest = numbers[labels == line.cluster].mean(), numbers[labels != line.cluster].mean()
            np.testing.assert_allclose([line.mean, line.rest], [own, rest], rtol=1e-12)


def test_terms_of_texts_name_their_cluster(mixed_run: tuple[str, pd.DataFrame]) -> None:
    run, rows = mixed_run
    found = pq.read_table(Path(run, "profiles.parquet")).to_pandas()
    named = json.loads(Path(run, "summary.json").read_text())["suggested"]
    labels = next(assignments(Store(run)))["cluster"].to_numpy()
    for cluster, theme in {(cluster, int(y)) for cluster, y in zip(labels, rows["y"], strict=True)}:
        terms = found[(found["cluster"] == cluster) & (found["kind"] == "term")]
        assert {*terms["feature"].head(3)} == {*THEMES[theme].split()} and terms["weight"].is_monotonic_decreasing
        assert {*named[str(cluster)].split(", ")} > {*THEMES[theme].split()}  # beside what its numbers say
        first = terms.iloc[0]
        having = rows["note"].fillna("").str.contains(first["feature"])
        np.testing.assert_allclose([first["mean"], first["rest"]], [having[labels == cluster].mean(), 0])
    assert load(run).labels.suggested_at() == {int(cluster): name for cluster, name in named.items()}


def test_texts_without_a_common_word_have_no_terms() -> None:
    found = profiles.of_texts(["", "", ""], np.array([0, 0, 1]))
    assert found.words == () and profiles.names({}, np.array([0, 1]), [found]) == {}


def test_pixels_give_no_names(image_run):
    assert json.loads(Path(image_run, "summary.json").read_text())["suggested"] == {}
    assert pq.read_table(Path(image_run, "profiles.parquet")).num_rows == 3 * 16
