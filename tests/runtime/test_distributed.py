"""Runs that torchrun spreads over two processes, which meet by gloo on this machine's loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lazybench.errors import UsageError
from lazybench.records import Record, Store
from lazybench.runner import checkpoint
from lazybench.runner.request import RunRequest
from lazybench.runner.run import run
from lazybench.runtime import distributed

SCRIPT = Path(__file__).with_name("ranked_runs.py")
ENV = "glyphs-5way-1shot"
STEPS = 4
SMALL = {"iterations": STEPS, "meta_batch": 3, "validate_every": 2, "backbone": "conv4-32"}
"""Three tasks, so that one rank has two of them."""
AGENTS: dict[str, dict[str, Any]] = {
    "reptile": SMALL,
    "lazy_reptile": SMALL,
    "maml": SMALL | {"inner_steps": 3},
    "lazy_maml": SMALL,
    "taml": SMALL | {"inner_steps": 3, "fairness": "theil"},
    "protonet": SMALL,
}
ONE_STEP = {"iterations": 1, "validate_every": 1}
RTOL, ATOL = 0.0, 1e-6
"""Sums of float32 gradients in another order."""


def torchrun(*words: str, cwd: Path, **surroundings: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", *words],
        cwd=cwd,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", **surroundings},
        capture_output=True,
        text=True,
    )


def asked(folder: Path, agent: str, settings: dict[str, Any]) -> dict[str, Any]:
    places = {"out": str(folder / "store"), "runs": str(folder / "runs")}
    few = {"budget": "smoke", "limit": 20, "threads": 1}
    return {"agent": agent, "env": ENV, "overrides": settings, **few, **places}


def learned(folder: Path, agent: str) -> tuple[dict[str, torch.Tensor], Record]:
    (record,) = Store(folder / "store").records(agent=agent)
    assert record.status == "ok", record.reason
    (path,) = folder.glob(f"runs/{agent}-*-{record.key12}/ckpt")
    found = checkpoint.load(path)
    assert found is not None
    return found[1]["state"]["theta"], record


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    # One meta-iteration: rounding of 1e-8 in it may turn the sign of a gradient near 0 in the next,
    # where Adam takes a whole step of it.
    agents = {agent: {**settings, **ONE_STEP} for agent, settings in AGENTS.items()}
    both = [asked(tmp_path / "two", agent, settings) for agent, settings in agents.items()]
    done = torchrun(str(SCRIPT), json.dumps(both), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for agent, settings in agents.items():
        fields = asked(tmp_path / "one", agent, settings)
        places = {name: Path(fields.pop(name)) for name in ("out", "runs")}
        run(RunRequest(**fields, **places))
        alone, one = learned(tmp_path / "one", agent)
        together, two = learned(tmp_path / "two", agent)
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=RTOL, atol=ATOL)
        assert (one.world_size, two.world_size) == (1, 2)
        assert one.key != two.key
        assert one.cost.inner_steps == two.cost.inner_steps
        assert one.cost.image_gradients == two.cost.image_gradients
        assert len(two.trials.scores_array()) == 20
        assert one.diagnostics.keys() == two.diagnostics.keys()
        if "gamma_histogram" in one.diagnostics:
            counts = [sum(r.diagnostics["gamma_histogram"].values()) for r in (one, two)]
            assert counts == [one.cost.outer_steps * SMALL["meta_batch"]] * 2
        for mine, theirs in zip(one.curve, two.curve, strict=True):
            assert mine["step"] == theirs["step"]
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


@pytest.mark.slow
def test_an_agent_without_a_meta_batch_is_refused_and_the_others_stop(tmp_path: Path) -> None:
    words = ["--env", ENV, "--budget", "smoke", "--out", "store", "--runs", "runs"]
    done = torchrun("-m", "lazybench", "run", "--agent", "chance", *words, cwd=tmp_path)
    assert done.returncode != 0
    assert "exitcode  : 2" in done.stderr, done.stderr[-3000:]
    assert "agent 'chance' has no meta-batch that could be spread over 2 processes" in done.stderr
    assert not (tmp_path / "store").exists()


def test_without_torchrun_there_is_one_rank_and_sums_are_what_was_given() -> None:
    parts = {"a": torch.rand(3), "b": torch.tensor(0.1, dtype=torch.float64)}
    assert distributed.summed(parts) is parts
    assert (distributed.rank(), distributed.size(), list(distributed.mine(3))) == (0, 1, [0, 1, 2])
    assert (distributed.gathered(7), distributed.of_first(lambda: 7)) == ([7], 7)
    assert (distributed.stop_of(2), distributed.cpu_s_of(0.5), distributed.cores_each(8)) == (
        2,
        0.5,
        8,
    )


def test_a_meta_batch_has_a_task_for_each_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed.check(False, "chance", None)
    monkeypatch.setattr(distributed, "size", lambda: 4)
    distributed.check(True, "mine", 4)
    with pytest.raises(UsageError, match=r"2 tasks can't be spread over 4 .* at most 2 of them"):
        distributed.check(True, "mine", 2)
    for sharded, batch in ((False, 8), (True, None)):
        with pytest.raises(UsageError, match="has no meta-batch that could be spread over 4"):
            distributed.check(sharded, "mine", batch)


def test_blocks_that_ranks_evaluate_in_parallel_take_as_long_as_the_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert distributed.longest_side_by_side([1.0, 2.0, 4.0]) == 7.0
    monkeypatch.setattr(distributed, "size", lambda: 2)
    assert distributed.longest_side_by_side([1.0, 2.0, 4.0]) == 6.0
