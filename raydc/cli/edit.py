"""raydc edit: mend a model's clusters by hand, or take that back."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from raydc.core import garbage
from raydc.core.settings import SettingsError, build

if TYPE_CHECKING:
    from raydc.data import DataSettings
    from raydc.pipelines.edit import Edited

FORMS = {
    "merge": "A,B[,C...]",
    "split": "A[:PARTS]",
    "drop": "A",
    "rename": "A=NAME",
}
"""How each edit is spelled."""
HELP = {
    "merge": "clusters become one, which keeps the first id and name",
    "split": "a cluster falls into parts [2], found by k-means among its rows; the largest keeps the id",
    "drop": "the rows of a cluster belong nowhere: label -1",
    "rename": "give a cluster a name",
}


class _InOrder(argparse.Action):
    """Edits in the order in which they are given, whatever their kinds."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = [*(namespace.edits or []), read(str(option_string).lstrip("-"), values)]
        namespace.edits = given


def read(kind: str, text: str) -> dict[str, Any]:
    """An edit as `Decisions` takes it. SettingsError says how it is spelled."""
    try:
        match kind:
            case "merge" if "," in text:
                return {"kind": kind, "clusters": [int(part) for part in text.split(",")]}
            case "split":
                cluster, _, parts = text.partition(":")
                return {"kind": kind, "cluster": int(cluster)} | ({"parts": int(parts)} if parts else {})
            case "drop":
                return {"kind": kind, "cluster": int(text)}
            case "rename" if name := text.partition("=")[2].strip():
                return {"kind": kind, "cluster": int(text.partition("=")[0]), "name": name}
    except ValueError:
        pass
    raise SettingsError(f"--{kind}: expected {FORMS[kind]}, with clusters by their ids, got {text!r}")


def given_edits(edits: Sequence[dict[str, Any]] | None, file: str | None) -> dict[str, Any]:
    """What `Decisions` is built from: edits as `read` reads them, or those of a file. SettingsError if it is none."""
    if file is None:
        return {"edits": edits}
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as problem:
        raise SettingsError(f"--decisions: {file} cannot be read ({problem.strerror})") from None
    except ValueError as problem:
        raise SettingsError(f"--decisions: {file} is no JSON: {problem}") from None
    if not isinstance(found, dict):
        raise SettingsError(f'--decisions: {file}: expected an object {{"edits": [...]}}, got {type(found).__name__}')
    return found


def run(parser: Any, arguments: Sequence[str], data_of: Callable[[argparse.Namespace], "DataSettings"]) -> int:
    """The command, by a parser that knows the options of model and data; `data_of` reads the latter."""
    group = parser.add_argument_group("edits, in the order given")
    for kind, form in FORMS.items():
        parser.spelled.append(f"--{kind}")
        group.add_argument(f"--{kind}", action=_InOrder, dest="edits", metavar=form, help=HELP[kind])
    parser.add_argument(
        "--decisions", metavar="FILE", help='edits in JSON: {"edits": [{"kind": "drop", "cluster": 9}]}'
    )
    parser.add_argument("--undo", action="store_true", help="take back the last edit of this model")
    parser.add_argument("--register", metavar="NAME", help="registered model whose new version it becomes")
    parser.add_argument("--out", help="directory (or URI) for the model")
    given = parser.parse_args(arguments)
    ways = [name for name in ("edits", "decisions", "undo") if getattr(given, name)]
    if len(ways) != 1:
        raise SettingsError(
            "edit: expected edits such as --merge 3,5, or --decisions FILE, or --undo; one of the three"
        )
    from raydc.cli.main import TRY_AGAIN
    from raydc.pipelines.edit import Decisions, edit

    garbage.collect()
    decisions = None if given.undo else build(Decisions, given_edits(given.edits, given.decisions))
    found = edit(
        given.model,
        decisions,
        register_as=given.register,
        out=given.out,
        data=data_of(given) if any(name.startswith("data.") for name in vars(given)) else None,
        tracking_uri=given.tracking_uri,
        allow_code=given.allow_code,
    )
    _show(found)
    if found.pending:
        print(f"raydc: {found.pending}", file=sys.stderr)
    return TRY_AGAIN if found.pending else 0


def _show(found: "Edited") -> None:
    from raydc.cli.console import close, plain_console
    from raydc.core.nouns import counted
    from raydc.pipelines.edit import told

    console, labels = plain_console(), found.model.labels
    console.print(f"edited: {found.of}", soft_wrap=True, highlight=False)
    for revision in labels.revisions:
        console.print(f"  {'; '.join(map(told, revision.edits))} (of {revision.of})", soft_wrap=True, highlight=False)
    table = Table(
        "cluster",
        "name",
        title=f"{counted(len(found.before.cells.alive), 'cluster')} before, {len(labels.cells.alive)} now",
    )
    for cluster in labels.cells.alive:
        table.add_row(str(cluster), labels.cells.names.get(cluster, ""))
    console.print(table)
    for name, place in found.places.items():
        console.print(f"{name}: {place}", soft_wrap=True, highlight=False)
    where = found.places.get("registered as", found.places.get("output", "")).split()[0]
    step = f"raydc assign --model {where} --data NEW_ROWS --out DIR"
    if where.startswith("models:/"):
        step += f"; raydc registry promote {where.removeprefix('models:/')} makes it champion"
    close(console, None, step)
