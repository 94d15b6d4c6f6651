"""How Sphinx builds the documentation: `make docs`.

Pages are Markdown (MyST); the reference is made from the docstrings of every module. Nothing is
fetched, neither by the build nor by a reader's browser.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lazybench import __version__  # noqa: E402 - the checkout that these pages belong to

project = "lazybench"
author = "lazybench contributors"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
# Types in docstrings are often named like an attribute somewhere (`bytes`, `Row`): which of several
# targets a cross-reference takes is no fault of the page.
suppress_warnings = ["ref.python"]

myst_heading_anchors = 3

# Docstrings write code between single backticks, and these two headings beside Google's own.
default_role = "code"
napoleon_custom_sections = ["Choice", "Reference"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# A name is documented where it is defined, not again where a package hands it on.
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "show-inheritance": True,
    "ignore-module-all": True,
}
apidoc_modules = [
    {
        "path": "../lazybench",
        "destination": "api",
        "exclude_patterns": ["../lazybench/cli", "../lazybench/__main__.py"],
        "separate_modules": False,
        "module_first": True,
        "follow_links": True,
        "automodule_options": {"members", "undoc-members", "show-inheritance", "ignore-module-all"},
    }
]

html_theme = "furo"
html_title = f"lazybench {release}"
html_copy_source = False
html_show_sphinx = False


def _as_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep `|eps|` and the like: between bars, reStructuredText looks for a substitution."""
    for place, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[place] = "`".join(parts)


def setup(app: Any) -> None:
    """Connect what docstrings pass through."""
    app.connect("autodoc-process-docstring", _as_text, priority=900)
