"""`lazybench version`: what is installed, without importing any of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from lazybench._version import __version__
from lazybench.cli import options, out

HELP = "Print the versions of lazybench, Python and key libraries."
EXAMPLES = ("lazybench version", "lazybench version --json")
PACKAGES = (
    "torch",
    "gymnasium",
    "numpy",
    "scipy",
    "foolbox",
    "pydantic",
    "safetensors",
    "tabulate",
    "typer",
    "rich",
)


def versions() -> dict[str, str | None]:
    """Return versions by name; None for a package that isn't installed."""
    found: dict[str, str | None] = {"lazybench": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def version_command(json: options.Json = False) -> None:
    """Print versions."""
    found = versions()
    if json:
        out.as_json(found)
    else:
        out.line(out.facts({name: value or "not installed" for name, value in found.items()}))
