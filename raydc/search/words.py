"""What a search came to, in words: by which number its winner won, and the trials in the order that shows it."""

from collections.abc import Mapping
from typing import Any

from raydc.pipelines.report.words import gloss, rounded


def chosen_by(summary: Mapping[str, Any]) -> str:
    """By which number the winner won, and against whom."""
    winner, best, criterion = summary["winner"]["number"], summary["best"], summary["criterion"]
    values = summary["criteria"].get(criterion, {})
    if values.get(str(winner)) is None:
        return f"neighbour score {rounded(summary['winner']['score'])}, of one training: no finalist has a {criterion}"
    own = f"{criterion} {values[str(winner)]:.3f}"
    if winner == best:
        return f"{own}, the highest of the finalists ({gloss(criterion)})"
    return (
        f"{own}; trial {best} has {values[str(best)]:.3f}, which trainings do not tell apart from it, and of such the "
        f"simplest is taken ({gloss(criterion)})"
    )


def ranked(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials: the winner, then the finalists by the number that chooses, then the others by their score."""
    winner, values = summary["winner"]["number"], summary["criteria"].get(summary["criterion"], {})

    def order(trial: Mapping[str, Any]) -> tuple[bool, bool, float]:
        value = values.get(str(trial["number"]))
        return trial["number"] != winner, value is None, -(trial["score"] if value is None else value)

    return sorted(summary["trials"], key=order)


def deciding(summary: Mapping[str, Any], number: int) -> float | None:
    """The number that chooses, of a trial that has it."""
    found: float | None = summary["criteria"].get(summary["criterion"], {}).get(str(number))
    return found


def of_scales(summary: Mapping[str, Any]) -> list[str]:
    """What there is to say of the number of clusters, a line each; nothing where it was given."""
    listed, criterion = summary["scales"]["listed"], summary["criterion"]
    if not listed:
        return []
    first, *others = listed
    lines = [
        f"K is a matter of scale: {first['k']} is returned ({_rated(first, criterion)})"
        + ("; the rows also bear" if others else "; no other number was repeated that is a fifth apart")
    ]
    lines += [f"  {one['k']} ({_rated(one, criterion)}): {_becomes(one)}" for one in others]
    return lines


def _rated(one: Mapping[str, Any], criterion: str) -> str:
    value = "" if one["value"] is None else f"{criterion} {one['value']:.3f}, "
    return (
        f"{value}stability {one['stability']:.2f}, {one['clear']} of {one['k']} clusters clear; trial {one['number']}"
    )


def _becomes(one: Mapping[str, Any]) -> str:
    """What becomes of the winner's clusters at another number."""
    merged = [" and ".join(map(str, group)) for group in one["merged"]]
    split = [f"{cluster} into {parts}" for cluster, parts in one["split"]]
    told = [f"clusters {'; '.join(merged)} merge"] * bool(merged) + [f"cluster {', '.join(split)} parts"] * bool(split)
    return ", ".join(told) or "the same clusters, cut otherwise"
