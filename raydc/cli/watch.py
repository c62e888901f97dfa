"""raydc watch: new rows against those that a model was trained on."""

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from raydc.data import DataSettings


def run(parser: Any, arguments: Sequence[str], data_of: Callable[[Namespace], "DataSettings"]) -> int:
    """The command, by a parser that knows the options of model, data and Ray; `data_of` reads those of the data."""
    parser.add_argument("--out", required=True, help="directory (or URI) for what is found, and the rows' assignments")
    parser.add_argument("--workers", type=int, default=0, help="processes under Ray; 0 works in this one [0]")
    from raydc.cli.main import DRIFTED, TRY_AGAIN

    parser.epilog = f"Exit code {DRIFTED}: the rows have drifted. 0: they have not."
    given = parser.parse_args(arguments)
    from raydc.pipelines.watch import watch

    result = watch(
        given.model,
        data_of(given),
        given.out,
        workers=given.workers,
        tracking_uri=given.tracking_uri,
        allow_code=given.allow_code,
    )
    _show(result)
    if result["pending"]:
        print(f"raydc: {result['pending']}", file=sys.stderr)
    return DRIFTED if result["drifted"] else TRY_AGAIN if result["pending"] else 0


def _show(result: Mapping[str, Any]) -> None:
    from raydc.cli.console import close, plain_console
    from raydc.core.nouns import counted
    from raydc.pipelines.report.drift_words import RULE

    console = plain_console()
    for note in result["notes"]:
        console.print(f"note: {note}", style="dim")
    table = Table("cluster", "name", "share then", "share now", "moved", title=counted(result["rows"], "row"))
    for each in result["clusters"]:
        table.add_row(each["cluster"], each["name"], f"{each['before']:.1%}", f"{each['now']:.1%}", each["moved"])
    console.print(table)
    if result["dropped"]:
        console.print(f"rows that cannot be used: {result['dropped']:,}, left out", highlight=False)
    for name, place in result["paths"].items():
        console.print(f"{name}: {place}", soft_wrap=True, highlight=False)
    console.print(result["said"], style="bold", soft_wrap=True, highlight=False)
    console.print(f"({RULE})", style="dim", soft_wrap=True, highlight=False)
    close(console, None, result["next"])
