"""The interactive page: what it holds, and that it stays closed."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from raydc.core.storage import Store
from raydc.data.described import Described
from raydc.pipelines.report import explored, facts, pictures, report, words
from raydc.pipelines.report.explore import content, page
from raydc.pipelines.report.explore.content import contents, stratified, thumbnails
from raydc.training.labels import Join


@pytest.fixture(scope="module")
def told(table_run: str) -> facts.Facts:
    return facts.gather(Store(table_run))


def unpacked(text: str, kind: Any) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), kind)


def sample_of(rows: NDArray[Any], labels: NDArray[np.int64], described: Described | None = None) -> facts.Sample:
    n, none = len(rows), np.full(len(rows), np.nan, np.float32)
    names = tuple(f"f{i}" for i in range(rows.shape[1]))
    known = described or Described(names, rows, tuple(range(len(names))))
    return facts.Sample(rows, np.arange(n), labels, none, none, None, None, none, known)


def test_each_cluster_has_as_many_rows_as_far_as_it_has_them() -> None:
    labels = np.repeat([4, 0, 9], [100, 3, 20])
    chosen = stratified(labels, 45)
    assert np.array_equal(chosen, np.unique(chosen)) and np.array_equal(chosen, stratified(labels, 45))
    assert {int(k): int((labels[chosen] == k).sum()) for k in (4, 0, 9)} == {0: 3, 9: 20, 4: 22}
    assert np.array_equal(stratified(labels, 123), np.arange(123))


def test_the_page_holds_what_the_run_found(told: facts.Facts) -> None:
    found, sample = contents(told), told.sample
    assert sample is not None
    assert np.array_equal(unpacked(found["labels"], np.int32), sample.labels)
    assert found["ids"][:2] == ["row 0", "row 1"] and found["excerpts"] is None and found["thumbnails"] is None
    column = next(one for one in found["columns"] if one["name"] == "height")
    values = column["base"] + unpacked(column["values"], np.float32).astype(np.float64)
    np.testing.assert_allclose(values, sample.described.values[:, 2], atol=1e-6)
    for cluster in found["clusters"]:
        own = sample.labels == cluster["id"]
        assert cluster["size"] == told.summary["sizes"][cluster["id"]] == own.sum()
        assert all(own[row] for row in cluster["typical"]) and cluster["id"] not in cluster["nearest"]
        np.testing.assert_allclose(cluster["confidence"], sample.membership[own].mean(), rtol=1e-6)
    assert len(found["joins"]) == 2 and found["maps"][0]["density"] is None


def test_joins_are_told_in_ids_also_of_a_model_that_keeps_earlier_ones(told: facts.Facts, tmp_path: Path) -> None:
    joins = (Join(first=0, second=2, strength=2), Join(first=0, second=1, strength=1))
    named = told.model.labels.model_copy(update={"given": (7, 5, 6), "joins": joins})
    aligned = replace(told, model=replace(told.model, renamed=named))
    assert contents(aligned)["joins"] == [(7, 6), (7, 5)]


def test_nothing_is_let_in(told: facts.Facts) -> None:
    evil = '</script><script>alert(1)</script><img src="http://x">'
    assert told.sample is not None
    ids = np.array([evil] * len(told.sample.ids))
    text = page(replace(told, title=evil, after=evil, named=evil, sample=replace(told.sample, ids=ids)))
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "eval" not in script and "innerHTML" not in script
    data = json.loads(re.findall(r'type="application/json">(.*?)</script>', text, re.DOTALL)[0])
    assert data["ids"][0] == evil


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("values", ["equal", "far", "wide"])
def test_awkward_rows_have_a_page(told: facts.Facts, rows: int, values: str) -> None:
    draw = np.random.default_rng(0)
    x = {"equal": np.ones((rows, 4)), "far": 1e6 + draw.random((rows, 4)), "wide": draw.random((rows, 4))}[values]
    if values == "wide":
        x[-1] = 1e9
    found = contents(replace(told, sample=sample_of(x, np.arange(rows) % 3)))
    column = next(one for one in found["columns"] if one["name"] == "f1")
    told_values = column["base"] + unpacked(column["values"], np.float32).astype(np.float64)
    np.testing.assert_allclose(told_values, x[:, 1], rtol=1e-7, atol=1e-6)
    assert np.isfinite([found["maps"][0]["low"], found["maps"][0]["high"]]).all()
    assert "NaN" not in json.dumps(found) and page(replace(told, sample=sample_of(x, np.arange(rows) % 3)))


def test_categories_texts_and_missing_values(told: facts.Facts) -> None:
    levels = np.array(["red", "blue", "red", "(missing)"], object)
    texts = np.array(["a" * 300, "", "short", "x"], object)
    known = Described(("price",), np.array([[1.0], [np.nan], [3], [4]]), (0,), {"colour": levels}, {"note": texts})
    found = contents(replace(told, sample=sample_of(np.eye(4), np.array([0, 0, 1, 2]), known)))
    colour, price = found["columns"]
    assert [colour["names"][i] for i in unpacked(colour["values"], np.int32)] == levels.tolist()
    assert np.isnan(unpacked(price["values"], np.float32)).tolist() == [False, True, False, False]
    assert found["excerpts"][1:] == ["", "short", "x"] and len(found["excerpts"][0]) == 200


def test_of_few_rows_each_is_on_the_map_and_of_many_nearly_all() -> None:
    points = np.random.default_rng(0).normal(size=(1000, 2))
    points[0] = 1e6
    low, high = pictures.framed(points[:60])
    assert np.array_equal(low, points[:60].min(0)) and np.array_equal(high, points[:60].max(0))
    assert (pictures.framed(points)[1] < 10).all() and (pictures.framed(points)[0] > points.min(0)).all()


def test_columns_that_set_clusters_apart_are_found_in_sorted_rows(
    told: facts.Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "RANKED", 20)
    rows, labels = np.random.default_rng(0).normal(size=(90, 40)), np.repeat([0, 1, 2], 30)
    rows[:, 33] += 20 * labels
    found = contents(replace(told, sample=sample_of(rows, labels)))["columns"]
    assert found[0]["name"] == "f33" and len(found) == content.COLUMNS


def test_a_thumbnail_is_its_rows_picture() -> None:
    pictures = np.zeros((6, 8, 8))
    for row in range(6):
        pictures[row, row] = 255  # a line each, one below the other
    found = thumbnails(sample_of(pictures.reshape(6, -1), np.zeros(6, np.int64)), (1, 8, 8))
    assert (
        found is not None
        and found["rows"] == [*range(6)]
        and thumbnails(sample_of(np.eye(2), np.zeros(2)), (2,)) is None
    )
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["sheet"].partition(",")[2]))))
    edge, across = found["edge"], found["across"]
    for place, row in enumerate(found["rows"]):
        top, left = edge * (place // across), edge * (place % across)
        brightest = sheet[top : top + edge, left : left + edge].astype(float).mean(axis=1).argmax()
        assert abs((brightest + 0.5) * 8 / edge - (row + 0.5)) < 1


def test_more_rows_than_are_shown_are_seen_as_density(told: facts.Facts) -> None:
    assert told.sample is not None
    found = contents(replace(told, shown=30))
    (density,) = [one["density"] for one in found["maps"] if one["name"] == "PCA"]
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(density["picture"].partition(",")[2]))))
    assert len(found["ids"]) == 30 and grey.min() < 255 == grey.max()
    assert "30 of 300 rows, of each cluster as many" in page(replace(told, shown=30))


def test_without_rows_there_is_no_page(told: facts.Facts, tmp_path: Path) -> None:
    assert explored(replace(told, sample=None)) == {}


def test_the_page_stands_beside_the_report_which_leads_there(table_run: str, tmp_path: Path) -> None:
    assert "explore.html" in report(table_run, str(tmp_path), shown=50)
    assert 'href="explore.html"' in (tmp_path / "index.html").read_text()
    assert f"raydc edit --model {table_run} --decisions" in (tmp_path / "explore.html").read_text()


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ({}, ""),
        ({"2": 0.9, "3": 0.8, "4": 0.2, "5": 0.75}, "stable at levels 2-3, 5"),
        ({"2": 0.1, "3": 0.9}, "stable at level 3"),
        ({"2": 0.1, "3": 0.2}, "stable at no level from 2 to 3"),
    ],
)
def test_levels_in_words(levels: dict[str, float], said: str) -> None:
    assert said in words.of_levels(levels) and bool(said) == bool(words.of_levels(levels))


@pytest.mark.parametrize(
    ("mean", "rest", "said"),
    [
        (1000010.0, 1000000.0, "high a: 1,000,010 (others 1,000,000)"),
        (94120.4, 36770.0, "high a: 94,120 (others 36,770)"),
        (2020.54, 2019.0, "high a: 2020.54 (others 2019)"),
        (999999.6, 1.0, "high a: 1,000,000 (others 1)"),
        (0.123456, 0.5, "high a: 0.1235 (others 0.5)"),
        (2.0, 2.0, "high a: 2 (others 2)"),
        (float("nan"), 1.0, "high a: nan (others 1)"),
        (0.0, -3.0, "high a: 0 (others -3)"),
        (1.5e-7, 2e-7, "high a: 1.5e-07 (others 2e-07)"),
        (1.5e20, 2e20, "high a: 1.5e+20 (others 2e+20)"),
    ],
)
def test_what_differs_is_told_in_digits_that_differ(mean: float, rest: float, said: str) -> None:
    line = {"kind": "feature", "feature": "a", "direction": "high", "mean": mean, "rest": rest}
    assert words.contrasted(line) == said


def test_shares_are_told_in_percent() -> None:
    line = {"kind": "share", "feature": "plan=team", "direction": "high", "mean": 0.9506, "rest": 0.001}
    assert words.contrasted(line) == "plan=team: 95 % (others under 1 %)"
