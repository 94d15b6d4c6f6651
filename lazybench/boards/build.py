"""Boards from records: which runs share a table, and the order and ranks of its rows."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lazybench.boards.flags import (
    BELOW_BASELINE,
    BETWEEN_PROCESSORS,
    RISE,
    STILL_RISING,
    mixed_processors,
)
from lazybench.boards.group import (
    SHOWN,
    Group,
    difference,
    groups,
    is_superseded,
    newest_versions,
    samples_classes,
    score_of,
    whole_runs,
)
from lazybench.boards.rows import Row, failed_row, row_of
from lazybench.data.importing.catalogue import imported_fingerprint
from lazybench.errors import UnknownName, UsageError
from lazybench.files import canonical_json
from lazybench.records.schema import DataFacts, Record, Reported
from lazybench.registry import ENVS
from lazybench.specs import EnvSpec
from lazybench.stats import Difference, significant_pairs

FEWEST_SEEDS = 3
FEW_SEEDS_NOTE = (
    f"Where a side has fewer than {FEWEST_SEEDS} seeds, this table compares trained models, not "
    "algorithms, and forms no tied groups."
)
TIES_NOTE = (
    f"Rows of at least {FEWEST_SEEDS} seeds share a rank when their paired difference from the "
    "top row of that rank is not significant (false discovery rate 5 %); a row of fewer seeds "
    "between two of them has their rank. `ranks` gives all positions compatible with the pairwise "
    "tests. The intervals of differences aren't corrected for the number of pairs."
)
SMOKE_NOTE = "A smoke budget only shows that an agent runs; its rows are never ranked."
GROUPS_NOTE = (
    "Ranks and differences compare rows of the same backbone and the same source of weights; "
    "different networks are never ranked against each other."
)
FLAGS_NOTE = (
    f"`{BELOW_BASELINE}`: the row's paired 95 % interval to a baseline of its family doesn't lie "
    f"above 0. `{STILL_RISING}`: its validation score gains more than {RISE:g} point over the last "
    "half of training."
)
MIXED_NOTE = (
    "Rows with {} seeds and more ran on different processors ({}). The same settings on another "
    f"processor differ by up to {BETWEEN_PROCESSORS} points, which intervals and ranks don't "
    "cover; `lazybench compare` says which pairs that concerns."
)
CLASSES_NOTE = (
    "The interval at the score is over trials and seeds: it says how other trials of the same test "
    "classes would score. The one over classes says how other classes of the same kind would; "
    "ranks and differences use it."
)
NO_CLASSES_NOTE = (
    "Which classes these trials have isn't known here. All intervals are over trials and seeds, "
    "with the same test classes."
)
SUPERSEDED = "superseded"
NO_NETWORK = "No network recorded"
UNRANKED = "Not ranked: limited, smoke or superseded runs"
TRANSFERRED = "Transfer: trained on other tasks, not ranked"
FAILED = "Without a score"
_BUDGETS = ("medium", "small", "paper", "smoke")
# A limited run differs in the number of trials, and shares the board of the whole ones.
_TRIAL_COUNTS = frozenset({"trials", "n_trials", "test_trials"})


@dataclass(frozen=True)
class Board:
    """All runs on one env id and revision, one data content, one protocol and one budget.

    Attributes:
        env: canonical env id.
        version: revision of the env.
        family: the env's family.
        data: name of the data.
        fingerprint: content of the data.
        prep: version of its preparation.
        budget: the compute budget that all rows share.
        protocol: names and values that all ranked rows share.
        metric: name of the score.
        unit: unit of every score here; a `fraction` is shown as `%`.
        better: `higher` or `lower`.
        ranked: rows by rank, rank group after rank group; each group's ranks begin at 1.
        unranked: limited, smoke and superseded rows, by score.
        transferred: rows of agents trained on other tasks, by score; never ranked.
        failed: one row for each run without a score.
        reported: numbers of papers for this env.
        notes: sentences that belong under the table.
        n_records: measured or submitted records behind the board.
    """

    env: str
    version: int
    family: str
    data: str
    fingerprint: str
    prep: str
    budget: str
    protocol: tuple[tuple[str, Any], ...]
    metric: str
    unit: str
    better: str
    ranked: tuple[Row, ...]
    unranked: tuple[Row, ...]
    transferred: tuple[Row, ...]
    failed: tuple[Row, ...]
    reported: tuple[Reported, ...]
    notes: tuple[str, ...]
    n_records: int

    @property
    def name(self) -> str:
        """`<env id>-v<version>`."""
        return f"{self.env}-v{self.version}"

    @property
    def at(self) -> str:
        """The budget, and those of `later_options` that were chosen, such as a defence."""
        later = later_options(self.env)
        chosen = [f"{name.replace('_', ' ')} {v}" for name, v in self.protocol if name in later]
        return ", ".join([self.budget, *chosen])

    @property
    def rank_groups(self) -> list[tuple[str, tuple[Row, ...]]]:
        """The ranked rows by rank group, with its name."""
        grouped = itertools.groupby(self.ranked, key=lambda row: row.rank_group)
        return [(name, tuple(rows)) for name, rows in grouped]

    @property
    def blocks(self) -> list[tuple[str, tuple[Row, ...]]]:
        """The rows block by block, each with its title; empty for a single rank group."""
        several = self.rank_groups
        ranked = [(name or NO_NETWORK if len(several) > 1 else "", rows) for name, rows in several]
        rest = (
            (UNRANKED, self.unranked),
            (TRANSFERRED, self.transferred),
            (FAILED, self.failed),
        )
        return [*ranked, *((title, rows) for title, rows in rest if rows)]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, block after block."""
        return (*self.ranked, *self.unranked, *self.transferred, *self.failed)


