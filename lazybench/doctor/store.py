"""The store: each record whole and in its place, and boards that are what the records make."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from lazybench.boards.render import COMMAND
from lazybench.boards.write import Checked, checked
from lazybench.doctor.findings import Finding, Repair, leftovers
from lazybench.errors import StoreError
from lazybench.records import Store

AREA = "store"


def examine_store(out: Path) -> Iterator[Finding]:
    """Yield what was found in the store at `out`."""
    if not out.is_dir():
        yield Finding(AREA, str(out), "ok", "no record was kept yet")
        return
    store = Store(out)
    found: Checked | None = None
    why = ""
    if (out / "boards").is_dir():
        try:
            found = checked(store)
        except StoreError as error:
            why = str(error)
    number, skipped = (found.n_records, found.skipped) if found is not None else _read(store)
    for path, reason in skipped:
        yield Finding(
            AREA,
            str(path),
            "bad",
            reason,
            "fetch it from where it was published, or run it again",
            Repair("move", out, path),
        )
    yield Finding(AREA, str(out), "ok", f"{number} records are whole and in their places")
    if why:
        yield Finding(AREA, str(out / "boards"), "bad", why, "mend or remove that file")
    if found is not None:
        yield from _boards(store, found.differences, damaged=bool(skipped))
    yield from leftovers(AREA, out, out.rglob(".tmp-*"))


def _read(store: Store) -> tuple[int, list[tuple[Path, str]]]:
    """How many records are sound, and which files were left out and why."""
    number, left_out = 0, []
    for folder in store.folders():
        records = store.records_in(folder)
        number += len(records)
        left_out += [(skip.path, skip.reason) for skip in records.skipped]
    return number, left_out


def _boards(store: Store, differences: list[str], *, damaged: bool) -> Iterator[Finding]:
    subject = str(store.root / "boards")
    if not differences:
        yield Finding(AREA, subject, "ok", "each board is what the records make")
        return
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    # While a record is missing, its boards aren't to be made without it.
    repair = None if damaged else Repair("boards", store.root, store.root)
    advice = f"{COMMAND} --out {shlex.quote(str(store.root))}"
    yield Finding(AREA, subject, "bad", f"{differences[0]}{more}", advice, repair)
