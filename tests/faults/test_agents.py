"""Rows 17 to 25: agents that diverge, raise, hang, starve, crash, cheat and overspend."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import faultkit
import numpy as np
import pytest
import torch

import lazybench
from lazybench.envs.targets import nets as targets
from lazybench.records import canonical_json
from lazybench.runner.request import RunRequest
from lazybench.runner.run import run

PLAYERS = Path(__file__).with_name("players.py")
HARNESS = PLAYERS.parents[1] / "runner" / "players.py"


def suite(here: Any, *agents: str, options: tuple[str, ...] = (), **env: str) -> dict[str, Any]:
    """The outcomes of a sweep of smoke cells by agent, and `code`."""
    names = json.dumps(agents)
    (here.folder / "mine.toml").write_text(
        'name = "mine"\nabout = "faults"\n'
        f'[[cells]]\nagents = {names}\nenvs = ["sinusoid-5shot"]\nbudget = "smoke"\n'
    )
    done = here("sweep", "mine.toml", "--out", "store", "--runs", "runs", "--json", *options, **env)
    assert "Traceback" not in done.err, done.err
    rows = {row["agent"].rpartition(":")[2]: row for row in json.loads(done.out)}
    return rows | {"code": done.code}


def play(agent: str, folder: Path, env: str = "sinusoid-5shot", **more: Any) -> Any:
    where = agent if agent.startswith("/") else f"{PLAYERS}:{agent}"
    options = {"budget": "smoke", "out": folder / "o", "runs": folder / "r", "threads": 1, **more}
    return lazybench.run(where, env, **options)


def test_17_not_a_number(here: Any) -> None:
    where = ("--out", "store", "--runs", "runs", "-b", "smoke", "-e", "sinusoid-5shot")
    diverged = here("run", "-a", f"{HARNESS}:Diverges", *where)
    assert diverged.code == 3
    assert "diverged: the loss is nan at meta-iteration 3; last finite loss: 0.5" in diverged.err
    exploded = here("run", "-a", f"{PLAYERS}:Explodes", *where)
    assert exploded.code == 3
    assert "the loss is inf at meta-iteration 4; last finite loss: 1e+300" in exploded.err
    assert here("run", "-a", f"{PLAYERS}:Steady", *where).code == 0
    board = json.loads((here.folder / "store/boards/sinusoid-5shot-v1.json").read_text())
    (entry,) = board["boards"]
    assert [row["agent"] for row in entry["ranked"] + entry["unranked"]] == ["Steady"]
    failed = {row["agent"]: row["reason"] for row in entry["failed"]}
    assert set(failed) == {"Diverges", "Explodes"}, "shown with their reason, and not ranked"
    assert "the loss is nan" in failed["Diverges"]


@pytest.mark.parametrize(
    ("agent", "env", "settings"),
    [
        pytest.param("reptile", "glyphs-5way-1shot", {"inner_lr": 1e6}, marks=pytest.mark.slow),
        pytest.param("maml", "sinusoid-5shot", {"inner_lr": 1e6}, marks=pytest.mark.slow),
        pytest.param("lazy_maml", "sinusoid-5shot", {"inner_lr": 1e6}, marks=pytest.mark.slow),
        pytest.param("cross_entropy", "glyphs-lt-100", {"lr": 1e9}, marks=pytest.mark.slow),
    ],
)
def test_17_exploding_steps(tmp_path: Path, agent: str, env: str, settings: Any) -> None:
    options = {"budget": "smoke", "out": tmp_path / "o", "runs": tmp_path / "r", "threads": 1}
    record = lazybench.run(agent, env, settings=settings, **options)
    text = record.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    if record.status == "diverged":
        assert record.reason
        assert record.metrics == {}
    else:
        assert record.status == "ok"
        assert all(metric.value is None or metric.value >= 0 for metric in record.metrics.values())


def test_18_an_agent_that_raises(here: Any) -> None:
    where = ("--out", "store", "--runs", "runs", "-b", "smoke", "-e", "sinusoid-5shot")
    done = here("run", "-a", f"{HARNESS}:Raises", *where)
    assert done.code == 3
    assert "failed: RuntimeError: out of ideas (players.py:" in done.err
    assert "Traceback (most recent call last)" not in done.err
    assert here.record.status == "failed"
    text = (here.run / "error.txt").read_text()
    assert text.startswith("Traceback (most recent call last)")
    assert 'raise RuntimeError("out of ideas")' in text
    assert str(here.run / "error.txt").endswith(done.err.partition("traceback in ")[2].split()[0])


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        ("RaisesInPolicy", "ValueError: no answer (players.py:"),
        ("Exits", "SystemExit"),
        ("Interrupts", "KeyboardInterrupt"),
        ("LeavesGenerators", "GeneratorExit"),
    ],
)
def test_18_wherever_it_fails(tmp_path: Path, agent: str, reason: str) -> None:
    """An agent that called `exit` used to end the command with exit code 0 and no record."""
    record = play(agent, tmp_path)
    assert record.status == "failed"
    assert record.reason.startswith(reason)


@pytest.mark.slow
def test_18_other_cells_go_on(here: Any) -> None:
    rows = suite(here, f"{HARNESS}:Raises", f"{PLAYERS}:Steady")
    assert rows["code"] == 3
    assert (rows["Raises"]["status"], rows["Steady"]["status"]) == ("failed", "ok")


@pytest.mark.slow
def test_19_an_agent_that_hangs(here: Any) -> None:
    """It ignores every signal and has a child that holds its output open."""
    begin_s = time.monotonic()
    options = ("--timeout", "20", "--jobs", "2")
    rows = suite(here, f"{PLAYERS}:Hangs", f"{PLAYERS}:Steady", options=options)
    assert time.monotonic() - begin_s < 200
    assert rows["code"] == 3
    assert (rows["Hangs"]["status"], rows["Steady"]["status"]) == ("timeout", "ok")
    assert "it resumes from its last checkpoint, if any" in rows["Hangs"]["reason"]
    assert list(here.folder.glob("runs/hangs*/ckpt/step-2/manifest.json"))
    assert running_below(here.folder) == [], "neither it nor its child is left"


@pytest.mark.parametrize(
    ("where", "doing"),
    [
        ("update", "the update of meta-iteration 4"),
        pytest.param("validation", "validation at step 2", marks=pytest.mark.slow),
        pytest.param("answer", "the block of test trials from 0", marks=pytest.mark.slow),
    ],
)
def test_19_a_limit_for_each_episode(here: Any, where: str, doing: str) -> None:
    begin_s = time.monotonic()
    limits = ("--timeout-per-episode", "0.5", "--limit", "6")
    done = here.play("Dozes", *limits, LAZYBENCH_TEST_DOZES=where).wait()
    assert time.monotonic() - begin_s < 100
    assert done.code == 3, done.err
    assert here.record.status == "timeout"
    assert here.record.reason.startswith(f"{doing} took longer than")
    assert "--timeout-per-episode" in here.record.reason
    again = here.play("Dozes", "--limit", "6", LAZYBENCH_TEST_DOZES="never").wait()
    assert again.code == 0, again.err
    assert here.record.status == "ok", "a result replaces it"


def running_below(folder: Path) -> list[str]:
    """Commands of the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("TooFew", ["must have shape", "got"]),
        ("Fractions", ["got"]),
        ("OutOfRange", ["got"]),
        ("Negative", ["got"]),
        ("Nothing", []),
        ("NoPair", ["(action, memory)", "got Tensor"]),
        ("NoPolicy", ["must return a function that takes (observation, memory)", "NoneType"]),
        ("NoFit", ["must return a function that takes (observation, memory)", "got dict"]),
    ],
)
def test_20_wrong_answers(tmp_path: Path, agent: str, words: list[str]) -> None:
    record = play(agent, tmp_path, "glyphs-5way-1shot", limit=8)
    assert record.status == "failed", record.metrics
    assert record.reason.startswith("ContractError: "), record.reason
    for word in words:
        assert word in record.reason


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("BareState", "update must return (state, logs)"),
        ("WordyLogs", "the logs of update must be numbers, got {'loss': 'low'}"),
        ("StrangeState", "got object at state"),
    ],
)
def test_20_wrong_updates(tmp_path: Path, agent: str, words: str) -> None:
    record = play(agent, tmp_path)
    assert record.status == "failed"
    assert record.reason.startswith("ContractError: ")
    assert words in record.reason


