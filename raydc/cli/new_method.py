"""A method of one's own to begin with: a commented file and its test, which passes as written."""

import importlib.resources
import keyword
from pathlib import Path

from raydc import methods
from raydc.core.settings import SettingsError
from raydc.core.storage import Store

SKELETON = importlib.resources.files("raydc.testing.skeleton")
NAME, CLASS = "my_method", "MyMethod"
"""What the skeleton calls itself."""


def write(name: str, out: str) -> list[Path]:
    """NAME.py and test_NAME.py in `out`. SettingsError for a name that cannot be, or where a file of it is there.

    A name of several words has underscores between them, its class none: deep_sets has a class DeepSets.
    """
    if keyword.iskeyword(name) or keyword.iskeyword(_class_of(name)):
        raise SettingsError(f"new-method: {name!r} is a keyword of Python: take another name")
    if not name.isidentifier():
        raise SettingsError(f"new-method: expected a name of letters, digits and _, such as my_method, got {name!r}")
    if name in methods.builtin():
        raise SettingsError(f"new-method: raydc has a method {name!r}: take another name")
    files = {Path(out) / file.replace(NAME, name): file for file in (f"{NAME}.py", f"test_{NAME}.py")}
    there = [str(path) for path in files if path.exists()]
    if there:
        raise SettingsError(f"new-method: {', '.join(there)} is there already; take another name or another --out")
    Path(Store(out).directory().path).mkdir(parents=True, exist_ok=True)
    for path, file in files.items():
        text = (SKELETON / file).read_text(encoding="utf-8")
        path.write_text(text.replace(NAME, name).replace(CLASS, _class_of(name)), encoding="utf-8")
    return [*files]


def _class_of(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))
