"""Presets of the few-shot agents: gradient-based, embedding-based, and pre-training.

`small` and `medium` give every agent of an environment the same number of training image-gradients
(an image passed forward and backward once for the training of the meta-model); docs/presets.md says
how each was chosen. `smoke` is `small` for seconds, never ranked. `paper` follows the lazy paper
(Table 4, A.2, A.3) and the agents' papers or code, where these give them.

`TUNED` has the settings that searches chose for `medium`, by the kind of task. Each entry is the
best configuration of its searches under `leaderboards/tuning/`, on validation tasks of one
environment of its kind. A test compares this table with those files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazybench.agents.fewshot.settings import spending
from lazybench.specs import EnvSpec

_PIXELS = {"omniglot": 28, "glyphs": 28, "cifarfs": 32}


@dataclass(frozen=True)
class TaskKind:
    """Environments that share tuned settings.

    Attributes:
        pixels: width of an image.
        many_ways: 20 ways or more.
        many_shots: more than one shot.
    """

    pixels: int
    many_ways: bool
    many_shots: bool


def task_kind(env: EnvSpec) -> TaskKind | None:
    """Return the kind of tasks that `env` draws, or None if nothing was tuned for its data."""
    pixels = _PIXELS.get(env.data)
    if pixels is None or "way" not in env.kwargs:
        return None
    return TaskKind(pixels, int(env.kwargs["way"]) >= 20, int(env.kwargs["shot"]) > 1)


TUNED: Mapping[TaskKind, Mapping[str, Mapping[str, Any]]] = {
    # omniglot-5way-1shot
    TaskKind(28, many_ways=False, many_shots=False): {
        "protonet": {"lr": 0.0041, "temperature": 4.0},
        "maml": {"inner_lr": 0.137, "outer_lr": 0.0023},
        "reptile": {"inner_lr": 0.00819, "outer_lr": 0.804},
        "lazy_reptile": {"inner_lr": 0.00819, "outer_lr": 3.22},
        "lazy_maml": {"inner_lr": 0.137, "outer_lr": 0.00461},
    },
    # omniglot-20way-1shot
    TaskKind(28, many_ways=True, many_shots=False): {
        "protonet": {"lr": 0.0041, "temperature": 4.0},
        "maml": {"inner_lr": 0.274, "outer_lr": 0.0023, "train_queries": 1},
        "reptile": {"inner_lr": 0.00819, "outer_lr": 0.804},
        "lazy_reptile": {"inner_lr": 0.00819, "outer_lr": 3.22},
        "lazy_maml": {"train_queries": 10},
    },
    # glyphs-20way-5shot
    TaskKind(28, many_ways=True, many_shots=True): {
        "protonet": {"lr": 0.0041, "temperature": 4.0},
        "maml": {"inner_lr": 0.274, "outer_lr": 0.0023},
        "lazy_reptile": {"inner_lr": 0.00819, "outer_lr": 3.22},
        "lazy_maml": {"inner_lr": 0.274, "outer_lr": 0.00461},
    },
    # cifarfs-5way-5shot
    TaskKind(32, many_ways=False, many_shots=True): {
        "protonet": {"lr": 0.0041, "temperature": 4.0},
        "maml": {"inner_lr": 0.137, "outer_lr": 0.0023},
        "reptile": {"inner_lr": 0.00819, "outer_lr": 0.804},
        "lazy_reptile": {"inner_lr": 0.00819, "outer_lr": 3.22},
        "lazy_maml": {"inner_lr": 0.221, "outer_lr": 0.00224},
        "r2d2": {"lr": 0.0041, "ridge_scale": 3.0},
    },
}
"""Settings that differ from the preset, by kind of task and agent."""

_CONTROL_OF = {"reptile_matched": "lazy_reptile"}


def tuned(algorithm: str, env: EnvSpec) -> Mapping[str, Any]:
    """Return the settings that a search chose for `algorithm` on tasks like those of `env`.

    A control takes the settings of the agent that it is compared with. Empty where there was no
    search.
    """
    kind = task_kind(env)
    found = TUNED.get(kind, {}) if kind else {}
    return found.get(_CONTROL_OF.get(algorithm, algorithm), {})


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
"""The defining settings of each agent, and its other settings common to all budgets."""


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
    """The settings at `smoke`, `small` and `medium` for tasks of some ways and shots.

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


