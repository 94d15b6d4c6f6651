"""Presets of the gradient-based few-shot agents.

`small` and `medium` give every agent of an environment the same number of training image-gradients
(an image passed forward and backward once for the training of the meta-model); docs/presets.md says
how each was chosen. `smoke` is `small` for seconds, never ranked. `paper` follows the lazy paper
(Table 4, A.2, A.3) and the agents' papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazybench.agents.fewshot.paper_presets import paper
from lazybench.agents.fewshot.settings import spending
from lazybench.agents.fewshot.tuned import tuned
from lazybench.specs import EnvSpec

_ADAM: Mapping[str, Any] = {"outer_rule": "adam", "outer_lr": 2e-3}
_ONE_STEP: Mapping[str, Any] = {
    "inner": "unrolled",
    "meta_gradient": "maml",
    **_ADAM,
    "inner_lr": 0.4,
    "inner_steps": 1,
    "train_queries": 10,
}
_LAZY_MAML: Mapping[str, Any] = {
    "teacher": "lazy",
    "meta_gradient": "maml",
    "outer_rule": "adam",
    "outer_lr": 5e-3,
    "inner_lr": 0.4,
    "inner_steps": 10,
    "meta_batch": 2,
}
_REPTILE: Mapping[str, Any] = {
    "inner_rule": "adam",
    "inner_lr": 0.01,
    "train_shots": 10,
    "outer_lr": 1.0,
}
_ON_THE_HEAD: Mapping[str, Any] = {
    "adapts": "head",
    "inner": "unrolled",
    "meta_gradient": "maml",
    **_ADAM,
    "inner_lr": 0.1,
    "inner_steps": 5,
    "train_queries": 5,
}

ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "finetune": {
        "meta_gradient": "none",
        "inner_rule": "adam",
        "inner_lr": 0.01,
        "inner_state": "reset",
    },
    "maml": _ONE_STEP,
    "fomaml": {
        "meta_gradient": "fomaml",
        **_ADAM,
        "inner_lr": 0.1,
        "inner_steps": 5,
        "train_queries": 5,
    },
    "anil": _ON_THE_HEAD,
    "meta_sgd": {**_ONE_STEP, "rates": "elementwise", "inner_lr": 0.1},
    "meta_curvature": {**_ONE_STEP, "rates": "curvature", "inner_lr": 0.1},
    "taml": {**_ONE_STEP, "fairness": "entropy"},
    "mr_maml": {**_ON_THE_HEAD, "regulariser": "kl", "outer_lr": 5e-3},
    "imaml": {
        "meta_gradient": "implicit",
        **_ADAM,
        "inner_lr": 0.1,
        "inner_steps": 5,
        "prox": 0.5,
        "train_queries": 5,
    },
    "lazy_maml": _LAZY_MAML,
    "lazy_anil": {
        **_LAZY_MAML,
        "adapts": "head",
        "train_queries": 5,
        "outer_lr": 2e-3,
        "meta_batch": 4,
    },
    "lazy_meta_sgd": {**_LAZY_MAML, "rates": "elementwise"},
    "reptile": _REPTILE,
    # Lazy Reptile's beta, times the mean leap of its search.
    "reptile_matched": {**_REPTILE, "outer_lr": 4.0, "matched_leap": 0.25},
    "minibatch_prox": {**_REPTILE, "prox": 0.01},
    "lazy_reptile": {**_REPTILE, "teacher": "lazy", "outer_lr": 4.0},
}
"""What makes each agent, and the settings that it starts from at every budget."""


def preset(algorithm: str, env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of `algorithm` on `env` at `budget`, before any override."""
    way, shot = int(env.kwargs.get("way", 1)), int(env.kwargs.get("shot", 1))
    settings: dict[str, Any] = dict(ALGORITHMS[algorithm])
    settings |= (
        paper(algorithm, env.data, way, shot)
        if budget == "paper"
        else _budgeted(algorithm, way, shot)
    )
    if way == 1:
        settings |= _waves(algorithm, budget)
    if budget == "medium":
        settings |= tuned(algorithm, env)
    # A baseline learns nothing before the test, so there is nothing to spend.
    return settings if algorithm == "finetune" else settings | spending(env, budget)


def _budgeted(algorithm: str, way: int, shot: int) -> dict[str, Any]:
    """The settings at `smoke`, `small` and `medium` for tasks of so many ways and shots.

    MAML and its kin adapt to the whole support set at meta-test, as in training and as published;
    only Reptile and its kin keep Reptile's mini-batches.
    """
    settings: dict[str, Any] = {"test_steps": 20, "test_batch": 0}
    if algorithm == "finetune":
        # The rate that validates best (docs/presets.md), so that the baseline is no straw man.
        rule = {"inner_rule": "sgd", "inner_lr": 0.5} if shot > 1 and way > 1 else {}
        return settings | rule
    if algorithm == "taml":
        # It validates better than the entropy, which takes the query rows twice.
        return settings | {"fairness": "theil"}
    if ALGORITHMS[algorithm].get("train_shots"):
        rows = max(10, way)
        return settings | {
            "test_batch": rows,
            "inner_steps": 5,
            "inner_batch": 10 if way < 20 else 20,
            "meta_batch": 4,
        }
    many = way >= 20 and shot > 1
    if algorithm == "lazy_maml" and many:
        return settings | {"inner_batch": 20}
    if algorithm == "imaml":
        # With the damping of 1 that it had, conjugate gradients meet negative curvature.
        settings |= {"damping": 20.0, "test_prox": 0.0}
        return settings | ({"inner_lr": 0.4, "inner_batch": 20, "meta_batch": 2} if many else {})
    return settings


def _waves(algorithm: str, budget: str) -> dict[str, Any]:
    """What regression needs: squared errors are tens of times as steep as cross-entropies.

    `paper`: Finn et al. 2017, section 5.1, one step of .01 and 10 at the test.
    """
    if "inner_rule" in ALGORITHMS[algorithm]:
        return {}
    settings: dict[str, Any] = {"inner_lr": 0.01, "inner_steps": 5, "outer_lr": 2e-3}
    if budget == "paper":
        settings = {"inner_lr": 0.01, "outer_lr": 1e-3, "test_steps": 10}
        settings |= {"inner_steps": 1} if algorithm in ("maml", "fomaml", "taml") else {}
    # There is no entropy of answers without classes.
    return settings | ({"fairness": "theil"} if algorithm == "taml" else {})
