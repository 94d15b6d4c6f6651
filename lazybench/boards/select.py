"""Which of an environment's boards is meant, where other protocols or data make several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from lazybench.boards.build import tables
from lazybench.boards.group import SHOWN
from lazybench.errors import UsageError
from lazybench.records.schema import Record


def one_table(records: Sequence[Record], protocol: Mapping[str, str]) -> list[Record]:
    """Return the records of the one board that has some settings, of the newest version that does.

    Empty where no board has them.

    Args:
        records: of one environment and budget.
        protocol: settings of the environment by name, as text, that the board must have.

    Raises:
        UsageError: several boards have them.
    """
    fitting = [table for table in tables(records) if _has(table, protocol)]
    newest = max((table[0].env.version for table in fitting), default=0)
    fitting = [table for table in fitting if table[0].env.version == newest]
    if len(fitting) > 1:
        first = fitting[0][0]
        raise UsageError(
            f"{first.env.id} has {len(fitting)} boards at budget {first.budget}, which differ in "
            f"{_difference(fitting)}; choose with --protocol NAME=VALUE, or keep the data contents "
            "in stores of their own"
        )
    return fitting[0] if fitting else []


def _settings(table: Sequence[Record]) -> dict[str, str]:
    """Names and values of a board's protocol; limited runs may have faced fewer trials."""
    first = min(table, key=lambda record: record.limited)
    return {name: str(v) for name, v in first.env.protocol.items() if name not in SHOWN}


def _has(table: Sequence[Record], protocol: Mapping[str, str]) -> bool:
    return protocol.items() <= _settings(table).items()


def _difference(several: Sequence[Sequence[Record]]) -> str:
    told: dict[str, set[str]] = defaultdict(set)
    for table in several:
        data = table[0].data
        told["data"].add(f"{data.name} {data.fingerprint[:12]} {data.prep}")
        for name, value in sorted(_settings(table).items()):
            told[name].add(value)
    return "; ".join(
        f"{name} ({', '.join(sorted(values))})" for name, values in told.items() if len(values) > 1
    )
