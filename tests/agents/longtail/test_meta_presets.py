"""Presets of the meta-weighting agents: valid, and equal where a comparison needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lazybench.agents.longtail.meta import MetaWeightAgent
from lazybench.agents.longtail.settings import LongTailConfig, MetaConfig, classifier_preset
from lazybench.paper.searches import Search, read_searches
from lazybench.registry import ENVS
from lazybench.specs import BUDGETS, EnvSpec
from lazybench.tasks import LongTailTask

SEARCHES = Path(__file__).parents[3] / "leaderboards" / "tuning"
ENV = EnvSpec("cifar100-lt-100", "longtail", "a:b", None, "cifar100", {"imbalance": 100})
TASK = LongTailTask(100, (3, 32, 32), "uint8", (106,) * 100, 3180, 100, 10)
AGENTS = ("l2rw", "meta_weight_net", "two_component", "lazy_two_component", "balms")


def config(algorithm: str, budget: str, **more: object) -> MetaConfig:
    return MetaConfig(**{**MetaWeightAgent.preset(algorithm, ENV, budget), **more})


@pytest.mark.parametrize("budget", BUDGETS)
def test_two_component_differs_from_drw_in_nothing_but_eps(budget: str) -> None:
    drw = LongTailConfig(**classifier_preset("drw", ENV, budget)).model_dump()
    greedy, lazy = (config(name, budget).model_dump() for name in AGENTS[2:4])
    assert {name: greedy[name] for name in drw} == drw
    changed = {name for name, value in lazy.items() if value != greedy[name]}
    assert changed == {"teacher", "inner_steps"}


def test_features_have_the_weights_of_classes_of_their_images() -> None:
    features = replace(ENV, id="cifar100@net-lt-100", data="cifar100@net")
    found = [classifier_preset("class_balanced", env, "small") for env in (ENV, features)]
    assert [each.get("beta") for each in found] == [0.9, 0.9]
    assert [each["backbone"] for each in found] == ["resnet8", "linear"]


@pytest.mark.parametrize(
    "search",
    [search for search in read_searches(SEARCHES) if search.agent == "class_balanced"],
    ids=lambda search: search.env,
)
def test_class_balanced_takes_the_best_beta_of_each_search(search: Search) -> None:
    env = ENVS.resolve(search.env).spec
    assert classifier_preset("class_balanced", env, "small")["beta"] == search.best["beta"]


def test_class_balanced_keeps_the_authors_beta_on_other_data() -> None:
    other = ENVS.resolve("cifar10-lt-100").spec
    assert LongTailConfig(**classifier_preset("class_balanced", other, "small")).beta == 0.9999


@pytest.mark.parametrize("algorithm", AGENTS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_preset_is_sound_and_counts_its_meta_steps(algorithm: str, budget: str) -> None:
    got = config(algorithm, budget)
    rows = got.dev_rows(TASK)
    # Steps of these sizes hold for a full mini-batch of dev images.
    bound = 11 if got.teacher == "lazy" else 4.5
    assert 2 < got.equivalents(got.batch, rows) <= bound
    assert got.begins(got.late, TASK) < got.updates(TASK)


def test_the_documentation_names_what_a_lazy_meta_step_costs() -> None:
    found = config("lazy_two_component", "paper").equivalents(100, 200)
    page = (Path(__file__).parents[3] / "docs" / "longtail.md").read_text("utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| `lazy_two_component`"))
    assert row.endswith(f"| {found:.1f} F in the last fifth |")


def test_paper_weighs_from_where_each_paper_does() -> None:
    assert [config(name, "paper").late for name in AGENTS] == [0.0, 0.0, 0.8, 0.8, 0.8]
    assert config("lazy_two_component", "paper").gammas == (0.95, 0.9, 0.85, 0.8, 0.75)
    assert config("lazy_two_component", "paper").inner_steps == 5
    assert config("two_component", "paper").tau == 0.01
