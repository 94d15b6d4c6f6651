"""A target in another process: same answers, clear errors, nothing left behind."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lazybench.envs.attack.env import AttackVectorEnv
from lazybench.envs.attack.target import ChildTarget
from lazybench.errors import ContractError, UsageError
from lazybench.tasks import Queries

DARK, LIGHT = torch.full((2, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2)


def test_strict_answers_as_the_same_target_in_this_process(scripted: SimpleNamespace) -> None:
    result = []
    for strict in (False, True):
        env: Any = AttackVectorEnv(
            2,
            target=f"{scripted.file}:chatty",
            images=scripted.images,
            strict=strict,
            eps=1.0,
            query_budget=5,
        )
        env.reset(seed=3)
        rows = torch.linspace(0.5, 0.9, 6)[:, None, None, None].expand(-1, 1, 2, 2)
        owner = torch.tensor([0, 1, 0, 1, 1, 0])
        result.append((env.step(Queries(rows, owner)), env.data, env.protocol["target_sha256"]))
        env.close()
        with pytest.raises(UsageError, match="target is closed"):
            env.reset()
    (plain, data, sha256), (apart, other, sha256_apart) = result
    for left, right in ((plain[0], apart[0]), (plain[4], apart[4])):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    assert data == other
    assert sha256 == sha256_apart


def test_errors_stalls_and_deaths_of_the_child_are_reported(scripted: SimpleNamespace) -> None:
    target = ChildTarget(f"{scripted.file}:moody", stall_s=5.0)
    # Starting it may take longer than an answer.
    target.named()
    with pytest.raises(ContractError, match=r"RuntimeError: too bright \(.*scripted.py:"):
        target(LIGHT)
    child = target._child
    assert target(DARK).shape == (2, 3)
    assert target._child is child, "an error doesn't end it"
    before = time.monotonic()
    with pytest.raises(ContractError, match="didn't reply for 5 s; the queries stay charged"):
        target(LIGHT * 0.9)
    assert time.monotonic() - before < 60
    assert target._child is None
    assert target(DARK).shape == (2, 3), "it starts again"
    with pytest.raises(ContractError, match=r"died \(exit code 7\)"):
        target(LIGHT * 0.8)
    target.close()


def test_a_target_that_cannot_be_loaded(scripted: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match=r"can't load '.*:failing': .*no weights here"):
        ChildTarget(f"{scripted.file}:failing").named()
