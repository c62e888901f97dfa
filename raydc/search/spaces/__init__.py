"""Search spaces that come with raydc, a file each, by name: one of each method, and `any`, which chooses among them.

A file is what a space of one's own is: a function `space(trial)`. See `raydc.search.space`.
"""

from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """All names, sorted."""
    return sorted(file.stem for file in HERE.glob("*.py") if file.stem != "__init__")


def file_of(name: str) -> Path | None:
    """The file of the space of this name; None where there is none."""
    return HERE / f"{name}.py" if name in names() else None
