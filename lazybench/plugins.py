"""What other packages bring along: their entry points, and what an entry must be like."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any

from lazybench.errors import UsageError
from lazybench.specs import FAMILIES

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def points(group: str, broken: dict[str, str]) -> list[EntryPoint]:
    """Return the entry points of a group, in an order that installing again doesn't change.

    A package whose list can't be read is told in `broken`, and costs nobody else's.
    """
    try:
        found = list(entry_points(group=group))
    except Exception:
        found = []
        for distribution in distributions():
            try:
                found += distribution.entry_points.select(group=group)
            except Exception as error:
                where = getattr(distribution, "_path", "a package")
                broken[str(where)] = f"its entry_points.txt can't be read: {error}"
    return sorted(found, key=lambda point: (package(point), point.name, point.value))


def package(point: EntryPoint) -> str:
    """Return the name of the package that an entry point comes from."""
    name = None if point.dist is None else point.dist.metadata["Name"]
    return str(name or point.value.partition(":")[0])


def check_spec(kind: str, spec: Any) -> None:
    """Look whether listings, folders and Gymnasium's registry can take a spec.

    Raises:
        UsageError: they can't.
    """
    if not (isinstance(spec.id, str) and _ID.fullmatch(spec.id)):
        raise UsageError(
            f"an id of the {kind} registry has letters, digits, '-', '_' and '.', the first of "
            f"them a letter or digit; got {spec.id!r}"
        )
    families = getattr(spec, "families", None)
    families = (getattr(spec, "family", FAMILIES[0]),) if families is None else families
    known = isinstance(families, tuple) and all(family in FAMILIES for family in families)
    if not (known and families):
        raise UsageError(
            f"{kind} '{spec.id}' must be of family {', '.join(FAMILIES)} (agents: a tuple of "
            f"them), got {families!r}"
        )