_HEADS: Mapping[str, Mapping[str, Any]] = {
    "protonet": {"head": "prototypes"},
    "matching_net": {"head": "matching"},
    "relation_net": {"head": "relation", "loss": "mse"},
    "r2d2": {"head": "ridge"},
}

_SMALL: Mapping[str, Mapping[str, Any]] = {
    "protonet": {"lr": 5e-3},
    "matching_net": {"lr": 5e-3, "temperature": 0.05},
    "relation_net": {"lr": 3e-3},
    "r2d2": {"lr": 2e-3, "ridge_scale": 10.0},
}


def embedding_preset(algorithm: str, env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of `algorithm` on `env` at `budget`, before any override."""
    way, shot = int(env.kwargs.get("way", 1)), int(env.kwargs.get("shot", 1))
    settings: dict[str, Any] = dict(_HEADS[algorithm])
    if budget == "paper":
        settings |= _paper(algorithm, env.data, way, shot)
    else:
        settings |= {**_SMALL[algorithm], "train_queries": 5, "meta_batch": 2}
        settings |= spending(env, budget)
    if budget == "medium" and way > 1:
        settings |= {"lr": 1e-3, "meta_batch": 1, **tuned(algorithm, env)}
    if algorithm == "protonet" and "@" in env.data:
        # Squared distances of raw features are so large that training ends at chance.
        settings |= {"metric": "cosine"}
    many = budget == "medium" or (budget == "paper" and algorithm in ("protonet", "r2d2"))
    # In the memorisation trap, say, the ways of training tasks can't be chosen.
    if many and "way" in env.plan_options:
        settings |= {"train_ways": _train_ways(env.data, way, shot)}
    return settings


def _train_ways(data: str, way: int, shot: int) -> int:
    """Return the classes in a training task, never fewer than at the test.

    The authors of Prototypical Networks train with 60 on Omniglot, and on miniImageNet with 30 at
    one shot and 20 at five (section 3.2; their code's issue 5 calls it fairly important); those of
    R2-D2 with 60 and 16.
    """
    elsewhere = 30 if shot == 1 else 20
    return max(way, 60 if data.startswith(("omniglot", "glyphs")) else elsewhere)


def _paper(algorithm: str, data: str, way: int, shot: int) -> dict[str, Any]:
    """The agents' papers and code; one episode a step, Adam, as all of them have it.

    `Choice:` learning rates fall linearly where they are halved every so often in the originals.
    Matching Networks' paper gives no rates; they are ProtoNet's.
    """
    image28 = data.startswith(("omniglot", "glyphs"))
    settings: dict[str, Any] = {
        "meta_batch": 1,
        "lr": 1e-3,
        "train_queries": 15,
        "iterations": 100_000,
        "validations": 20,
    }
    if algorithm == "protonet" and image28:
        # Snell et al., section 3.1: five queries a class in episodes of 60 ways.
        settings |= {"train_queries": 5}
    if algorithm == "relation_net":
        # Sung et al., section 4: fewer queries the more ways and shots.
        many = {(5, 1): 19, (5, 5): 15, (20, 1): 10, (20, 5): 5} if image28 else {(5, 5): 10}
        settings |= {
            "train_queries": many.get((way, shot), 5 if way >= 20 else 15),
            "iterations": 1_000_000 if image28 else 500_000,
        }
    elif algorithm == "r2d2":
        # Its code (bertinetto/r2d2): 1,200 epochs of 100 episodes, with a lambda of 50 for
        # X X^T divided by the support rows. `Choice:` the test's shots in training, where the
        # code draws the shot at random; 20 ways on colour images, where it has 16.
        settings |= {
            "lr": 5e-3,
            "train_queries": 10,
            "iterations": 120_000,
            "ridge_lambda": 50.0 * way * shot,
            "ridge_scale": 10.0 if image28 else 1e-4,
        }
    return settings


def pretrain_preset(env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of `baseline_finetune` on `env` at `budget`, before any override."""
    way = int(env.kwargs.get("way", 1))
    if budget != "paper":
        settings: dict[str, Any] = {
            "lr": 2e-3,
            "features": "standardised",
            "start": "support",
            "train_shots": 1,
            "train_queries": 1,
            "meta_batch": 1 if way >= 20 else 2,
            "test_lr": 0.1,
            "test_steps": 20,
            "test_batch": 0,
        }
        return settings | spending(env, budget)
    # Chen et al., section 4.2 and code: mini-batches of 16, Adam; 400 epochs of miniImageNet's
    # 38,400 images, 5 of Omniglot's 82,240. `Choice:` the nearest mini-batch that tasks make up.
    omniglot = env.data.startswith(("omniglot", "glyphs"))
    rows = max(2, round(16 / way))
    return {
        "anneal": "none",
        "lr": 1e-3,
        "meta_batch": 1,
        "train_shots": 1,
        "train_queries": rows - 1,
        "iterations": (5 * 82_240 if omniglot else 400 * 38_400) // (way * rows),
        "validations": 20,
        "test_lr": 0.01,
        "test_steps": 100,
        "test_batch": 4,
    }


_LAZY = ("lazy_maml", "lazy_anil", "lazy_meta_sgd")


def paper(algorithm: str, data: str, way: int, shot: int) -> dict[str, Any]:
    """Return the settings of `algorithm` in its paper for tasks of some ways and shots.

    `Choice:` where a paper has no such data or ways, its nearest: Omniglot's settings for images of
    28 px, miniImageNet's for others; below 20 ways those of five.
    """
    image28 = data.startswith(("omniglot", "glyphs"))
    if "reptile" in algorithm or algorithm == "minibatch_prox":
        settings = _reptile(algorithm, data, way, image28) | {"test_batch": 5 if shot == 1 else 15}
    elif algorithm == "imaml":
        settings = _imaml(way, shot, image28)
    elif algorithm in _LAZY:
        settings = _lazy(way)
    elif algorithm == "finetune":
        settings = {"test_steps": 50, "test_batch": 5 if shot == 1 else 15}
    else:
        settings = _maml(way, shot, image28) | _on_maml(algorithm, way, image28)
    return {"validations": 20, **settings}


def _reptile(algorithm: str, data: str, way: int, image28: bool) -> dict[str, Any]:
    """Table 4 for the lazy agent and its control; Nichol et al. for Reptile; Zhou et al.'s prox.

    `Choice:` Table 4's beta is taken as 1.0 throughout (our copy prints 10/10/1.0/10, possibly with
    a lost point), and so gamma weighs the student's end: with gamma on theta a step of beta 1 would
    go a twentieth to a quarter of Reptile's way, though section 4.3 gives both the same beta. The
    other reading, eq. (4)'s wording, is `leap_on=theta outer_lr=10`. Omniglot's iteration count is
    unreadable there: 100,000, as for Reptile.
    """
    settings: dict[str, Any] = {
        "inner_lr": 1e-3,
        "inner_steps": 5 if image28 else 8,
        "inner_batch": 10 if way < 20 else 20,
        "train_shots": 10 if image28 else 15,
        "meta_batch": 20,
        "iterations": 100_000 if image28 else 130_000 if "tiered" in data else 120_000,
        "outer_lr": 1.0,
        "hull_step": 0.05,
        "test_steps": 50,
    }
    if algorithm == "reptile":
        # Nichol et al.: 5 tasks; on Omniglot with 20 ways twice the steps, half as long.
        many = {"inner_lr": 5e-4, "inner_steps": 10, "iterations": 200_000}
        settings |= {"meta_batch": 5, "iterations": 100_000}
        settings |= many if image28 and way >= 20 else {}
    elif algorithm == "reptile_matched":
        # The longest leap of the lazy grid, which its search takes nearly always.
        settings |= {"leap_on": "phi", "matched_leap": 0.95}
    elif algorithm == "lazy_reptile":
        settings |= {"leap_on": "phi"}
    elif algorithm == "minibatch_prox":
        # The authors' code is Reptile's with a prox; 20 ways take twice the steps.
        settings |= {"meta_batch": 5, "iterations": 100_000, "prox": 0.1}
        settings |= {"inner_steps": 8 if way < 20 else 16}
    return settings


def _maml(way: int, shot: int, image28: bool) -> dict[str, Any]:
    """Finn et al. 2017 and their code.

    It sums the inner loss over classes: its rates are multiplied by the ways here.
    """
    one_step = image28 and way < 20
    rate = (0.4 if one_step else 0.1) if image28 else 0.01
    return {
        "inner_lr": rate * way,
        "inner_steps": 1 if one_step else 5,
        "meta_batch": (32 if way < 20 else 16) if image28 else 4,
        "train_queries": shot if image28 else 15,
        "iterations": 60_000,
        "outer_lr": 1e-3,
        "anneal": "none",
        "clip": None if image28 else 10.0,
        "adapt_norm": False,
        "test_steps": 10,
        "test_batch": 0,
    }


def _on_maml(algorithm: str, way: int, image28: bool) -> dict[str, Any]:
    """What a paper that builds on MAML sets differently.

    ANIL: MAML's settings (Raghu et al. 2020, appendix B). Meta-SGD: one step, rates drawn from
    [.005, .1] (Li et al. 2017, section 4.2), read as of the mean loss. Meta-Curvature: MAML's, one
    step of .4 in all four settings of Omniglot in the authors' code. TAML: MAML's with one step on
    Omniglot (Jamal & Qi 2019; the lazy paper's Figure 2). MR-MAML: the authors' beta and almost no
    noise at first.
    """
    if algorithm == "meta_sgd":
        return {"inner_steps": 1, "test_steps": 1, "rate_range": (0.005, 0.1)}
    if algorithm == "meta_curvature":
        return {"inner_steps": 1, "inner_lr": 0.4 * way, "test_steps": 1} if image28 else {}
    if algorithm == "taml":
        return {"inner_steps": 1, "test_steps": 1} if image28 else {}
    if algorithm == "mr_maml":
        return {"beta": 1e-3, "std": 2e-9}
    return {}


def _imaml(way: int, shot: int, image28: bool) -> dict[str, Any]:
    """Rajeswaran et al. 2019, appendix and code: mean loss, no lambda at meta-test.

    `Choice:` damping as in the authors' code, which solves (1 + 1) I + H / (lambda + 10); that is
    ours with lambda + damping = 2 (lambda + 10), but for a factor that Adam divides out.
    """
    prox = 2.0 if image28 else 0.5
    return {
        "inner_lr": 0.1,
        "inner_steps": (16 if way < 20 else 25) if image28 else 10,
        "prox": prox,
        "cg_steps": 5,
        "damping": prox + 20.0,
        "test_prox": 0.0,
        "meta_batch": (32 if way < 20 else 16) if image28 else 4,
        "train_queries": shot if image28 else 15,
        "iterations": 20_000 if image28 else 60_000,
        "outer_lr": 1e-3,
        "anneal": "none",
        "test_steps": 16,
        "test_batch": 0,
    }


def _lazy(way: int) -> dict[str, Any]:
    """A.2 and A.3 of the lazy paper.

    `Choice:` its inner rates are taken as MAML's are, for a loss that is summed over classes, and
    multiplied by the ways; and gamma weighs the student's end, so that the leap goes as far as
    MAML's inner loop. Both as printed would adapt by a fiftieth of that on 20 ways of 84 px.
    `Choice:` A.2's k=10 and A.3's 15/15/18 are the training horizons; section 4.1.1's 10/15/20/20
    are read as test-time steps. ANIL and Meta-SGD, our extension, take the same.
    """
    steps = {20: (15, 15), 30: (15, 20), 50: (18, 20)}.get(way, (10, 10))
    return {
        "inner_lr": (0.005 if way >= 20 else 0.01) * way,
        "leap_on": "phi",
        "inner_steps": steps[0],
        "test_steps": steps[1],
        "test_batch": 0,
        "meta_batch": 4,
        "iterations": 60_000,
        "outer_lr": 1e-3,
        "anneal": "none",
        "hull_step": 0.05,
    }
