"""Tables of agents and environments: the board row of each cell, and its rank in the column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lazybench.arguments import KEY_DIGITS, is_key
from lazybench.boards.build import FEWEST_SEEDS, Board, build, one_table
from lazybench.boards.columns import number_text
from lazybench.boards.rows import Row
from lazybench.errors import UnknownName, UsageError
from lazybench.records.schema import Record
from lazybench.tables import (
    LATEX_NEEDS,
    MADE_BY,
    csv_table,
    latex_cell,
    latex_comment,
    latex_float,
    latex_footnote,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
)

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Wanted:
    """One row of the table.

    Attributes:
        label: its name in the table.
        names: row names, agent ids or first digits of keys; the first that a board has is taken.
    """

    label: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One agent on one environment.

    Attributes:
        score: in the column's unit.
        half: the wider half of its 95 % interval; None if it is unknown.
        place: rank among the shown rows, tied ones sharing the mean of their places; None if
            the cell isn't ranked among them.
        best: whether no other ranked cell of the column is better.
        tied: whether the column's best isn't significantly better.
        outside: whether it is of another backbone, or of other weights, than what is ranked.
        row: the row of the board that it comes from.
    """

    score: float
    half: float | None
    place: float | None
    best: bool
    tied: bool
    outside: bool
    row: Row


def chosen(board: Board, wanted: Wanted, batch_norm: str | None) -> Row | str:
    """The selected ranked row, or the reason why there is none.

    Raises:
        UsageError: several rows are.
    """
    rows = [
        row for row in board.ranked if batch_norm is None or row.batch_norm in (None, batch_norm)
    ]
    named = next(filter(None, (_named(rows, name) for name in wanted.names)), [])
    if len(named) > 1:
        listed = "; ".join(
            f"{row.agent} ({row.batch_norm or 'no batch norm'}, {row.keys[0]})" for row in named
        )
        raise UsageError(
            f"'{wanted.label}' names {len(named)} rows of {board.name}: {listed}; give a row's "
            f"name or key, such as --agents '{wanted.label}={named[0].keys[0]}', or --batch-norm"
        )
    if named:
        return named[0]
    failed = [r for r in board.failed if r.agent in wanted.names or r.agent_id in wanted.names]
    return failed[0].reason or "no score" if failed else NOT_MEASURED


def _named(rows: Sequence[Row], name: str) -> list[Row]:
    exact = [row for row in rows if row.agent == name]
    return exact or [
        row
        for row in rows
        if row.agent_id == name
        or (len(name) >= KEY_DIGITS and any(key.startswith(name) for key in row.keys))
    ]


def scored(rows: Sequence[Row | str], records: Sequence[Record]) -> list[Cell | str]:
    """The cells, ranked among themselves by a board of their own records."""
    keys = {key for row in rows if isinstance(row, Row) for key in row.keys}
    boards = build(record for record in records if record.key12 in keys)
    ranked = [row for board in boards for row in board.ranked]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in ranked:
        groups[row.rank_group].append(row)
    home = max(groups.values(), key=len, default=[])
    shared: dict[int | None, list[int]] = defaultdict(list)
    for place, row in enumerate(home, start=1):
        shared[row.rank].append(place)
    row_of = {row.keys: row for row in ranked}
    cells: list[Cell | str] = []
    for each in rows:
        if isinstance(each, str) or each.score is None:
            cells.append(each if isinstance(each, str) else "no score")
            continue
        own = row_of[each.keys]
        at_home = own in home
        places = shared[own.rank]
        best = at_home and own.score == home[0].score
        cell = Cell(
            score=each.score,
            half=_half(each),
            place=sum(places) / len(places) if at_home else None,
            best=best,
            tied=at_home and own.rank == 1 and not best,
            outside=not at_home,
            row=each,
        )
        cells.append(cell)
    return cells


def _half(row: Row) -> float | None:
    if row.score is None or row.lo is None or row.hi is None:
        return None
    return max(row.hi - row.score, row.score - row.lo)


def measure_facts(records: Sequence[Record], metric: str, env: str) -> tuple[str, str]:
    """The better direction of a further metric, and its unit.

    Raises:
        UnknownName: no record has it.
    """
    metrics = [record.metrics[metric] for record in records if metric in record.metrics]
    if not metrics:
        names = dict.fromkeys(name for record in records for name in record.metrics)
        raise UnknownName(
            f"no record of {env} has the metric '{metric}'; there are: {', '.join(names)}"
        )
    return metrics[0].better, "%" if metrics[0].unit == "fraction" else metrics[0].unit


