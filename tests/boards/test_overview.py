"""Average ranks of a family, against ranks by hand."""

from __future__ import annotations

from typing import Any

import pytest

from lazybench.boards import build
from lazybench.boards.page import average_ranks, page_order, winners

ENVS = ("glyphs-5way-1shot", "glyphs-20way-1shot", "omniglot-5way-1shot")


def test_ranks_are_averaged_over_the_boards_that_agents_share(make_run: Any) -> None:
    scores = {
        ENVS[0]: {"a": 0.2, "b": 0.1, "c": 0.0, "rare": 0.3},
        ENVS[1]: {"a": 0.1, "b": 0.2, "c": 0.0},
        ENVS[2]: {"a": 0.2, "b": 0.1},
    }
    runs = [
        make_run(name, shift, env__id=env)
        for env, agents in scores.items()
        for name, shift in agents.items()
    ]
    # A variant is on every board and ranks nowhere.
    runs += [make_run("a", 0.3, env__id=env, config={"x": 1}, overrides={"x": 1}) for env in ENVS]
    found = {each.name: each for each in average_ranks(build(runs))}
    # a: 1, 2, 1; b: 2, 1, 2; c: 3, 3 on two boards; rare is on one of three only.
    assert {name: each.rank for name, each in found.items()} == {
        "a": pytest.approx(4 / 3),
        "b": pytest.approx(5 / 3),
        "c": 3,
    }
    assert (found["a"].boards, found["c"].boards, found["a"].best) == (3, 2, 2)
    assert [each.name for each in average_ranks(build(runs))] == ["a", "b", "c"]


def test_ties_share_the_mean_of_their_places(make_run: Any) -> None:
    runs = [make_run(n, env__id=e, scores=[0.5] * 9) for n in "ab" for e in ENVS]
    runs += [make_run("c", env__id=e, scores=[0.4] * 9) for e in ENVS]
    assert [(each.name, each.rank, each.best) for each in average_ranks(build(runs))] == [
        ("a", 1.5, 3),
        ("b", 1.5, 3),
        ("c", 3, 0),
    ]
    assert average_ranks(build(runs)[:1]) == []
    assert len(winners(build(runs)[0])) == 2


def test_pages_begin_with_few_shot_boards(make_run: Any) -> None:
    runs = [make_run("a", env__family=f, env__id=f) for f in ("attack", "other", "fewshot")]
    families = [board.family for board in sorted(build(runs), key=page_order)]
    assert families == ["fewshot", "attack", "other"]
