"""Every agent learns: in seconds it beats its baselines by more than 3 standard errors.

Fixed seed; validation trials, paired by trial. Images are the embedded glyphs, 5-way 1-shot; agents
whose steps on images would take too long here learn sine waves.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lazybench.runner.callbacks import SILENT
from lazybench.runner.evaluate import evaluate_blocks, open_env
from lazybench.runner.request import make, resolve_env
from lazybench.runner.signals import Signals
from lazybench.runner.train import Training, fit

GLYPHS, WAVES = "glyphs-5way-1shot", "sinusoid-5shot"
TRIALS = {GLYPHS: 24, WAVES: 200}
FLOORS = {
    GLYPHS: ("finetune", "nearest_pixel"),
    WAVES: ("finetune", "nearest_pixel", "chance"),
}
# A narrower net than the preset's, which the baseline gets as well.
NET = {GLYPHS: {"backbone": "conv4-32"}, WAVES: {}}

STEPS = {"outer_lr": 0.01, "inner_lr": 0.02, "inner_steps": 2, "test_steps": 5}
MANY = {"train_queries": 10}
# A leap of the grid's own .05 to .25 asks for far more meta-iterations than a test has.
LAZY = {**STEPS, **MANY, "inner_steps": 3, "test_steps": 2, "meta_batch": 4}

# Settings that replace the smoke preset's: seconds of training on two cores.
LEARNERS = {
    "maml": (WAVES, {"iterations": 250, **STEPS}),
    "fomaml": (WAVES, {"iterations": 300, **STEPS}),
    "anil": (GLYPHS, {"iterations": 70, "outer_lr": 0.005, "inner_lr": 0.4}),
    "meta_sgd": (WAVES, {"iterations": 250, **STEPS, "outer_lr": 0.003, "test_steps": 2}),
    "meta_curvature": (WAVES, {"iterations": 200, **STEPS}),
    "imaml": (
        WAVES,
        {"iterations": 250, **STEPS, "inner_steps": 3, "cg_steps": 2, "outer_lr": 0.02, **MANY},
    ),
    "minibatch_prox": (WAVES, {"iterations": 80}),
    "taml": (WAVES, {"iterations": 200, **STEPS}),
    "mr_maml": (GLYPHS, {"iterations": 70, "outer_lr": 0.005, "inner_lr": 0.4}),
    "lazy_maml": (WAVES, {"iterations": 400, **LAZY, "gammas": (0.1, 0.5)}),
    "lazy_anil": (WAVES, {"iterations": 400, **LAZY, "gammas": (0.1, 0.5)}),
    "lazy_meta_sgd": (WAVES, {"iterations": 400, **LAZY, "gammas": (0.1, 0.2), "outer_lr": 0.003}),
    "reptile": (GLYPHS, {"iterations": 30}),
    "reptile_matched": (GLYPHS, {"iterations": 30}),
    "lazy_reptile": (GLYPHS, {"iterations": 30}),
    "protonet": (GLYPHS, {"iterations": 100}),
    "matching_net": (GLYPHS, {"iterations": 100}),
    "relation_net": (GLYPHS, {"iterations": 170, "loss": "cross_entropy"}),
    "r2d2": (GLYPHS, {"iterations": 100}),
    "baseline_finetune": (GLYPHS, {"iterations": 350, "lr": 0.005}),
}

# On flat pixels, which the default of no centring suits less than features.
PIXELS = {
    "simple_shot": {},
    "logistic_regression": {"centre": "support"},
    "ridge": {"centre": "support"},
    "knn": {"centre": "support"},
    "bd_cspn": {"centre": "task"},
    "laplacian_shot": {},
    "tim": {"solver": "adm", "test_steps": 30},
    "pt_map": {},
}


def scores(agent, env, settings, trials=None):
    """Return the score of each validation trial, higher is better."""
    spec, _ = resolve_env(env)
    made = make(agent, spec, "smoke", settings)
    progress = fit(Training(made.instance, spec, "smoke", 0, "cpu", None), SILENT, Signals())
    evaluated = evaluate_blocks(
        open_env(spec, spec.block, "val"),
        made.instance.policy(progress.state),
        spec.metric,
        trials or TRIALS[env],
    )
    found = np.concatenate([block.scores for block in evaluated])
    return found if spec.better == "higher" else -found


@cache
def baseline(agent, env, trials=None):
    """Return the baseline's scores; only `finetune` has a network to choose."""
    return scores(agent, env, NET[env] if agent == "finetune" else {}, trials)


@pytest.mark.parametrize("agent", LEARNERS)
def test_beats_the_floors(agent):
    env, settings = LEARNERS[agent]
    learned = scores(agent, env, {**NET[env], **settings, "validate_every": 0})
    for name in FLOORS[env]:
        assert_beats(agent, learned, name, baseline(name, env))


@pytest.mark.parametrize("agent", PIXELS)
def test_beats_the_nearest_pixels(agent):
    learned = scores(agent, GLYPHS, PIXELS[agent], 64)
    assert_beats(agent, learned, "nearest_pixel", baseline("nearest_pixel", GLYPHS, 64))


def assert_beats(agent, learned, name, reached):
    """Assert that paired scores differ by more than three standard errors."""
    difference = learned - reached
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert difference.mean() > 3 * error, (
        f"{agent} {learned.mean():.3f}, {name} {reached.mean():.3f}, "
        f"difference {difference.mean():.3f} with standard error {error:.3f}"
    )


def test_chance_is_chance():
    reached = baseline("chance", GLYPHS)
    assert abs(reached.mean() - 0.2) < 3 * reached.std(ddof=1) / np.sqrt(TRIALS[GLYPHS])
