"""Meta-attack's training: Algorithm 3 by hand, its diagnostics, what moves where."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.attack.meta_attack import EVAL_ONLY, MetaAttackAgent, MetaAttackConfig, preset
from lazybench.errors import UsageError
from lazybench.nets.attacker import EncoderDecoder
from lazybench.nets.params import Params
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape

INSTANCE = (1, 16, 16)
SPEC = EnvSpec("glyphs-net4-untargeted", "attack", "a:b", None, "glyphs", {})


def agent(algorithm: str = "meta_attack", **settings: Any) -> MetaAttackAgent:
    small = {"train_shots": 4, "train_queries": 3, "inner_steps": 2, "image_gradients": 0}
    chosen = {**MetaAttackAgent.preset(algorithm, SPEC, "smoke"), **small, **settings}
    return MetaAttackAgent(MetaAttackConfig(**chosen))


def block(tasks: int, shots: int, queries: int, seed: int = 0) -> dict[str, Tensor]:
    """Images and maps that follow from them: smoothed, each net in a direction of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((tasks, shots + queries, *INSTANCE), generator=generator)
    maps = F.avg_pool2d(x.flatten(0, 1) - 0.5, 3, 1, 1).view_as(x)
    maps = maps / maps.flatten(2).std(2, correction=0)[:, :, None, None, None]
    x_parts, y_parts = x.split([shots, queries], 1), maps.split([shots, queries], 1)
    return {
        "support_x": x_parts[0],
        "support_y": y_parts[0],
        "query_x": x_parts[1],
        "query_y": y_parts[1],
    }


