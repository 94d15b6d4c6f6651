"""`lazybench compare`: two rows of one board, on the trials that both faced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lazybench as lb
from lazybench import import_data
from lazybench.records import Store, Trials
from lazybench.user_code import source_sha256

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


@pytest.fixture
def two_contents(lazybench: Any, make_record: Any) -> dict[str, tuple[str, str]]:
    """Records of two agents on data that was imported again; by content, their keys."""
    store, keys = Store("leaderboards"), {}
    facts = make_record()
    env = facts.env.model_dump() | {"id": "mine-3way-1shot"}
    for seed, content in enumerate(("old", "new")):
        pixels = np.random.default_rng(seed).integers(0, 255, (200, 1, 16, 16), np.uint8)
        done = import_data(pixels, np.arange(200) % 10, name="mine", split_seed=0, replace=True)
        data = facts.data.model_dump() | {"name": "mine", "fingerprint": done.meta.fingerprint}
        for agent, gain in (("a", 0.5 * seed), ("b", 0.0)):
            scores = Trials.of([0.5 + gain, 0.25 + gain, 0.5, 0.25])
            record = make_record(agent, trials=scores, env=env, data=data)
            store.publish(record)
            keys.setdefault(content, []).append(record.key[:8])
        keys[f"{content} data"] = done.meta.fingerprint
    return keys


def test_the_data_installed_here_is_compared(lazybench: Any, two_contents: Any) -> None:
    argv = ("compare", "a", "b", "--env", "mine-3way-1shot")
    assert "a - b: +25.00 %" in lazybench(*argv).out
    for content, gain in (("old", "+0.00"), ("new", "+25.00")):
        done = lazybench(*argv, "--data", two_contents[f"{content} data"][:8])
        assert f"a - b: {gain} %" in done.out, done.err
        done = lazybench("compare", *two_contents[content], "--env", "mine-3way-1shot")
        assert f"a - b: {gain} %" in done.out, done.err
    assert lb.board("mine-3way-1shot").board.fingerprint == two_contents["new data"]
    older = lb.compare("a", "b", env="mine-3way-1shot", data=two_contents["old data"])
    assert older.result.difference.mean == 0.0


def test_a_table_takes_the_data_of_its_keys_or_of_digits(lazybench: Any, two_contents: Any) -> None:
    argv = ("table", "--envs", "mine-3way-1shot", "--agents")
    older = (two_contents["old"][0], two_contents["old"][1])
    for names, more, score in (
        ("a,b", (), "62.50"),
        (",".join(older), (), "37.50"),
        ("a,b", ("--data", two_contents["old data"][:8]), "37.50"),
    ):
        done = lazybench(*argv, names, *more)
        assert done.code == 0, done.err
        assert score in next(
            x for x in done.out.splitlines() if x.startswith(("| a ", f"| {older[0]}"))
        )
    assert f"--data {two_contents['old data'][:8]}" in done.out
    for digits, reported in (("abc", "got 'abc'"), ("0" * 12, "data 000000000000 on mine-3way")):
        done = lazybench(*argv, "a,b", "--data", digits)
        assert (done.code, reported in done.err) == (2, True), done.err


def test_boards_of_other_data_are_told_apart(lazybench: Any, two_contents: Any) -> None:
    argv = ("compare", "a", "b", "--env", "mine-3way-1shot")
    done = lazybench("compare", two_contents["old"][0], two_contents["new"][1], *argv[3:])
    assert done.code == 2
    assert "are on boards that differ in data (mine " in done.err
    for digits, reported in (("abc", "got 'abc'"), ("0" * 12, "data 000000000000; see")):
        done = lazybench(*argv, "--data", digits)
        assert (done.code, reported in done.err) == (2, True), done.err
    assert lazybench("data", "forget", "mine", "--yes").code == 0
    done = lazybench(*argv)
    assert done.code == 2
    assert "differ in data (" in done.err
    assert "--data" in done.err


def test_records_of_two_versions_of_an_environment_are_told_apart(
    lazybench: Any, make_run: Any
) -> None:
    runs = [make_run("a", env__version=1), make_run("b", env__version=2)]
    for record in runs:
        Store("leaderboards").publish(record)
    done = lazybench("compare", *(record.key12 for record in runs), "--env", runs[0].env.id)
    assert (done.code, "differ in version (1, 2)" in done.err) == (2, True), done.err


def test_limited_rows_are_named_as_such(lazybench: Any, make_record: Any) -> None:
    store = Store("leaderboards")
    trials = Trials.of([1.0, 0.5])
    short = make_record("short", trials=trials, limited=True)
    store.publish(short)
    argv = ("compare", "short", "whole", "--env", short.env.id)
    store.publish(make_record("whole", trials=trials))
    for name in ("short", short.key12):
        done = lazybench("compare", name, *argv[2:])
        assert done.code == 2
        assert f"'{name}' was evaluated on 2 trials" in done.err
        assert "without --limit" in done.err
    done = lazybench("compare", "whole", "whale", "--env", short.env.id)
    assert "no row 'whale' with a score. Did you mean: whole? Rows: whole\n" in done.err


def test_a_file_names_the_row_of_its_present_source(lazybench: Any, make_run: Any) -> None:
    """Earlier sources of the file have rows of their own."""
    store, keys = Store("leaderboards"), []
    for text in ("x = 1", "x = 2"):
        Path("mine.py").write_text(f"{text}\nclass Mine:\n    pass\n")
        source = source_sha256(Path("mine.py"))
        keys.append(make_run("Mine", agent__source_sha256=source, agent__origin="mine.py:Mine"))
        store.publish(keys[-1])
    store.publish(make_run("other"))
    reported = lazybench("compare", "./mine.py:Mine", "other", "--env", keys[0].env.id, "--json")
    assert json.loads(reported.out)["left"]["keys"] == [keys[1].key12], reported.err
    Path("mine.py").write_text("raise SystemExit(3)  # never imported\n")
    done = lazybench("compare", "mine.py:Mine", "other", "--env", keys[0].env.id)
    assert (done.code, "no run with the code that mine.py has now" in done.err) == (2, True)
    assert all(record.key12 in done.err for record in keys)
    Path("mine.py").unlink()
    done = lazybench("compare", "mine.py:Mine", "other", "--env", keys[0].env.id)
    assert (done.code, "names 2 rows" in done.err) == (2, True)


def test_the_one_row_of_earlier_code_is_no_row_of_the_file(lazybench: Any, make_run: Any) -> None:
    store = Store("leaderboards")
    Path("mine.py").write_text("class Mine:\n    pass\n")
    older = make_run("Mine", agent__source_sha256="0" * 64, agent__origin="mine.py:Mine")
    for record in (older, make_run("other")):
        store.publish(record)
    done = lazybench("compare", "mine.py:Mine", "other", "--env", older.env.id)
    assert (done.code, f"by its key: {older.key12}" in done.err) == (2, True)
    done = lazybench("compare", older.key12, "other", "--env", older.env.id)
    assert done.code == 0, done.err


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
