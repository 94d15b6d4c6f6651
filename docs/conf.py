"""How Sphinx builds the documentation: `make docs`.

Pages are Markdown (MyST); the reference is made from the docstrings of every module. Nothing is
fetched, neither by the build nor by a reader's browser.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from sphinx.util.docutils import nodes

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lazybench import __version__  # noqa: E402 - the checkout that these pages belong to

project = "lazybench"
author = "lazybench contributors"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx_copybutton",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
# Types in docstrings are often named like an attribute somewhere (`bytes`, `Row`): which of several
# targets a cross-reference takes is no fault of the page.
suppress_warnings = ["ref.python"]

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"

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
html_static_path = ["static"]
html_css_files = ["pictures.css"]
html_title = f"lazybench {release}"
html_copy_source = False
html_show_sphinx = False


def _as_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep `|eps|` and the like: between bars, reStructuredText looks for a substitution."""
    for place, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[place] = "`".join(parts)


def _inline_mathml(writer: Any, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers typeset without a script."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display_mathml(writer: Any, node: nodes.math_block) -> None:
    """Write a formula on its own line as MathML."""
    writer.body.append(f"<p>{convert(node.astext(), display='block')}</p>")
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Register the renderer of formulas and the filter of docstrings."""
    app.add_html_math_renderer("mathml", (_inline_mathml, None), (_display_mathml, None))
    app.connect("autodoc-process-docstring", _as_text, priority=900)
