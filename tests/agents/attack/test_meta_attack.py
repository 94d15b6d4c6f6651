"""Meta-attack's queries and steps against Algorithm 4 written out image by image."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.attack.meta_attack import (
    Attackers,
    MetaAttackAgent,
    MetaAttackConfig,
    fine_tune,
    predict,
)
from lazybench.errors import UsageError
from lazybench.nets.attacker import EncoderDecoder
from lazybench.nets.params import Params
from lazybench.seeding import Rng
from lazybench.tasks import distance, margin

INSTANCE = (1, 16, 16)
FEW = {"coordinates": 12, "every": 3, "tune_steps": 4}


def agent(**settings: Any) -> MetaAttackAgent:
    return MetaAttackAgent(MetaAttackConfig(**{**FEW, **settings}))


@pytest.fixture
def scene(meter: Any) -> SimpleNamespace:
    """Three images, a curved target and their classes there."""
    target = meter.smooth(INSTANCE)
    x = torch.rand((3, *INSTANCE), generator=torch.Generator().manual_seed(1))
    x[0, 0, 0] = 1.0
    x[1, 0, :4] = 0.0
    return SimpleNamespace(target=target, x=x, label=target(x).argmax(1))


@pytest.fixture
def net() -> EncoderDecoder:
    task = SimpleNamespace(instance=INSTANCE, target_shape=INSTANCE)
    return EncoderDecoder(task)  # type: ignore[arg-type]


def stacked(net: EncoderDecoder, n: int, dtype: torch.dtype = torch.float64) -> Params:
    each = [net.init(torch.Generator().manual_seed(seed)) for seed in range(n)]
    return {name: torch.stack([one[name] for one in each]).to(dtype) for name in each[0]}


def tuned_alone(
    net: EncoderDecoder, params: Params, x: Tensor, picked: Tensor, target: Tensor, steps: int
) -> Params:
    """One image's attacker after torch's own Adam."""
    own = {name: value.clone().requires_grad_() for name, value in params.items()}
    optimiser = torch.optim.Adam(own.values(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(net(own, x[None]).reshape(-1)[picked], target).backward()
        optimiser.step()
    return {name: value.detach() for name, value in own.items()}


def test_tuning_all_at_once_equals_a_loop_with_torch_adam(net: EncoderDecoder) -> None:
    params, generator = stacked(net, 3), torch.Generator().manual_seed(5)
    x = torch.rand((3, *INSTANCE), generator=generator).double()
    picked = torch.stack([torch.randperm(256, generator=generator)[:10] for _ in range(3)])
    target = torch.randn((3, 10), generator=generator).double()
    got = fine_tune(net, params, x, picked, target, steps=10, lr=0.01)
    for i in range(3):
        one = {name: value[i] for name, value in params.items()}
        expected = tuned_alone(net, one, x[i], picked[i], target[i], 10)
        for name, value in expected.items():
            torch.testing.assert_close(got[name][i], value, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(params, stacked(net, 3))


def test_attackers_share_weights_until_tuned_and_keep_those_of_unfinished_images(
    net: EncoderDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = {name: value[0] for name, value in stacked(net, 1).items()}
    x = torch.rand((5, *INSTANCE), generator=torch.Generator().manual_seed(2)).double()
    picked = torch.arange(5)[:, None] * 7 + torch.arange(6)
    target = torch.linspace(-2, 2, 30).double().view(5, 6)
    # Blocks of two images: nothing may depend on where a block ends.
    monkeypatch.setattr("lazybench.agents.attack.meta_attack._BLOCK", 2)
    attackers = Attackers(net, theta)
    alone = torch.cat([net(theta, image[None]) for image in x])
    torch.testing.assert_close(attackers.maps(x), alone)
    attackers.tune(x, picked, target, steps=3, lr=0.01)
    tuned = [tuned_alone(net, theta, x[i], picked[i], target[i], 3) for i in range(5)]
    kept = torch.tensor([0, 2, 4])
    attackers.keep(kept)
    expected = torch.cat([net(tuned[i], x[i : i + 1]) for i in (0, 2, 4)])
    torch.testing.assert_close(attackers.maps(x[kept]), expected)


def test_each_image_has_norms_of_its_own(net: EncoderDecoder) -> None:
    params = stacked(net, 1)
    x = torch.rand((2, *INSTANCE), generator=torch.Generator().manual_seed(3)).double()
    theta = {name: value[0] for name, value in params.items()}
    together = predict(net, theta, x, stacked=False)
    torch.testing.assert_close(together[1:], predict(net, theta, x[1:], stacked=False))
    assert not torch.allclose(together, net(theta, x))


@pytest.mark.parametrize(("q", "j"), [(12, 3), (5, 1), (300, 4)])
def test_counts_its_queries_by_the_rule(q: int, j: int, scene: Any, meter: Any) -> None:
    task = meter.protocol(INSTANCE, query_budget=40)
    unmoved = meter.always(3)
    label = torch.zeros(3, dtype=torch.int64)
    met = meter.attack(agent(coordinates=q, every=j), task, unmoved, scene.x, label)
    # A round of probes is asked 32 at a time.
    calls = [min(32, min(q, 256) - first) for first in range(0, min(q, 256), 32)]
    rounds = [[1] * j + calls for _ in range(40)]
    expected: list[int] = []
    for rows in itertools.chain.from_iterable(rounds):
        left = 40 - sum(expected)
        expected += [min(rows, left)] if left else []
    assert met.calls == [expected] * 3
    assert torch.equal(met.rows(0)[0], scene.x[0])


def by_hand(
    scene: Any, index: int, theta: Params, net: EncoderDecoder, *, steps: int, space: str
) -> list[Tensor]:
    """The iterates of one image: plain code for one image at a time, in float64 where it may be."""
    x, label = scene.x[index].double(), scene.label[index : index + 1]

    def loss(images: Tensor) -> Tensor:
        scores = torch.log_softmax(scene.target(images.float()), 1)
        return -0.5 * margin(scores, label.expand(len(images))).double()

    params, chosen, iterates = theta, torch.zeros(0, dtype=torch.int64), [x]
    for step in range(steps):
        probed = None
        if (step + 1) % 3 == 0:
            probed = torch.zeros(256).double()
            for at in chosen.tolist():
                row = x.clone().view(-1)
                by = -0.01 if row[at] + 0.01 > 1 else 0.01
                row[at] += by
                moved = float(row[at] - x.view(-1)[at])
                probed[at] = (loss(row.view(1, *INSTANCE)) - loss(x[None]))[0] / moved
            probed = probed / (probed.std(correction=0) + 1e-23)
            params = tuned_alone(net, params, x, chosen, probed[chosen], 4)
        out = net(params, x[None]).reshape(-1)
        chosen = out.abs().topk(12).indices
        signs = torch.zeros(256).double()
        signs[chosen] = (out if probed is None else probed)[chosen].sign()
        step_by = -0.01 * signs.view(INSTANCE)
        if space == "pixel":
            x = (x + step_by).clamp(0, 1)
        else:
            ahead = (torch.tanh(torch.atanh((2 * x - 1) * 0.999999) + step_by) + 1) / 2
            x = torch.where(step_by == 0, x, ahead)
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("space", ["pixel", "tanh"])
def test_follows_algorithm_4_step_by_step(
    space: str, scene: Any, meter: Any, net: EncoderDecoder
) -> None:
    steps = 7
    task = meter.protocol(INSTANCE, query_budget=steps + 1 + 2 * 12)
    # Probes wide enough that no slope's sign hangs on a rounding of the target's scores.
    attacker = agent(space=space, width=0.01)
    state = attacker.init(SimpleNamespace(task=task), Rng(0))
    theta = {name: value.double() for name, value in state["learner"]["theta"].items()}
    state["learner"]["theta"] = theta
    x = scene.x.double()
    met = meter.attack(attacker, task, scene.target, x, scene.label, state=state)
    for image in range(3):
        sent = met.rows(image)
        # Iterates 0, 1, 2, a round of 12, 3, 4, 5, a round, 6, 7.
        looked = [at for at in (0, 1, 2, 15, 16, 17, 30, 31) if at < len(sent)]
        assert len(looked) > 6
        iterates = by_hand(scene, image, theta, net, steps=steps, space=space)
        expected = torch.stack(iterates[: len(looked)]).float()
        torch.testing.assert_close(sent[looked], expected, rtol=0, atol=1e-6)


def test_an_image_fares_alone_as_together(scene: Any, meter: Any) -> None:
    task, attacker = meter.protocol(INSTANCE, query_budget=60), agent(step=0.04)
    together = meter.attack(attacker, task, scene.target, scene.x, scene.label)
    assert len(set(together.queries)) > 1
    for i in range(2):
        alone = meter.attack(
            attacker,
            task,
            scene.target,
            scene.x[i : i + 1],
            scene.label[i : i + 1],
            trial=torch.tensor([i]),
        )
        assert alone.success_query == together.success_query[i : i + 1]
        assert alone.queries == together.queries[i : i + 1]
        torch.testing.assert_close(alone.rows(0), together.rows(i), rtol=0, atol=1e-6)


def test_reaches_a_given_class_and_then_asks_no_more(scene: Any, meter: Any) -> None:
    goal = (scene.label + 1) % 3
    task = meter.protocol(INSTANCE, query_budget=250, targeted=True, mode="minimise")
    met = meter.attack(agent(step=0.06), task, scene.target, scene.x, scene.label, goal)
    for position, queries, calls in zip(met.success_query, met.queries, met.calls, strict=True):
        assert position > 0
        # Only rows sent in the same call come after it.
        assert queries - position < calls[-1]


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.08), ("linf", 0.025)])
def test_stays_in_the_ball(norm: str, eps: float, scene: Any, meter: Any) -> None:
    task = meter.protocol(INSTANCE, query_budget=35, norm=norm, eps=eps)
    label = torch.zeros(3, dtype=torch.int64)
    for radius in (None, 100.0):
        met = meter.attack(agent(radius=radius), task, meter.always(3), scene.x, label)
        far = [distance(met.rows(i), scene.x[i][None], task.norm).max() for i in range(3)]
        # A probe may leave the ball by its width.
        assert (float(torch.stack(far).max()) <= eps + 1.1e-4) is (radius is None)


def test_probabilities_of_zero_make_no_row_that_is_not_a_number(scene: Any, meter: Any) -> None:
    task = meter.protocol(INSTANCE, query_budget=20)
    label = torch.zeros(3, dtype=torch.int64)

    def certain(images: Tensor) -> Tensor:
        return torch.tensor([0.0, -math.inf, -math.inf]).expand(len(images), 3)

    met = meter.attack(agent(), task, certain, scene.x, label)
    assert met.queries == [20] * 3
    assert all(bool(met.rows(i).isfinite().all()) for i in range(3))


def test_gives_up_after_as_many_steps_as_allowed(scene: Any, meter: Any) -> None:
    task, label = meter.protocol(INSTANCE, query_budget=500), torch.zeros(3, dtype=torch.int64)
    met = meter.attack(agent(most_steps=4), task, meter.always(3), scene.x, label)
    assert met.queries == [4 + 12] * 3


def test_refuses_a_target_that_shows_no_scores(meter: Any) -> None:
    task = meter.protocol(INSTANCE, access="label")
    with pytest.raises(UsageError, match="needs scores"):
        agent().init(SimpleNamespace(task=task), Rng(0))


def test_probing_a_trained_network_beats_not_probing(meter: Any, glyph_net: Any) -> None:
    # The network takes 14 px, the attacker 16 or more.
    chosen = slice(0, 100, 20)
    x, label = F.pad(glyph_net.x[chosen], (1, 1, 1, 1)), glyph_net.label[chosen]
    task = meter.protocol(INSTANCE, glyph_net.classes, query_budget=150, eps=1.6)

    def target(images: Tensor) -> Tensor:
        logits: Tensor = glyph_net.target(images[..., 1:-1, 1:-1])
        return logits

    probing = {"coordinates": 24, "step": 0.05, "tune_steps": 5}
    found = [
        sum(at > 0 for at in meter.attack(made, task, target, x, label).success_query)
        for made in (agent(**probing), agent(**probing | {"every": 1000}))
    ]
    assert found[0] == 5
    assert found[0] > found[1]
