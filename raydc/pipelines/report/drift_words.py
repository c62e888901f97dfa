"""What a comparison of new rows with training rows means, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from raydc.clustering.metrics.drift import ALPHA, LARGE, MODERATE
from raydc.core.nouns import counted
from raydc.pipelines.report.words import percent, significant

SHOWN = 5
OF_COLUMNS = ("unusable", "missing", "input", "category")
"""Kinds of comparisons that are of one column."""
RULE = (
    f"drift: a comparison that chance explains with a probability below {ALPHA:g} among all of them (Holm), and whose "
    f"effect counts: a population stability index of {MODERATE:g} or more (within a cluster {LARGE:g}), a cluster "
    "halved or doubled by at least 2 % of the rows, 5 % more rows that belong nowhere or repeat others, or 2 % of the "
    "rows that lack a value"
)


def verdict(result: Mapping[str, Any]) -> str:
    """In one sentence: whether rows drifted, and in what most."""
    found = [check for check in result["checks"] if check["drifted"]]
    rows = f"{counted(result['rows'], 'row')} against {result['trained_on']:,} trained on"
    if not found:
        few = "; so few rows tell little" if result["rows"] < 100 else ""
        return f"no drift: {counted(len(result['checks']), 'comparison')} of {rows}{few}"
    lines = [of_check(check) for check in most_telling(found)[:SHOWN]]
    more = f"; and {len(found) - len(lines)} more" if len(found) > len(lines) else ""
    return f"drift: {len(found)} of {counted(len(result['checks']), 'comparison')} of {rows}: {'; '.join(lines)}{more}"


def most_telling(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Comparisons that differ, one of each kind first."""
    order = (*OF_COLUMNS, "cluster", "nowhere", "clusters", "distance", "membership", "agreement", "repeats")
    ranked = sorted(found, key=lambda check: -check["effect"])
    first = [next((each for each in ranked if each["kind"] == kind), None) for kind in order]
    leading = [check for check in first if check is not None]
    return leading + [check for check in ranked if check not in leading]


def of_check(check: Mapping[str, Any]) -> str:
    """One comparison."""
    name, before, now = check["name"], check["before"], check["now"]
    shares = f"{percent(before)} -> {percent(now)}"
    where = f" in cluster {name}" if name else ""
    match check["kind"]:
        case "clusters":
            return f"shares of clusters (stability index {check['effect']:.2f})"
        case "cluster":
            return f"cluster {name} {check['detail']}: {shares} of the rows"
        case "nowhere":
            return f"rows that belong nowhere: {shares}"
        case "input":
            beyond = f", {check['detail']}" if check["detail"] else ""
            median = f"{name}: median {significant(before)} -> {significant(now)}"
            return f"{median}{beyond} (stability index {check['effect']:.2f})"
        case "category":
            return f"{name}: {check['detail']} {shares} (stability index {check['effect']:.2f})"
        case "missing":
            return f"{name}: missing in {shares} of the rows"
        case "unusable":
            return f"{name}: values that cannot be used in {shares} of the rows"
        case "repeats":
            return f"rows that repeat others: {shares}"
        case kind:
            return f"{kind}{where} (stability index {check['effect']:.2f})"


def next_step(result: Mapping[str, Any]) -> str:
    """What to do."""
    found = [check for check in result["checks"] if check["drifted"]]
    if not found:
        return "nothing; look again at the next rows"
    of_columns = [check for check in most_telling(found) if check["kind"] in OF_COLUMNS]
    columns, steps = [*dict.fromkeys(check["name"] for check in of_columns)], list[str]()
    if columns:
        steps.append(f"check where {', '.join(columns[:SHOWN])} come from, their units and codes")
    if result["together"]:
        share = percent(result["together"])
        steps.append(f"{share} of the rows that belong nowhere lie together: they may be a cluster of their own")
    steps.append(f"if the rows are right, train anew: raydc train --align-to {result['model']} ... keeps the ids")
    return "; ".join(steps)