def build(records: Iterable[Record], reported: Iterable[Reported] = ()) -> list[Board]:
    """The boards of `records`, in an order that doesn't depend on theirs.

    Args:
        records: any records; those that can't be compared never share a board.
        reported: rows of papers; each is on every board of its env.
    """
    papers = list(reported)
    return sorted((_board(table, papers) for table in tables(records)), key=_board_order)


def rows_for(reported: Iterable[Reported], env_id: str) -> tuple[Reported, ...]:
    """The rows that papers report for `env_id`, in the order given.

    A revision of an env makes no difference here: papers know nothing of it.
    """
    return tuple(row for row in reported if row.env == env_id)


def tables(records: Iterable[Record]) -> list[list[Record]]:
    """Return the records of each board: those of one environment, data, protocol and budget."""
    by_table: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        # Compact, which Python writes ten times as fast as the canonical form.
        by_table[json.dumps(_table(record), sort_keys=True)].append(record)
    return list(by_table.values())


def usual_tables(records: Iterable[Record]) -> list[list[Record]]:
    """Return the tables of each environment's newest revision, without options.

    Runs with an option such as a defence (`later_options`) are other tasks, and so are those on an
    earlier revision.
    """
    found = [table for table in tables(records) if is_usual(table[0].env.id, table[0].env.protocol)]
    newest_of: dict[str, int] = defaultdict(int)
    for table in found:
        env = table[0].env
        newest_of[env.id] = max(newest_of[env.id], env.version)
    return [table for table in found if table[0].env.version == newest_of[table[0].env.id]]


def one_table(
    records: Sequence[Record],
    protocol: Mapping[str, str],
    *,
    data: str = "",
    keys: Sequence[str] = (),
) -> list[Record]:
    """Return the records of the one board that has some settings, of the newest version that does.

    Empty where no board has them. Where several have, the one is meant that has the records of
    `keys`; else one without any of `later_options`; else one with runs that aren't limited; else
    that of imported data as it is installed here.

    Args:
        records: of one environment and budget.
        protocol: settings of the environment by name, as text, that the board must have.
        data: first digits of the fingerprint of the board's data; empty for any.
        keys: first digits of keys of records that are looked for.

    Raises:
        UsageError: several boards have them.
    """
    fitting = [table for table in tables(records) if _fits(table, protocol, data)]
    if any(_has_keys(table, keys) for table in fitting):
        fitting = [table for table in fitting if _has_keys(table, keys)]
    elif keys and all(any(_has_keys(table, [key]) for table in fitting) for key in keys):
        raise UsageError(
            f"the records {' and '.join(keys)} are on boards that differ in "
            f"{_differing(fitting)}; only rows of one board are compared"
        )
    whole = [table for table in fitting if not all(record.limited for record in table)]
    fitting = whole or fitting
    newest = max((table[0].env.version for table in fitting), default=0)
    fitting = [table for table in fitting if table[0].env.version == newest]
    usual = [table for table in fitting if is_usual(table[0].env.id, table[0].env.protocol)]
    fitting = usual or fitting
    installed = [table for table in fitting if _is_installed(table[0].data)]
    fitting = installed if len(installed) == 1 else fitting
    if len(fitting) > 1:
        first = fitting[0][0]
        raise UsageError(
            f"{first.env.id} has {len(fitting)} boards at budget {first.budget}, which differ in "
            f"{_differing(fitting)}; choose with --protocol NAME=VALUE, or with --data and the "
            "first digits of its fingerprint"
        )
    return fitting[0] if fitting else []


def _has_keys(table: Sequence[Record], keys: Iterable[str]) -> bool:
    return all(any(record.key.startswith(key) for record in table) for key in keys)


def _is_installed(data: DataFacts) -> bool:
    """Return whether imported data is installed here with the content of a record."""
    return data.fingerprint == imported_fingerprint(data.name)


