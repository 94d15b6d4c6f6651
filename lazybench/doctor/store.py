"""The store: each record whole and in its place, and boards that are what the records make."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from lazybench.boards.render import COMMAND
from lazybench.boards.write import check
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
    records = store.records()
    for skipped in records.skipped:
        yield Finding(
            AREA,
            str(skipped.path),
            "bad",
            skipped.reason,
            "fetch it from where it was published, or run it again",
            Repair("move", out, skipped.path),
        )
    yield Finding(AREA, str(out), "ok", f"{len(records)} records are whole and in their places")
    yield from _boards(store, damaged=bool(records.skipped))
    yield from leftovers(AREA, out, out.rglob(".tmp-*"))


def _boards(store: Store, *, damaged: bool) -> Iterator[Finding]:
    if not (store.root / "boards").is_dir():
        return
    subject = str(store.root / "boards")
    try:
        differences = check(store)
    except StoreError as error:
        yield Finding(AREA, subject, "bad", str(error), "mend or remove that file")
        return
    if not differences:
        yield Finding(AREA, subject, "ok", "each board is what the records make")
        return
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    # While a record is missing, its boards aren't to be made without it.
    repair = None if damaged else Repair("boards", store.root, store.root)
    advice = f"{COMMAND} --out {shlex.quote(str(store.root))}"
    yield Finding(AREA, subject, "bad", f"{differences[0]}{more}", advice, repair)
