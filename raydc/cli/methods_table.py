"""The methods, a line each. It imports none of them."""

from rich.console import Console
from rich.table import Table

from raydc import methods


def show(*, markdown: bool) -> None:
    """Every method's info."""
    head = ["method", "source", "network", "network loss", "clustering loss", "updates", "new rows"]
    rows = []
    for name in methods.available():
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
    console.print("next: raydc train --method NAME --help-all lists a method's settings; raydc tune compares methods")
