"""The overview of a page of boards: their order, winners, and average ranks of each family."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from lazybench.boards.build import Board
from lazybench.boards.rows import Row
from lazybench.specs import FAMILIES

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
    found: list[dict[str, int]] = []
    for board in boards:
        ranks: dict[str, int] = {}
        for _, rows in board.rank_groups[:1]:
            for row in rows:
                if row.agent == row.agent_id and row.rank is not None:
                    ranks.setdefault(row.agent, row.rank)
        if len(ranks) > 1:
            found.append(ranks)
    if len(found) < _FEWEST_BOARDS:
        return []
    names = {name for ranks in found for name in ranks}
    kept = {name for name in names if 2 * sum(name in ranks for ranks in found) >= len(found)}
    places: dict[str, list[float]] = defaultdict(list)
    best: dict[str, int] = defaultdict(int)
    for ranks in found:
        among = [ranks[name] for name in kept & ranks.keys()]
        for name in kept & ranks.keys():
            above = sum(rank < ranks[name] for rank in among)
            places[name].append(above + (1 + among.count(ranks[name])) / 2)
            best[name] += above == 0
    standings = [Standing(name, mean(each), len(each), best[name]) for name, each in places.items()]
    return sorted(standings, key=lambda each: (each.rank, each.name))
