"""What there is to say of a method without importing it, which takes torch: its row of Table 1, and its settings.

`index.json` holds it for the methods that come with raydc, for lists and help alone. `make index` writes it from the
classes; a test holds it to them.
"""

import functools
import importlib.resources
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from raydc.core.settings import described

if TYPE_CHECKING:
    from raydc.methods.base import Method

FILE = importlib.resources.files("raydc.methods") / "index.json"


@dataclass(frozen=True)
class MethodInfo:
    """A method's row in Table 1 of the taxonomy, as data that the tests check."""

    source: str
    architecture: str
    features: str
    network_loss: str
    clustering_loss: str
    combination: str
    updates: str
    after: str = "labels of the last step"
    parallel: str = "exact"
    """Whether W workers with B / W rows each do what one worker with B rows does; else what differs."""
    refuses: str = ""
    """Why the method cannot label rows it was not trained on; empty where it can."""


@dataclass(frozen=True)
class Entry:
    """A method in the index."""

    title: str
    """Name of its class."""
    info: MethodInfo
    settings: dict[str, str]
    """Dotted paths, with what help says of each."""


def entry_of(kind: "type[Method]") -> Entry:
    return Entry(kind.__name__, kind.info, described(kind.Config, "method"))


@functools.cache
def read() -> dict[str, Entry]:
    """The entries of the file, by the method's name; none where it was not written yet."""
    if not FILE.is_file():
        return {}
    entries = json.loads(FILE.read_text())
    return {name: Entry(one["title"], MethodInfo(**one["info"]), one["settings"]) for name, one in entries.items()}


def text() -> str:
    """The file, as the classes are now."""
    from raydc import methods

    entries = {name: asdict(entry_of(methods.load(name))) for name in methods.builtin()}
    return json.dumps(entries, indent=1) + "\n"
