"""Arithmetic of the networks: fp32, tf32 or bf16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lazybench.errors import UsageError, nearest

PRECISIONS = ("fp32", "tf32", "bf16")


@contextmanager
def using_precision(precision: str, device: str = "cpu") -> Iterator[None]:
    """Compute the networks in `precision` inside a block.

    Raises:
        UsageError: no such precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'."
            f"{nearest(precision, PRECISIONS)}"
        )
    yield
