"""Status of data sets: which are installed, where, and whether they are intact.

Besides its opener, a data set's module may have `check(**kwargs) -> Path`, which looks for the
files without reading them and returns the folder. An opened data set may have `reread() -> str`,
the current fingerprint of its sources. Without them the status is less detailed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from lazybench.data.folders import cache_root, data_root
from lazybench.errors import DataUnavailable, LazybenchError
from lazybench.registry import DATASETS, open_data
from lazybench.specs import DataSpec
from lazybench.user_code import declared, load


@dataclass(frozen=True)
class DataStatus:
    """Status of one data set on this machine.

    Attributes:
        name: id of the data set.
        installed: whether its files exist; they may still be damaged.
        path: folder of its files, or None if there are none.
        source: one line on where the data come from.
        detail: the result, or what is wrong and what to do about it.
        verified: after `verify`, whether all content was read and is unchanged; else None.
        fingerprint: 64 hex digits after `verify`, else empty.
    """

    name: str
    installed: bool
    path: Path | None
    source: str
    detail: str
    verified: bool | None = None
    fingerprint: str = ""


@runtime_checkable
class RereadDataSet(Protocol):
    """An opened data set that can read its sources again."""

    fingerprint: str

    def reread(self) -> str:
        """Return the current fingerprint of the sources, 64 hex digits."""
        ...


def status() -> list[DataStatus]:
    """Return the status of each registered data set, by id; prepares nothing."""
    return [_look(spec) for spec in DATASETS.specs()]


def where(name: str) -> Path:
    """Return the folder of a data set, or the folder for its files if it isn't installed.

    Raises:
        UnknownName: no such data set.
    """
    return _look(DATASETS.resolve(name).spec).path or data_root()


def verify(name: str) -> DataStatus:
    """Read a data set completely, compute its fingerprint again, and return its status.

    Raises:
        UnknownName: no such data set.
    """
    spec: DataSpec = DATASETS.resolve(name).spec
    looked = _look(spec)
    try:
        opened = open_data(name)
        rereads = isinstance(opened, RereadDataSet)
        now = opened.reread() if rereads else opened.fingerprint
    except DataUnavailable as error:
        return DataStatus(spec.id, False, looked.path, looked.source, str(error), verified=False)
    verified: bool | None = now == opened.fingerprint
    detail = "every file was read again and the fingerprint is the same"
    if not verified:
        detail = (
            f"the files changed after they were prepared: fingerprint {now}, prepared "
            f"{opened.fingerprint}; delete {cache_root()} to prepare them again"
        )
    elif not rereads and spec.embedded:
        detail = "the included file was verified when it was opened"
    elif not rereads:
        verified, detail = None, "it can be opened; it has no method to read its files again"
    return DataStatus(spec.id, True, looked.path, opened.source, detail, verified, now)


def _look(spec: DataSpec) -> DataStatus:
    source = spec.about
    try:
        if spec.embedded:
            path = Path(inspect.getfile(load(spec.target))).parent
            return DataStatus(spec.id, True, path, source, "included in the package")
        check: Callable[..., Path] | None = declared(spec.target, "check", None)
        if check is not None:
            path = check(**spec.kwargs)
            return DataStatus(spec.id, True, path, source, "all files exist")
        found = [data_root() / probe for probe in spec.probe if (data_root() / probe).exists()]
        if spec.probe and not found:
            expected = " or ".join(spec.probe)
            detail = f"not installed; expected {expected} below {data_root()}"
            return DataStatus(spec.id, False, None, source, detail)
        if found:
            detail = "its folder exists; its content wasn't checked"
            return DataStatus(spec.id, True, found[0], source, detail)
        opened = load(spec.target)(**spec.kwargs)
        return DataStatus(spec.id, True, None, opened.source, "it can be opened")
    except (LazybenchError, OSError) as error:
        return DataStatus(spec.id, False, None, source, str(error))
