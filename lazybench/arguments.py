"""Checks of arguments where they enter, shared by environments and everything called in Python."""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lazybench.errors import UsageError, nearest

LARGEST = 2**63 - 1
"""Largest whole number that a setting takes, and the largest that an array can hold."""

KEY_DIGITS = 6
"""First digits of a record's key that are enough to name it."""


MOST_SIZE = 1024
"""Longest edge, in pixels, that images may be resized to."""


WITH = " + "
"""Between the names of several data sets that weights were trained on."""


def is_key(text: str) -> bool:
    """Return whether a text is a record's key, or at least its first six digits."""
    return re.fullmatch(rf"[0-9a-f]{{{KEY_DIGITS},64}}", text) is not None


def check_one_of(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    """Check a setting that takes one of a few names.

    Raises:
        UsageError: another value.
    """
    if value not in allowed:
        names = [str(each) for each in allowed]
        hint = nearest(str(value), names)
        raise UsageError(f"{name} must be one of {', '.join(names)}, got {value!r}.{hint}")


def check_whole(name: str, value: Any, *, least: int | None = 0, most: int | None = None) -> int:
    """Return a whole number as an `int`; NumPy's integers are accepted, True and False aren't.

    Args:
        name: of the setting.
        value: the given value.
        least: smallest number allowed; None if the caller checks the range.
        most: largest number allowed; None for the largest 64-bit integer.

    Raises:
        UsageError: not a whole number, or outside [least, most].
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and abs(value) > LARGEST:
        most = LARGEST if most is None else most
        whole = False
    low, high = least is not None, most is not None
    if not whole or (low and value < least) or (high and value > most):
        limits = [f"at least {least}"] * low + [f"at most {most}"] * high
        of = f" of {' and '.join(limits)}" if limits else ""
        raise UsageError(f"{name} must be a whole number{of}, got {value!r}")
    return int(value)


def check_flag(name: str, value: Any) -> None:
    """Check an argument that is True or False.

    Raises:
        UsageError: anything else.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, got {value!r}")


def check_numbers(name: str, value: Any) -> tuple[float, ...]:
    """Return a sequence of real numbers as floats.

    Raises:
        UsageError: anything else.
    """
    numeric = isinstance(value, list | tuple) and all(
        isinstance(each, numbers.Real) and not isinstance(each, bool) for each in value
    )
    if not numeric:
        raise UsageError(f"{name} must be a list of numbers, got {value!r}")
    return tuple(map(float, value))


def check_text(name: str, value: Any) -> str:
    """Return an argument that is a text.

    Raises:
        UsageError: anything else, or an empty text.
    """
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name} must be a non-empty text, got {value!r}")
    return value


def check_path(name: str, value: Any) -> Path:
    """Return a path given as text or as a `Path`.

    Raises:
        UsageError: anything else, or a text that can't be a path.
    """
    if not isinstance(value, str | os.PathLike) or "\0" in (text := os.fsdecode(value)):
        raise UsageError(f"{name} must be a path, as text or pathlib.Path, got {value!r}")
    return Path(text)


def check_settings(name: str, value: Any) -> dict[str, Any]:
    """Return a mapping from names to values as a dict; None is an empty one.

    Raises:
        UsageError: anything else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UsageError(
            f"{name} must be a dict from names to values, such as {{'inner_lr': 0.01}}, got "
            f"{value!r}"
        )
    return dict(value)


def check_options(options: Any, allowed: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the options of an environment's reset; None becomes an empty mapping.

    Raises:
        UsageError: not a mapping, or an unknown option.
    """
    given = {} if options is None else options
    if not isinstance(given, Mapping):
        raise UsageError(f"the options of a reset must be a dict, got {type(given).__name__}")
    for name in given:
        if name not in allowed:
            raise UsageError(
                f"this reset has no option {name!r}.{nearest(str(name), allowed)} Options: "
                f"{', '.join(allowed) or 'none'}"
            )
    return given
