"""The interactive page of a run: rows on a map, clusters, their tree and decisions about them, in one file.

The page needs no server, no network and no other package: its script is in it, and its policy lets nothing else run.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from raydc.core.nouns import counted
from raydc.pipelines.report import words
from raydc.pipelines.report.explore.content import contents
from raydc.pipelines.report.facts import Facts
from raydc.pipelines.report.page import escape, warnings

SCRIPTS = ("clusters.js", "map.js", "explore.js")


def page(facts: Facts) -> str:
    """The whole page."""
    found = contents(facts)
    style = _file("explore.css") + _thumbnails(found)
    script = '"use strict";\n' + "\n".join(_file(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_file("explore.html")).substitute(
        policy=policy,
        title=escape(facts.title),
        style=style,
        warnings=warnings(facts.summary.get("warnings") or []),
        answers=_answers(facts, found),
        shown=escape(_shown(facts, found)),
        heads=_heads(found),
        model=escape(facts.named),
        stable=f"{words.STABLE:.2f}",
        data=json.dumps(found, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c"),
        script=script,
    )


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _thumbnails(found: dict[str, Any]) -> str:
    """The sheet of thumbnails, once in the page; its bytes leave the data."""
    if found["thumbnails"] is None:
        return ""
    return f".thumbnail {{ background-image: url({found['thumbnails'].pop('sheet')}); }}"


def _answers(facts: Facts, found: Mapping[str, Any]) -> str:
    """What the page says first: how many clusters, what each is, whether to trust them, what next."""
    summary = facts.summary
    largest = sorted(found["clusters"], key=lambda cluster: -cluster["size"])[:5]
    named = [f"{one['id']} {one['name'] or one['suggested'] or ''}".strip() for one in largest]
    verdict = summary.get("verdict")
    trust = ["Nothing was measured."] if verdict is None else [words.told(verdict), words.rule(verdict)]
    what = "; ".join(f"{name} ({counted(one['size'], 'row')})" for name, one in zip(named, largest, strict=True))
    said = {
        "How many clusters?": [
            f"{counted(summary['found'], 'cluster')} of {counted(summary['rows'], 'row')}.",
            words.of_levels(summary.get("levels") or {}),
        ],
        "What is each?": [f"The largest: {what}.", "Below: their typical members, and what sets them apart."],
        "Can I trust it?": trust,
        "What next?": [facts.after],
    }
    return "".join(
        f"<section><h2>{escape(question)}</h2>{''.join(f'<p>{escape(text)}</p>' for text in texts if text)}</section>"
        for question, texts in said.items()
    )


def _shown(facts: Facts, found: Mapping[str, Any]) -> str:
    """How many rows the page holds, and which."""
    shown, rows = len(found["ids"]), facts.summary["rows"]
    some = f"{shown:,} of {rows:,} rows" if shown < rows else f"All {shown:,} rows"
    if any(each["density"] for each in found["maps"]):
        some += ", of each cluster as many, as far as it has them; grey: where all rows looked at are dense"
    return f"{some}."


def _heads(found: Mapping[str, Any]) -> str:
    """Of the table of rows."""
    names = [*([""] if found["thumbnails"] else []), "id", "cluster", *(["text"] if found["excerpts"] else [])]
    return "".join(f"<th>{escape(name)}</th>" for name in [*names, *(column["name"] for column in found["columns"])])
