"""Numbers that papers print, as rows of files that come with the package or stand in a store."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lazybench.records.parts import Facts, Real


class Reported(Facts):
    """One number printed in a paper, as a row that no board ranks.

    Attributes:
        settings: what the agent is run with, beside batch norm, to be this row.
        value: the number in `unit`; None where the paper only draws it.
        ci95_half: half the width of its 95 % interval, in `unit`.
    """

    source: str
    table: str
    row: str
    agent: str | None
    env: str
    settings: dict[str, Any] = Field(default_factory=dict)
    batch_norm: Literal["transductive", "inductive"] | None = None
    metric: str
    value: Real
    ci95_half: Real = None
    unit: str
    note: str | None = None
