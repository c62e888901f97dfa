"""The interactive page in a real browser: hover, filters, lasso, downloads, and decisions that `raydc edit` takes."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raydc.cli.main import main
from raydc.core.storage import Store
from raydc.pipelines.report import report
from raydc.tracking.registry import load
from raydc.training.summary import assignments
from tests.support import run_cases

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install raydc[dev]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; CHROMIUM names one"),
]
WHERE = """(row) => {
  const [x, y] = map.place(map.points.x[row], map.points.y[row]), box = map.canvas.getBoundingClientRect();
  return [box.left + (x * box.width) / map.canvas.width, box.top + (y * box.height) / map.canvas.height];
}"""
"""Where on the screen a row is drawn."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pd.DataFrame]:
    """A run on prices, colours and texts, whose ids would be split by a careless CSV."""
    folder, draw = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    kinds = np.arange(150) % 3
    words = ("goal match team", "bank market fund", "star orbit moon")
    rows = pd.DataFrame(
        {
            "id": [f'<b>row, "{i}"</b>' for i in range(150)],
            "price": 1e6 + 10.0 * kinds + draw.normal(size=150),
            "colour": np.array(["red", "green", "blue"])[kinds],
            "note": [" ".join(draw.choice(words[kind].split(), 9)) for kind in kinds],
            "y": kinds,
        }
    )
    rows.to_parquet(folder / "rows.parquet")
    settings = {"data.types": {"note": "text"}, "data.id_column": "id", **run_cases.KMEANS}
    return run_cases.finished(folder / "run", str(folder / "rows.parquet"), **settings), rows


@pytest.fixture
def shown(browser: Any, text_run: tuple[str, pd.DataFrame], tmp_path: Path) -> Iterator[Any]:
    """The page of that run, which may say nothing to the console and fetch nothing."""
    report(text_run[0], str(tmp_path / "report"))
    page, said = browser.new_page(viewport={"width": 1400, "height": 1000}), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda problem: said.append(str(problem)))
    page.on("request", lambda asked: said.append(asked.url) if asked.url.startswith("http") else None)
    page.goto((tmp_path / "report" / "explore.html").as_uri())
    page.wait_for_function("map.points !== undefined && map.owner !== undefined && !map.pending")
    yield page
    page.close()
    assert said == []


def saved(page: Any, button: str, tmp_path: Path) -> Path:
    with page.expect_download() as waiting:
        page.click(button)
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def around(page: Any, rows: list[int]) -> list[tuple[float, float]]:
    """Corners of a box around these rows on the screen."""
    places = np.array([page.evaluate(WHERE, row) for row in rows])
    (left, top), (right, bottom) = places.min(0) - 4, places.max(0) + 4
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def test_hover_says_what_a_row_is(shown: Any, text_run: tuple[str, pd.DataFrame]) -> None:
    rows = text_run[1]
    shown.mouse.move(*shown.evaluate(WHERE, 7))
    box = shown.locator("#hover")
    box.wait_for(state="visible")
    at = rows["id"].tolist().index(box.locator("b").inner_text())  # the row on top, where several are
    assert rows["note"][at] in box.inner_text() and rows["colour"][at] in box.inner_text()
    assert f"{rows['price'][at]:,.2f}"[:-1] in box.inner_text()
    shown.mouse.move(5, 5)
    assert box.is_hidden()


def test_a_lasso_fills_the_table_and_the_download(
    shown: Any, text_run: tuple[str, pd.DataFrame], tmp_path: Path
) -> None:
    rows, (first, *others) = text_run[1], around(shown, [0, 3, 6, 9])
    shown.click("#lasso")
    shown.mouse.move(*first)
    shown.mouse.down()
    for corner in [*others, first]:
        shown.mouse.move(*corner, steps=3)
    shown.mouse.up()
    within = {rows["id"][i] for i in (0, 3, 6, 9)}
    with open(saved(shown, "#download", tmp_path), newline="", encoding="utf-8") as file:
        found = {line["id"]: int(line["cluster"]) for line in csv.DictReader(file)}
    assert within <= {*found} <= {*rows["id"]} and len(found) < len(rows)
    known = pd.concat([part.to_pandas() for part in assignments(Store(text_run[0]))]).set_index("id")["cluster"]
    assert found == {one: known[one] for one in found}
    listed = shown.locator("#rows tbody tr td:first-child").all_inner_texts()
    assert {*listed} == {*found} and f"{len(found)} of 150 rows" in shown.inner_text("#passing")
    shown.click("#all")
    assert shown.inner_text("#passing") == "150 rows"


