"""The methods, a line each, and what others add; it imports none of them. One method in full, which is imported."""

import textwrap

from rich.console import Console
from rich.table import Table

from raydc import methods
from raydc.api import plugins


def show(*, markdown: bool) -> None:
    """The info of every method of raydc, and what others add by name."""
    head = ["method", "source", "network", "network loss", "clustering loss", "updates", "new rows"]
    rows = []
    for name in methods.builtin():
        info = methods.describe(name).info
        parts = [info.source, info.architecture, info.network_loss, info.clustering_loss, info.updates]
        rows.append([name, *parts, "no" if info.refuses else "yes"])
    if markdown:
        lines = [head, ["---"] * len(head), *rows]
        print("\n".join("| " + " | ".join(line) + " |" for line in lines))
        return
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, width=180)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for noun, found in plugins.listing().items():
        if found:
            print(f"{noun}, of others: {', '.join(f'{name} ({package})' for name, package in found.items())}")
    for note in plugins.notes():
        print(f"note: {note}")
    print("next: raydc methods NAME tells all of one; raydc tune compares methods")


def show_one(name: str) -> None:
    """A method's info and settings. SettingsError if there is none."""
    entry, package = methods.describe(name), methods.package_of(name)
    print(f"{name}: {entry.title}" + (f", of {package}" if package else ""))
    for label, said in vars(entry.info).items():
        if said:
            print(f"  {label.replace('_', ' ') + ':':18} {said}")
    print("settings:")
    for path, said in entry.settings.items():
        print(f"  --{path}")
        print(textwrap.fill(" ".join(said.split()), 110, initial_indent=" " * 8, subsequent_indent=" " * 8))
    print(f"next: raydc train --data PATH --method {name} --out DIR")