def measured(rows: Sequence[Row | str], metric: str, better: str) -> list[Cell | str]:
    """The cells of a further metric, which has no trials, so neither intervals nor ties."""
    cells: list[Cell | str] = []
    for row in rows:
        values = (
            [] if isinstance(row, str) else [v for name, _, v in row.measures if name == metric]
        )
        if isinstance(row, str) or not values:
            cells.append(row if isinstance(row, str) else f"no {metric}")
        else:
            cells.append(Cell(values[0], None, None, False, False, False, row))
    scores = [cell.score for cell in cells if isinstance(cell, Cell)]
    best = (max if better == "higher" else min)(scores, default=None)
    return [replace(c, best=c.score == best) if isinstance(c, Cell) else c for c in cells]


FEW = "‡"
"""Mark of cells with few seeds, if other cells have enough."""


def footnotes(table: Pivot) -> list[str]:
    """Sentences that belong under the table."""
    filled = [cell for column in table.columns for cell in column.cells if isinstance(cell, Cell)]
    headline = table.choice.metric is None or any(cell.half is not None for cell in filled)
    # A further metric is a number of a whole run, such as a median.
    means = "means over test trials and seeds"
    means = means if headline else "each run's value over its test trials, mean over seeds"
    shown = f"{table.shared}: {means}" if table.shared else f"{means[0].upper()}{means[1:]}"
    notes = [f"{shown}, budget {table.choice.budget}."]
    if headline:
        notes.append("± is the wider half of the 95 % interval.")
    notes.append("Bold: best of its column.")
    if any(cell.place is not None for cell in filled):
        notes.append(
            f"Underlined: not significantly different from the best (at least {FEWEST_SEEDS} "
            "seeds a side, paired over trials, corrected for the number of pairs). Average rank: "
            "over all columns, among the rows without a gap; ties share the mean of their places."
        )
    counts = sorted({len(cell.row.seeds) for cell in filled})
    notes.append(f"Seeds: {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}.")
    if counts[0] < FEWEST_SEEDS:
        which = f"{FEW}: fewer" if some_are_few(table) else "All cells have fewer"
        notes.append(f"{which} than {FEWEST_SEEDS} seeds: a trained model, not an algorithm.")
    if any(cell.outside for cell in filled):
        notes.append("†: another backbone or other weights than the ranked rows; not ranked.")
    notes += _notes_of_cells(table)
    data: dict[str, list[str]] = defaultdict(list)
    for column in table.columns:
        data[column.data] += [column.env] if column.data else []
    contents = [f"{name} ({', '.join(envs)})" for name, envs in data.items() if envs]
    return [*notes, f"Data: {'; '.join(contents)}."]


def _notes_of_cells(table: Pivot) -> list[str]:
    """Notes on single cells, and the reasons of those without a score."""
    places_of: dict[str, list[str]] = defaultdict(list)
    filled = 0
    for column in table.columns:
        for label, cell in zip(table.labels, column.cells, strict=True):
            if isinstance(cell, str):
                places = [] if cell == NOT_MEASURED else [f"{label} on {column.env}"]
                places_of[f"-- {cell}"] += places
                continue
            filled += 1
            for mark in (*cell.row.marks, *([] if cell.row.tuned else ["untuned"])):
                places_of[mark].append(f"{label} on {column.env}")
    return [f"{mark}{_where(mark, places, filled)}." for mark, places in places_of.items()]


def _where(mark: str, places: list[str], filled: int) -> str:
    whole = len(places) == filled > 1 and not mark.startswith("--")
    return ": all cells" if whole else f": {', '.join(places)}" if places else ""


def some_are_few(table: Pivot) -> bool:
    """Whether some cells have too few seeds for an algorithm, and others enough."""
    cells = [cell for column in table.columns for cell in column.cells if isinstance(cell, Cell)]
    return len({is_few(cell) for cell in cells}) > 1


def is_few(cell: Cell) -> bool:
    """Whether a cell has too few seeds for an algorithm."""
    return len(cell.row.seeds) < FEWEST_SEEDS


def unfilled(table: Pivot) -> list[str]:
    """Labels of the rows without a single cell."""
    return [
        label
        for label in table.labels
        if not any(isinstance(cell, Cell) for cell in table.cells(label))
    ]


