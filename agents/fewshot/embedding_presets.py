"""Presets of the embedding-based agents and of pre-training.

`paper` has the settings of each agent's paper or code, where it gives them. `small` and `medium`
give each the same number of training image-gradients as every other agent of the environment.
`smoke` is `small` for seconds, never ranked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazybench.agents.fewshot.settings import spending
from lazybench.agents.fewshot.tuned import tuned
from lazybench.specs import EnvSpec

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
