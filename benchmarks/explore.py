"""How fluent the interactive page is, in a real browser without a graphics card.

    python -m benchmarks.explore --rows 300 100000

k-means clusters blobs of so many rows, the page of all of them is drawn and opened, and its map is dragged and zoomed.
Told are the page's size, the time to its first paint and to its map, frames a second while it moves, and milliseconds
of the script for a frame, a filter and a lasso: medians, and in brackets the best, as other work only adds.
CHROMIUM names the browser where `chromium` is not on the path.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from raydc import train
from raydc.pipelines.report import report

MOVES, REPEATS = 60, 20
FRAMES = """() => {
  window.frames_ = [];
  const tick = (time) => { window.frames_.push(time); requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
}"""
TIMED = """([name, repeats]) => {
  const actions = {
    frame: () => map.paint(),
    filter: () => filter(),
    lasso: () => { map.polygon = [[0, 0], [400, 0], [400, 300], [0, 300]]; map.inside(); map.polygon = []; },
  }, times = [];
  for (let i = 0; i < repeats; i++) {
    const begin = performance.now();
    actions[name]();
    times.push(performance.now() - begin);
  }
  return times;
}"""


def made(rows: int, folder: Path) -> Path:
    """The interactive page of ten blobs in eight columns."""
    draw = np.random.default_rng(0)
    centres = 4 * draw.normal(size=(10, 8))
    np.savez(folder / "rows.npz", X=(centres[draw.integers(0, 10, rows)] + draw.normal(size=(rows, 8))).astype("f4"))
    run = train(
        folder / "rows.npz", "kmeans", 10, out=folder / "run", workers=0, tracking_uri=f"sqlite:///{folder}/mlflow.db"
    )
    report(run.out, str(folder / "report"), shown=rows)
    return folder / "report" / "explore.html"


def moved(page: Page) -> float:
    """Frames a second while the map is dragged and zoomed."""
    box = page.locator("#map").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 3, box["y"] + box["height"] / 3
    page.mouse.move(x, y)
    page.evaluate(FRAMES)
    page.mouse.down()
    for step in range(MOVES):
        page.mouse.move(x + 3 * step, y + 2 * step)
    page.mouse.up()
    for _ in range(MOVES // 3):
        page.mouse.wheel(0, -30)
    times = np.diff(page.evaluate("window.frames_"))
    return float(1000 * len(times) / times.sum())


def measured(page: Page, path: Path) -> dict[str, Any]:
    """What is told of one page."""
    page.goto(path.as_uri())
    page.wait_for_function("map.points !== undefined && map.owner !== undefined && !map.pending")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    ready = page.evaluate("performance.now()")
    found = {"MB": path.stat().st_size / 1e6, "first paint ms": paint, "map ms": ready, "frames/s": moved(page)}
    shown = {name: f"{value:,.1f}" for name, value in found.items()}
    for name in ("frame", "filter", "lasso"):
        times = page.evaluate(TIMED, [name, REPEATS])
        shown[f"{name} ms"] = f"{np.median(times):.0f} ({min(times):.0f})"
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[300, 10_000, 100_000])
    given = parser.parse_args()
    browser_at = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_at, args=["--no-sandbox"])
        for rows in given.rows:
            with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
                page = browser.new_page(viewport={"width": 1400, "height": 1000})
                found = measured(page, made(rows, Path(folder)))
                page.close()
            print(f"{rows:,} rows:", ", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
