"""Downloads data sets from their official addresses, verified and never partially."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pooch
import requests

from lazybench.data.folders import DATA_VARIABLE, SOURCES, Remote, data_root
from lazybench.errors import DataUnavailable, OutputUnavailable, UnknownName, nearest
from lazybench.files import file_digest
from lazybench.runtime.locks import alone

TRIES = 4
TIMEOUT_S = 30.0
"""Seconds without a reply or another byte after which an attempt fails."""

_CHUNK_BYTES = 1 << 18
_LOCK = ".lazybench-get.lock"
_PREFIX = ".get-"
_HTML = (b"<!doctype html", b"<html")
_WORTH_A_RETRY = frozenset({408, 425, 429})

Progress = Callable[[str, int, int], None]
"""Takes a file's name, the bytes received and the bytes announced, 0 if unknown."""


@dataclass(frozen=True)
class Fetched:
    """One file of a data set, in place.

    Attributes:
        path: its path.
        url: where it came from.
        bytes: its size.
        md5: the published checksum, verified; empty if none is published.
        sha256: 64 hex digits over its content.
        fresh: False if it existed already.
    """

    path: Path
    url: str
    bytes: int
    md5: str
    sha256: str
    fresh: bool


def fetch(
    name: str, *, mirror: str = "", replace: bool = False, progress: Progress | None = None
) -> list[Fetched]:
    """Download the missing files of a data set into the data folder; return all its files.

    A file appears in its place when it is complete and its checksum matches. An existing file is
    kept. Failed attempts are repeated, up to four in all, but a file that the server doesn't have
    isn't requested again.

    Args:
        name: id of the data set.
        mirror: address of a folder with the files under their official names.
        replace: download existing files, too.
        progress: called for every quarter of a megabyte.

    Raises:
        UnknownName: no address is known for it.
        DataUnavailable: a file couldn't be downloaded or isn't the published one, or a different
            file has its place.
        OutputUnavailable: the data folder can't be written.
        Busy: another process is downloading into the data folder.
    """
    remotes = SOURCES.get(name)
    if remotes is None:
        raise UnknownName(
            f"no address is known for the data set '{name}'.{nearest(name, SOURCES)} These can be "
            f"downloaded: {', '.join(sorted(SOURCES))}"
        )
    root = data_root()
    busy = f"another process is downloading data into {root}; wait for it to end"
    with alone(root / _LOCK, busy, partial(_closed, root)):
        return [
            (None if replace else _there(name, root, remote))
            or _fetched(name, root, remote, mirror, progress or (lambda *_: None))
            for remote in remotes
        ]


def _closed(root: Path, error: Exception) -> str:
    return f"can't write to {root} ({error}); set {DATA_VARIABLE} to a folder that can be written"


def _there(name: str, root: Path, remote: Remote) -> Fetched | None:
    """The file, if it exists already, or None."""
    path = root / remote.place
    if not path.exists():
        return None
    found = file_digest(path, "md5") if remote.md5 else ""
    if found != remote.md5:
        raise DataUnavailable(
            f"{name}: {path} exists with other content than the published one (md5 {found}, "
            f"published {remote.md5}); it was kept; --replace downloads it again"
        )
    return _in_place(path, remote, remote.url, fresh=False)


def _fetched(name: str, root: Path, remote: Remote, mirror: str, progress: Progress) -> Fetched:
    url = f"{mirror.rstrip('/')}/{remote.file}" if mirror else remote.url
    path = root / remote.place
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Left by a killed process, since this one holds the lock.
        for stale in path.parent.glob(f"{_PREFIX}*"):
            shutil.rmtree(stale, ignore_errors=True)
        place = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent)
    except OSError as error:
        raise OutputUnavailable(
            f"can't write to {path.parent} ({error}); set {DATA_VARIABLE} to another folder"
        ) from error
    with _emptied(path.parent, root), place:
        try:
            with _quiet():
                come = pooch.create(
                    path=place.name,
                    base_url="",
                    registry={remote.file: f"md5:{remote.md5}" if remote.md5 else None},
                    urls={remote.file: url},
                    retry_if_failed=TRIES - 1,
                ).fetch(remote.file, downloader=_Downloader(remote, progress))
        except (_Refused, ValueError, requests.RequestException) as error:
            tries = "" if isinstance(error, _Refused) else f" in {TRIES} tries"
            published = f" (md5 {remote.md5})" if remote.md5 else ""
            raise DataUnavailable(
                f"{name}: {url} couldn't be downloaded{tries}: {error}; nothing was stored; try "
                f"again later, name a mirror with --from, or put the file{published} at {path} "
                "yourself"
            ) from error
        os.replace(come, path)
    return _in_place(path, remote, url, fresh=True)


@contextmanager
def _emptied(folder: Path, root: Path) -> Iterator[None]:
    """Remove empty folders below `root` if the block fails, since they would look like data."""
    try:
        yield
    except BaseException:
        for each in (folder, *folder.parents):
            if each == root or not _removed(each):
                break
        raise


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


class _Refused(Exception):
    """The server's reply shows that another attempt would fail, too."""


class _Downloader:
    """One attempt to download a file, called by pooch.

    Choice: this and not `pooch.HTTPDownloader`, which counts progress in whole chunks, ends at 0
        bytes if no length was announced, and retries a file that the server doesn't have.
    """

    def __init__(self, remote: Remote, progress: Progress) -> None:
        self._remote, self._progress = remote, progress

    def __call__(self, url: str, output_file: str, asking: Any) -> None:
        del asking
        # Lengths and checksums are of the file, not of a compressed copy of it.
        plain = {"Accept-Encoding": "identity"}
        with requests.get(url, stream=True, timeout=TIMEOUT_S, headers=plain) as response:
            code = response.status_code
            if 400 <= code < 500 and code not in _WORTH_A_RETRY:
                raise _Refused(f"the server replied {code} {response.reason}")
            response.raise_for_status()
            total = int(response.headers.get("Content-Length", 0))
            done, head = 0, b""
            with Path(output_file).open("wb") as file:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    head = head or chunk[:64]
                    done += file.write(chunk)
                    self._progress(self._remote.file, done, total)
        if total and done != total:
            raise ValueError(f"the file is incomplete: {done} of {total} bytes arrived")
        if head.lstrip().lower().startswith(_HTML):
            raise ValueError("the server sent a web page instead of the file")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pooch's messages, which `progress` replaces."""
    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _in_place(path: Path, remote: Remote, url: str, *, fresh: bool) -> Fetched:
    return Fetched(path, url, path.stat().st_size, remote.md5, file_digest(path), fresh)
