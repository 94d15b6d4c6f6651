"""Data sets: those that are there are whole."""

from __future__ import annotations

from collections.abc import Iterator

from lazybench.data.catalogue import DataStatus, status, verify
from lazybench.data.folders import data_root
from lazybench.data.imported import ORIGIN
from lazybench.doctor.findings import Finding, State
from lazybench.errors import LazybenchError
from lazybench.registry import DATASETS

AREA = "data"


def examine_data(*, deep: bool) -> Iterator[Finding]:
    """Yield what was found; with `deep`, all content is read, as `lazybench data verify` does."""
    specs = DATASETS.specs()
    probes = {spec.id: spec.probe for spec in specs}
    origins = {spec.id: spec.origin for spec in specs}
    missing = 0
    for each in status():
        there = any((data_root() / probe).exists() for probe in probes[each.name])
        if each.installed:
            yield _whole(each, deep=deep)
        elif there:
            # The folder of a published set may be shared with another, so it needn't be damage.
            state: State = "bad" if origins[each.name] == ORIGIN else "warn"
            fix = f"see: lazybench show {each.name}"
            yield Finding(AREA, each.name, state, each.detail, fix)
        else:
            missing += 1
    for name, why in DATASETS.broken.items():
        yield Finding(AREA, name, "bad", why, "import it again, or: lazybench data forget NAME")
    if missing:
        detail = f"{missing} data sets aren't installed; none has to be"
        yield Finding(AREA, "others", "ok", detail, "lazybench list data")


def _whole(looked: DataStatus, *, deep: bool) -> Finding:
    if not deep:
        return Finding(AREA, looked.name, "ok", looked.detail)
    try:
        found = verify(looked.name)
    except LazybenchError as error:
        return Finding(AREA, looked.name, "bad", str(error), "fetch or import it again")
    if found.verified is False:
        return Finding(AREA, found.name, "bad", found.detail, "fetch or import it again")
    return Finding(AREA, found.name, "ok", found.detail)
