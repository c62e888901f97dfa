"""A search as one HTML page: what was chosen and why, the finalists side by side, every trial, cost, pictures."""

from collections.abc import Mapping
from typing import Any

from raydc.report import page
from raydc.utils.storage import Store

CAPTIONS = {
    "settings": "Score against each suggested setting; grey: stopped early, red: guarded",
    "importance": "How much of the score's variance each setting explains",
    "stability": "Finalists: modularity against stability over replicas",
    "rungs": "Score while trials were trained",
    "clusters": "Stability of each of the winner's clusters over its replicas (Hennig's Jaccard)",
    "k-curve": "Score by number of clusters",
}


def write(summary: Mapping[str, Any], pictures: Mapping[str, bytes], to: Store) -> list[str]:
    """The pictures, PNG by name, and index.html, which holds them; the files' names."""
    winner, finalists = summary["winner"], {f["number"]: f for f in summary["finalists"]}
    methods = {t["number"]: t["method"] for t in summary["trials"]}
    criteria = summary["criteria"]
    shown = ("number", "method", "status", "n_clusters", "score", "seconds")
    parts = [
        page.warnings(summary["notes"]),
        page.table(("what", "value"), _about(summary)),
        page.heading("Finalists"),
        page.note(f"By mean over replicas where a criterion needs them; {summary['criterion']} chooses."),
        page.table(
            ("trial", "method", "spread", *criteria),
            [
                (str(number), methods[number], one["spread"], *(criteria[name][str(number)] for name in criteria))
                for number, one in finalists.items()
            ],
        ),
        *(page.picture(png, CAPTIONS[name]) for name, png in pictures.items()),
        page.heading("What is said of each row"),
        page.trust(),
        page.heading("Trials"),
        page.table(
            ("trial", "method", "status", "K", "score", "seconds", "why"),
            [
                (*(str(t[name]) if name == "number" else t[name] for name in shown), "; ".join(t["problems"]))
                for t in sorted(summary["trials"], key=lambda t: -t["score"])
            ],
        ),
        page.settings(winner["settings"]),
    ]
    title = f"Search: trial {winner['number']} of {len(summary['trials'])}, {winner['method']}"
    files = {f"{name}.png": png for name, png in pictures.items()}
    files["index.html"] = page.page(title, parts).encode()
    for name, data in files.items():
        to.write_bytes(name, data)
    return [*files]


def _about(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    winner, cost = summary["winner"], summary["cost"]
    return [
        ("chosen", f"trial {winner['number']}, replica {winner['replica']}: {winner['method']}"),
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
