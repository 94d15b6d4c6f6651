"""Boards on disk: written from the store alone, and checked byte by byte against it.

An index next to the boards keeps, for each environment, the size, times and inode of every file
that its boards were made of, and of the board files themselves. Only boards whose files differ from
it are made again. A file that changed shortly before it was indexed is compared by its content,
since clocks of file systems are coarse. On POSIX systems a program can't set the time of a file's
last change (its ctime), so that an edit is seen whatever it does to the other times. The index is
no part of the store: where it is missing, damaged, or of another version of this code, all boards
are made again; `check` never reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from lazybench._version import __version__
from lazybench.boards.build import Board, build
from lazybench.boards.render import COMMAND, comment, to_csv, to_json, to_markdown
from lazybench.errors import StoreError
from lazybench.files import read_file, refuse_links
from lazybench.records import RecordList, Store, remove_leftovers, slug, write_bytes
from lazybench.records.schema import Reported
from lazybench.records.store import MOST_RECORD_BYTES, REPORTED
from lazybench.runtime.locks import alone
from lazybench.tables import is_made_by, markdown_table, markdown_text

LOCK = ".boards.lock"
"""Next to `README.md`; the system lets go of it with the process that holds it."""
INDEX = ".boards-index.json"
WAIT_S = 120.0
LEFTOVER_S = 3600.0
"""Seconds after which a temporary file is no writer's any more; a write takes a few at most."""
RECENT_S = 5.0
"""Seconds in which a file may change again without another time; some systems keep whole ones."""

BEGIN = "<!-- boards: begin -->"
END = "<!-- boards: end -->"
_HEADING = "# Leaderboards\n\nRecords are facts; boards are made from them.\n\n"
_RENDER = (("md", to_markdown), ("csv", to_csv), ("json", to_json))


@dataclass(frozen=True)
class _FolderBoards:
    """The boards of one folder's records.

    Attributes:
        files: text of the board files by name.
        lines: for each board what sorts it (environment and revision), its records, and its line in
            `README.md`.
        skipped: files that were left out, relative to the store, and why.
        n_records: sound records.
    """

    files: dict[str, str]
    lines: list[tuple[tuple[str, int], int, list[str]]]
    skipped: list[tuple[str, str]]
    n_records: int


@dataclass(frozen=True)
class Checked:
    """The state of a store.

    Attributes:
        n_records: sound records.
        skipped: files that were left out, with the reason.
        differences: one line for each board file that isn't what the records make.
    """

    n_records: int
    skipped: list[tuple[Path, str]]
    differences: list[str]


def _made(store: Store, records: RecordList, papers: Sequence[Reported]) -> _FolderBoards:
    boards = build(records, papers)
    files = {}
    for (env, revision), group in groupby(boards, key=lambda board: (board.env, board.version)):
        same_env = list(group)
        for ending, render in _RENDER:
            files[f"{slug(env)}-v{revision}.{ending}"] = render(same_env)
    lines = [((board.env, board.version), board.n_records, _line(board)) for board in boards]
    root = f"{store.root}/"
    skipped = [
        (skip.path.relative_to(store.root).as_posix(), skip.reason.replace(root, ""))
        for skip in records.skipped
    ]
    return _FolderBoards(files, lines, skipped, len(records))


def _all(store: Store) -> Iterator[_FolderBoards]:
    """The boards of each folder's records; only one folder's records are in memory at a time."""
    papers = store.reported()
    for folder in store.folders():
        yield _made(store, store.records_in(folder), papers)


def expected_files(store: Store) -> dict[Path, str]:
    """The text of every file that the store's records make, by path, in a fixed order.

    Raises:
        StoreError: a file of reported rows is damaged, or the index can't be read.
    """
    return _expected(store, list(_all(store)))


def _expected(store: Store, boards: Sequence[_FolderBoards]) -> dict[Path, str]:
    files = {
        store.root / "boards" / name: text for each in boards for name, text in each.files.items()
    }
    page = store.root / "README.md"
    return {**files, page: _with_section(_read(page), _section(boards))}


def write(store: Store, *, rebuild: bool = False) -> list[Path]:
    """Write all board files and the index, and return their paths.

    Board files that no record makes any more are removed; other files in the folder are left.
    Processes take turns, and each reads the records when its turn has come, so that the last one
    to write has seen what all of them published.

    Args:
        store: the store.
        rebuild: make all boards from all records, instead of only those whose files changed since
            they were made.

    Raises:
        StoreError: a file of reported rows is damaged, or the disk is full.
        OutputUnavailable: the folder can't be made or written to.
        Busy: other processes write boards without end.
    """
    root = store.root
    busy = (
        f"another process writes the boards in {root} for {WAIT_S:g} s already; wait for it "
        f"and run '{COMMAND}'"
    )
    with alone(root / LOCK, busy, partial(_closed, root), WAIT_S):
        remove_leftovers(store.root / "boards")
        remove_leftovers(store.root, older_than_s=LEFTOVER_S)
        return _written(store, {} if rebuild else _index(store))


