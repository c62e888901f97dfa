"""What a search says of its trials beside the choice: who could not take part, and who won by what it maximises."""

from raydc.methods.base import DistilledMethod, Method
from raydc.search.planner import Finished
from raydc.search.trial import OUT_OF_MEMORY, OUT_OF_TIME, Record


def of_opponent(winner: Record, method: Method) -> list[str]:
    """What to say where an opponent is the answer."""
    if not isinstance(method, DistilledMethod):
        return []
    told = [
        f"the winner is {winner.method}: a network learnt its clusters, for new rows, and says the same of "
        f"{float(method.learnt):.1%} of the training rows"
    ]
    if method.follows_neighbours:
        told.append(
            f"{winner.method} maximises what scores are made of, so {winner.unseen:.0%} of its score counts: that "
            "share its clusters keep among rows that they were not found on"
        )
    return told


def left_out(finished: Finished) -> list[str]:
    """What to say of trials that could not take part."""
    notes = []
    for record in finished.records:
        name, why = f"trial {record.number} ({record.method})", "; ".join(record.problems)
        if record.status == "failed":
            notes.append(f"{name} failed: {why}")
        elif record.status == "lost":
            notes.append(f"{name} was lost, and is tried again by the same command: {why}")
        elif record.status == OUT_OF_MEMORY:
            notes.append(f"{name} had too little memory, and is tried again by the same command: {why}")
        elif record.status == "finished" and not record.has_model(finished.context.store):
            notes.append(f"{name} is left out: its model is gone from {record.folder}")
    wanted = len(finished.first) + finished.context.settings.trials
    late = [record for record in finished.records if record.status == OUT_OF_TIME]
    if missing := wanted - len(finished.records) + len(late):
        begun = ", ".join(f"trial {r.number} ({r.method}) {r.problems[0].partition(' of')[0]}" for r in late)
        notes.append(
            f"out of time: {missing} of {wanted} trials are not finished{f' ({begun})' if begun else ''}; the same "
            "command goes on with them"
        )
    return notes


def not_compared(finished: Finished, opponents: list[int]) -> list[str]:
    """What to say of simpler trials that the winner did not have to beat."""
    by_number = {record.number: record for record in finished.records}
    notes = []
    for number in opponents:
        record = by_number.get(number)
        if record is None:
            why = "out of time"
        elif record.status == "finished":
            why = "it has no replica: out of time, or they failed"
        else:
            why = f"{record.status}: {'; '.join(record.problems)}"
        notes.append(f"the winner was not compared with the simpler trial {number} ({why})")
    return notes
