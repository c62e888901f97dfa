"""A Python file that travels: read once, run as a module named by its hash, and sent along with what was made of it.

Workers need no copy of the file: whoever unpickles a `SourceFile` has its module. Models keep its text.
"""

import hashlib
import linecache
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

DIGITS = 32
"""Of the sha256, which stand for the text: 128 bits, for which nobody makes another text."""
PREFIX = "raydc_source_file_"
"""Of such modules' names."""


@dataclass(frozen=True)
class SourceFile:
    path: str
    """Where it was read, absolute; of a model's code, its name alone."""
    text: str

    @property
    def name(self) -> str:
        """The file's name with its hash, such as my_method.py@0f3c...: another text has another name."""
        return f"{Path(self.path).name}@{self.digest}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:DIGITS]

    def module(self) -> ModuleType:
        """The file, run once in a process. ValueError where it cannot be run."""
        name = PREFIX + self.digest
        if name in sys.modules:
            return sys.modules[name]
        made = ModuleType(name)
        made.__file__ = self.name
        vars(made)["__source_file__"] = self
        # settings are described by the docstrings below them, which are read from the source
        linecache.cache[self.name] = (len(self.text), None, self.text.splitlines(keepends=True), self.name)
        sys.modules[name] = made
        try:
            exec(compile(self.text, self.name, "exec"), vars(made))
        except Exception as problem:
            del sys.modules[name]
            hint = " (a file travels alone: it may import packages that are installed)"
            raise ValueError(
                f"{self.path} cannot be run: {type(problem).__name__}: {problem}"
                f"{hint if isinstance(problem, ImportError) else ''}"
            ) from problem
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.path, self.text)


def _received(path: str, text: str) -> SourceFile:
    """The file in another process; its module is there before anything that the module defines is unpickled."""
    found = SourceFile(path, text)
    found.module()
    return found


def read(path: str) -> SourceFile:
    """ValueError where there is no such text."""
    try:
        return SourceFile(str(Path(path).resolve()), Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} cannot be read: {problem}") from None


def there(path: str) -> bool:
    return Path(path).is_file()


def known(digest: str) -> SourceFile | None:
    """The file of that hash, if this process has its module."""
    module = sys.modules.get(PREFIX + digest)
    return None if module is None else vars(module)["__source_file__"]


def of(cls: type) -> SourceFile | None:
    """The file that defines a class, if it is one that travels."""
    found: SourceFile | None = vars(sys.modules[cls.__module__]).get("__source_file__")
    return found


def loaded() -> tuple[SourceFile, ...]:
    """All that this process has the modules of."""
    return tuple(vars(module)["__source_file__"] for name, module in [*sys.modules.items()] if name.startswith(PREFIX))
