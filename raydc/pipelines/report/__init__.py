"""Pictures and tables of a run: PNG files, and one HTML page that holds them all."""

import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from matplotlib.figure import Figure

from raydc.core.nouns import counted
from raydc.core.storage import Store
from raydc.data import DataSettings, Source
from raydc.pipelines.report import explore, page, pictures, words
from raydc.pipelines.report.facts import SAMPLE, Facts, gather, of_winner, project, typical

MEMBERS = 8
TOLD_FEATURES = 4
"""Features that are named of each cluster."""
TOLD_TERMS = 10
"""Terms of its texts."""
SHOWN_CLUSTERS = 60
"""Clusters of which members are shown, at most."""


def report(
    run: str,
    to: str,
    tracking_uri: str | None = None,
    data: DataSettings | None = None,
    allow_code: Collection[str] = (),
    source: Source | None = None,
    shown: int = SAMPLE,
) -> list[str]:
    """Draw a finished run, given by its output directory (or URI) or its MLflow run id, into `to`; the files' names.

    `shown` is how many rows the interactive page holds at most. Rows are opened where the run's settings say, or where
    `data` says, unless `source` has them opened. Raises ValueError if there is no finished run, or if its method does
    not come with raydc and `allow_code` does not name it.
    """
    with opened(run, tracking_uri) as store:
        return write(gather(store, data, allow_code, source, shown, model_of(run, store)), Store(to))


def model_of(run: str, store: Store) -> str:
    """What commands call the model of a run or search, which was opened as this store."""
    return f"runs:/{run}/model" if _recorded(run) else store.root


def _recorded(run: str) -> bool:
    """Whether a run is given by its MLflow id, and not by its directory."""
    return re.fullmatch(r"[0-9a-f]{32}", run) is not None and not os.path.exists(run)


@contextmanager
def opened(run: str, tracking_uri: str | None = None) -> Iterator[Store]:
    """The files of a run or a search, wherever they are."""
    if not _recorded(run):
        yield Store(run)
        return
    from raydc.tracking import registry

    with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        registry.fetch(run, folder, tracking_uri)
        yield Store(folder)


def write(facts: Facts, to: Store) -> list[str]:
    """Write the page, every picture that the facts allow, and the interactive page; the files' names."""
    drawn, parts = told(facts)
    interactive = explored(facts)
    opening = [page.warnings(facts.summary.get("warnings") or []), *_verdict(facts), page.note(f"next: {facts.after}")]
    text = page.page(facts.title, [*opening, *map(page.link, interactive), *parts])
    files = {page.PAGE: text.encode()} | drawn | interactive  # the page first: by it the directory is known
    for name, content in files.items():
        to.write_bytes(name, content)
    return [*drawn, *interactive, page.PAGE]


def explored(facts: Facts) -> dict[str, bytes]:
    """The interactive page by its file's name, where there are rows to show."""
    return {} if facts.sample is None else {page.EXPLORE: explore.page(facts).encode()}


def told(facts: Facts) -> tuple[dict[str, bytes], list[str]]:
    """The pictures that the facts allow, by file name, and the parts of the page, which holds them; not its opening."""
    drawn = [(f"{name}.png", pictures.png(draw()), caption) for name, caption, draw in _drawings(facts)]
    summary = facts.summary
    parts = [
        *([page.note(words.of_alignment(summary["aligned"]))] if "aligned" in summary else []),
        page.table(("what", "value"), _about(facts)),
        page.heading("Measures without labels"),
        page.note(
            "At the end, beside the first clusters: those with which clustering began, or else of its first update."
        ),
        page.table(*_measures(facts)),
    ]
    parts += [*_profiles(facts), *_levels(facts)]
    if summary.get("labels"):
        parts += [
            page.heading("Against known classes"),
            page.note("Labels took no part in training or in choosing anything."),
            page.table(
                ("score", "value", "what it means"), [(k, v, words.gloss(k)) for k, v in summary["labels"].items()]
            ),
        ]
    parts += [page.heading("What is said of each row"), page.trust()]
    parts += [page.picture(png, caption) for _, png, caption in drawn]
    parts += [page.note(f"Not shown: {text}") for text in facts.missing]
    parts += [page.note(text) for text in summary.get("notes") or []]
    parts.append(page.settings(facts.settings))
    return {name: png for name, png, _ in drawn}, parts


