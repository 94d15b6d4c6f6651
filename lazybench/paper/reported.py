"""Numbers that papers print, beside the measured ones and never ranked among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lazybench.records.fields import Reported

FIGURE_ONLY = "figure only"


def rows_for(reported: Iterable[Reported], env_id: str) -> tuple[Reported, ...]:
    """The rows that papers report for `env_id`, in the order given.

    A revision of an env makes no difference here: papers know nothing of it.
    """
    return tuple(row for row in reported if row.env == env_id)


def row_name(row: Reported) -> str | None:
    """What a board calls a run of its agent with its settings; None without an agent of ours."""
    told = ", ".join(f"{name}={value}" for name, value in sorted(row.settings.items()))
    return f"{row.agent} ({told})" if row.agent is not None and told else row.agent


def value_text(row: Reported) -> str:
    """`48.70 ± 1.84` in the row's unit, or that the paper only draws the number."""
    if row.value is None:
        return FIGURE_ONLY
    half = "" if row.ci95_half is None else f" ± {row.ci95_half:.2f}"
    return f"{row.value:.2f}{half}"


def place_text(row: Reported) -> str:
    """Where the number stands: source and table."""
    return f"{row.source}, {row.table}"


def places(rows: Sequence[Reported]) -> tuple[str, list[str]]:
    """The source that all rows share, and the table of each; without one, full places."""
    sources = {row.source for row in rows}
    if len(sources) == 1:
        return sources.pop(), [row.table for row in rows]
    return "", [place_text(row) for row in rows]
