"""Text files of users, as editors and spreadsheets save them."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lazybench.errors import DataUnavailable, UsageError
from lazybench.files import read_file

MOST_BYTES = 256 << 20

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order marks at the beginning of text, by which programs name its encoding."""


def read_text(path: Path) -> str:
    """Return what a file holds: UTF-8, or what its byte-order mark says; the mark isn't part of it.

    Raises:
        DataUnavailable: it isn't there, is no plain file, is too large or is no text; the message
            is the reason alone, for callers to say what they wanted.
    """
    try:
        data = read_file(path, MOST_BYTES)
    except OSError as error:
        raise DataUnavailable(error.strerror or str(error)) from error
    mark = next((mark for mark in _MARKS if data.startswith(mark)), None)
    try:
        return data.decode("utf-8" if mark is None else _MARKS[mark])
    except UnicodeDecodeError as error:
        raise DataUnavailable(f"it is no text in UTF-8 ({error})") from error


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping of pairs in which no name occurs twice; the `object_pairs_hook` of JSON.

    Raises:
        UsageError: a name occurs twice, so that one of its values would be lost.
    """
    often = Counter(name for name, _ in pairs)
    if twice := [name for name, count in often.items() if count > 1]:
        raise UsageError(
            f"{len(twice)} names are given twice, such as {twice[0]}; give each one once"
        )
    return dict(pairs)