def _settings(table: Sequence[Record]) -> dict[str, str]:
    """Names and values of a board's protocol; limited runs may have faced fewer trials."""
    env = min(table, key=lambda record: record.limited).env
    return settings_text(env.id, env.protocol)


def _fits(table: Sequence[Record], protocol: Mapping[str, str], data: str) -> bool:
    has_settings = protocol.items() <= _settings(table).items()
    return has_settings and table[0].data.fingerprint.startswith(data)


def settings_text(env_id: str, protocol: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a board as text by name, with defaults for `later_options`."""
    whole = {**later_options(env_id), **protocol}
    return {name: str(value) for name, value in whole.items() if name not in SHOWN}


def is_usual(env_id: str, protocol: Mapping[str, Any]) -> bool:
    """Return whether a board has none of `later_options`, such as a defence."""
    return not later_options(env_id).keys() & protocol.keys()


@cache
def later_options(env_id: str) -> Mapping[str, Any]:
    """Return the defaults of an environment's options that records lack unless they are chosen.

    Empty for an environment that isn't installed.
    """
    try:
        spec: EnvSpec = ENVS.resolve(env_id).spec
    except UnknownName:
        return {}
    return spec.left_out


def _differing(several: Sequence[Sequence[Record]]) -> str:
    values_of: dict[str, set[str]] = defaultdict(set)
    for table in several:
        data = table[0].data
        values_of["data"].add(f"{data.name} {data.fingerprint[:12]} {data.prep}")
        values_of["version"].add(str(table[0].env.version))
        for name, value in sorted(_settings(table).items()):
            values_of[name].add(value)
    return "; ".join(
        f"{name} ({', '.join(sorted(values))})"
        for name, values in values_of.items()
        if len(values) > 1
    )


def _table(record: Record) -> list[Any]:
    env, data = record.env, record.data
    protocol = {k: v for k, v in env.protocol.items() if k not in SHOWN | _TRIAL_COUNTS}
    of_env = [env.id, env.version, env.metric, env.unit, env.better, protocol]
    return [*of_env, data.fingerprint, data.prep, record.budget]


def _board_order(board: Board) -> tuple[Any, ...]:
    known = _BUDGETS.index(board.budget) if board.budget in _BUDGETS else len(_BUDGETS)
    place = (board.data, board.fingerprint, board.prep)
    later = not is_usual(board.env, dict(board.protocol))
    budget = (known, board.budget, later, canonical_json(board.protocol))
    return (board.env, board.version, *place, *budget)


def _board(records: Sequence[Record], papers: Sequence[Reported]) -> Board:
    whole = sorted(records, key=lambda record: (record.limited, record.agent.id, record.key))
    first = whole[0]
    mixed = len({record.device for record in whole}) > 1
    grouped = groups(whole)
    failed = [
        failed_row(record, group.name, mixed_devices=mixed)
        for group in grouped
        for record in group.records
        if score_of(record) is None
    ]
    pairs = [
        (group, row_of(group, grouped, mixed_devices=mixed)) for group in grouped if group.scored
    ]
    higher = first.env.better == "higher"
    pairs.sort(key=lambda pair: _row_order(pair[1], higher))
    at_home = [pair for pair in pairs if pair[0].records[0].trained_on is None]
    # A failed run, or an evaluation of an agent trained elsewhere, takes no row's place.
    newest_of = newest_versions(whole_runs(group.records[0] for group, _ in pairs))
    rankable = [pair for pair in at_home if _is_rankable(pair[0], newest_of)]
    rank_groups = _rank_groups(rankable)
    ranked = [row for each in rank_groups for row in _ranked(each)]
    return Board(
        env=first.env.id,
        version=first.env.version,
        family=first.env.family,
        data=first.data.name,
        fingerprint=first.data.fingerprint,
        prep=first.data.prep,
        budget=first.budget,
        protocol=tuple(
            sorted((name, v) for name, v in first.env.protocol.items() if name not in SHOWN)
        ),
        metric=first.env.metric,
        unit="%" if first.env.unit == "fraction" else first.env.unit,
        better=first.env.better,
        ranked=tuple(ranked),
        unranked=tuple(
            replace(row, marks=(*row.marks, SUPERSEDED))
            if is_superseded(group.records[0], newest_of)
            else row
            for group, row in at_home
            if not _is_rankable(group, newest_of)
        ),
        transferred=tuple(row for group, row in pairs if group.records[0].trained_on is not None),
        failed=tuple(failed),
        reported=rows_for(papers, first.env.id),
        notes=_notes(ranked, first, _mixed(rank_groups)),
        n_records=len(whole),
    )


def _is_rankable(group: Group, newest_of: Mapping[tuple[str, str], int]) -> bool:
    first = group.records[0]
    whole = not first.limited and first.budget != "smoke"
    return whole and not is_superseded(first, newest_of)


def _rank_groups(pairs: Sequence[tuple[Group, Row]]) -> list[list[tuple[Group, Row]]]:
    """Pairs by rank group, the group with the best row first; the order inside stays.

    Rows without a network, such as baselines, join the network with most rows.
    """
    names = Counter(row.rank_group for _, row in pairs if row.rank_group)
    if names:
        ((home, _),) = names.most_common(1)
        pairs = [(group, replace(row, rank_group=row.rank_group or home)) for group, row in pairs]
    order = list(dict.fromkeys(row.rank_group for _, row in pairs))
    return [[pair for pair in pairs if pair[1].rank_group == name] for name in order]


def _row_order(row: Row, higher: bool) -> tuple[Any, ...]:
    score = level_of(row)
    return (-score if higher else score, row.agent, row.batch_norm or "", row.keys)


def level_of(row: Row) -> float:
    """Return the row's score without the last bits, in which means over equal scores may differ."""
    return 0.0 if row.score is None else float(f"{row.score:.9g}")


def _difference(group: Group, other: Group) -> Difference | None:
    """The paired difference, or None if it is unknown."""
    paired = difference(group, other)
    # A single trial has no spread, so no interval.
    return None if paired is None or math.isnan(paired.lo) else paired


def _ranked(pairs: Sequence[tuple[Group, Row]]) -> list[Row]:
    """The rows with ranks and differences, given by score, best first.

    A row of `FEWEST_SEEDS` seeds shares the rank of another such row above it where they don't
    differ significantly. A row of fewer seeds has the rank of two such rows that it is between;
    else it shares one only with an equal score.
    """
    firm, differing = _significant_pairs([group for group, _ in pairs])
    rows: list[Row] = []
    given: list[int] = []
    leader: int | None = None
    for place, (group, row) in enumerate(pairs):
        rank = place + 1
        if leader is not None and place in firm and (leader, place) not in differing:
            rank = given[leader]
        elif place and level_of(row) == level_of(rows[-1]):
            rank = given[-1]
        if place in firm and (leader is None or rank != given[leader]):
            leader = place
        given.append(rank)
        ranks = None
        if place in firm and len(firm) > 1:
            above = sum((other, place) in differing for other in firm)
            below = sum((place, other) in differing for other in firm)
            ranks = (1 + above, len(firm) - below)
        to_best = _difference(group, pairs[0][0]) if place else None
        rows.append(replace(row, ranks=ranks, diff=to_best))
    # Ranks don't fall from one row to the next.
    least = list(itertools.accumulate(reversed(given), min))[::-1]
    return [replace(row, rank=rank) for row, rank in zip(rows, least, strict=True)]


def _significant_pairs(ranked: Sequence[Group]) -> tuple[set[int], set[tuple[int, int]]]:
    """The places of groups with enough seeds, and the pairs (better, worse) of them that differ.

    Pairs without the same trials aren't compared: they differ where their scores do.
    """
    firm = [i for i, group in enumerate(ranked) if len(group.scored) >= FEWEST_SEEDS]
    sides = [ranked[i].trial_scores() or [] for i in firm]
    seeds = [[record.seed for record in ranked[i].scored] for i in firm]
    effects = ranked[firm[0]].class_effects() if firm else None
    pairs = significant_pairs(sides, seeds, effects)
    return set(firm), {(firm[i], firm[j]) for i, j in pairs}


def _mixed(rank_groups: Sequence[Sequence[tuple[Group, Row]]]) -> list[str]:
    """The processors of rows that are tested against each other across processors; else none."""
    names: set[str] = set()
    for pairs in rank_groups:
        firm = [group for group, _ in pairs if len(group.scored) >= FEWEST_SEEDS]
        for one, other in itertools.combinations(firm, 2):
            names.update(mixed_processors(one, other))
    return sorted(names)


def _notes(ranked: Sequence[Row], first: Record, mixed: Sequence[str]) -> tuple[str, ...]:
    notes = [SMOKE_NOTE] if first.budget == "smoke" else []
    enough = sum(len(row.seeds) >= FEWEST_SEEDS for row in ranked)
    if enough < len(ranked):
        notes.append(FEW_SEEDS_NOTE)
    if enough > 1:
        notes.append(TIES_NOTE)
    if len({row.rank_group for row in ranked}) > 1:
        notes.append(GROUPS_NOTE)
    if mixed:
        notes.append(MIXED_NOTE.format(FEWEST_SEEDS, ", ".join(mixed)))
    if any({BELOW_BASELINE, STILL_RISING} & {*row.marks} for row in ranked):
        notes.append(FLAGS_NOTE)
    if any(row.classes_lo is not None for row in ranked):
        notes.append(CLASSES_NOTE)
    elif ranked and samples_classes(first):
        notes.append(NO_CLASSES_NOTE)
    return tuple(notes)
