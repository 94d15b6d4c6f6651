"""Boards as LaTeX tables with booktabs: what all rows share stands once, in the note."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lazybench.boards.build import Board
from lazybench.boards.render import COMMAND, columns_of, made_by, several_of
from lazybench.boards.rows import Row
from lazybench.paper.reported import places, value_text
from lazybench.records.fields import Reported

NEEDS = r"% Needs \usepackage{booktabs,graphicx}."
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    # Brackets or a star after a line break would be taken for its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "…": r"\ldots{}",
    "\N{EN DASH}": "--",
    "—": "---",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}
_ESCAPED |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")
_NUMERIC = re.compile(r"-?[\d,.]*\d(?:e[+-]?\d+)?(?: \(.*\)| ± .*)?")
# What a paper needs; a page is narrow, and the rest is left to the other formats.
_SHOWN = frozenset(
    {
        *("rank", "ranks", "agent", "score", "std over seeds", "to best", "why no score", "seeds"),
        *("mean queries (queries)", "batch norm", "track", "train wall s", "peak MB"),
        *("inner steps", "outer steps", "gradient-equivalents (F)", "marks"),
    }
)
_SHORT = {"gradient-equivalents (F)": "F", "mean queries (queries)": "mean queries"}
_ALWAYS = frozenset({"rank", "agent", "score", "to best"})
# Every TeX engine sets these without further packages.
_LETTERS = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßŒœŠšŽžŁłĆćČčĎďĚěĞğŃńŇňŘřŚśŞşŤťŮůŹźŻż"
)


def latex_text(text: str) -> str:
    """`text` as one line that every LaTeX sets as it stands; rare characters as `[U+1F642]`."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(map(_character, line))


def _character(c: str) -> str:
    if (escaped := _ESCAPED.get(c)) is not None:
        return escaped
    return c if c.isascii() or c in _LETTERS else f"{{[}}U+{ord(c):04X}{{]}}"


def latex_cell(text: str) -> str:
    """`latex_text` with a proper minus before numbers."""
    return _MINUS.sub("$-$", latex_text(text))


def latex_comment(text: str) -> str:
    """`text` as one comment line."""
    return f"% {' '.join(text.split())}"


def tabular(
    header: Sequence[str], blocks: Sequence[tuple[str, Sequence[Sequence[str]]]], align: str
) -> str:
    """A booktabs table, shrunk where it is wider than the text.

    Args:
        header: its columns, as LaTeX.
        blocks: rows of LaTeX cells, each block under its title (none where that is empty).
        align: a letter for each column.
    """
    lines = [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}", r"\toprule", _line(header)]
    for title, rows in blocks:
        lines.append(r"\midrule")
        if title:
            lines.append(rf"\multicolumn{{{len(header)}}}{{@{{}}l@{{}}}}{{\emph{{{title}}}}} \\")
        lines += map(_line, rows)
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}"])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def stacked(name: str) -> str:
    """A heading over two lines, since most are wider than what stands below them."""
    words = latex_text(name).split(" ")
    if len(words) == 1:
        return words[0]
    lines = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    upper, lower = min(lines, key=lambda pair: max(map(len, pair)))
    return rf"\shortstack[l]{{{upper}\\{lower}}}"


def _blocks(board: Board) -> list[tuple[str, tuple[Row, ...]]]:
    several = board.rank_groups
    named = len(several) > 1
    found = [
        ((name or "Without a network, or none told") if named else "", rows)
        for name, rows in several
    ]
    rest = (
        ("Not ranked: limited, smoke or superseded runs", board.unranked),
        ("Transfer, not ranked", board.transferred),
        ("Without a score", board.failed),
    )
    return found + [(title, rows) for title, rows in rest if rows]


def _table(board: Board) -> Iterator[str]:
    rows = board.rows
    cells = {name: [cell(row, board.unit) for row in rows] for name, cell in columns_of(rows)}
    varying = {
        name: texts
        for name, texts in cells.items()
        if any(texts) and (name in _ALWAYS or len(rows) == 1 or len(set(texts)) > 1)
    }
    kept = {name: texts for name, texts in varying.items() if name in _SHOWN}
    header = [
        f"{board.metric} ({board.unit}), 95 % CI" if name == "score" else _SHORT.get(name, name)
        for name in kept
    ]
    places = {id(row): i for i, row in enumerate(rows)}
    blocks = [
        (
            latex_text(title),
            [[latex_cell(texts[places[id(row)]]) for texts in kept.values()] for row in members],
        )
        for title, members in _blocks(board)
    ]
    align = "".join(
        "r" if all(_NUMERIC.fullmatch(text) for text in texts if text) else "l"
        for texts in kept.values()
    )
    yield tabular([stacked(name) for name in header], blocks, align)
    shared = {
        name: texts[0]
        for name, texts in cells.items()
        if name not in varying and texts and texts[0]
    }
    yield footnote(_note(board, shared, [name for name in varying if name not in kept]))


def _note(board: Board, shared: dict[str, str], elsewhere: Sequence[str]) -> str:
    protocol = "; ".join(f"{name} {value}" for name, value in board.protocol)
    parts = [
        f"Data {board.data} {board.fingerprint[:12]}, prep {board.prep}. "
        f"{board.better.capitalize()} is better.",
        f"Protocol: {protocol}." if protocol else "",
        f"All rows: {'; '.join(f'{name} {text}' for name, text in shared.items())}."
        if shared
        else "",
        *board.notes,
        f"In the CSV: {', '.join(elsewhere)}." if elsewhere else "",
    ]
    return " ".join(filter(None, parts))


def _reported(rows: Sequence[Reported]) -> Iterator[str]:
    source, where = places(rows)
    header = ("as printed", "agent", "metric", "reported", "unit", "batch norm", "where")
    cells = [
        [
            latex_cell(text)
            for text in (
                row.row,
                row.agent or "",
                row.metric.replace("_", " "),
                value_text(row),
                row.unit,
                row.batch_norm or "",
                place,
            )
        ]
        for row, place in zip(rows, where, strict=True)
    ]
    yield tabular([latex_text(name) for name in header], [("", cells)], "lllrlll")
    if source:
        yield footnote(f"Source: {source}.")


def footnote(text: str) -> str:
    """`text` as a small paragraph under a table."""
    return rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {latex_text(text)}}}"


def _float(body: str, caption: str) -> str:
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\small\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{caption}}}",
            body,
            r"\end{table}",
        ]
    )


def to_latex(boards: Board | Sequence[Board], *, command: str = COMMAND) -> str:
    r"""The boards as LaTeX, a floating booktabs table each; nothing in it is taken for a command.

    A column in which all rows agree stands in the note under the table instead, and the note names
    the columns that only the other formats have.

    Args:
        boards: one board or several.
        command: the command that made the text, named in its first line.
    """
    several = several_of(boards)
    parts = [f"{latex_comment(made_by(several, command))}\n{NEEDS}"]
    for i, board in enumerate(several):
        caption = latex_text(f"{board.name}, budget {board.budget}")
        if board.rows:
            parts.append(_float("\n".join(_table(board)), caption))
        last = i + 1 == len(several) or several[i + 1].env != board.env
        if last and board.reported:
            caption = latex_text(f"Reported for {board.env}: not measured here, unranked")
            parts.append(_float("\n".join(_reported(board.reported)), caption))
    return "\n\n".join(parts) + "\n"