def _closed(root: Path, error: Exception) -> str:
    why = (isinstance(error, OSError) and error.strerror) or error
    return f"can't write to {root} ({why}); choose a folder that can be written to with --out"


def _written(store: Store, known: dict[str, Any]) -> list[Path]:
    root, papers, boards = store.root, store.reported(), store.root / "boards"
    entries: dict[str, Any] = {}
    written = []
    for folder in store.folders():
        entry = known.get(folder.name)
        each = _unchanged(store, folder, entry)
        if each is None:
            sources = store.files_in(folder)
            before = _Stamps(store.root).of(sources)
            each = _made(store, store.records_in(folder), papers)
            for name, text in each.files.items():
                _replace(root, boards / name, text)
            after = _Stamps(store.root).of(sources)
            entry = {
                # A record that was replaced meanwhile may be in the boards or not.
                "sources": before if before == after else {},
                "files": _Stamps(store.root).of([boards / name for name in each.files]),
                "names": list(each.files),
                "lines": [[*line[0], *line[1:]] for line in each.lines],
                "skipped": [list(skip) for skip in each.skipped],
                "n_records": each.n_records,
            }
        entries[folder.name] = entry
        # Only what `README.md` needs is kept.
        written.append(replace(each, files=dict.fromkeys(each.files, "")))
    files = _expected(store, written)
    page = store.root / "README.md"
    _replace(root, page, files[page])
    for path in _stale(store, files):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    if entries != known:
        _keep_index(store, entries)
    return list(files)


def _replace(root: Path, path: Path, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    refuse_links(root, path.parent)
    if not path.is_file() or read_file(path) != data:
        write_bytes(path, data)


class _Stamps:
    """Stamps of files, to see whether they are those that were indexed."""

    def __init__(self, root: Path) -> None:
        """Take the time that the store's file system has now; the lock's file is this process's."""
        self._root, self._recent_ns = root, 0
        with contextlib.suppress(OSError):
            os.utime(root / LOCK)
            self._recent_ns = _status(root / LOCK)[1] - round(RECENT_S * 1e9)

    def of(self, paths: Sequence[Path]) -> dict[str, list[Any]]:
        """The stamp of each file by its path in the store."""
        return {path.relative_to(self._root).as_posix(): self._of(path) for path in paths}

    def _of(self, path: Path) -> list[Any]:
        """Size, times, number, and the content's sha256 where the times may be too coarse."""
        try:
            status = _status(path)
            recent = max(status[1:3]) >= self._recent_ns
            return [*status, _digest(path) if recent else ""]
        except OSError:
            return []


def _digest(path: Path) -> str:
    return hashlib.sha256(read_file(path, MOST_RECORD_BYTES)).hexdigest()


def _status(path: Path) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _unchanged(store: Store, folder: Path, entry: Any) -> _FolderBoards | None:
    """The boards of a folder's index entry; None if its files or boards have changed."""
    try:
        boards = [store.root / "boards" / str(name) for name in entry["names"]]
        same = _are(store.root, store.files_in(folder), entry["sources"])
        if not (same and _are(store.root, boards, entry["files"])):
            return None
        return _FolderBoards(
            dict.fromkeys((path.name for path in boards), ""),
            [
                ((str(env), int(revision)), int(count), [str(cell) for cell in line])
                for env, revision, count, line in entry["lines"]
            ],
            [(str(path), str(why)) for path, why in entry["skipped"]],
            int(entry["n_records"]),
        )
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None


def _are(root: Path, paths: Sequence[Path], stamps: dict[str, list[Any]]) -> bool:
    """Whether files are those that were indexed."""
    if len(paths) != len(stamps):
        return False
    for path in paths:
        stamp = stamps.get(path.relative_to(root).as_posix())
        if not stamp or _status(path) != stamp[:4]:
            return False
        if stamp[4] and _digest(path) != stamp[4]:
            return False
    return True


def _index(store: Store) -> dict[str, Any]:
    """The entries of the index by folder; empty if it can't be used."""
    path = store.root / INDEX
    try:
        digest, _, text = read_file(path).partition(b"\n")
        if digest.decode("ascii") != hashlib.sha256(text).hexdigest():
            return {}
        held = json.loads(text)
        entries = held["entries"] if held["made_by"] == _makers(store) else {}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _keep_index(store: Store, entries: dict[str, Any]) -> None:
    held = {"made_by": _makers(store), "entries": entries}
    text = json.dumps(held, separators=(",", ":")).encode("ascii")
    digest = hashlib.sha256(text).hexdigest().encode("ascii")
    write_bytes(store.root / INDEX, digest + b"\n" + text)


def _makers(store: Store) -> list[Any]:
    """Everything but records that boards depend on: this code, its libraries, papers' numbers."""
    package = Path(__file__).parent.parent
    folders = ("", "boards/", "records/", "envs/")
    sources = [path for folder in folders for path in package.glob(f"{folder}*.py")]
    code = [[path.name, *_status(path)[:2]] for path in sorted(sources)]
    libraries = [version(name) for name in ("numpy", "scipy", "tabulate")]
    papers = [*REPORTED.glob("*.json"), *(store.root / "reported").glob("*.json")]
    contents = [[path.parent.name, path.name, _digest(path)] for path in sorted(papers)]
    return [__version__, code, libraries, contents, str(store.root)]


def check(store: Store) -> list[str]:
    """Return a line for each file that differs from the records; empty if all agree.

    Raises:
        StoreError: a file of reported rows is damaged, or a file can't be read.
    """
    return checked(store).differences


def checked(store: Store) -> Checked:
    """Return the state of the store and of its board files, from all records.

    Raises:
        StoreError: a file of reported rows is damaged, or a file can't be read.
    """
    differences: list[str] = []
    generated = []
    for each in _all(store):
        for name, text in each.files.items():
            differences += _differences(store.root / "boards" / name, text)
        # Only what `README.md` needs is kept.
        generated.append(replace(each, files=dict.fromkeys(each.files, "")))
    files = _expected(store, generated)
    page = store.root / "README.md"
    differences += _differences(page, files[page])
    stale = [f"{path}: no record makes it; run '{COMMAND}'" for path in _stale(store, files)]
    skipped = [(store.root / path, why) for each in generated for path, why in each.skipped]
    return Checked(sum(each.n_records for each in generated), skipped, differences + stale)


def _differences(path: Path, text: str) -> list[str]:
    try:
        data = read_file(path)
    except FileNotFoundError:
        return [f"{path}: missing; run '{COMMAND}'"]
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror}; check the path") from error
    expected = text.encode("utf-8", "backslashreplace")
    if data == expected:
        return []
    line = _first_line(data, expected)
    return [f"{path}:{line}: not what the records make; run '{COMMAND}'"]