@dataclass(frozen=True)
class Choice:
    """The selection of a table's records.

    Attributes:
        budget: compute budget.
        protocol: settings of the environment by name, as text, that boards must have.
        data: first digits of fingerprints; an environment with boards of several data contents
            takes the one that they name.
        batch_norm: keeps rows evaluated with this mode, and those without batch norm; None keeps
            all.
        metric: a further metric instead of the headline one.
    """

    budget: str = "small"
    protocol: Mapping[str, str] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    batch_norm: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class EnvColumn:
    """One environment.

    Attributes:
        env: its id, with the version where one was given.
        metric: name of what is shown.
        unit: its unit.
        better: `higher` or `lower`.
        data: name and short fingerprint of the data; empty if nothing was measured.
        cells: a cell, or why there is none, for each row of the table.
    """

    env: str
    metric: str
    unit: str
    better: str
    data: str
    cells: tuple[Cell | str, ...]


@dataclass(frozen=True)
class Pivot:
    """Agents x environments.

    Attributes:
        labels: names of the rows.
        columns: environments in the order given.
        average: mean place of each row over all columns, among the rows that have them all; None
            for the others.
        choice: what it was made of.
    """

    labels: tuple[str, ...]
    columns: tuple[EnvColumn, ...]
    average: tuple[float | None, ...]
    choice: Choice

    @property
    def shared(self) -> str:
        """Metric and unit where all measured columns have the same, else an empty string."""
        names = {f"{column.metric} ({column.unit})" for column in self.columns if column.unit}
        return names.pop() if len(names) == 1 else ""

    def cells(self, label: str) -> list[Cell | str]:
        """The cells of one row."""
        place = self.labels.index(label)
        return [column.cells[place] for column in self.columns]


def pivot(
    records: Sequence[Record], agents: Sequence[Wanted], envs: Sequence[str], choice: Choice
) -> Pivot:
    """Return the table of some agents on some environments.

    Ranks and ties are those of the rows shown, computed from their trials. Unranked rows, and
    rows of other boards than the one of an environment, aren't taken.

    Args:
        records: of any environments.
        agents: the rows.
        envs: ids, or `<id>-v<version>`; without a version the newest one.
        choice: budget, protocol, batch norm and metric.

    Raises:
        UnknownName: not one cell could be filled, or no environment has data of `choice.data`.
        UsageError: an environment has several boards, or several rows are of one name.
    """
    for digits in choice.data:
        if not any(_is_of(r, envs) and r.data.fingerprint.startswith(digits) for r in records):
            raise UnknownName(
                f"no records with data {digits} on {', '.join(envs)}; see: lazybench leaderboard"
            )
    columns = tuple(_column(records, agents, env, choice) for env in envs)
    if not any(isinstance(cell, Cell) for column in columns for cell in column.cells):
        raise UnknownName(
            f"no ranked row of {', '.join(wanted.label for wanted in agents)} on "
            f"{', '.join(envs)} at budget {choice.budget}; see what there is with: "
            "lazybench leaderboard"
        )
    whole = [
        all(isinstance(column.cells[i], Cell) for column in columns) for i in range(len(agents))
    ]
    complete = [wanted for wanted, holds in zip(agents, whole, strict=True) if holds]
    # Places among rows that miss other columns would be means over other rivals in each.
    among = columns
    if not all(whole):
        among = tuple(_column(records, complete, env, choice) for env in envs)
    averages = {
        wanted.label: _average([column.cells[i] for column in among])
        for i, wanted in enumerate(complete)
    }
    return Pivot(
        labels=tuple(wanted.label for wanted in agents),
        columns=columns,
        average=tuple(averages.get(wanted.label) for wanted in agents),
        choice=choice,
    )


def _average(cells: Sequence[Cell | str]) -> float | None:
    places = [cell.place for cell in cells if isinstance(cell, Cell)]
    whole = [place for place in places if place is not None]
    return sum(whole) / len(whole) if len(whole) == len(cells) else None


def _is_of(record: Record, envs: Sequence[str]) -> bool:
    return record.env.id in envs or f"{record.env.id}-v{record.env.version}" in envs


def _column(
    records: Sequence[Record], agents: Sequence[Wanted], env: str, choice: Choice
) -> EnvColumn:
    kept = [r for r in records if r.budget == choice.budget and _is_of(r, [env])]
    contents = {record.data.fingerprint for record in kept}
    data = next((d for d in choice.data if any(each.startswith(d) for each in contents)), "")
    names = {name for wanted in agents for name in wanted.names if is_key(name)}
    keys = sorted(n for n in names if any(record.key.startswith(n) for record in kept))
    table = one_table(kept, choice.protocol, data=data, keys=keys)
    if not table:
        return EnvColumn(env, choice.metric or "", "", "", "", (NOT_MEASURED,) * len(agents))
    (board,) = build(table)
    rows = [chosen(board, wanted, choice.batch_norm) for wanted in agents]
    better, unit = board.better, board.unit
    if choice.metric not in (None, board.metric):
        better, unit = measure_facts(kept, str(choice.metric), env)
        cells = measured(rows, str(choice.metric), better)
    else:
        cells = scored(rows, kept)
    return EnvColumn(
        env=env,
        metric=choice.metric or board.metric,
        unit=unit,
        better=better,
        data=f"{board.data} {board.fingerprint[:8]}",
        cells=tuple(cells),
    )


