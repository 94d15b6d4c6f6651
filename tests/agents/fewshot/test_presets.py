"""Presets: equal budgets at `small`, the papers' settings at `paper`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lazybench.agents.fewshot.gradient import GradientAgent
from lazybench.agents.fewshot.presets import ALGORITHMS, TUNED, embedding_preset, preset, task_kind
from lazybench.agents.fewshot.settings import GradientConfig
from lazybench.learning import GAMMAS
from lazybench.paper.searches import Search, read_searches
from lazybench.registry import ENVS
from lazybench.specs import BUDGETS, EnvSpec
from lazybench.tasks import TaskShape

SEARCHES = Path(__file__).parents[3] / "leaderboards" / "tuning"
SEARCHED = [
    search
    for search in read_searches(SEARCHES)
    if ENVS.resolve(search.env).spec.family == "fewshot"
]
LEARNERS = tuple(name for name in ALGORITHMS if name != "finetune")


def settings(algorithm: str, env: str, budget: str = "small") -> dict[str, Any]:
    chosen = preset if algorithm in ALGORITHMS else embedding_preset
    return chosen(algorithm, ENVS.resolve(env).spec, budget)


def test_prototypes_of_features_are_compared_by_cosine() -> None:
    spec = ENVS.resolve("cifarfs-5way-1shot").spec
    features = dataclasses.replace(spec, data="cifarfs@effnet-lite0")
    assert embedding_preset("protonet", features, "small")["metric"] == "cosine"
    assert "metric" not in embedding_preset("protonet", spec, "small")
    assert "metric" not in embedding_preset("matching_net", features, "small")


def spent(chosen: dict[str, Any], way: int, shot: int) -> int:
    """What a training costs in image-gradients, counted again."""
    config = GradientConfig(**chosen)
    shape = {"instance": (1, 28, 28), "dtype": "uint8"}
    iterations = GradientAgent(config).plan(TaskShape(way, shot, 15, **shape)).updates
    support = way * (config.train_shots or shot)
    images = config.inner_steps * min(config.inner_batch or support, support)
    if config.meta_gradient != "reptile":
        images += way * config.train_queries
    if config.adapts == "head":
        images = support + way * config.train_queries
    if config.fairness != "none":
        images += way * config.train_queries if config.fairness == "entropy" else support
    return iterations * config.meta_batch * images


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
    chosen = settings(algorithm, env)
    assert 0.97 * budget < spent(chosen, way, shot) <= budget
    # Settings that change the work of a meta-iteration change their number, not the budget.
    for change in ({"meta_batch": 3}, {"inner_steps": 2}, {"train_queries": 4}):
        assert 0.97 * budget < spent(chosen | change, way, shot) <= budget


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(
    ("data", "way", "shot"),
    [("omniglot", 5, 1), ("omniglot", 20, 1), ("miniimagenet", 5, 5), ("sinusoid", 1, 10)],
)
def test_every_preset_is_sound(algorithm: str, budget: str, data: str, way: int, shot: int) -> None:
    spec = EnvSpec("any", "fewshot", "a:b", None, data, {"way": way, "shot": shot})
    config = GradientConfig(**preset(algorithm, spec, budget))
    trains = bool(config.iterations or config.image_gradients)
    assert trains == (algorithm != "finetune") == (config.meta_gradient != "none")
    if budget != "paper":
        assert config.test_steps <= 20


def test_paper_has_table_4_for_lazy_reptile_and_reptiles_own_for_reptile() -> None:
    lazy = settings("lazy_reptile", "omniglot-5way-1shot", "paper")
    table = {"inner_lr": 1e-3, "inner_steps": 5, "inner_batch": 10, "train_shots": 10}
    assert lazy.items() >= (table | {"meta_batch": 20, "test_steps": 50, "test_batch": 5}).items()
    own = settings("reptile", "omniglot-5way-1shot", "paper")
    assert own.items() >= (table | {"meta_batch": 5, "iterations": 100_000}).items()
    many = settings("reptile", "omniglot-20way-1shot", "paper")
    assert (many["inner_lr"], many["inner_steps"], many["inner_batch"]) == (5e-4, 10, 20)
    matched = settings("reptile_matched", "omniglot-5way-1shot", "paper")
    differs = {key for key in {**lazy, **matched} if matched.get(key) != lazy.get(key)}
    assert differs == {"teacher", "matched_leap"}
    assert lazy["leap_on"] == "phi"
    assert matched["matched_leap"] == max(GAMMAS)


@pytest.mark.parametrize(
    "env", ["omniglot-5way-1shot", "glyphs-20way-5shot", "cifarfs-5way-5shot", "glyphs-50way-5shot"]
)
@pytest.mark.parametrize("budget", ["small", "medium", "paper"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_reptile_and_its_kin_test_in_mini_batches(
    algorithm: str, budget: str, env: str
) -> None:
    in_batches = ("reptile", "reptile_matched", "minibatch_prox", "lazy_reptile")
    if algorithm == "finetune" and budget == "paper":
        return
    assert (settings(algorithm, env, budget)["test_batch"] > 0) == (algorithm in in_batches)


def test_the_lazy_leap_of_paper_goes_as_far_as_mamls_inner_loop() -> None:
    for env in ("tieredimagenet-20way-5shot", "miniimagenet-5way-1shot"):
        lazy, maml = settings("lazy_maml", env, "paper"), settings("maml", env, "paper")
        assert lazy["leap_on"] == "phi"
        reach = max(GAMMAS) * lazy["inner_lr"] * lazy["inner_steps"]
        assert 0.5 < reach / (maml["inner_lr"] * maml["inner_steps"]) < 3


def test_medium_pays_three_million_image_gradients_and_sees_a_plateau() -> None:
    budgets = {"omniglot-20way-1shot": 3_000_000, "miniimagenet-5way-1shot": 1_000_000}
    for env, images in budgets.items():
        given = settings("maml", env, "medium")
        assert given["image_gradients"] == images
        assert given["validations"] >= 9


def test_numbers_without_an_end_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        GradientAgent.Config(inner_lr=float("inf"))


@pytest.mark.parametrize("search", SEARCHED, ids=lambda search: f"{search.env}-{search.agent}")
def test_medium_takes_the_best_configuration_of_each_search(search: Search) -> None:
    given = settings(search.agent, search.env, "medium")
    for name, value in search.best.items():
        assert given[name] == value, f"{name} of {search.agent} on {search.env}"
    kind = task_kind(ENVS.resolve(search.env).spec)
    assert kind is not None
    assert set(TUNED[kind].get(search.agent, {})) <= set(search.best)


def test_each_tuned_setting_comes_from_a_search() -> None:
    searched = {(task_kind(ENVS.resolve(search.env).spec), search.agent) for search in SEARCHED}
    assert searched
    assert {(kind, agent) for kind, agents in TUNED.items() for agent in agents} <= searched


def test_the_control_of_lazy_reptile_shares_its_tuned_settings() -> None:
    lazy, control = (
        settings(agent, "omniglot-5way-1shot", "medium")
        for agent in ("lazy_reptile", "reptile_matched")
    )
    assert (lazy["inner_lr"], lazy["outer_lr"]) == (control["inner_lr"], control["outer_lr"])
