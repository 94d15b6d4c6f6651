"""The prior-guided attack: counts by hand, its estimate against the gradient, worth of priors."""

from __future__ import annotations

import statistics
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.attack.lockstep import Start
from lazybench.agents.attack.search import Decisions
from lazybench.agents.attack.surrogate_prior import SurrogatePrior, SurrogatePriorConfig
from lazybench.errors import ContractError, UsageError
from lazybench.nets.whitebox import classifier
from lazybench.seeding import Rng

INSTANCE = (1, 14, 14)


def boxes(classes: int, many: int = 1) -> list[tuple[Any, dict[str, Tensor]]]:
    net = classifier("net2-small", INSTANCE, classes)
    return [(net, net.init(torch.Generator().manual_seed(seed))) for seed in range(many)]


def made(task: Any, given: Any, **settings: Any) -> tuple[SurrogatePrior, Any]:
    agent = SurrogatePrior(SurrogatePriorConfig(**settings))
    return agent, agent.init(SimpleNamespace(task=task, whiteboxes=lambda: given), Rng(0))


def plane() -> Tensor:
    """Weights of two classes; the margin's gradient is the second's less the first's."""
    return torch.randn(2, *INSTANCE, generator=torch.Generator().manual_seed(1))


def test_counts_by_hand_and_stays_in_ball_and_box(meter: ModuleType) -> None:
    task = meter.protocol(INSTANCE, 3, eps=0.5, query_budget=24)
    agent, state = made(task, boxes(3, 2), random=4)
    x = torch.full((2, *INSTANCE), 0.5)
    box = meter.attack(agent, task, meter.always(3), x, torch.tensor([0, 0]), state=state)
    # Two white boxes and four random directions; after the first iteration the last estimate,
    # which is none where nothing changes the target.
    assert box.calls == [[1, 6, 1, 6, 1, 6, 1, 2]] * 2
    agent, state = made(task, boxes(2, 2), random=4)
    task = meter.protocol(INSTANCE, 2, eps=0.5, query_budget=24)
    target = meter.linear(plane(), torch.tensor([900.0, 0.0]))
    box = meter.attack(agent, task, target, x, torch.tensor([0, 0]), state=state)
    assert box.calls == [[1, 6, 1, 7, 1, 7, 1]] * 2
    assert not torch.equal(box.rows(0), box.rows(1))
    probe = 1e-4 * 14
    for image in range(2):
        assert all(entry.distance <= 0.5 + probe + 1e-5 for entry in box.ledger[image])
        rows = box.rows(image)
        assert bool(((rows >= 0) & (rows <= 1)).all())


def test_the_estimate_is_the_gradient_projected_on_what_is_probed(meter: ModuleType) -> None:
    task = meter.protocol(INSTANCE, 2, query_budget=300)
    weight = plane()
    x = torch.rand(1, *INSTANCE, generator=torch.Generator().manual_seed(2)) * 0.8 + 0.1
    label = torch.tensor([0])
    start = Start(task, 0, torch.tensor([0]), x, label, None)
    gradient = (weight[1] - weight[0]).double()
    prior = torch.randn(1, 1, *INSTANCE, generator=torch.Generator().manual_seed(3))
    agent = SurrogatePrior(SurrogatePriorConfig(random=3, probe=1e-2))
    box = meter.Meter(task, meter.linear(weight, torch.tensor([9.0, 0.0])), x, label)
    # The difference of two log-probabilities is that of their logits: linear in the image.
    value = start.margin(torch.log_softmax(box.target(x), 1), label)
    part = agent._slope(Decisions(start), torch.tensor([0]), x, value, prior, 0)
    queries = next(part)
    assert len(queries.rows) == 4
    with pytest.raises(StopIteration) as ended:
        part.send(box.answer(queries))
    span = (queries.rows - x).flatten(1).double()
    basis = torch.linalg.qr(span.T).Q
    expected = basis @ (basis.T @ gradient.flatten())
    found = ended.value.value.flatten().double()
    assert float((found - expected).norm() / expected.norm()) < 5e-3


def test_an_image_fares_alone_as_with_others(meter: ModuleType) -> None:
    task = meter.protocol(INSTANCE, 2, eps=3.0, query_budget=60)
    target = meter.linear(plane(), torch.tensor([9.0, 0.0]))
    x = torch.rand(3, *INSTANCE, generator=torch.Generator().manual_seed(4))
    label = target(x).argmax(1)
    agent, state = made(task, boxes(2), random=4)
    together = meter.attack(agent, task, target, x, label, state=state)
    alone = meter.attack(
        agent, task, target, x[1:2], label[1:2], state=state, trial=torch.tensor([1])
    )
    assert together.calls[1] == alone.calls[0]
    torch.testing.assert_close(together.rows(1), alone.rows(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_trained_white_box_saves_queries_next_to_an_untrained_one(
    meter: ModuleType, glyph_net: SimpleNamespace, norm: str
) -> None:
    net, params = boxes(glyph_net.classes)[0]
    params = {name: value.requires_grad_() for name, value in params.items()}
    optimiser = torch.optim.Adam(params.values(), lr=0.005)
    for _ in range(25):
        optimiser.zero_grad()
        F.cross_entropy(net(params, glyph_net.x), glyph_net.label).backward()
        optimiser.step()
    params = {name: value.detach() for name, value in params.items()}
    eps = 2.0 if norm == "l2" else 0.2
    task = meter.protocol(INSTANCE, glyph_net.classes, norm=norm, eps=eps, query_budget=250)
    x, label = glyph_net.x[::12], glyph_net.label[::12]
    spent = []
    for known in (params, boxes(glyph_net.classes)[0][1]):
        agent, state = made(task, [(net, known)], random=4)
        box = meter.attack(agent, task, glyph_net.target, x, label, state=state)
        spent.append(statistics.mean(box.queries))
    assert spent[0] < spent[1]


def test_minimise_goes_on_in_smaller_balls(meter: ModuleType, glyph_net: SimpleNamespace) -> None:
    x, label = glyph_net.x[::50], glyph_net.label[::50]
    task = meter.protocol(INSTANCE, glyph_net.classes, mode="minimise", query_budget=400)
    agent, state = made(task, boxes(glyph_net.classes), random=4)
    box = meter.attack(agent, task, glyph_net.target, x, label, state=state)
    for rows, best in zip(box.ledger, box.best(), strict=True):
        first = next(entry.distance for entry in rows if entry.hit)
        assert best < 0.9 * first
    assert box.queries == [400] * len(x)


def test_refuses_labels_alone_and_an_environment_without_white_boxes(meter: ModuleType) -> None:
    with pytest.raises(UsageError, match="needs scores"):
        made(meter.protocol(INSTANCE, 2, access="label"), boxes(2))
    with pytest.raises(ContractError, match="gives none"):
        made(meter.protocol(INSTANCE, 2), [])
