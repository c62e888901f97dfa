"""The page of new rows against training rows."""

from collections.abc import Mapping
from typing import Any

from raydc.core.nouns import counted
from raydc.pipelines.report import drift_words, page

COLUMNS = ("comparison", "of", "before", "now", "effect", "counts from", "p, of all", "drift")


def page_of(result: Mapping[str, Any]) -> str:
    """The whole page: the verdict, what drifted, clusters, and every comparison."""
    found = [check for check in result["checks"] if check["drifted"]]
    parts = [page.warnings([result["said"]]) if found else page.note(result["said"])]
    parts += [page.note(f"next: {result['next']}"), page.note(f"({drift_words.RULE})")]
    parts.append(
        page.note(
            f"{result['data']}, assigned by {result['model']}; {counted(result['dropped'], 'row')} left out, unusable"
        )
    )
    if found:
        parts += [page.heading("What drifted"), page.table(("in words",), [(drift_words.of_check(c),) for c in found])]
    parts.append(page.heading("Clusters"))
    clusters = [
        (each["cluster"], each["name"], f"{each['before']:.1%}", f"{each['now']:.1%}", each["rows"], each["moved"])
        for each in result["clusters"]
    ]
    parts.append(page.table(("cluster", "name", "share then", "share now", "rows now", "moved"), clusters))
    parts.append(page.heading("Rows that belong nowhere"))
    said = f"farther out than 99 % of the rows trained on: {counted(result['nowhere'], 'row')}"
    if result["together"]:
        said += f"; {result['together']:.0%} of them lie together, as wide as a cluster: one of their own"
    parts += [page.note(said), page.heading("All comparisons")]
    rows = [
        (
            check["kind"],
            check["name"],
            float(check["before"]),
            float(check["now"]),
            float(check["effect"]),
            float(check["threshold"]),
            f"{check['adjusted']:.1e}",
            "drift" if check["drifted"] else "",
        )
        for check in result["checks"]
    ]
    parts.append(page.table(COLUMNS, rows))
    return page.page("New rows against those trained on", parts)
