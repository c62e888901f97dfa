"""The manual: `make docs` builds it, and warnings are errors."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import generate  # noqa: E402  (beside this file)

project = "raydc"
author = "the authors of raydc"
project_copyright = "the authors of raydc; Apache-2.0"
release = version = version_of("raydc")
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["generated/figures.md", "_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # types of one name in two rooms: signatures link to the first
html_theme = "furo"
html_title = "raydc"
html_theme_options = {"light_css_variables": {"font-stack--monospace": "ui-monospace, monospace"}}
html_copy_source = html_show_sphinx = False


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda _: generate.write(DOCS / "generated"))