def _first_line(data: bytes, expected: bytes) -> int:
    pairs = zip(data.split(b"\n"), expected.split(b"\n"), strict=False)
    same = 0
    for left, right in pairs:
        if left != right:
            break
        same += 1
    return same + 1


def _stale(store: Store, files: Collection[Path]) -> list[Path]:
    present = sorted((store.root / "boards").glob("*.*"))
    others = [
        path for path in present if path not in files and path.suffix in {".md", ".csv", ".json"}
    ]
    return [path for path in others if _is_ours(path)]


def _is_ours(path: Path) -> bool:
    try:
        data = read_file(path)
    except OSError:
        return False
    # Older CSV files began with a comment.
    return COMMAND.encode() in data[:200] or (path.suffix == ".csv" and is_made_by(data, COMMAND))


def _read(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8")
    except FileNotFoundError:
        return _HEADING
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"can't read {path}: {error}; check the file") from error


def _with_section(text: str, section: str) -> str:
    """`text` with `section` between its marks, which are added at the end where missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        before, after = text.rstrip("\n") + "\n\n", "\n"
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def _line(board: Board) -> list[str]:
    """A board's line in `README.md`."""
    best = [rows[0] for _, rows in board.rank_groups]
    return [
        f"[{markdown_text(board.name)}](boards/{slug(board.env)}-v{board.version}.md)",
        markdown_text(board.at),
        markdown_text(f"{board.data} {board.fingerprint[:8]} {board.prep}"),
        str(board.n_records),
        "; ".join(markdown_text(row.agent) for row in best),
        "; ".join(f"{row.score:.4g} {markdown_text(board.unit)}" for row in best),
    ]


def _section(boards: Sequence[_FolderBoards]) -> str:
    lines = sorted((line for each in boards for line in each.lines), key=lambda line: line[0])
    parts = [comment(sum(count for _, count, _ in lines))]
    header = ["board", "budget", "data", "records", "best agent (of each backbone)", "score"]
    if lines:
        rows = [line for _, _, line in lines]
        parts.append(markdown_table(header, rows))
    else:
        parts.append("No records yet.")
    for each in boards:
        parts += [markdown_text(f"Left out: {path}: {why}") for path, why in each.skipped]
    return "\n\n".join(parts)
