"""What a search came to, in words: by which number its winner won, and the trials in the order that shows it."""

from collections.abc import Mapping
from typing import Any

from raydc.report.words import gloss, rounded


def chosen_by(summary: Mapping[str, Any]) -> str:
    """By which number the winner won, and against whom."""
    winner, best, criterion = summary["winner"]["number"], summary["best"], summary["criterion"]
    values = summary["criteria"].get(criterion, {})
    if values.get(str(winner)) is None:
        return f"neighbour score {rounded(summary['winner']['score'])}, of one training: no finalist has a {criterion}"
    own = f"{criterion} {values[str(winner)]:.3f}"
    if winner == best:
        return f"{own}, the highest of the finalists that are models ({gloss(criterion)})"
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
