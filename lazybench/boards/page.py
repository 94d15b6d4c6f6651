"""All boards as one HTML file: no network, no library, readable without scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from statistics import mean
from typing import Any
from urllib.parse import quote

from lazybench.boards.build import FEWEST_SEEDS, SUPERSEDED, TIES_NOTE, UNRANKED, Board, level_of
from lazybench.boards.charts import (
    PICKED,
    Axis,
    Chart,
    cost_chart,
    learning_chart,
    score_axis,
    shift_chart,
    success_chart,
)
from lazybench.boards.columns import (
    REPORTED_COLUMNS,
    Column,
    columns_of,
    common_source,
    is_shown_first,
    short_places,
    target_text,
    targets_of,
    to_target,
)
from lazybench.boards.plot_data import PlotData, plot_data, row_labels
from lazybench.boards.render import made_by
from lazybench.boards.rows import Row
from lazybench.records.schema import Record, Reported
from lazybench.records.store import Store
from lazybench.references import bibliography
from lazybench.registry import AGENTS, DATASETS
from lazybench.specs import FAMILIES, OWN, AgentSpec, DataSpec
from lazybench.tables import rounded

Words = Callable[[Any, Mapping[str, Any]], str]


def _number(value: Any) -> str:
    is_count = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15
    return f"{value:,}" if is_count else str(value)


def _counted(one: str, several: str) -> Words:
    return lambda value, _: f"{_number(value)} {one if value == 1 else several}"


def _where(words: str) -> Words:
    """The words where a setting is on, nothing where it is off."""
    return lambda value, _: words if value is True else ""


def _target(value: Any, protocol: Mapping[str, Any]) -> str:
    accuracy = protocol.get("target_accuracy")
    if not isinstance(accuracy, float) or not 0 <= accuracy <= 1:
        return f"target network {value}"
    return f"target network {value} ({100 * accuracy:.4g} % right)"


_AIM = {True: "targeted", False: "untargeted"}
_ACCESS = {"scores": "the attacker sees all scores", "label": "the attacker sees the label alone"}
_MODE = {"first": "an image ends at its first success", "minimise": "all queries are used"}
_RULE = {"next": "the target class is the next one"}
_NORM = {"l2": "L2", "linf": "L∞"}

# In the order in which readers ask; what isn't here comes last, by its name.
_WORDS: dict[str, Words] = {
    "way": _counted("way", "ways"),
    "shot": _counted("shot", "shots"),
    "query": _counted("query image a class", "query images a class"),
    "noniid": _where("each label has its own group of training classes (memorisation trap)"),
    "imbalance": lambda value, _: (
        "class counts of the data"
        if value == "natural"
        else f"the largest class has {_number(value)} times the smallest"
    ),
    "head": lambda value, _: f"{_number(value)} training images in the largest class",
    "dev_per_class": _counted("development image a class", "development images a class"),
    "targeted": lambda value, p: (
        f"{_AIM[value]} attacks" if isinstance(value, bool) else f"targeted: {value}"
    ),
    "target": _target,
    "access": lambda value, _: _ACCESS.get(str(value), f"access: {value}"),
    "eps": lambda value, p: (
        f"success within {_NORM.get(str(p.get('norm')), str(p.get('norm', 'a')))} distance {value}"
    ),
    "query_budget": lambda value, _: f"{_number(value)} queries an image",
    "mode": lambda value, _: _MODE.get(str(value), f"mode: {value}"),
    "target_rule": lambda value, p: (
        _RULE.get(str(value), f"target classes: {value}") if p.get("targeted") is not False else ""
    ),
    "strict": _where("the target network runs in a separate process"),
    "subset": lambda value, _: f"subset: {value}",
    "trials": _counted("test trial", "test trials"),
}
_ELSEWHERE = frozenset({"norm", "target_accuracy", "target_sha256"})
"""Said with other settings; a hash says nothing to a reader."""


def protocol_words(board: Board) -> str:
    """The protocol of a board as one sentence without its end, such as `5 ways, 1 shot`.

    Settings that are off or not given are left out; those of other packages are named as they are.
    """
    protocol = dict(board.protocol)
    known = [name for name in _WORDS if name in protocol]
    if board.family == "attack":
        known = [name for name in known if name != "trials"]
    parts = [_WORDS[name](protocol[name], protocol) for name in known if protocol[name] is not None]
    if board.family == "attack" and protocol.get("trials") is not None:
        parts.append(_counted("test image", "test images")(protocol["trials"], protocol))
    parts += [
        f"{name.replace('_', ' ')}: {_plain(value)}"
        for name, value in protocol.items()
        if name not in _WORDS and name not in _ELSEWHERE and value not in (None, False)
    ]
    return ", ".join(filter(None, parts))


def _plain(value: Any) -> str:
    return "yes" if value is True else _number(value)


FAMILY_WORDS = {
    "fewshot": "Few-shot learning",
    "longtail": "Long-tailed recognition",
    "attack": "Black-box attacks",
}
_FEWEST_BOARDS = 2


@dataclass(frozen=True)
class Standing:
    """An agent's average rank over the boards of a family.

    Attributes:
        name: the agent's name on boards.
        rank: mean of its ranks among the agents of the table; ties share the mean of their places.
        boards: boards that it is on.
        best: boards on which it is first or tied with the first.
    """

    name: str
    rank: float
    boards: int
    best: int


def page_order(board: Board) -> tuple[bool, int]:
    """The sort key of boards on a page: the paper's environments first, then family by family."""
    known = list[str](FAMILIES)
    family = known.index(board.family) if board.family in known else len(known)
    return not board.reported, family


