"""Plain English: names, docstrings, comments and messages use the field's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTEAD = {
    "told|tells|foretold|foretells": "report, show, state, predict",
    "judge|judges|judged|judging|judgement": "evaluate, score",
    "stands|beside|likewise": "is stored, next to, besides, too",
    "hears|heard": "is called with, receives",
    "anew|made anew": "again, regenerated",
    "asked for|judged so|what became": "requested, the outcome",
    "put aside|harms": "quarantine, affects",
    "in the whole|for good": "overall, permanently",
    "loop of its own|process of its own": "its own training loop, a separate process",
    "Look whether": "Check whether",
}
"""Words that a reader would have to decode, and what to say instead."""

PRIVATE = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(INSTEAD)})(?![A-Za-z])")

ALLOWED: frozenset[tuple[str, str]] = frozenset()
"""Pairs of a file and one of its lines, stripped, that use such a word in its ordinary sense."""

FILES = sorted(
    path
    for folder in ("lazybench", "envs", "agents")
    for ending in ("py", "jinja", "toml", "js", "html")
    for path in (ROOT / folder).rglob(f"*.{ending}")
    # In a checkout `lazybench/envs` and `lazybench/agents` are links.
    if not any(parent.is_symlink() for parent in path.parents)
)


def private_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield number and content of each line that has such a word, and what to say instead.

    Parts of identifiers count as words.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if found := PRIVATE.search(line.replace("_", " ")):
            words = next(words for words in INSTEAD if found[0] in words.split("|"))
            yield number, line.strip(), INSTEAD[words]


def test_the_source_uses_the_fields_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line}  ({instead})"
        for path in FILES
        for number, line, instead in private_words(path.read_text(encoding="utf-8"))
        if (path.relative_to(ROOT).as_posix(), line) not in ALLOWED
    ]
    assert len(FILES) > 200
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "told = read(path)",
        "def _told_of(cls): ...",
        '"""The record that stands."""',
        "# made anew where it is missing",
        'raise UsageError("device cuda was asked for")',
        '"""Look whether a name is free."""',
    ],
)
def test_a_private_word_is_found(line: str) -> None:
    assert list(private_words(line))


def test_ordinary_words_are_let_pass() -> None:
    assert not list(private_words("understands = standard  # asked, stand-in, heading"))