class Validation:
    """A substitute for the validation environment; its query maps are hidden."""

    num_envs = 2

    def __init__(self, task: Any) -> None:
        self.task = task

    def reset(self, *, options: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        drawn = block(len(options["trials"]), 6, 2, seed=7)
        return {**drawn, "query_y": torch.zeros_like(drawn["query_y"])}, {}


@pytest.fixture
def task(meter: Any) -> Any:
    return meter.protocol(INSTANCE)


def adapted(net: EncoderDecoder, theta: Params, x: Tensor, y: Tensor, steps: int) -> Params:
    """Adam with beta1 = 0, written out."""
    phi = {name: value.clone() for name, value in theta.items()}
    second = {name: torch.zeros_like(value) for name, value in theta.items()}
    for step in range(1, steps + 1):
        leaf = {name: value.clone().requires_grad_() for name, value in phi.items()}
        loss = (net(leaf, x) - y).square().mean()
        for name, slope in zip(leaf, torch.autograd.grad(loss, list(leaf.values())), strict=True):
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            root = (second[name] / (1 - 0.999**step)).sqrt()
            phi[name] = phi[name] - 0.01 * slope / (root + 1e-8)
    return phi


@pytest.mark.parametrize("algorithm", ["meta_attack", "lazy_meta_attack", "meta_attack_matched"])
def test_outer_step_by_hand(algorithm: str, task: Any) -> None:
    learner = agent(algorithm, outer_lr=0.5, anneal="none")
    state = learner.init(SimpleNamespace(task=task), Rng(0))
    theta = {name: value.double() for name, value in state["learner"]["theta"].items()}
    state["learner"]["theta"] = theta
    batch = {name: part.double() for name, part in block(2, 4, 3).items()}
    got, logs = learner.update(state, batch, Rng(0))

    net = EncoderDecoder(task.maps)
    expected = dict(theta)
    gammas = [0.75, 0.8, 0.85, 0.9, 0.95] if algorithm == "lazy_meta_attack" else [0.0]
    beta = 0.5 * (0.105 if algorithm == "meta_attack_matched" else 1.0)
    chosen = []
    for x, y, query_x, query_y in zip(*batch.values(), strict=True):
        phi = adapted(net, theta, x, y, 2)
        leaps = [
            {name: gamma * theta[name] + (1 - gamma) * phi[name] for name in theta}
            for gamma in gammas
        ]
        losses = [float(F.mse_loss(net(leap, query_x), query_y)) for leap in leaps]
        best = losses.index(min(losses))
        chosen.append(gammas[best])
        for name in theta:
            expected[name] = expected[name] - beta / 2 * (theta[name] - leaps[best][name])
    torch.testing.assert_close(got["learner"]["theta"], expected, rtol=1e-9, atol=1e-9)
    assert logs["inner_steps"] == 4.0
    assert logs["image_gradients"] == 16.0
    found = learner.diagnostics(got)
    if algorithm == "lazy_meta_attack":
        assert found["mean_leap"] == pytest.approx(1 - sum(chosen) / 2)
    else:
        assert found == {}


def test_lazy_and_plain_get_the_same_inner_gradients() -> None:
    for data in ("mnist", "glyphs", "cifar10"):
        spec = EnvSpec(f"{data}-a-untargeted", "attack", "a:b", None, data, {})
        for budget in ("smoke", "small", "paper"):
            spent = {}
            for algorithm in ("meta_attack", "lazy_meta_attack", "meta_attack_matched"):
                made = MetaAttackConfig(**preset(algorithm, spec, budget))
                each = 3 * made.inner_steps * made.train_shots
                updates = made.updates(made.inner_steps * made.train_shots)
                assert updates > 0
                assert made.image_gradients - updates * each < each
                spent[algorithm] = made.image_gradients
            assert len(set(spent.values())) == 1


def test_settings_follow_the_data_and_the_papers() -> None:
    colour = EnvSpec("cifar10-a-targeted", "attack", "a:b", None, "cifar10", {"targeted": True})
    made = MetaAttackConfig(**preset("lazy_meta_attack", colour, "paper"))
    assert (made.coordinates, made.every, made.space) == (125, 3, "tanh")
    assert (made.inner_steps, made.outer_lr, made.most_steps) == (10, 0.01, 300)
    grey = EnvSpec("mnist-a-untargeted", "attack", "a:b", None, "mnist", {})
    made = MetaAttackConfig(**preset("meta_attack", grey, "paper"))
    assert (made.coordinates, made.every, made.space) == (128, 5, "pixel")
    assert (made.inner_steps, made.train_shots, made.updates(5 * 800)) == (5, 800, 6006)
    untrained = MetaAttackAgent(MetaAttackConfig(**preset("meta_attack_untrained", grey, "small")))
    assert untrained.plan(SimpleNamespace(access="scores", maps=MAPS)).updates == 0  # type: ignore[arg-type]
    assert set(EVAL_ONLY) <= set(MetaAttackConfig.model_fields)
    assert set(MetaAttackAgent.EVAL_ONLY) <= set(MetaAttackConfig.model_fields)


MAPS = TaskShape(1, 4, 2, (1, 28, 28), "float32", "array", (1, 28, 28))


def test_plans_tasks_of_its_size(task: Any) -> None:
    plan = agent(iterations=7).plan(task)
    assert (plan.updates, plan.meta_batch) == (7, 3)
    assert plan.env == {"shots": 4, "queries": 3}
    assert agent().describe_network(task).name.endswith("EncoderDecoder")


def test_settings_of_few_shot_learners_that_make_no_sense_are_refused() -> None:
    for name, value in (("adapts", "head"), ("fairness", "theil"), ("regulariser", "kl")):
        with pytest.raises(ValueError, match=name):
            MetaAttackConfig(**{name: value})


def test_learns_and_reports_that_it_did(task: Any) -> None:
    learner = agent(inner_steps=5, iterations=30, train_shots=8)
    state = learner.init(Validation(task), Rng(0))
    assert "under_trained" not in learner.diagnostics(state)
    for step in range(30):
        state, _ = learner.update(state, block(2, 8, 1, seed=100 + step), Rng(0).at(step))
    found = learner.diagnostics(state)
    assert found["under_trained"] is False
    assert found["held_out_mse"] < 0.8 * found["untrained_mse"]


def test_one_that_learned_nothing_is_marked(task: Any) -> None:
    learner = agent(iterations=1)
    state = learner.init(Validation(task), Rng(0))
    state["learner"]["step"] = 1
    found = learner.diagnostics(state)
    assert found["under_trained"] is True
    assert found["held_out_mse"] == found["untrained_mse"]


def test_one_that_does_no_better_than_a_map_of_zeros_is_marked(task: Any) -> None:
    learner = agent(iterations=1)
    state = learner.init(Validation(task), Rng(0))
    state["learner"]["step"] = 1
    zeros = float(state["held_out"]["query_y"].square().mean())
    found = learner.diagnostics({**state, "untrained_mse": 100.0})
    assert zeros < found["held_out_mse"] < 100.0
    assert found["under_trained"] is True


def test_validation_tasks_are_answered_with_maps(task: Any) -> None:
    learner = agent()
    state = learner.init(Validation(task), Rng(0))
    observation, _ = Validation(task).reset(options={"trials": [0, 1]})
    answers, memory = learner.policy(state)(observation)
    assert answers.shape == observation["query_y"].shape
    assert memory is None


def test_a_trained_attacker_moves_to_other_protocols_but_not_to_other_images(
    task: Any, meter: Any
) -> None:
    learner = agent()
    state = learner.init(SimpleNamespace(task=task), Rng(0))
    other = meter.protocol(INSTANCE, classes=7, targeted=True, eps=1.5, query_budget=9)
    moved = learner.transfer(state, other)
    assert moved["task"] == other.fields()
    assert moved["learner"]["theta"] is state["learner"]["theta"]
    with pytest.raises(UsageError, match="instance"):
        learner.transfer(state, meter.protocol((1, 28, 28)))


def test_warm_starts_from_the_weights_of_another_training(task: Any) -> None:
    learner = agent()
    state = learner.init(SimpleNamespace(task=task), Rng(0))
    weights = learner.init(SimpleNamespace(task=task), Rng(1))["learner"]["theta"]
    torch.testing.assert_close(learner.load_weights(state, weights)["learner"]["theta"], weights)


def test_matched_takes_over_a_lazy_run_without_its_search() -> None:
    lazy = agent("lazy_meta_attack").config.model_dump()
    record = SimpleNamespace(
        config=lazy, diagnostics={"mean_leap": 0.2}, agent=SimpleNamespace(id="lazy_meta_attack")
    )
    given = {"matched_to": "abc", "step": 0.02}
    settled = MetaAttackAgent.resolve_settings(given, lambda _: record)
    matched = MetaAttackConfig(**settled)
    assert (matched.teacher, matched.matched_leap) == ("greedy", 0.2)
    assert (matched.step, matched.inner_steps) == (0.02, lazy["inner_steps"])
    with pytest.raises(UsageError, match="store"):
        MetaAttackAgent.resolve_settings({"matched_to": "abc"}, lambda _: None)