MISSING = "--"
_AVERAGE = "average rank"


def _text(cell: Cell | str, unit: str, *, few: bool) -> str:
    if isinstance(cell, str):
        return MISSING
    half = "" if cell.half is None else f" ± {number_text(cell.half, unit)}"
    marks = ("†" if cell.outside else "") + (FEW if few and is_few(cell) else "")
    return f"{number_text(cell.score, unit)}{half}{f' {marks}' if marks else ''}"


def _heading(column: EnvColumn, *, shared: str = "") -> str:
    if shared or not column.unit:
        return column.env
    return f"{column.env}, {column.metric} ({column.unit})"


def _average_text(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _grid(table: Pivot, marked: Callable[[Cell | str, str], str]) -> list[list[str]]:
    ranked = any(value is not None for value in table.average)
    grid = []
    for label, average in zip(table.labels, table.average, strict=True):
        cells = zip(table.columns, table.cells(label), strict=True)
        row = [label, *(marked(cell, column.unit) for column, cell in cells)]
        grid.append([*row, _average_text(average)] if ranked else row)
    return grid


def _header(table: Pivot) -> list[str]:
    ranked = any(value is not None for value in table.average)
    names = [_heading(column, shared=table.shared) for column in table.columns]
    return ["agent", *names, *([_AVERAGE] if ranked else [])]


def pivot_markdown(table: Pivot, *, command: str) -> str:
    """The table as Markdown, its footnote under it.

    Args:
        table: what to show.
        command: the command that made it, named in the first line.
    """
    few = some_are_few(table)

    def marked(cell: Cell | str, unit: str) -> str:
        text = _text(cell, unit, few=few)
        if isinstance(cell, str):
            return text
        return f"**{text}**" if cell.best else f"<u>{text}</u>" if cell.tied else text

    rows = [[markdown_text(row[0]), *row[1:]] for row in _grid(table, marked)]
    header = [markdown_text(name) for name in _header(table)]
    shown = markdown_table(header, rows)
    notes = " ".join(markdown_text(note) for note in footnotes(table))
    origin = " ".join(_made(command).replace(">", " ").split())
    return f"<!-- {origin} -->\n\n{shown}\n\n{notes}\n"


def pivot_latex(table: Pivot, *, command: str) -> str:
    """The table as LaTeX with booktabs, its footnote under it.

    Args:
        table: what to show.
        command: the command that made it, named in the first line.
    """
    few = some_are_few(table)

    def marked(cell: Cell | str, unit: str) -> str:
        text = latex_cell(_text(cell, unit, few=few))
        if isinstance(cell, str):
            return text
        if cell.best:
            return rf"\textbf{{{text}}}"
        return rf"\underline{{{text}}}" if cell.tied else text

    rows = [[latex_cell(row[0]), *row[1:]] for row in _grid(table, marked)]
    header = [latex_text(name) for name in _header(table)]
    shown = latex_table(header, [("", rows)], "l" + "r" * (len(header) - 1))
    body = f"{shown}\n{latex_footnote(' '.join(footnotes(table)))}"
    return "\n".join([latex_comment(_made(command)), LATEX_NEEDS, latex_float(body), ""])


def pivot_csv(table: Pivot, *, command: str) -> str:
    """The table as CSV: score, half interval, place and seeds of each environment; gaps empty.

    Args:
        table: what to show.
        command: the command that made it, which each row names.
    """
    header: list[str] = ["agent"]
    for column in table.columns:
        header += [_heading(column), f"{column.env} ±", f"{column.env} place"]
        header.append(f"{column.env} seeds")
    rows = []
    for label, average in zip(table.labels, table.average, strict=True):
        row: list[object] = [label]
        for cell in table.cells(label):
            if isinstance(cell, Cell):
                row += [cell.score, cell.half, cell.place, len(cell.row.seeds)]
            else:
                row += [None] * 4
        rows.append([*row, average, command])
    return csv_table([*header, _AVERAGE, MADE_BY], rows)


def _made(command: str) -> str:
    return f"Made by `{command}`. Don't edit."
