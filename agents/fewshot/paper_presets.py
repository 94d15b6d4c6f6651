"""The `paper` presets of the gradient-based agents: the settings of their papers and code."""

from __future__ import annotations

from typing import Any

_LAZY = ("lazy_maml", "lazy_anil", "lazy_meta_sgd")


def paper(algorithm: str, data: str, way: int, shot: int) -> dict[str, Any]:
    """Return the settings of `algorithm` in its paper for tasks of so many ways and shots.

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