def test_20_answers_that_are_no_numbers(tmp_path: Path) -> None:
    record = play("NotANumber", tmp_path)
    assert record.status in ("failed", "diverged")
    assert record.metrics == {}


def scores(record: Any) -> list[float]:
    assert record.status == "ok", record.reason
    return [float(score) for score in record.trials.scores_array()]


def test_21_an_agent_that_writes_into_what_it_sees(tmp_path: Path) -> None:
    before = play("Steady", tmp_path / "before")
    spoiled = play("Overwrites", tmp_path / "spoiled")
    after = play("Steady", tmp_path / "after")
    assert canonical_json(before.comparable()) == canonical_json(after.comparable())
    assert scores(spoiled) == scores(before), "its own trials and batches are copies as well"


def test_21_labels_are_not_shown() -> None:
    """Nothing in reach holds them: tests/envs/test_hidden_answers.py walks it all."""
    for split in ("val", "test"):
        env = lazybench.make_env("glyphs-5way-1shot", num_envs=2, split=split)
        observation, _ = env.reset(seed=0)
        assert (observation["query_y"] == -1).all()


def test_22_global_randomness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported = []
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        for number in ("0", "7"):
            monkeypatch.setenv("LAZYBENCH_TEST_SEED", number)
            reported.append(canonical_json(play("Seeds", tmp_path / number).comparable()))
        steady = play("Steady", tmp_path / "steady")
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    assert reported[0] == reported[1]
    assert scores(steady) == scores(play("Seeds", tmp_path / "0"))


