"""Every agent learns: in seconds it beats both floors by more than 3 standard errors.

Fixed seed, embedded glyphs, 5-way 1-shot, the first 60 validation trials, paired by trial.
"""

from __future__ import annotations

import numpy as np
import pytest

from lazybench.harness.fit import Training, fit
from lazybench.harness.judge import BLOCK, judge, open_env
from lazybench.harness.request import make, resolve_env
from lazybench.harness.signals import Signals
from lazybench.harness.watch import SILENT

ENV = "glyphs-5way-1shot"
TRIALS = 60
FLOORS = ("finetune", "nearest_pixel")

# Settings that replace the smoke preset's: a few seconds of training on two cores.
LEARNERS = {
    "maml": {"iterations": 60},
    "fomaml": {"iterations": 60},
    "lazy_maml": {"iterations": 50},
    "reptile": {"iterations": 60},
    "reptile_matched": {"iterations": 60},
    "lazy_reptile": {"iterations": 60},
    "protonet": {"iterations": 60},
}


def scores(agent, settings):
    spec, _ = resolve_env(ENV)
    made = make(agent, spec, "smoke", {**settings, "validate_every": 0} if settings else {})
    progress = fit(Training(made.agent, spec, "smoke", 0, "cpu", None), SILENT, Signals())
    env = open_env(spec, BLOCK, "val")
    blocks = judge(env, made.agent.policy(progress.state), "accuracy", TRIALS)
    return np.concatenate([block.scores for block in blocks])


@pytest.fixture(scope="module")
def floors():
    return {floor: scores(floor, {}) for floor in FLOORS}


@pytest.mark.parametrize("agent", LEARNERS)
def test_beats_the_floors(agent, floors):
    learned = scores(agent, LEARNERS[agent])
    for floor, reached in floors.items():
        difference = learned - reached
        error = difference.std(ddof=1) / np.sqrt(TRIALS)
        assert difference.mean() > 3 * error, (
            f"{agent} {learned.mean():.3f}, {floor} {reached.mean():.3f}, "
            f"difference {difference.mean():.3f} with standard error {error:.3f}"
        )


def test_chance_is_chance():
    reached = scores("chance", {})
    assert abs(reached.mean() - 0.2) < 3 * reached.std(ddof=1) / np.sqrt(TRIALS)
