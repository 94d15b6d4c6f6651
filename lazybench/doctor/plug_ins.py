"""Agents, environments and data sets of other packages: those that can't be loaded."""

from __future__ import annotations

from collections.abc import Iterator

from lazybench.doctor.findings import Finding
from lazybench.registry import AGENTS, DATASETS, ENVS

AREA = "plug-ins"


def examine_plug_ins() -> Iterator[Finding]:
    """Yield those that fail at import or take a name that is taken."""
    others = 0
    # Data sets are in this list, too; what is imported to the data folder is told of there.
    for registry in (ENVS, AGENTS, DATASETS):
        specs = registry.specs()
        others += sum(spec.origin not in ("lazybench", "imported") for spec in specs)
        if registry is DATASETS:
            continue
        for name, why in registry.broken.items():
            fix = "update, mend or uninstall the package that it comes from"
            yield Finding(AREA, name, "bad", why, fix)
    yield Finding(AREA, "others", "ok", f"{others} entries of other packages can be used")
