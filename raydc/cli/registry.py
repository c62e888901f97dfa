"""The registry on the command line: registered models, one model's versions, and which of them is champion."""

import re

from rich.table import Table

from raydc.cli.console import close, plain_console
from raydc.core.settings import SettingsError
from raydc.tracking import mlflow_client, registry
from raydc.tracking.registry import CHAMPION, Version


def show_all(tracking_uri: str | None) -> None:
    """Every registered model of raydc's with its champion."""
    found = registry.versions(None, tracking_uri)
    table = Table("model", "versions", "champion", "method", "score")
    for name in sorted({version.name for version in found}):
        own = [version for version in found if version.name == name]
        best = next((version for version in own if version.alias == CHAMPION), None)
        table.add_row(name, str(len(own)), *(_cells(best) if best else ("none", "", "")))
    console = plain_console()
    console.print(f"tracking store: {mlflow_client.shown(tracking_uri)}", soft_wrap=True, highlight=False)
    console.print(table)
    first = found[0].name if found else None
    close(
        console, None, f"raydc registry show {first}" if first else "register a model: raydc train ... --register NAME"
    )


def show(name: str, tracking_uri: str | None) -> None:
    """The versions of one registered model, the newest first."""
    found = registry.versions(name, tracking_uri)
    table = Table("version", "method", "score", "alias", "trial", "reference", title=name)
    for version in reversed(found):
        trial, reference = (version.tags.get(f"raydc.{tag}", "") for tag in ("trial", "reference"))
        table.add_row(*_cells(version), version.alias, trial, reference)
    console = plain_console()
    console.print(table)
    console.print(
        "(scores compare only where the reference, the space in which neighbours count, is the same)", style="dim"
    )
    other = next((version for version in reversed(found) if version.alias != CHAMPION), None)
    use = f"raydc assign --model models:/{name}@{CHAMPION} --data NEW_ROWS --out DIR"
    close(
        console,
        None,
        use if other is None else f"{use}; raydc registry promote {name}/{other.number} makes that champion",
    )


def promote(model: str, tracking_uri: str | None) -> None:
    """Make NAME/VERSION the champion. SettingsError for what is no such name."""
    named = re.fullmatch(r"(?:models:/)?([\w.-]+)/(\d+)", model)
    if named is None:
        raise SettingsError(f"registry promote: expected NAME/VERSION such as digits/2, got {model!r}")
    registry.promote(named[1], int(named[2]), tracking_uri)
    console = plain_console()
    console.print(f"models:/{named[1]}@{CHAMPION} is version {named[2]} now", highlight=False)
    close(console, None, f"raydc assign --model models:/{named[1]}@{CHAMPION} --data NEW_ROWS --out DIR")


def _cells(version: Version) -> tuple[str, str, str]:
    score = version.tags.get("raydc.score", "")
    return str(version.number), version.tags.get("raydc.method", ""), f"{float(score):.2f}" if score else ""
