"""Short boards inside a Markdown file: what is replaced, what stays, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lazybench.boards import build
from lazybench.boards.blocks import END, filled
from lazybench.errors import UnknownName, UsageError

BEGIN = "<!-- lazybench board: glyphs-5way-1shot small 2 -->"


@pytest.fixture
def boards(make_run: Any) -> list[Any]:
    return build([make_run("worst"), make_run("best", 0.2), make_run("a|b", 0.1)])


def test_the_best_rows_stand_between_the_marks_and_the_rest_stays(boards: list[Any]) -> None:
    text = filled(f"before\n{BEGIN}\nold\n{END}\nafter\n", boards)
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.index("| best") < text.index("a\\|b")
    assert "worst" not in text
    assert "2 rows and 1 more, 3 records" in text
    assert filled(text, boards) == text


def test_text_without_marks_is_left_alone(boards: list[Any]) -> None:
    assert filled("# Mine\n", boards) == "# Mine\n"
    assert filled(f"{END}\n", boards) == f"{END}\n"


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        (BEGIN, UsageError, "isn't closed"),
        (f"{BEGIN}\n{BEGIN}\n{END}", UsageError, "isn't closed"),
        (f"<!-- lazybench board: glyphs-5way-1shot -->\n{END}", UsageError, "form"),
        (f"<!-- lazybench board: glyphs-5way-1shot small 0 -->\n{END}", UsageError, "form"),
        (f"<!-- lazybench board: glyph-5way-1shot small 2 -->\n{END}", UnknownName, "glyphs-5way"),
        (f"<!-- lazybench board: glyphs-5way-1shot paper 2 -->\n{END}", UnknownName, "paper"),
    ],
)
def test_what_cant_be_filled_is_refused(
    boards: list[Any], text: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        filled(text, boards)


def test_an_environment_of_two_boards_is_refused(make_run: Any) -> None:
    two = build([make_run("a"), make_run("b", data__fingerprint="f" * 64)])
    with pytest.raises(UsageError, match="2 boards"):
        filled(f"{BEGIN}\n{END}", two)
