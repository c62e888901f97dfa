"""raydc embed: rows to vectors by an encoder, as Parquet that train and tune read."""

import argparse
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raydc.core.nouns import counted

if TYPE_CHECKING:
    from raydc.data import DataSettings


def run(
    parser: Any,
    arguments: Sequence[str],
    data_of: Callable[[argparse.Namespace], "DataSettings"],
    watched: Callable[[Callable[[threading.Event], Any]], int],
) -> int:
    """The command, by a parser that knows the options of data and Ray; `data_of` reads those of the data, and `watched`
    runs what can be stopped.
    """
    parser.add_argument("--out", required=True, help="directory (or URI) for the vectors")
    parser.add_argument("--workers", type=int, default=0, help="processes under Ray; 0 works in this one [0]")
    given = parser.parse_args(arguments)
    from raydc.cli.console import close, plain_console
    from raydc.pipelines.embed import embed
    from raydc.training.trainer import Interrupted

    def act(stop: threading.Event) -> None:
        def poll() -> None:
            if stop.is_set():
                raise Interrupted(f"files that are complete are kept in {given.out}; the same command makes the others")

        found, console = embed(data_of(given), given.out, given.workers, poll), plain_console()
        for note in found["notes"]:
            console.print(f"note: {note}", style="dim")
        told = f"{counted(found['rows'], 'row')}, {found['width']:,} numbers each, by {found['by']}"
        if found["dropped"]:
            told += f"; {counted(found['dropped'], 'row')} left out, listed in {found['out']}/_dropped.csv"
        console.print(told, style="bold", soft_wrap=True, highlight=False)
        close(console, None, f"train on them: raydc train --data {given.out} ...; the model takes raw rows, too")

    return watched(act)
