"""The manual's commands and Python blocks: found in a page, and run in its order as a reader would.

python -m tests.support.manual docs/start.md    # in a directory of its own
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(bash|python)( [^\n]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("**/*.md"))]
"""Those that are written; those that are made from the code have blocks, too."""


@dataclass(frozen=True)
class Code:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    mark: str
    """What follows the language: no-run, or nothing."""
    text: str


def written_pages() -> list[str]:
    """All pages that people write, from the repository's root."""
    return [page for page in PAGES if not page.startswith("docs/generated/")]


def blocks(page: str, text: str) -> Iterator[Code]:
    """The bash and Python blocks of a page."""
    for found in BLOCK.finditer(text):
        line = text[: found.start()].count("\n") + 2
        yield Code(page, line, found[1], (found[2] or "").strip(), found[3])


def run(page: str, text: str) -> None:
    """Run the blocks of a page in the working directory; raises at the first that fails, saying where it stands.

    Python blocks share their names, as they do in a reader's session.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in blocks(page, text):
        if code.mark == "no-run":
            continue
        print(f"--- {code.page}:{code.line}", flush=True)
        if code.language == "python":
            exec(compile("\n" * (code.line - 1) + code.text, code.page, "exec"), names)
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", code.text], check=True)


def at_home(folder: Path) -> dict[str, str]:
    """Make `folder` a place where blocks run: what they take of the repository, and this checkout as `raydc`."""
    for name in ("jobs", "docs"):
        (folder / name).symlink_to(ROOT / name)
    command = folder / "bin" / "raydc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT}:$PYTHONPATH exec {sys.executable} -m raydc "$@"\n')
    command.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment.pop("RAY_AUTH_MODE", None)  # a reader has it as Ray does: who asks must know the token
    environment["RAY_AUTH_TOKEN_PATH"] = str(folder / ".ray" / "auth_token")
    path = f"{command.parent}:{Path(sys.executable).parent}:{environment['PATH']}"
    return environment | {"PATH": path, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    run(sys.argv[1], (ROOT / sys.argv[1]).read_text())