def winners(board: Board) -> tuple[Row, ...]:
    """The best row of the first rank group with those that share its rank; empty without any."""
    groups = board.rank_groups
    return tuple(row for row in groups[0][1] if row.rank == 1) if groups else ()


def average_ranks(boards: Sequence[Board]) -> list[Standing]:
    """Return the average rank of the agents that are on at least half of some boards, best first.

    Choice: an agent's row is its best one of its plain name, without overrides; each board ranks
    those agents alone, so that variants and rare agents don't move the others.
    """
    rank_lists: list[dict[str, int]] = []
    for board in boards:
        ranks: dict[str, int] = {}
        for _, rows in board.rank_groups[:1]:
            for row in rows:
                if row.agent == row.agent_id and row.rank is not None:
                    ranks.setdefault(row.agent, row.rank)
        if len(ranks) > 1:
            rank_lists.append(ranks)
    if len(rank_lists) < _FEWEST_BOARDS:
        return []
    names = {name for ranks in rank_lists for name in ranks}
    half = len(rank_lists) / 2
    kept = {name for name in names if sum(name in ranks for ranks in rank_lists) >= half}
    places: dict[str, list[float]] = defaultdict(list)
    best: dict[str, int] = defaultdict(int)
    for ranks in rank_lists:
        among = [ranks[name] for name in kept & ranks.keys()]
        for name in kept & ranks.keys():
            above = sum(rank < ranks[name] for rank in among)
            places[name].append(above + (1 + among.count(ranks[name])) / 2)
            best[name] += above == 0
    standings = [Standing(name, mean(each), len(each), best[name]) for name, each in places.items()]
    return sorted(standings, key=lambda each: (each.rank, each.name))


COMMAND = "lazybench leaderboard --html FILE"
STORE = "leaderboards"
PAPER = "jamal2021lazy"
"""The paper whose environments come first, by its key among the references."""
_DASH = "\N{EN DASH}"
_RANKS_NOTE = (
    "A rank such as 2-5 is any place from the second to the fifth that the pairwise tests allow "
    f"(false discovery rate 5 %); rows of fewer than {FEWEST_SEEDS} seeds have the place of their "
    "score. The intervals of differences aren't corrected for the number of pairs."
).replace("2-5", f"2{_DASH}5")
_SCRIPTS = ("shape.js", "plots.js", "table.js")


@dataclass(frozen=True)
class Cell:
    """One cell: its text, what it is sorted by where that is a number, and what else it shows."""

    text: str
    value: float | None = None
    bar: ScoreBar | None = None
    links: tuple[tuple[str, str], ...] = ()
    variant: str = ""
    marks: tuple[str, ...] = ()
    about: str = ""

    @property
    def number(self) -> str:
        """The text up to its interval."""
        return self.text.partition(" (")[0]

    @property
    def ends(self) -> str:
        """The interval in parentheses, or an empty string."""
        return self.text[len(self.number) + 1 :]


@dataclass(frozen=True)
class ScoreBar:
    """A score on the axis of its board, in percent of its width.

    Attributes:
        left: where the interval begins.
        width: how wide it is.
        middle: where the score is; None outside of the axis.
        classes: left end and width of the interval over classes; None without one.
        beyond: the side on which the score is outside of the axis: `low`, `high`, or empty.
    """

    left: float
    width: float
    middle: float | None
    beyond: str
    classes: tuple[float, float] | None = None


