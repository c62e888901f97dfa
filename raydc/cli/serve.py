"""raydc serve: a model behind an address."""

import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raydc.core.settings import build, described
from raydc.pipelines.serving.settings import Serving

if TYPE_CHECKING:
    from raydc.pipelines.serving.run import Started


def run(parser: Any, arguments: Sequence[str]) -> int:
    """The command, by a parser that knows the options of a Ray cluster."""
    parser.allow_code()
    parser.settings("settings", described(Serving), leave=["allow_code"])
    given = vars(parser.parse_args(arguments))
    given.pop("insecure")
    serving = build(Serving, given)
    from raydc.pipelines.serving.run import serve

    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        stop.set()
        print("raydc: requests in hand are answered, no others", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        serve(serving, _show, stop, lambda said: print(f"raydc: {said}", file=sys.stderr, flush=True))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _show(started: "Started") -> None:
    from raydc.cli.console import close, plain_console

    console = plain_console()
    console.print(f"{started.model} answers at {started.url}", style="bold", soft_wrap=True, highlight=False)
    console.print(f"description: {started.url}/openapi.json", soft_wrap=True, highlight=False)
    for address in started.metrics:
        console.print(f"metrics: {address}", soft_wrap=True, highlight=False)
    token = " -H 'Authorization: Bearer TOKEN'" if started.token else ""
    close(console, None, f"curl{token} {started.url}/model tells what a row has to be; Ctrl-C ends the server")