def test_filters_are_shared_by_all_views(shown: Any, text_run: tuple[str, pd.DataFrame]) -> None:
    rows = text_run[1]
    shown.select_option("#column", label="price")
    shown.fill("#high", "1000005")
    cheap = int((rows["price"] <= 1000005).sum())
    assert shown.inner_text("#passing") == f"{cheap} of 150 rows pass the filters"
    counts = shown.locator("#clusters tbody tr td:nth-child(6)").all_inner_texts()
    assert sum(map(int, counts)) == cheap == shown.evaluate("rows.passes.reduce((sum, one) => sum + one, 0)")
    shown.fill("#text", "goal")
    some = int(((rows["price"] <= 1000005) & rows["note"].str.contains("goal")).sum())
    assert shown.inner_text("#passing").startswith(f"{some} of 150")
    shown.click("#all")
    shown.locator("#clusters tbody tr").first.locator("button").click()
    assert shown.inner_text("#passing").startswith("50 of 150")
    shown.select_option("#colour", label="colour")
    assert {*shown.locator("#legend span:not(.swatch)").all_inner_texts()} == {"red", "green", "blue"}
    shown.locator("#tree path").last.dispatch_event("click")  # the root: all clusters
    assert shown.inner_text("#passing").startswith("150 of 150")


def test_moving_and_zooming_find_the_same_row(shown: Any) -> None:
    before = shown.evaluate(WHERE, 3)
    shown.mouse.move(*before)
    shown.mouse.wheel(0, -400)
    shown.wait_for_function("map.zoom > 1.5 && !map.pending")
    np.testing.assert_allclose(shown.evaluate(WHERE, 3), before, atol=1.5)  # it stays under the pointer
    shown.mouse.down()
    shown.mouse.move(before[0] + 60, before[1] + 30, steps=4)
    shown.mouse.up()
    np.testing.assert_allclose(shown.evaluate(WHERE, 3), [before[0] + 60, before[1] + 30], atol=2.5)


def test_decisions_are_taken_by_edit(
    shown: Any, text_run: tuple[str, pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = text_run[0], tmp_path / "model"
    for place in (1, 2):
        shown.locator("#clusters tbody tr").nth(place).locator("input[type=checkbox]").check()
    shown.click("#merge")
    assert shown.locator("#clusters tbody tr").count() == 2
    name = shown.locator("#clusters tbody tr").first.locator("input.name")
    name.fill("sport")
    name.press("Enter")
    shown.locator("#clusters tbody tr").nth(1).locator("input.name").fill("sport")
    shown.locator("#clusters tbody tr").nth(1).locator("input.name").press("Enter")
    assert "called sport already" in shown.inner_text("#said")
    path = saved(shown, "#save", tmp_path)
    assert json.loads(path.read_text()) == {
        "edits": [
            {"kind": "merge", "clusters": [1, 2]},
            {"kind": "rename", "cluster": 0, "name": "sport"},
        ]
    }
    assert main(["edit", "--model", run, "--decisions", str(path), "--out", str(model)]) == 0
    assert load(str(model)).labels.cells.alive == (0, 1) and load(str(model)).labels.cells.names == {0: "sport"}
    shown.click("#undo")
    shown.click("#undo")
    assert shown.locator("#clusters tbody tr").count() == 3 and shown.locator("#save").is_disabled()


def test_a_level_of_the_tree_becomes_decisions_as_assign_cuts_it(
    shown: Any, text_run: tuple[str, pd.DataFrame], tmp_path: Path
) -> None:
    shown.locator("#level").fill("2")
    assert shown.locator("#clusters tbody tr").count() == 2
    shown.click("#adopt")
    (merge,) = json.loads(saved(shown, "#save", tmp_path).read_text())["edits"]
    ids = load(text_run[0]).labels.ids_at(2)
    (joined,) = [id_ for id_ in np.unique(ids) if (ids == id_).sum() == 2]
    assert merge == {"kind": "merge", "clusters": np.flatnonzero(ids == joined).tolist()}
