"""Boards on disk: written from the store alone, and checked byte by byte against it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from lazybench.boards.build import Board, build
from lazybench.boards.csv_table import is_made_by, to_csv
from lazybench.boards.render import COMMAND, comment, markdown_text, to_json, to_markdown
from lazybench.errors import StoreError
from lazybench.files import read_file, refuse_links
from lazybench.locks import alone
from lazybench.records import Skipped, Store, remove_leftovers, slug, write_bytes

LOCK = ".boards.lock"
"""Beside the index; the system lets go of it with the process that holds it."""
WAIT_S = 120.0
LEFTOVER_S = 3600.0
"""Seconds after which a temporary file is no writer's any more; a write takes a few at most."""

BEGIN = "<!-- boards: begin -->"
END = "<!-- boards: end -->"
_HEADING = "# Leaderboards\n\nRecords are facts; boards are made from them.\n\n"


def expected_files(store: Store) -> dict[Path, str]:
    """The text of every file that the store's records make, by path, in a fixed order.

    Raises:
        StoreError: a file of reported rows is damaged, or the index can't be read.
    """
    records = store.records()
    boards = build(records, store.reported())
    files: dict[Path, str] = {}
    for name, group in groupby(boards, key=lambda board: (board.env, board.version)):
        same_env = list(group)
        stem = f"{slug(name[0])}-v{name[1]}"
        for ending, render in (("md", to_markdown), ("csv", to_csv), ("json", to_json)):
            files[store.root / "boards" / f"{stem}.{ending}"] = render(same_env)
    index = store.root / "README.md"
    files[index] = _with_section(_read(index), _section(boards, records.skipped, store.root))
    return files


def write(store: Store) -> list[Path]:
    """The paths of all board files and the index, once they hold what the records make.

    Board files that no record makes any more are removed; other files in the folder are left.
    Processes take turns, and each reads the records when its turn has come, so that the last one
    to write has seen what all of them published.

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
        return _written(store)


def _closed(root: Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or error
    return f"can't write to {root} ({why}); choose a folder that can be written to with --out"


def _written(store: Store) -> list[Path]:
    files = expected_files(store)
    for path, text in files.items():
        data = text.encode("utf-8", "backslashreplace")
        refuse_links(store.root, path.parent)
        if not path.is_file() or read_file(path) != data:
            write_bytes(path, data)
    for path in _stale(store, files):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    return list(files)


def check(store: Store) -> list[str]:
    """One line for each file that isn't what the records make; empty where all are.

    Raises:
        StoreError: a file of reported rows is damaged, or a file can't be read.
    """
    files = expected_files(store)
    differences = []
    for path, text in files.items():
        try:
            data = read_file(path)
        except FileNotFoundError:
            differences.append(f"{path}: missing; run '{COMMAND}'")
            continue
        except OSError as error:
            raise StoreError(f"can't read {path}: {error.strerror}; check the path") from error
        expected = text.encode("utf-8", "backslashreplace")
        if data != expected:
            line = _first_line(data, expected)
            differences.append(f"{path}:{line}: not what the records make; run '{COMMAND}'")
    stale = [f"{path}: no record makes it; run '{COMMAND}'" for path in _stale(store, files)]
    return differences + stale


def _first_line(data: bytes, expected: bytes) -> int:
    pairs = zip(data.split(b"\n"), expected.split(b"\n"), strict=False)
    same = 0
    for left, right in pairs:
        if left != right:
            break
        same += 1
    return same + 1


def _stale(store: Store, files: dict[Path, str]) -> list[Path]:
    found = sorted((store.root / "boards").glob("*.*"))
    others = [
        path for path in found if path not in files and path.suffix in {".md", ".csv", ".json"}
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


def _section(boards: Sequence[Board], skipped: Sequence[Skipped], root: Path) -> str:
    from tabulate import tabulate

    parts = [comment(boards)]
    rows = []
    for board in boards:
        best = [rows[0] for _, rows in board.rank_groups]
        rows.append(
            [
                f"[{markdown_text(board.name)}](boards/{slug(board.env)}-v{board.version}.md)",
                markdown_text(board.budget),
                markdown_text(f"{board.data} {board.fingerprint[:8]} {board.prep}"),
                str(board.n_records),
                "; ".join(markdown_text(row.agent) for row in best),
                "; ".join(f"{row.score:.4g} {markdown_text(board.unit)}" for row in best),
            ]
        )
    header = ["board", "budget", "data", "records", "best agent (of each backbone)", "score"]
    if rows:
        parts.append(str(tabulate(rows, header, tablefmt="github", disable_numparse=True)))
    else:
        parts.append("No records yet.")
    for skip in skipped:
        reason = skip.reason.replace(f"{root}/", "")
        parts.append(markdown_text(f"Left out: {skip.path.relative_to(root)}: {reason}"))
    return "\n\n".join(parts)
