import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest
from matplotlib._pylab_helpers import Gcf

from raydc.core.storage import Store
from raydc.data import DataSettings, open_source
from raydc.data.described import Described
from raydc.methods.kmeans import KMeans
from raydc.pipelines.report import facts, page, pictures, report, words, write
from raydc.training.model import ClusteringModel
from tests.support import run_cases


@pytest.fixture(scope="module")
def page_of_images(image_run, tmp_path_factory):
    """A report's folder and files."""
    folder = tmp_path_factory.mktemp("report")
    return folder, report(image_run, str(folder))


def png(data):
    return matplotlib.image.imread(io.BytesIO(data))


def drawn(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return png(buffer.getvalue())


def boxes(figure, texts):
    """Where texts stand on the canvas."""
    figure.canvas.draw()
    return [text.get_window_extent() for text in texts if text.get_text()]


def pictures_of(files):
    return [name for name in files if name.endswith(".png")]


def overlaps(extents):
    return [
        (a, b) for i, a in enumerate(extents) for b in extents[i + 1 :] if a.padded(-1).overlaps(b.padded(-1))
    ]  # fmt: skip


class Links(HTMLParser):
    """Everything in a page that a browser would fetch or run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "link", "iframe", "object"):
            self.found.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href") or name.startswith("on")]


def test_a_table_run(table_run, tmp_path):
    files = report(table_run, str(tmp_path / "report"))
    assert {"rows-pca.png", "sizes.png", "membership.png", "features.png", "confusion.png"} <= set(files)
    assert "members.png" not in files and files[-1] == "index.html"
    assert Store(str(tmp_path / "report")).list() == sorted(files)
    assert matplotlib.get_backend() is not None and not Gcf.figs  # pyplot has no figure of ours


def test_an_image_run(page_of_images):
    folder, files = page_of_images
    assert {"rows-pca.png", "members.png", "training.png"} <= set(files) and "features.png" not in files
    for name in pictures_of(files):
        assert png((folder / name).read_bytes()).std() > 0


def test_the_page_needs_nothing_else_and_holds_every_picture(page_of_images):
    folder, files = page_of_images
    text = (folder / "index.html").read_text()
    assert "The tree of clusters" in text and "--level L" in text and "What sets clusters apart" not in text
    links = Links()
    links.feed(text)
    assert links.found[0] == "explore.html"
    for link, name in zip(links.found[1:], pictures_of(files), strict=True):
        assert base64.b64decode(link.removeprefix("data:image/png;base64,")) == (folder / name).read_bytes()
    assert not re.search(r"https?://|@import|url\(", text)


def test_measures_stand_beside_those_at_the_start(image_run, page_of_images):
    summary = json.loads(Path(image_run, "summary.json").read_text())
    text = (page_of_images[0] / "index.html").read_text()
    for name, value in summary["initial"].items():
        cells = f'<td>{name}</td><td class="number">{page.number(summary["measures"][name])}</td>'
        assert f'{cells}<td class="number">{page.number(value)}</td><td>{page.escape(words.gloss(name))}</td>' in text
    assert page.escape(words.told(summary["verdict"])) in text and page.escape(words.rule(summary["verdict"])) in text


def test_text_from_outside_is_escaped_and_warnings_come_first(table_run, tmp_path):
    found = facts.gather(Store(table_run))
    evil = '<img src=x onerror="alert(1)">'
    harmed = replace(
        found,
        title=evil,
        settings={"data": {"path": evil}},
        summary={**found.summary, "warnings": [evil], "notes": [evil]},
        feature_names=[evil, "$x^2$", "a_b", "\\frac"],
        missing=[evil],
        after=evil,
        profiles=pa.Table.from_pylist([line | {"feature": evil} for line in found.profiles.to_pylist()]),
    )
    write(harmed, Store(str(tmp_path)))
    text = (tmp_path / "index.html").read_text()
    assert evil not in text and text.count("&lt;img src=x") >= 5 and "What sets clusters apart" in text
    assert text.index('class="warning"') < text.index("<table")


def test_rows_that_are_gone_are_left_out_and_the_report_says_so(table_run, tmp_path):
    gone = DataSettings(path=str(tmp_path / "nowhere.parquet"))
    files = report(table_run, str(tmp_path / "report"), data=gone)
    assert "rows-pca.png" not in files and "sizes.png" in files
    assert "nowhere.parquet" in (tmp_path / "report" / "index.html").read_text()


def test_a_method_that_assigns_no_new_rows_is_drawn_from_its_assignments(table_run, tmp_path, monkeypatch):
    monkeypatch.setattr(KMeans, "info", replace(KMeans.info, refuses="its rows alone"))
    copy = Path(shutil.copytree(table_run, tmp_path / "run"))
    assert "rows-pca.png" in report(str(copy), str(tmp_path / "report"))
    shutil.rmtree(copy / "assignments")
    assert "rows-pca.png" not in report(str(copy), str(tmp_path / "less"))
    assert "its rows alone" in (tmp_path / "less" / "index.html").read_text()


def test_a_run_that_is_not_finished_is_refused(table_run, tmp_path):
    with pytest.raises(ValueError, match=r"config\.yaml is missing"):
        report(str(tmp_path), str(tmp_path / "report"))
    (tmp_path / "tune.json").touch()
    with pytest.raises(ValueError, match="holds a search that is not finished: end it with the same command"):
        report(str(tmp_path), str(tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_the_sample_has_the_labels_of_its_rows(table_run):
    store, model = Store(table_run), ClusteringModel.load(Path(table_run, "model"))
    source = open_source(DataSettings(path=_data(table_run), label_column="y"))
    sample = facts.draw(source, store, model, size=100)
    assert 90 <= len(sample.rows) <= 130 and len(set(sample.ids)) == len(sample.ids)
    np.testing.assert_array_equal(sample.labels, model.predict(sample.rows))
    np.testing.assert_allclose(sample.membership, model.memberships(sample.rows).max(1), rtol=1e-5)
    np.testing.assert_allclose(sample.distance, model.assign(sample.rows).distance, atol=1e-6)
    table = run_cases.table()
    at = [int(name.removeprefix("row ")) for name in sample.ids]
    np.testing.assert_allclose(sample.rows[:, 0], table["length"].to_numpy()[at], rtol=1e-6)


def _data(run):
    return json.loads(Path(run, "run.json").read_text())["config"]["data"]["path"]


def test_typical_members_are_near_the_mean_and_the_others_doubtful():
    rows = np.array([[0.0], [1.0], [2.0], [9.0], [10.0]], np.float32)
    labels, membership = np.array([0, 0, 0, 2, 2]), np.array([0.9, 0.4, 0.8, 0.6, 0.7], np.float32)
    none = np.full(5, np.nan, np.float32)
    known = Described(("x",), rows, (0,))
    sample = facts.Sample(rows, np.arange(5), labels, membership, none, None, rows, none, known)
    found = facts.typical(sample, range(3), 2)
    assert set(found) == {0, 2}  # cluster 1 has no rows
    assert found[0][0].tolist() == [1, 0] and found[0][1].tolist() == [1, 2]
    assert found[2][0].tolist() == [3] and found[2][1].tolist() == [3]
    unknown = replace(sample, membership=none, embedding=None)
    assert set(facts.typical(unknown, range(3), 2)[0][1].tolist()) == {0, 2}


def test_projection_copes_with_few_rows_and_one_dimension():
    assert facts.project(np.ones((1, 5)))["PCA"].shape == (1, 2)
    assert facts.project(np.arange(10.0)[:, None])["PCA"].shape == (10, 2)
    spread = np.diag([5.0, 3.0, 0.0]) @ np.random.default_rng(0).normal(size=(3, 50))
    variances = facts.project(spread.T)["PCA"].var(axis=0)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(spread, bias=True))[::-1][:2])


def test_thirty_two_clusters_are_told_apart():
    looks = {(tuple(round(part, 3) for part in pictures.colour(k)), pictures.marker(k)) for k in range(32)}
    assert len(looks) == 32
    for k in range(8, 32):  # the shades of one hue differ in the marker too, for those who cannot see the shade
        assert pictures.marker(k) != pictures.marker(k - 8)


def progress(phases):
    return [
        {
            "phase": name,
            "losses": {"network": 1 / (i + 1), **({"clustering": 0.1} if name == "cluster" else {})},
            "changed": 0.1 if name == "cluster" and i else None,
            "alive": 3 if name == "cluster" else None,
            "largest": 0.5 if name == "cluster" else None,
        }
        for name, epochs in phases
        for i in range(epochs)
    ]


def test_of_very_many_clusters_the_largest_alone_are_numbered():
    labels = np.repeat(np.arange(60), np.arange(1, 61))
    figure = pictures.scatter(np.random.default_rng(0).normal(size=(len(labels), 2)), labels, "title", ("a", "b"))
    axes = figure.axes[0]
    assert sorted(int(text.get_text()) for text in axes.texts) == [*range(20, 60)]
    assert axes.get_title() == "title; the 40 largest are numbered"


@pytest.mark.parametrize("k", [1, 2, 30])
def test_pictures_for_any_number_of_clusters(k):
    draw = np.random.default_rng(k)
    labels = draw.integers(0, k, 400)
    images = {i: (draw.random((3, 1, 4, 4)), draw.random((1, 1, 4, 4))) for i in range(min(k, 4))}
    figures = [
        pictures.scatter(draw.normal(size=(400, 2)), labels, "title", ("a", "b")),
        pictures.sizes(draw.integers(0, 90000, k).tolist()),
        pictures.memberships(draw.random(400), labels, k),
        pictures.contrasts(draw.normal(size=(400, 50)), labels, [f"column {i}" for i in range(50)]),
        pictures.confusion(draw.integers(0, 9, (k, 10)) + 1, [str(i) for i in range(10)]),
        pictures.members(images, (1, 4, 4)),
        pictures.generated(draw.random((min(k, 4), 3, 3, 4, 4)), (3, 4, 4)),
    ]
    for figure in figures:
        assert drawn(figure).std() > 0.01


@pytest.mark.parametrize("k", [2, 10, 30])
def test_numbers_on_the_bars_do_not_overlap(k):
    figure = pictures.sizes([12345 + i for i in range(k)])
    texts = boxes(figure, figure.axes[0].texts)
    assert len(texts) == k and not overlaps(texts)
    assert not overlaps(boxes(figure, figure.axes[0].get_xticklabels()))
    canvas = figure.bbox
    assert all(canvas.x0 <= box.x0 and box.x1 <= canvas.x1 and box.y1 <= canvas.y1 for box in texts)


def test_phases_are_named_without_overlap_and_inside_the_picture():
    phases = [*((f"layer {i}", 5) for i in range(1, 5)), ("denoise", 40), ("pretrain", 100), ("cluster", 60)]
    figure = pictures.curves(progress(phases), 3)
    texts = boxes(figure, figure.axes[0].texts)
    assert len(texts) == 4 and not overlaps(texts)
    assert all(box.y1 <= figure.bbox.y1 for box in texts)
    assert len(figure.axes) == 2
    assert len(pictures.curves(progress([("pretrain", 3)]), 3).axes) == 1  # nothing was clustered


def test_features_are_chosen_by_how_far_apart_they_set_clusters():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    rows = draw.normal(size=(100, 40))
    rows[:, 17] += 8 * labels
    rows[:, 3] = 1.0  # constant: no spread to divide by
    figure = pictures.contrasts(rows, labels, [f"f{i}" for i in range(40)], most=5)
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(shown) == 5 and "f17" in shown and "f3" not in shown
    values = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(values[:, shown.index("f17")], [-1, 1], atol=0.1)


def test_confusion_puts_each_cluster_beside_its_class():
    figure = pictures.confusion([[0, 9], [8, 0], [1, 1]], ["a", "b"])
    order = [int(label.get_text()) for label in figure.axes[0].get_yticklabels()]
    assert order == [1, 0, 2]  # the one left over comes last
    shares = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shares, [[1, 0], [0, 1], [0.5, 0.5]])


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (12345, "12,345"), (0.12345, "0.123"), (float("nan"), "nan")])
def test_numbers_as_people_read_them(value, text):
    assert page.number(value) == text
