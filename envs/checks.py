"""Checks of settings that several environments take."""

from __future__ import annotations

from typing import Any

from lazybench.errors import UsageError, nearest


def check_one_of(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    """Check a setting that takes one of a few names.

    Raises:
        UsageError: another value.
    """
    if value not in allowed:
        names = [str(each) for each in allowed]
        hint = nearest(str(value), names)
        raise UsageError(f"{name} must be one of {', '.join(names)}, got {value!r}.{hint}")


def check_whole(name: str, value: Any, *, least: int = 0, most: int | None = None) -> None:
    """Check a setting that takes a whole number.

    Raises:
        UsageError: no whole number, or one outside [least, most].
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        to = "" if most is None else f" and at most {most}"
        raise UsageError(f"{name} must be a whole number of at least {least}{to}, got {value!r}")
