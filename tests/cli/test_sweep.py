"""`lazybench sweep`: exit codes, and options that don't go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lazybench.runner.request import RunRequest
from lazybench.runner.run import run
from lazybench.sweep.process import GRACE_S, Call

PLAYERS = Path(__file__).parents[1] / "runner" / "players.py"


def suite(*agents: str) -> str:
    """A suite of smoke cells in this folder."""
    Path("mine.toml").write_text(
        f'name = "mine"\n[[cells]]\nagents = {list(agents)}\n'
        'envs = ["sinusoid-5shot"]\nbudget = "smoke"\n'
    )
    return "mine.toml"


def test_a_cell_that_diverged_has_no_score_the_next_time_either(lazybench: Any) -> None:
    agent = f"{PLAYERS}:Diverges"
    run(RunRequest(agent=agent, env="sinusoid-5shot", budget="smoke", threads=1))
    done = lazybench("sweep", suite(agent), "--quiet")
    assert done.code == 3
    assert "the loss is nan" in done.out
    assert done.err == "1 diverged\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--timeout", "60"),
        ("--memory-gib", "4"),
        ("--jobs", "2"),
        ("--workers", "2"),
        ("--devices", "cuda"),
        ("--scheduler", "tcp://127.0.0.1:8786"),
        ("--json",),
        ("--dry-run",),
    ],
)
def test_commands_for_a_queue_lose_no_option(lazybench: Any, options: tuple[str, ...]) -> None:
    done = lazybench("sweep", suite("chance"), "--emit-commands", *options)
    assert (done.code, done.out) == (2, "")
    assert f"--emit-commands doesn't go with {options[0]}" in done.err
    assert "the queue" in done.err


def test_commands_for_a_queue_keep_what_belongs_to_a_cell(lazybench: Any) -> None:
    kept = ("--device", "cuda", "--timeout-per-episode", "5", "--threads", "3")
    done = lazybench("sweep", suite("chance"), "--emit-commands", *kept)
    assert done.code == 0
    assert "--device cuda --timeout-per-episode 5 --threads 3 " in done.out
    # Jobs of an array would wait for each other's boards.
    assert done.out.rstrip().endswith("--quiet --no-boards")


def test_commands_for_a_queue_say_which_runs_are_missing(lazybench: Any) -> None:
    done = lazybench("sweep", suite("nope", "chance"), "--emit-commands")
    assert done.code == 3
    assert done.out.count("\n") == 1
    assert "refused: nope" in done.err


def test_a_sweep_says_what_an_alias_stands_for(lazybench: Any) -> None:
    Path("mine.toml").write_text(
        'name = "mine"\n[[cells]]\nagents = ["chance"]\nenvs = ["tiered-20way"]\nbudget = "smoke"\n'
    )
    done = lazybench("sweep", "mine.toml", "--dry-run")
    assert done.err.count("tiered-20way is glyphs-20way-5shot") == 1, done.err


def test_runs_share_the_cores_unless_they_are_given_threads() -> None:
    plain = Call(("run",)).sharing(10**6).arguments
    assert plain == ("run", "--threads", "1")
    given = ("run", "--threads", "3")
    assert Call(given).sharing(10**6).arguments == given


def test_the_help_mentions_the_time_to_end_in(lazybench: Any) -> None:
    assert f"it then has {GRACE_S:g} s to save a checkpoint" in " ".join(
        lazybench("sweep", "--help").out.split()
    )


@pytest.mark.parametrize("value", ["nan", "inf", "0", "1e30"])
def test_a_limit_of_memory_that_is_none(lazybench: Any, value: str) -> None:
    done = lazybench("sweep", suite("chance"), "--memory-gib", value)
    assert done.code == 2
    assert done.err.startswith("error: memory must be positive and at most")


def test_a_pattern_that_no_cell_matches_shows_what_cells_are_called(lazybench: Any) -> None:
    done = lazybench("sweep", suite("chance", "reptile"), "--only", "rept", "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert "matches none of the suite's 2 runs, such as 'chance sinusoid-5shot s0'" in done.err
    assert "--only '*PART*'" in done.err
