"""One HTML page that needs nothing else: pictures inside, no script, every text escaped."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raydc.core.settings import flatten
from raydc.core.storage import Store
from raydc.training.model import TRUST

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; }
th { text-align: left; font-weight: 600; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption, .note { color: #555; }
.warning { background: #fff3d6; border-left: 4px solid #b8860b; padding: .5rem .8rem; margin: .5rem 0;
  white-space: pre-wrap; }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; }
"""

Row = Sequence[Any]
PAGE, EXPLORE = "index.html", "explore.html"
MADE_BY = '<meta name="generator" content="raydc">'
"""By which a page of raydc's is known."""


def claimable(to: Store) -> Store:
    """This store, if it is empty or holds an earlier report, which has a page before it has pictures.

    Raises SettingsError if it holds other files, NotADirectoryError if it is none.
    """
    to.directory()
    if to.exists(PAGE) and MADE_BY in to.read_text(PAGE):
        return to.only(PAGE, EXPLORE, *(name for name in to.list() if name.endswith(".png")))
    return to.only()


def page(title: str, parts: Sequence[str]) -> str:
    """The whole page from parts that are HTML already."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"{MADE_BY}"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def escape(text: object) -> str:
    """Text that HTML shows as it is."""
    return html.escape(str(text), quote=True)


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def link(name: str) -> str:
    """A way to a page beside this one."""
    return f'<p><a href="{escape(name)}">{escape(name)}</a>: the same rows to move about in</p>'


def warnings(texts: Sequence[str]) -> str:
    """A box for each warning; nothing where there is none."""
    return "\n".join(f'<div class="warning" role="alert">{escape(text)}</div>' for text in texts)


def picture(png: bytes, caption: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(head: Row, rows: Sequence[Row]) -> str:
    """Numbers to the right, rounded; text to the left."""
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>"


def trust() -> str:
    """What the columns of an assignment answer."""
    text = "None of these columns answers for another: replicas agree on noise too, but it stands far off."
    return note(text) + table(("column", "question"), [*TRUST.items()])


def settings(values: Mapping[str, Any]) -> str:
    """Every setting with its value, folded away."""
    rows = [(name, "" if value is None else str(value)) for name, value in flatten(values).items()]
    return f"<details><summary>Settings</summary>{table(('setting', 'value'), rows)}</details>"


def number(value: float) -> str:
    """A number as people read it: to thousandths, in which trials may differ."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3f}" if math.isfinite(value) and abs(value) < 1000 else f"{value:,.1f}"
    return f"{int(value):,}"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{escape('' if value is None else value)}</td>"
    return f'<td class="number">{number(value)}</td>'
