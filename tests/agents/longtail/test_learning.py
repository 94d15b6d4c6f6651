"""Every classifier learns a long-tailed stream in seconds, and most beat plain cross-entropy.

Embedded glyphs, 60 classes, a fixed seed; correctness bits by image, so differences are paired.
Evaluation on the test split: two of the agents train on the dev set.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lazybench.agents.longtail.classifier import ClassifierAgent
from lazybench.runner.callbacks import SILENT
from lazybench.runner.evaluate import evaluate_blocks, open_env
from lazybench.runner.request import make, resolve_env
from lazybench.runner.signals import Signals
from lazybench.runner.train import Training, fit

ENV = "glyphs-lt-20"
SHORT = {"epochs": 3, "batch": 50, "late": 0.6, "drops": ((0.6, 0.3), (0.9, 0.03))}

# balanced_softmax is logit_adjust here, to rounding.
ABOVE_CROSS_ENTROPY = (
    "logit_adjust",
    "class_balanced_finetune",
    "drw",
    "dev_finetune",
    "balanced_softmax_dev",
)
ABOVE_CHANCE = ("cross_entropy", "class_balanced", "ldam_drw", "crt")
SHORTER = {name: {"epochs": 2} for name in ("class_balanced", "ldam_drw", "crt")}
POSTHOC = ("logit_adjust", "tau_norm")


RARE = "glyphs-lt-100"
# mixup needs a longer training than these seconds to be above plain cross-entropy.
ABOVE_ON_RARE = (("sade", "cross_entropy"), ("balms", "cross_entropy"), ("mixup", None))


@cache
def trained(name, env=ENV):
    spec, _ = resolve_env(env)
    agent = make(name, spec, "smoke", {**SHORT, **SHORTER.get(name, {})}).instance
    return agent, fit(Training(agent, spec, "smoke", 0, "cpu", None), SILENT, Signals()).state


def bits(agent, state):
    spec, _ = resolve_env(ENV)
    trials = spec.trials["smoke"]
    (evaluated,) = evaluate_blocks(
        open_env(spec, 1, "test"), agent.policy(state), spec.metric, trials
    )
    return evaluated.scores


def clearly_above(scores, baseline):
    difference = scores - baseline
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return difference.mean() > 3 * error


@pytest.mark.parametrize("name", ABOVE_CHANCE)
def test_beats_chance(name):
    assert clearly_above(bits(*trained(name)), 1 / 60)


@pytest.mark.parametrize("name", ABOVE_CROSS_ENTROPY)
def test_beats_cross_entropy(name):
    assert clearly_above(bits(*trained(name)), bits(*trained("cross_entropy")))


@pytest.mark.parametrize(("name", "baseline"), ABOVE_ON_RARE)
def test_beats_its_baseline_at_imbalance_100(name, baseline):
    below = 1 / 60 if baseline is None else bits(*trained(baseline, RARE))
    assert clearly_above(bits(*trained(name, RARE)), below)


@pytest.mark.parametrize("posthoc", POSTHOC)
def test_a_correction_beats_the_uncorrected(posthoc):
    agent, state = trained("cross_entropy")
    corrected = ClassifierAgent(agent.config.model_copy(update={"posthoc": posthoc}))
    assert clearly_above(bits(corrected, state), bits(agent, state))
