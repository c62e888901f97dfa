"""A search as one HTML page: what was chosen and why, the finalists side by side, every trial, cost, pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from raydc.core.storage import Store
from raydc.pipelines.report import page
from raydc.pipelines.report.words import NO_STRUCTURE, gloss, rule, told
from raydc.search.words import chosen_by, deciding, of_scales, ranked

CAPTIONS = {
    "settings": "Score against each suggested setting; grey: stopped early, red: guarded",
    "importance": "How much of the score's variance each setting explains",
    "stability": "Finalists: modularity against stability over replicas",
    "rungs": "Score while trials were trained",
    "clusters": "Stability of each of the winner's clusters over its replicas (Hennig's Jaccard)",
    "k-curve": "Score by number of clusters; the band: lowest and highest of k-means on subsamples",
    "merge-tree": "What merges into what, and how firm each node is (Jaccard over replicas)",
}


def write(
    summary: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    to: Store,
    run: tuple[Mapping[str, bytes], Sequence[str]] = ({}, ()),
    interactive: Mapping[str, bytes] | None = None,
) -> list[str]:
    """The pictures, PNG by name, and index.html, which holds them; the files' names.

    `run` is the report of the winner's run: its pictures by file name, and its parts; `interactive` is its other page,
    by its file's name.
    """
    winner, drawn = summary["winner"], {name: page.picture(png, CAPTIONS[name]) for name, png in pictures.items()}
    parts = [
        *_verdict(summary),
        page.warnings(summary["notes"]),
        page.table(("what", "value"), _about(summary)),
        *_scales(summary, drawn),
        page.heading("Finalists"),
        page.note(f"By mean over replicas where a criterion needs them, in the order of {summary['criterion']}."),
        page.table(*_finalists(summary)),
        page.table(("measure", "what it means"), [(name, gloss(name)) for name in ("spread", *summary["criteria"])]),
        *drawn.values(),
        page.heading("Trials"),
        page.note(f"The winner, finalists by {summary['criterion']}, then the others by their score of one training."),
        page.table(*_trials(summary)),
        page.settings(winner["settings"]),
        page.heading(f"The winner's run: trial {winner['number']}, replica {winner['replica']}"),
        *run[1],
    ]
    title = f"Search: trial {winner['number']} of {len(summary['trials'])}, {winner['method']}"
    files = {page.PAGE: page.page(title, parts).encode()}  # first: by it the directory is known
    files |= {f"{name}.png": png for name, png in pictures.items()}
    files |= {f"run-{name}": png for name, png in run[0].items()} | dict(interactive or {})
    for name, data in files.items():
        to.write_bytes(name, data)
    return [*files]


def _verdict(summary: Mapping[str, Any]) -> list[str]:
    """That there is no structure, if so; what the replicas say of the winner's clusters, and by which rule."""
    verdict = summary["verdict"]
    found = [] if summary["structure"] else [page.heading(NO_STRUCTURE)]
    return found if verdict is None else [*found, page.heading(told(verdict)), page.note(rule(verdict))]


def _scales(summary: Mapping[str, Any], drawn: dict[str, str]) -> list[str]:
    """What there is to say of the number of clusters, with its pictures, which are taken out of `drawn`."""
    found = [drawn.pop(name) for name in ("k-curve", "merge-tree") if name in drawn]
    lines = [page.note(line.strip()) for line in of_scales(summary)]
    return [page.heading("The number of clusters"), *lines, *found] if found or lines else []


def _finalists(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    criteria, spread = summary["criteria"], {one["number"]: one["spread"] for one in summary["finalists"]}
    ordered = [trial for trial in ranked(summary) if trial["number"] in spread]
    lines = [
        (
            str(t["number"]),
            t["method"],
            t["n_clusters"],
            spread[t["number"]],
            *(v[str(t["number"])] for v in criteria.values()),
        )
        for t in ordered
    ]
    return ("trial", "method", "K", "spread", *criteria), lines


def _trials(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    shown = ("method", "status", "n_clusters", "score", "seconds")
    lines = [
        (str(t["number"]), deciding(summary, t["number"]), *(t[name] for name in shown), "; ".join(t["problems"]))
        for t in ranked(summary)
    ]
    return ("trial", summary["criterion"], "method", "status", "K", "score", "seconds", "why"), lines


def _about(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    winner, cost = summary["winner"], summary["cost"]
    return [
        ("chosen", f"trial {winner['number']}, replica {winner['replica']}: {winner['method']}"),
        ("chosen by", chosen_by(summary)),
        ("best before simpler trials were preferred", f"trial {summary['best']}"),
        ("score", winner["score"]),
        ("clusters", winner["n_clusters"]),
        ("noise reaches", max(band[1] for band in summary["null"].values())),
        ("structure", "yes" if summary["structure"] else "no"),
        ("neighbours counted in", summary["reference"]),
        ("why in that space", summary["view"]),
        ("trainings", cost["trainings"]),
        ("seconds of trials", cost["seconds of trials"]),
        ("seconds of replicas", cost["seconds of replicas"]),
    ]