def test_23_out_of_memory(here: Any) -> None:
    done = here.play("Filling", prepare=partial(faultkit.memory, 300 << 20)).wait()
    assert done.code == 3, done.err
    assert here.record.status == "oom"
    assert "peak memory" in here.record.reason
    assert here.record.cost.peak_memory_bytes > 100 << 20


def test_23_out_of_memory_in_numpy(tmp_path: Path) -> None:
    """Its MemoryError used to be recorded as `failed`."""
    assert play("NumpyHungry", tmp_path).status == "oom"


@pytest.mark.slow
def test_23_other_cells_go_on(here: Any) -> None:
    options = ("--memory-gib", "3")
    rows = suite(here, f"{PLAYERS}:Filling", f"{PLAYERS}:Steady", options=options)
    assert rows["code"] == 3
    assert (rows["Filling"]["status"], rows["Steady"]["status"]) == ("oom", "ok")


@pytest.mark.slow
def test_24_killed_and_segfaulted_cells(here: Any) -> None:
    agents = [f"{PLAYERS}:{name}" for name in ("Killed", "Segfault", "Steady")]
    rows = suite(here, *agents, options=("--jobs", "2"))
    assert rows["code"] == 3
    assert rows["Killed"]["status"] == rows["Segfault"]["status"] == "crashed"
    assert "SIGKILL" in rows["Killed"]["reason"]
    assert "SIGSEGV" in rows["Segfault"]["reason"]
    assert rows["Steady"]["status"] == "ok"


@pytest.mark.slow
def test_24_a_cell_that_is_killed_once_goes_on(here: Any) -> None:
    rows = suite(here, f"{PLAYERS}:KilledOnce")
    assert (here.folder / "killed").exists()
    assert rows["code"] == 0
    assert rows["KilledOnce"]["status"] == "ok"
    assert len(list(here.folder.glob("store/records/**/*.json"))) == 1


def test_24_a_killed_run_leaves_no_record(here: Any) -> None:
    done = here.play("Segfault").wait()
    assert done.code == -signal.SIGSEGV
    assert not list(here.folder.glob("store/records/**/*.json"))


def test_25_more_queries_than_the_budget(here: Any) -> None:
    """Seven copies of each image at a time, with a gradient: 10 are served, each is charged."""
    env = "glyphs-net4-untargeted"
    done = here.play("Overspends", "--query-budget", "10", "--limit", "4", env=env).wait()
    assert done.code == 0, done.err
    assert here.record.trials.columns["queries"].unpack().tolist() == [10] * 4
    assert here.record.cost.queries == 40
    reported = [json.loads(line) for line in (here.folder / "told.jsonl").read_text().splitlines()]
    assert not any(line["gradients"] for line in reported)
    left = [line["left"][0] for line in reported]
    assert left[:2] == [10, 3], "copies are counted, row by row"
    assert min(left) >= 0


def test_25_what_the_target_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where the target is, not by the ledger: ten rows an image and none more."""
    sent: list[int] = []
    load = targets.load_target

    def counted(name: str, device: Any = "cpu") -> Any:
        found = load(name, device)

        def predict(rows: torch.Tensor) -> torch.Tensor:
            sent.append(len(rows))
            return found.predict(rows)

        return replace(found, predict=predict)

    monkeypatch.setattr(targets, "load_target", counted)
    monkeypatch.chdir(tmp_path)
    request = RunRequest(
        f"{PLAYERS}:Overspends",
        "glyphs-net4-untargeted",
        budget="smoke",
        protocol={"query_budget": 10},
        limit=4,
        out=tmp_path / "o",
        runs=tmp_path / "r",
        threads=1,
    )
    record = run(request)
    assert record.status == "ok", record.reason
    # Before the attack come the images among which those that are classified right are looked for;
    # nothing succeeds, so nothing is asked once more.
    assert sent[1:] == [4 * 7, 4 * 3]
