"""Status of data sets: which are installed, where, and whether they are whole.

Besides its opener a data set's module may offer `check(**kwargs) -> Path`, which looks for the
files without reading them and returns the folder; an opened data set may offer `reread() -> str`,
the fingerprint of its sources as they are now. Without them the status is coarser, never wrong.
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
    """What is known of one data set on this machine.

    Attributes:
        name: id of the data set.
        installed: whether it can be opened, as far as was looked.
        path: folder of its files, or None if there are none.
        source: one line on where the data come from.
        detail: what was found, or what is wrong and what to do about it.
        verified: after `verify`, whether all content was read and is as it was; else None.
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
        """Return the fingerprint of the sources as they are now, 64 hex digits."""
        ...


def status() -> list[DataStatus]:
    """Status of each registered data set, by id; looks for files and prepares nothing."""
    return [_look(spec) for spec in DATASETS.specs()]


def where(name: str) -> Path:
    """Folder of the data set, or that its files belong in where it isn't installed.

    Raises:
        UnknownName: no such data set.
    """
    return _look(DATASETS.resolve(name).spec).path or data_root()


def verify(name: str) -> DataStatus:
    """Status of one data set after reading all of it and computing its fingerprint again.

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
        detail = "the package's own file was verified as it was opened"
    elif not rereads:
        verified, detail = None, "it could be opened; it offers no way to read its files again"
    return DataStatus(spec.id, True, looked.path, opened.source, detail, verified, now)


def _look(spec: DataSpec) -> DataStatus:
    source = spec.about
    try:
        if spec.embedded:
            path = Path(inspect.getfile(load(spec.target))).parent
            return DataStatus(spec.id, True, path, source, "comes with the package")
        check: Callable[..., Path] | None = declared(spec.target, "check", None)
        if check is not None:
            path = check(**spec.kwargs)
            return DataStatus(spec.id, True, path, source, "all files are there")
        found = [data_root() / probe for probe in spec.probe if (data_root() / probe).exists()]
        if spec.probe and not found:
            expected = " or ".join(spec.probe)
            detail = f"not installed; expected {expected} below {data_root()}"
            return DataStatus(spec.id, False, None, source, detail)
        if found:
            detail = "its folder is there; not looked into"
            return DataStatus(spec.id, True, found[0], source, detail)
        opened = load(spec.target)(**spec.kwargs)
        return DataStatus(spec.id, True, None, opened.source, "it could be opened")
    except (LazybenchError, OSError) as error:
        return DataStatus(spec.id, False, None, source, str(error))