@dataclass(frozen=True)
class _About:
    """Descriptions of included agents and data sets, by id."""

    agents: Mapping[str, AgentSpec]
    data: Mapping[str, DataSpec]

    @classmethod
    def of(cls, boards: Sequence[Board]) -> _About:
        ids = {row.agent_id for board in boards for row in board.rows}
        names = {board.data for board in boards}
        return cls(
            {each.id: each for each in AGENTS.specs() if each.id in ids and each.origin == OWN},
            {each.id: each for each in DATASETS.specs() if each.id in names and each.origin == OWN},
        )


PAGE_MARK = b'<meta name="generator" content="lazybench">'
"""Bytes near the beginning of every page of `to_html`."""


def to_html(
    boards: Sequence[Board],
    records: Iterable[Record],
    *,
    command: str = COMMAND,
    store: str | None = STORE,
) -> str:
    """The boards as one self-contained page; names in it are shown, never taken for markup.

    Args:
        boards: made of `records`, maybe of some only.
        records: where learning curves and trials are taken from.
        command: the command that made the page, named in it.
        store: path from the page to the records' store, for links to records; None without links.
    """
    from jinja2 import Environment, StrictUndefined

    script = "\n".join(_asset(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode("ascii")
    by_key = {record.key12: record for record in records}
    plotted = plot_data(sorted(boards, key=page_order), by_key.values())
    about = _About.of(boards)
    links = {} if store is None else {key: _link(store, each) for key, each in by_key.items()}
    reported = _reported([each.board for each in plotted])
    sections = [_section(each, links, about) for each in plotted]
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_asset("page.html"))
    return template.render(
        boards=sections,
        style=_markup(_asset("page.css")),
        script=_markup(script),
        digest=digest,
        data=_markup(json_for_script([_facts(each) for each in plotted])),
        made=made_by(boards, command),
        columns=_picker(sections),
        overview=_overview(plotted, by_key),
        paper=_work(PAPER),
        families=sorted({board.family for board in boards}),
        envs=sorted({board.env for board in boards}),
        budgets=sorted({board.budget for board in boards}),
        reported=reported,
        env_places={each["env"]: place for place, each in enumerate(reported)},
        agents=[_agent_facts(spec) for spec in about.agents.values()],
        data_sets=[_data_facts(spec) for spec in about.data.values()],
    )


def json_for_script(value: Any) -> str:
    """JSON in ASCII in which no character can end or open an HTML element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return (files("lazybench.boards") / "page" / name).read_text("utf-8").strip()


def _markup(text: str) -> Any:
    from markupsafe import Markup

    # Only our own files, and JSON without angle brackets.
    return Markup(text)


def _link(store: str, record: Record) -> str:
    """The address of a record's file, relative to the page."""
    return quote(PurePosixPath(Store(store).path(record)).as_posix())


def _overview(data: Sequence[PlotData], by_key: Mapping[str, Record]) -> list[dict[str, Any]]:
    """For each family its boards with winner and date, and the average ranks of its agents."""
    families: dict[str, list[PlotData]] = {}
    for each in data:
        families.setdefault(each.board.family, []).append(each)
    return [
        {
            "title": FAMILY_WORDS.get(family, family),
            "boards": [_overview_line(each, by_key) for each in members],
            "ranks": [
                {"budget": budget, "rows": ranks}
                for budget in dict.fromkeys(each.board.budget for each in members)
                if (ranks := average_ranks([e.board for e in members if e.board.budget == budget]))
            ],
        }
        for family, members in families.items()
    ]


def _overview_line(data: PlotData, by_key: Mapping[str, Record]) -> dict[str, Any]:
    board = data.board
    first = winners(board)
    labels = dict(zip(map(id, data.rows), (each.name for each in data.series), strict=True))
    records = [by_key[key] for row in board.rows for key in row.keys if key in by_key]
    return {
        "id": data.id,
        "name": board.name,
        "budget": board.budget,
        "paper": bool(board.reported),
        "winner": labels.get(id(first[0]), first[0].agent) if first else "",
        "tied": len(first) - 1,
        "score": Cell(_score_text(board, first[0]) if first else ""),
        "metric": f"{board.metric} ({board.unit})",
        "rows": len(board.ranked),
        "date": max((record.started for record in records), default="")[:10],
    }


def _score_text(board: Board, row: Row) -> str:
    (column,) = (each for each in columns_of(board, [row]) if each.key == "score")
    return column.cells(board, [row])[0]


def _section(plotted: PlotData, links: Mapping[str, str], about: _About) -> dict[str, Any]:
    board = plotted.board
    columns = [each for each in columns_of(board, board.rows) if each.key != "ranks"]
    axis = score_axis(board, "")
    rows = board.rows
    labels = dict(zip(map(id, rows), row_labels(rows), strict=True))
    places = {id(row): place for place, row in enumerate(plotted.rows)}
    ranks = rank_texts(board)

    def cell(column: Column, row: Row) -> Cell:
        (text,) = column.cells(board, [row])
        value = None if column.sort is None else rounded(column.sort(row))
        if column.key == "rank":
            return Cell(*ranks.get(id(row), ("", None)))
        if column.key == "agent":
            known = row.agent_id in about.agents
            variant = labels[id(row)].removeprefix(row.agent)
            marks = tuple(mark for mark in row.marks if mark not in variant)
            return Cell(text, variant=variant, marks=marks, about=row.agent_id if known else "")
        if column.key == "score" and row.score is None:
            return Cell(row.reason or "")
        if column.key == "score" and axis is not None:
            return Cell(text, value, bar=_bar(row, axis))
        if column.key == "seeds":
            keyed = zip(row.seeds, row.keys, strict=False)
            placed = tuple((str(seed), links[key]) for seed, key in keyed if key in links)
            return Cell(text, value, links=placed)
        return Cell(text, value)

    return {
        "id": plotted.id,
        "board": board,
        "family": FAMILY_WORDS.get(board.family, board.family),
        "fingerprint": board.fingerprint[:12],
        "protocol": protocol_words(board),
        "about_data": board.data in about.data,
        "columns": [
            {
                "title": column.heading(board),
                "help": column.help,
                "first": is_shown_first(column, board),
                "ascending": column.ascending,
                "key": column.key,
            }
            for column in columns
        ],
        "blocks": [
            {
                "title": title,
                "folded": folded,
                "rows": [
                    (places.get(id(row)), [cell(column, row) for column in columns])
                    for row in members
                ],
            }
            for title, members, folded in _blocks(board)
        ],
        "axis": axis,
        # Every second part was in backticks.
        "notes": [(_RANKS_NOTE if note == TIES_NOTE else note).split("`") for note in board.notes],
        "to_target": _to_target(board, labels),
    }


def _blocks(board: Board) -> list[tuple[str, list[Row], bool]]:
    """The rows block by block, with its title and whether it is folded at first."""
    parts: list[tuple[str, list[Row], bool]] = []
    for title, rows in board.blocks:
        newest = [row for row in rows if SUPERSEDED not in row.marks]
        old = [row for row in rows if SUPERSEDED in row.marks]
        if newest:
            words = "Not ranked: limited or smoke runs" if title == UNRANKED else title
            parts.append((words, newest, False))
        if old:
            parts.append(("Superseded: made by older versions of their agents", old, True))
    return parts


def rank_texts(board: Board) -> dict[int, tuple[str, float]]:
    """Rank of each ranked row by its `id`, as text and for sorting.

    One notation: `2` and `5` joined by a dash is any place from the second to the fifth. It counts
    all rows of the rank group; those of too few seeds are taken to be where their score is.
    """
    texts: dict[int, tuple[str, float]] = {}
    for _, rows in board.rank_groups:
        sign = 1 if board.better == "higher" else -1
        levels = [sign * level_of(row) for row in rows]
        few = [level for row, level in zip(rows, levels, strict=True) if row.ranks is None]
        for place, (row, level) in enumerate(zip(rows, levels, strict=True), start=1):
            if row.ranks is None:
                low = 1 + sum(other > level for other in levels)
                high = sum(other >= level for other in levels)
            else:
                low = row.ranks[0] + sum(other > level for other in few)
                high = row.ranks[1] + sum(other >= level for other in few)
            texts[id(row)] = (str(low) if low == high else f"{low}{_DASH}{high}", float(place))
    return texts


def _bar(row: Row, axis: Axis) -> ScoreBar:
    def part(low: float | None, high: float | None) -> tuple[float, float]:
        ends = (score if end is None else end for end in (low, high))
        left, right = (100 * min(max(axis.at(end), 0.0), 1.0) for end in ends)
        return round(left, 1), round(right - left, 1)

    score = row.score or 0.0
    middle = axis.at(score)
    beyond = "low" if middle < 0 else "high" if middle > 1 else ""
    return ScoreBar(
        *part(row.lo, row.hi),
        None if beyond else round(100 * middle, 1),
        beyond,
        None if row.classes_lo is None else part(row.classes_lo, row.classes_hi),
    )


def _to_target(board: Board, labels: Mapping[int, str]) -> dict[str, Any] | None:
    """The table of costs to the targets, the least first; None if no row has them."""
    targets = targets_of(board.rows)
    if not targets:
        return None

    def costs(row: Row) -> list[float]:
        to_reach = (to_target(row, target) for target in targets)
        known = (each.train_cpu_s if each is not None else None for each in to_reach)
        return [math.inf if cost is None else cost for cost in known]

    rows = sorted((row for row in board.rows if row.to_target is not None), key=costs)
    return {
        "headings": [f"{target:g} {board.unit}".rstrip() for target in targets],
        "rows": [
            (labels[id(row)], [target_text(to_target(row, target)) for target in targets])
            for row in rows
        ],
    }


def _picker(sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The columns that any board has, each once, with what readers see of them at first."""
    by_key: dict[str, dict[str, Any]] = {}
    for section in sections:
        for column in section["columns"]:
            title = "score" if column["key"] == "score" else column["title"]
            entry = by_key.setdefault(column["key"], {**column, "title": title})
            entry["first"] = entry["first"] or column["first"]
    return list(by_key.values())


def _facts(data: PlotData) -> dict[str, Any]:
    """The data that the scripts draw."""
    learning, success = learning_chart(data), success_chart(data)
    shifts = shift_chart(data)
    costs = [cost_chart(data, cost) for cost, _ in data.costs]
    facts: dict[str, Any] = {
        "id": data.id,
        "name": data.board.name,
        "picked": min(PICKED, len(data.series)),
        "series": [{"name": each.name, "ranked": each.ranked} for each in data.series],
        "costs": [
            (name, label, chart.note, _chart_facts(chart))
            for (name, label), chart in zip(data.costs, costs, strict=True)
        ],
        "learning": None if learning is None else _chart_facts(learning),
        "learningNote": data.learning_note,
        "success": None if success is None else _chart_facts(success),
        "shifts": None if shifts is None else _chart_facts(shifts),
    }
    return facts


def _chart_facts(chart: Chart) -> dict[str, Any]:
    """A chart for the scripts: places of three decimals, what is empty left out."""

    def axis(each: Axis) -> dict[str, Any]:
        return {"label": each.label, "ticks": _placed(each.ticks), "gutter": each.gutter}

    marks = [
        {"series": mark.series}
        | {name: _placed(value) for name, value in vars(mark).items() if value}
        for mark in chart.marks
    ]
    facts = {"title": chart.title, "x": axis(chart.x), "y": axis(chart.y), "marks": marks}
    return facts | {"steps": chart.steps, "front": _placed(chart.front), "note": chart.note}


def _placed(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    return [_placed(each) for each in value] if isinstance(value, list | tuple) else value


def _reported(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Reported numbers of papers, once for each environment."""
    by_env: dict[str, tuple[Board, tuple[Reported, ...]]] = {
        board.env: (board, board.reported) for board in boards if board.reported
    }
    tables = []
    for env, (board, rows) in by_env.items():
        source = common_source(rows)
        columns = short_places(REPORTED_COLUMNS) if source else REPORTED_COLUMNS
        cells = [[(column.text(row), column.style) for column in columns] for row in rows]
        headings = [column.heading for column in columns]
        facts = {"env": env, "family": board.family, "source": source}
        tables.append(facts | {"headings": headings, "rows": cells})
    return tables


def _work(key: str) -> dict[str, str]:
    work = bibliography()[key]
    return {"text": work.text, "url": work.url, "title": work.fields["title"]}


def _works(keys: Iterable[str]) -> list[dict[str, str]]:
    return [_work(key) for key in keys if key in bibliography()]


def _agent_facts(spec: AgentSpec) -> dict[str, Any]:
    return {"id": spec.id, "about": spec.about, "works": _works(spec.cites)}


def _data_facts(spec: DataSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "about": spec.about,
        "licence": spec.licence,
        "works": _works(spec.cites),
        "sheet": {title: re.split(r"\n\s*\n", text.strip()) for title, text in spec.sheet.items()},
    }
