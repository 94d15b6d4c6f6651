"""`lazybench compare`: two rows of one board, on the trials that both faced."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lazybench.records import Store, Trials

ENV = "glyphs-net4-untargeted"


@pytest.fixture
def store(lazybench: Any, make_record: Any) -> Store:
    store = Store("leaderboards")
    facts = make_record().env.model_dump()
    for agent, scores in (("square", [1.0, 1, 1, 0]), ("bandits", [1.0, 0, 0, 0])):
        for budget in (500, 1000):
            env = facts | {"id": ENV, "protocol": {"query_budget": budget}}
            store.publish(make_record(agent, trials=Trials.of(scores), env=env))
    return store


def test_one_of_several_boards_is_chosen_by_its_protocol(lazybench: Any, store: Store) -> None:
    argv = ("compare", "square", "bandits", "--env", ENV)
    done = lazybench(*argv)
    assert done.code == 2
    assert "2 boards at budget small, which differ in query_budget (1000, 500)" in done.err
    done = lazybench(*argv, "--protocol", "query_budget=500")
    assert done.code == 0, done.err
    assert "square - bandits: +50.00 %" in done.out
    done = lazybench(*argv, "--protocol", "query_budget=7")
    assert done.code == 2
    assert "query_budget=7" in done.err


def test_flags_and_mixed_processors_are_shown(lazybench: Any, make_record: Any) -> None:
    store = Store("leaderboards")
    facts = make_record()
    env = facts.env.model_dump() | {"id": ENV, "family": "attack"}
    machine = facts.machine.model_dump() | {"processor": "another"}
    curve = [{"step": float(i), "val": 2.0 - 0.1 * i} for i in range(4)]
    scores = Trials.of([1.0, 1, 1, 0])
    store.publish(make_record("square", trials=scores, env=env, curve=curve))
    store.publish(make_record("bandits", trials=scores, env=env, machine=machine))
    argv = ("compare", "square", "bandits", "--env", ENV)
    done = lazybench(*argv)
    assert done.code == 0, done.err
    assert "still rising" in done.out
    assert "Mixed processors (another, " in done.out
    reported = json.loads(lazybench(*argv, "--json").out)
    assert (reported["left"]["flags"], reported["right"]["flags"]) == (["still rising"], [])
    assert len(reported["processors"]) == 2


def test_budgets_that_have_records_are_named(lazybench: Any, store: Store) -> None:
    done = lazybench("compare", "square", "bandits", "--env", ENV, "--budget", "paper")
    assert done.code == 2
    assert f"no records of {ENV} at budget paper (there are some at budget small)" in done.err


def test_power_says_what_is_missing(lazybench: Any, store: Store) -> None:
    argv = ("power", "square", "bandits", "--env", ENV)
    done = lazybench(*argv, "--protocol", "query_budget=7")
    assert done.code == 2
    assert "no records of" in done.err
    done = lazybench(*argv, "--protocol", "query_budget=500")
    assert done.code == 2
    assert "square has 1 seed" in done.err
    done = lazybench("power", "square", "none", "--env", ENV, "--protocol", "query_budget=500")
    assert done.code == 2
    assert "no row 'none'" in done.err


def test_power_is_text_or_json(lazybench: Any, store: Store, make_record: Any) -> None:
    facts = make_record().env.model_dump() | {"id": ENV, "protocol": {"query_budget": 500}}
    for agent, scores in (("square", [1.0, 0, 1, 0]), ("bandits", [1.0, 0, 0, 1])):
        store.publish(make_record(agent, seed=1, trials=Trials.of(scores), env=facts))
    argv = ("power", "square", "bandits", "--env", ENV, "--protocol", "query_budget=500")
    done = lazybench(*argv, "--difference", "20")
    assert done.code == 0, done.err
    assert "A true difference of 20 %" in done.out
    assert "classes" not in done.out
    found = json.loads(lazybench(*argv, "--difference", "20", "--json").out)
    assert found["now"] == {"trials": 4, "classes": None, "seeds": 2}
    assert found["difference"] == 20
    assert 0 < found["power"] < 1