def _drawings(facts: Facts) -> list[tuple[str, str, Callable[[], Figure]]]:
    """Name, caption and drawing of each picture, in the order of the page."""
    summary, model = facts.summary, facts.model
    sample = None if facts.sample is None else facts.sample.thinned(SAMPLE)
    n_clusters, images = len(summary["sizes"]), len(model.shape) == 3
    found: list[tuple[str, str, Callable[[], Figure]]] = []
    if sample is not None:
        what = "rows" if sample.embedding is None else "embedding"
        for name, points in project(sample.space).items():
            caption = (
                f"{counted(len(points), 'row')} in two dimensions: {name} of the {what}; numbers name the clusters"
            )
            labels = (f"{name} 1", f"{name} 2")
            title = f"Rows by cluster ({name} of the {what})"
            found.append(
                (f"rows-{name.lower()}", caption, _later(pictures.scatter, points, sample.labels, title, labels))
            )
    found.append(("sizes", "Rows in each cluster", _later(pictures.sizes, summary["sizes"])))
    if sample is not None:
        if not np.isnan(sample.membership).any():
            drawing = _later(pictures.memberships, sample.membership, sample.labels, n_clusters)
            found.append(
                (
                    "membership",
                    "Largest membership of rows: median, middle half, nine tenths; dashed: 1/K, no idea",
                    drawing,
                )
            )
        if images:
            chosen = typical(sample, range(min(n_clusters, SHOWN_CLUSTERS)), MEMBERS)
            rows = {k: (sample.rows[near], sample.rows[far]) for k, (near, far) in chosen.items()}
            some = f" of {len(rows)} of {n_clusters} clusters" if len(rows) < n_clusters else ""
            far = "farthest from it" if np.isnan(sample.membership).any() else "those the model is least sure of"
            caption = f"Members{some}: nearest to the cluster's mean (left), and {far} (right)"
            found.append(("members", caption, _later(pictures.members, rows, model.shape)))
        else:
            caption = "Means of clusters, in standard deviations from the mean of all rows"
            drawing = _later(pictures.contrasts, sample.rows, sample.labels, facts.feature_names)
            found.append(("features", caption, drawing))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        generated = model.samples(MEMBERS)
    if generated is not None and images:
        found.append(
            (
                "generated",
                "Rows that the model generates for each cluster",
                _later(pictures.generated, generated, model.shape),
            )
        )
    if facts.progress:
        found.append(("training", "Training by phase", _later(pictures.curves, facts.progress, n_clusters)))
    if summary.get("table"):
        table = summary["table"]
        classes = summary.get("classes") or range(len(table[0]))
        caption = "Clusters against known classes; each beside the class it stands for"
        found.append(("confusion", caption, _later(pictures.confusion, table, [str(name) for name in classes])))
    return found


def _later(draw: Callable[..., Figure], *values: object) -> Callable[[], Figure]:
    return lambda: draw(*values)


def _about(facts: Facts) -> list[tuple[str, object]]:
    summary = facts.summary
    return [
        ("method", facts.model.method_name),
        ("rows", summary["rows"]),
        ("rows left out", summary.get("dropped", 0)),
        ("clusters with rows", summary["found"]),
        ("features", " x ".join(map(str, facts.model.shape))),
        ("seconds", f"{float(summary.get('seconds') or 0.0):,.1f}"),
    ]


def _verdict(facts: Facts) -> list[str]:
    """How far the clusters can be trusted, and by which rule; nothing where none was given."""
    verdict = facts.summary.get("verdict")
    return [] if verdict is None else [page.heading(words.told(verdict)), page.note(words.rule(verdict))]


def _profiles(facts: Facts) -> list[str]:
    """What sets each cluster apart; nothing where it was not measured, or features are pixels."""
    if facts.profiles is None or len(facts.model.shape) == 3:
        return []
    found = facts.profiles.to_pylist()
    clusters = sorted({line["cluster"] for line in found})[:SHOWN_CLUSTERS]
    texts = any(line["kind"] == "term" for line in found)
    rows = []
    for cluster in clusters:
        own = [line for line in found if line["cluster"] == cluster]
        said = [words.contrasted(line) for line in own if line["kind"] != "term" and line["effect"]]
        terms = [line["feature"] for line in own if line["kind"] == "term"]
        row = (cluster, own[0]["name"], own[0]["rows"], "; ".join(said[:TOLD_FEATURES]))
        rows.append((*row, ", ".join(terms[:TOLD_TERMS])) if texts else row)
    head = ("cluster", "name", "rows looked at", "features", *(["terms"] if texts else []))
    return [
        page.heading("What sets clusters apart"),
        page.note(
            "Features by the size of their effect: mean of the cluster, and of all other rows. A name is suggested "
            "where features have names and effects are large (.8 standard deviations), and of texts by their terms, "
            "which are words that the cluster has more often than others (class-based tf-idf); raydc edit --rename "
            "gives another. profiles.parquet has the rest."
        ),
        page.table(head, rows),
    ]


def _levels(facts: Facts) -> list[str]:
    """What the tree of clusters joins at each level, and how stable that is; nothing where it was not measured."""
    found, joins = facts.summary.get("levels") or {}, facts.model.labels.joins
    if not found:
        return []
    given = facts.model.labels.given
    rows = [
        (int(level), f"{given[joins[-int(level)].first]} and {given[joins[-int(level)].second]}", value, _stable(value))
        for level, value in found.items()
    ]
    return [
        page.heading("The tree of clusters"),
        page.note(words.of_levels(found)),
        page.note(
            "raydc assign --level L joins the clusters to L of them, each called by its lowest number. Stability: how "
            f"alike the trees of random halves of the rows join them (adjusted Rand index); below {words.STABLE:.2f} "
            "it may be chance."
        ),
        page.table(("level", "joined there", "stability", ""), rows),
    ]


def _stable(value: float) -> str:
    return "stable" if value >= words.STABLE else ""


def _measures(facts: Facts) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    measures, initial = facts.summary.get("measures") or {}, facts.summary.get("initial")
    if not initial:
        return ("measure", "value", "what it means"), [(k, v, words.gloss(k)) for k, v in measures.items()]
    head = ("measure", "final", "when clustering began", "what it means")
    return head, [(k, v, initial.get(k), words.gloss(k)) for k, v in measures.items()]


__all__ = ["SAMPLE", "Facts", "explored", "model_of", "of_winner", "opened", "report", "told", "write"]
