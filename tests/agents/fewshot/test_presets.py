"""Presets: equal budgets at `small`, the papers' settings at `paper`."""

from __future__ import annotations

from typing import Any

import pytest

from lazybench.agents.fewshot.gradient import GradientAgent
from lazybench.agents.fewshot.presets import GradientConfig, preset, protonet_preset
from lazybench.registry import ENVS

LEARNERS = ("maml", "fomaml", "reptile", "reptile_matched", "lazy_maml", "lazy_reptile")


def settings(algorithm: str, env: str, budget: str = "small") -> dict[str, Any]:
    return preset(algorithm, ENVS.resolve(env).spec, budget)


def image_gradients(chosen: dict[str, Any], way: int, shot: int) -> int:
    """What a training costs, counted anew."""
    config = GradientConfig(**chosen)
    support = way * (config.train_shots or shot)
    images = config.inner_steps * min(config.inner_batch or support, support)
    if config.meta_gradient != "reptile":
        images += way * config.train_queries
    return config.iterations * config.meta_batch * images


@pytest.mark.parametrize("algorithm", LEARNERS)
@pytest.mark.parametrize(
    ("env", "way", "shot", "budget"),
    [
        ("omniglot-5way-1shot", 5, 1, 200_000),
        ("glyphs-20way-5shot", 20, 5, 180_000),
        ("sinusoid-5shot", 1, 5, 200_000),
        ("sinusoid-10shot", 1, 10, 200_000),
    ],
)
def test_small_spends_the_same_on_every_agent(
    algorithm: str, env: str, way: int, shot: int, budget: int
) -> None:
    spent = image_gradients(settings(algorithm, env), way, shot)
    assert 0.97 * budget < spent <= budget


def test_protonet_spends_as_much() -> None:
    chosen = protonet_preset(ENVS.resolve("omniglot-5way-1shot").spec, "small")
    images = chosen["meta_batch"] * 5 * (1 + chosen["train_queries"])
    assert 0.97 * 200_000 < chosen["iterations"] * images <= 200_000


def test_paper_has_table_4_for_lazy_reptile_and_reptiles_own_for_reptile() -> None:
    lazy = settings("lazy_reptile", "omniglot-5way-1shot", "paper")
    table = {"inner_lr": 1e-3, "inner_steps": 5, "inner_batch": 10, "train_shots": 10}
    assert lazy.items() >= (table | {"meta_batch": 20, "test_steps": 50, "test_batch": 5}).items()
    own = settings("reptile", "omniglot-5way-1shot", "paper")
    assert own.items() >= (table | {"meta_batch": 5, "iterations": 100_000}).items()
    many = settings("reptile", "omniglot-20way-1shot", "paper")
    assert (many["inner_lr"], many["inner_steps"], many["inner_batch"]) == (5e-4, 10, 20)
    matched = settings("reptile_matched", "omniglot-5way-1shot", "paper")
    differs = {key for key in lazy if matched.get(key) != lazy[key]}
    assert differs == {"teacher", "outer_lr"}
    assert matched["outer_lr"] == 0.25 * lazy["outer_lr"]


def test_numbers_without_an_end_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        GradientAgent.Config(inner_lr=float("inf"))
