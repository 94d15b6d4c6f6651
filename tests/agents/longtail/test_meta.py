"""Meta-weighting agents against double backward written out, and against each other."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from lazybench.agents.longtail import learner
from lazybench.agents.longtail.classifier import ClassifierAgent, Classifying
from lazybench.agents.longtail.losses import effective_number
from lazybench.agents.longtail.meta import ClassSampler, DevHalves, MetaWeightAgent
from lazybench.agents.longtail.settings import WIDE_GAMMAS, LongTailConfig, MetaConfig
from lazybench.errors import Diverged, UsageError
from lazybench.nets.params import Params
from lazybench.seeding import Rng
from lazybench.tasks import LongTailTask

COUNTS = (40, 20, 10, 6)
TASK = LongTailTask(4, (3, 16, 16), "uint8", COUNTS, 10, 12, 3)
BALANCED: dict[str, Any] = {"class_weights": "effective_number", "weighted": "late"}
LAZY: dict[str, Any] = {**BALANCED, "teacher": "lazy", "inner_steps": 3, "gammas": (0.9, 0.5)}
TINY: dict[str, Any] = {"backbone": "resnet8-8", "batch": 12, "epochs": 2, "dev_batch": 6}
# Plain descent from the first update on, at a rate where theta(eps) is well away from theta.
NOW: dict[str, Any] = {"late": 0.0, "drops": (), "lr": 0.02}


def agent(**settings: Any) -> MetaWeightAgent:
    return MetaWeightAgent(MetaConfig(**{**TINY, **settings}))


def batch_at(step: int, dev: int = 6) -> dict[str, Tensor]:
    """A mini-batch of a stream, as the environment gives it."""
    draw = torch.Generator().manual_seed(step)
    y = torch.multinomial(torch.tensor(COUNTS, dtype=torch.float32), 12, True, generator=draw)
    dev_y = torch.randperm(dev, generator=draw) % 4

    def images(labels: Tensor) -> Tensor:
        noise = torch.randint(128, (len(labels), 3, 16, 16), generator=draw)
        return (noise + 30 * labels[:, None, None, None]).to(torch.uint8)

    return {
        "x": images(y),
        "y": y,
        "index": torch.arange(12),
        "mask": torch.ones(12, dtype=torch.bool),
        "dev_x": images(dev_y),
        "dev_y": dev_y,
    }


def start(one: Any) -> dict[str, Any]:
    state: dict[str, Any] = one.init(SimpleNamespace(task=TASK), Rng(0))
    return state


def train(one: Any, steps: int, dev: int = 6) -> tuple[dict[str, Any], list[dict[str, float]]]:
    state, logs = start(one), []
    for step in range(steps):
        state, log = one.update(state, batch_at(step, dev), Rng(0).at("update", step))
        logs.append(log)
    return state, logs


class Doubled:
    """One mini-batch of an agent in float64, with double backward through theta(eps)."""

    def __init__(self, one: MetaWeightAgent) -> None:
        self.agent, self.state = one, start(one)
        for part in ("theta", "momentum"):
            self.state[part] = {n: v.double() for n, v in self.state[part].items()}
        if "net" in self.state:
            params = {n: v.double() for n, v in self.state["net"]["params"].items()}
            self.state["net"] = {"params": params, "outer": one.net_outer.init(params)}
        self.now = learner.current(one.config, self.state)
        batch, dev = batch_at(0), batch_at(1, 12)
        self.x, self.y = self.now.net.prepare(batch["x"].double() / 255), batch["y"]
        dev_x = self.now.net.prepare(dev["dev_x"].double() / 255)
        self.dev = DevHalves(dev_x[:6], dev["dev_y"][:6], dev_x[6:], dev["dev_y"][6:])
        self.point = {n: v.clone().requires_grad_() for n, v in self.state["theta"].items()}

    def weights(self) -> Tensor:
        return effective_number(COUNTS, 0.9999)[self.y]

    def losses(self, theta: Params) -> Tensor:
        return F.cross_entropy(self.now.net(theta, self.x), self.y, reduction="none")

    def valid(self, theta: Params) -> Tensor:
        return F.cross_entropy(self.now.net(theta, self.dev.x), self.dev.y)

    def moved(self, point: Params, weights: Tensor) -> Params:
        """One step of plain descent on the sum of weighted losses, on the graph."""
        total = (weights * self.losses(point)).sum()
        slopes = torch.autograd.grad(total, list(point.values()), create_graph=True)
        lr = self.agent.config.lr
        return {n: v - lr * s for (n, v), s in zip(point.items(), slopes, strict=True)}

    def slopes(self, base: Tensor, leap: Callable[[Params], Params] = lambda at: at) -> Tensor:
        """d L_val(leap(theta(eps))) / d eps at 0."""
        eps = torch.zeros_like(base, requires_grad=True)
        (found,) = torch.autograd.grad(self.valid(leap(self.moved(self.point, base + eps))), eps)
        return found

    def weigh(self, **settings: Any) -> Any:
        one = agent(**{**self.agent.config.model_dump(), **settings})
        return one.weigh(self.now, self.state, self.x, self.y, self.dev, Rng(5))


def near(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def greedy() -> Doubled:
    return Doubled(agent(**BALANCED, **NOW))


@pytest.mark.parametrize("products", ["jvp", "vjp"])
def test_two_components_are_the_class_weight_and_a_step_down(
    greedy: Doubled, products: str
) -> None:
    got = greedy.weigh(products=products, tau=0.5)
    near(got.weights - greedy.weights(), -0.5 * greedy.slopes(greedy.weights()))
    assert got.ratio > 0


def test_the_lazy_agent_follows_algorithm_2_line_by_line() -> None:
    whole = Doubled(agent(**LAZY, **NOW, tau=0.5))
    base = whole.weights()
    anchor = {n: v.detach() for n, v in whole.moved(whole.point, base).items()}
    phi = anchor
    for _ in range(3):
        at = {n: v.detach().requires_grad_() for n, v in phi.items()}
        phi = {n: v.detach() for n, v in whole.moved(at, base).items()}

    def leap(gamma: float) -> Callable[[Params], Params]:
        return lambda at: {n: gamma * v + (1 - gamma) * phi[n] for n, v in at.items()}

    def hits(gamma: float) -> float:
        logits = whole.now.net(leap(gamma)(anchor), whole.dev.score_x)
        return float((logits.argmax(1) == whole.dev.score_y).double().mean())

    gamma = max((0.9, 0.5), key=hits)
    got = whole.weigh()
    assert got.leap.gamma == gamma
    near(got.weights - base, -0.5 * whole.slopes(base, leap(gamma)))


def test_one_gamma_of_one_without_steps_is_greedy_to_the_bit(greedy: Doubled) -> None:
    lazily = greedy.weigh(teacher="lazy", gammas=(1.0,))
    assert torch.equal(lazily.weights, greedy.weigh().weights)


def test_eps_is_linear_in_tau_and_of_size_rho(greedy: Doubled) -> None:
    base = greedy.weights()
    one, two = (greedy.weigh(tau=tau).weights - base for tau in (1.0, 2.0))
    near(two, 2 * one)
    sized = greedy.weigh(strength="scaled", rho=0.3)
    assert sized.ratio == pytest.approx(0.3, rel=1e-9)
    near((sized.weights - base) / (sized.weights - base).norm(), one / one.norm())


def test_the_mean_is_the_sum_at_a_smaller_step(greedy: Doubled) -> None:
    mean = greedy.weigh(virtual="mean").weights
    greedy.now, held = greedy.now._replace(lr=greedy.now.lr / 12), greedy.now
    near(greedy.weigh().weights, mean)
    greedy.now = held


def test_a_permuted_batch_has_permuted_weights(greedy: Doubled) -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    before = greedy.weigh(tau=1.0).weights
    there = greedy.agent.weigh(
        greedy.now, greedy.state, greedy.x[order], greedy.y[order], greedy.dev, Rng(5)
    )
    eps = there.weights - greedy.weights()[order]
    near(100 * eps, (before - greedy.weights())[order])


@pytest.mark.parametrize("settings", [BALANCED, LAZY], ids=["greedy", "lazy"])
def test_tau_of_zero_is_drw_to_the_bit(settings: dict[str, Any]) -> None:
    meta, _ = train(agent(**settings, tau=0.0, late=0.5, epochs=1), 7)
    shared = {"backbone": "resnet8-8", "batch": 12, "epochs": 1, "late": 0.5}
    plain, _ = train(ClassifierAgent(LongTailConfig(**shared, **BALANCED)), 7)
    assert meta["seen"]["steps"] == 3
    for part in ("theta", "momentum"):
        for name, value in plain[part].items():
            assert torch.equal(meta[part][name], value), name
    # The meta passes take batch statistics and leave the running ones alone.
    for mine, other in zip(meta["running"], plain["running"], strict=True):
        assert torch.equal(mine[0], other[0])
        assert torch.equal(mine[1], other[1])


def test_l2rw_is_the_rectified_direction_at_weights_of_zero() -> None:
    whole = Doubled(agent(weighting="l2rw", **NOW))
    down = (-whole.slopes(torch.zeros(12, dtype=torch.float64))).clamp_min(0)
    got = whole.weigh()
    near(got.weights, 12 * down / down.sum())
    assert 0 < got.negative < 1


def test_l2rw_stays_where_no_example_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    one = agent(weighting="l2rw", late=0.0, momentum=0.0, nesterov=False, weight_decay=0.0)
    real = MetaWeightAgent._slopes

    def uphill(*args: Any) -> Any:
        found = real(*args)
        return found._replace(slopes=found.slopes.abs())

    monkeypatch.setattr(MetaWeightAgent, "_slopes", uphill)
    state, _ = train(one, 1)
    for name, value in start(one)["theta"].items():
        assert torch.equal(state["theta"][name], value)


def test_meta_weight_net_descends_through_the_virtual_step() -> None:
    whole = Doubled(agent(weighting="meta_weight_net", **NOW, net_rule="sgd", net_lr=1.0))
    before = whole.state["net"]["params"]
    params = {n: v.clone().requires_grad_() for n, v in before.items()}

    def drawn(params: Params) -> Tensor:
        hidden = whole.losses(whole.point).detach()[:, None] @ params["layer1.weight"].T
        hidden = (hidden + params["layer1.bias"]).relu()
        out = torch.sigmoid(hidden @ params["head.weight"].T + params["head.bias"])[:, 0]
        return out / out.sum()

    loss = whole.valid(whole.moved(whole.point, drawn(params)))
    expected = torch.autograd.grad(loss, list(params.values()))
    got = whole.weigh()
    for slope, name in zip(expected, params, strict=True):
        near(before[name] - got.net["params"][name], slope)
    near(got.weights, 12 * drawn(got.net["params"]))
    assert float(got.weights.sum()) == pytest.approx(12)


def test_the_sampler_descends_through_draws_and_the_virtual_step() -> None:
    """The straight-through slopes of the draws written out in numpy, entry by entry."""
    settings = {"net_rule": "sgd", "net_lr": 1.0, "sampler_temperature": 0.7}
    whole = Doubled(agent(weighting="sampler", **NOW, **settings))
    whole.state["net"]["params"]["rates"] = torch.tensor([0.3, -0.2, 0.0, 0.5]).double()
    rates, y = whole.state["net"]["params"]["rates"].numpy(), whole.y.numpy()

    def logits_of(rates: Any, step: str) -> Any:
        rng = Rng(5).at(step).torch()
        uniform = torch.rand((12, 12), generator=rng, dtype=torch.float64).numpy()
        return rates[y][None] - np.log(-np.log(uniform))

    def counts(logits: Any) -> Any:
        return np.bincount(logits.argmax(1), minlength=12)

    logits = logits_of(rates, "virtual")
    soft = np.exp(logits / 0.7)
    soft /= soft.sum(1, keepdims=True)
    of_class = np.eye(4)[y]
    # d w_i / d rate_c is the mean over places b of P_bi ([y_i = c] - P_b(c)) / temperature.
    jacobian = (soft[:, :, None] * (of_class[None] - (soft @ of_class)[:, None])).mean(0) / 0.7
    slopes = whole.slopes(torch.from_numpy(counts(logits) / 12)).numpy()
    got = whole.weigh()
    new = got.net["params"]["rates"]
    near(whole.state["net"]["params"]["rates"] - new, torch.from_numpy(slopes @ jacobian))
    assert float((new - torch.from_numpy(rates)).abs().max()) > 1e-4
    near(got.weights, torch.from_numpy(counts(logits_of(new.numpy(), "real"))).double())


def test_images_are_drawn_at_the_rates_of_their_classes() -> None:
    sampler, y = ClassSampler(1.0), torch.tensor([0, 0, 1, 1])
    rates = {"rates": torch.tensor([3.0, 1.0]).log()}
    drawn = torch.stack([sampler(rates, y, Rng(0).at("draw", i)) for i in range(500)])
    assert torch.equal((4 * drawn).round(), 4 * drawn)
    assert drawn.sum(1).tolist() == [1.0] * 500
    # 2,000 draws: 5 standard errors are about .05.
    assert drawn.mean(0).tolist() == pytest.approx([3 / 8, 3 / 8, 1 / 8, 1 / 8], abs=0.05)


def test_meta_weight_net_trains_its_network_in_the_second_stage_alone() -> None:
    one = agent(weighting="meta_weight_net", late=0.5, epochs=1)
    early, _ = train(one, 4)
    late, _ = train(one, 5)
    fresh, same, moved = (
        state["net"]["params"]["head.weight"] for state in (start(one), early, late)
    )
    assert torch.equal(same, fresh)
    assert not torch.equal(moved, fresh)
    assert float(late["net"]["outer"]["step"]) == 1


def one_way(one: MetaWeightAgent, *, up: bool) -> dict[str, Any]:
    """The state after a step on slopes that are all positive, or not finite."""
    real = one._slopes

    def slopes(*args: Any) -> Any:
        found = real(*args)
        return found._replace(slopes=found.slopes.abs() + (1.0 if up else float("nan")))

    one._slopes = slopes  # type: ignore[method-assign]
    return train(one, 1)[0]


def test_weights_that_sum_below_zero_are_one_clear_line() -> None:
    wild = agent(**BALANCED, late=0.0, tau=1e6)
    with pytest.raises(Diverged, match=r"sum to -.* at step 1 .*set clip=true"):
        one_way(wild, up=True)
    kept = one_way(agent(**BALANCED, late=0.0, tau=1e6, clip=True), up=True)
    assert kept["seen"]["negative"] == 1.0
    with pytest.raises(Diverged, match="isn't finite at step 1"):
        one_way(wild, up=False)


def test_the_lazy_halves_share_no_image_and_have_every_class() -> None:
    one = agent(**LAZY, dev_batch=6)
    batch = batch_at(3, 12)
    batch["dev_x"] = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 3, 16, 16)
    now = learner.current(one.config, start(one))
    halves = one._halves(now, batch, Rng(0))
    seen = [float(x.flatten()[0]) for x in (*halves.x, *halves.score_x)]
    assert len(set(seen)) == 12
    assert set(halves.y.tolist()) == set(halves.score_y.tolist()) == {0, 1, 2, 3}


def test_logs_and_diagnostics_tell_what_was_done() -> None:
    state, logs = train(agent(**LAZY, late=0.5, epochs=1), 7, dev=12)
    assert [log["gradient_equivalents"] for log in logs[:4]] == [1.0] * 4
    # Virtual 1, student 3, two candidates on half a batch, half a batch, slopes 1, real 1.
    assert logs[4]["gradient_equivalents"] == pytest.approx(1 + 3 + 2 * 0.5 / 3 + 0.5 + 1 + 1)
    assert logs[4]["image_gradients"] == 12 * 5 + 6
    found = MetaWeightAgent(MetaConfig(**TINY, **LAZY)).diagnostics(state)
    assert sum(found["gamma_histogram"].values()) == 3
    assert list(found["gamma_histogram"]) == ["0.9", "0.5"]
    assert found["gamma_edge_share"] == 1.0
    assert 0 < found["eps_over_weight"] < 1e-2
    assert found["negative_weight_share"] == 0.0
    assert "gamma_histogram" not in agent(**LAZY).diagnostics(start(agent(**LAZY)))


def test_the_plan_asks_for_dev_images_and_refuses_a_stream_without() -> None:
    assert agent(**BALANCED).plan(TASK).env["dev_batch"] == 6
    assert agent(**LAZY).plan(TASK).env["dev_batch"] == 12
    assert agent(**BALANCED, dev_batch=100).plan(TASK).env["dev_batch"] == 12
    bare = LongTailTask(4, (3, 16, 16), "uint8", COUNTS, 10, 12, 0)
    with pytest.raises(UsageError, match="dev set of at least 4 images, got 0 of each of 4"):
        agent(**LAZY).plan(bare)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"inner_steps": 2}, "needs inner=unrolled"),
        ({**LAZY, "inner": "unrolled"}, "needs teacher=greedy"),
        ({"weighting": "l2rw", "inner_steps": 2, "inner": "unrolled"}, "one virtual step"),
        ({"weighting": "meta_weight_net", **BALANCED}, "one virtual step"),
        ({"weighting": "sampler", "teacher": "lazy"}, "one virtual step"),
        ({"dev": "late"}, "splits its dev images itself"),
        ({"mixup": 1.0}, "needs mixup=0"),
        ({"gammas": (0.5, 0.0)}, r"in \(0, 1\]"),
        ({"gammas": ()}, "there must be one"),
    ],
)
def test_settings_that_make_no_agent_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        MetaConfig(**settings)


def test_the_wide_grid_has_a_name_and_falls() -> None:
    got = MetaConfig(gammas="wide").gammas  # type: ignore[arg-type]
    assert got == WIDE_GAMMAS == (0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15, 0.05)


def test_how_experts_are_joined_is_a_setting_of_training() -> None:
    """Weights are learned through the joint answers; a classifier's experts learn apart."""
    assert "expert_weights" not in MetaWeightAgent.EVAL_ONLY
    assert "expert_weights" in Classifying.EVAL_ONLY
