"""Heads against hand-written loops, normal equations and finite differences, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lazybench.agents.fewshot import heads
from lazybench.nets.params import Params

WAY, SHOT, QUERIES, WIDTH = 4, 3, 5, 6
MAKERS: dict[str, Callable[[], heads.Head]] = {
    "prototypes": heads.prototypes,
    "prototypes by cosine": lambda: heads.prototypes("cosine", 0.3),
    "matching": lambda: heads.matching(temperature=0.2),
    "matching by distance": lambda: heads.matching("euclidean", 2.0),
    "relation": lambda: heads.relation((7, 5)),
    "ridge": lambda: heads.ridge(0.7, 3.0),
}
ALL = pytest.mark.parametrize("name", MAKERS)


def episode(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Support features in mixed order, their labels, query features."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(WAY).repeat_interleave(SHOT)
    labels = labels[torch.randperm(WAY * SHOT, generator=generator)]
    rows = torch.randn((WAY * SHOT + QUERIES, WIDTH), generator=generator, dtype=torch.float64)
    return rows[: WAY * SHOT], labels, rows[WAY * SHOT :]


def parameters(head: heads.Head) -> Params:
    fresh = head.init(WIDTH, torch.Generator().manual_seed(1))
    assert all(name.startswith("head.") for name in fresh)
    return {name: value.double() for name, value in fresh.items()}


def one_hot(labels: Tensor) -> Tensor:
    return torch.eye(WAY, dtype=torch.float64)[labels]


@ALL
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    head = MAKERS[name]()
    params = parameters(head)
    support, labels, query = episode()

    def outputs(support: Tensor, query: Tensor, *values: Tensor) -> Tensor:
        held = dict(zip(params, values, strict=True))
        return head.outputs(held, support, one_hot(labels), query)

    inputs = [value.clone().requires_grad_() for value in (support, query, *params.values())]
    assert torch.autograd.gradcheck(outputs, inputs)


@ALL
def test_renaming_classes_permutes_outputs_and_support_order_means_nothing(name: str) -> None:
    head = MAKERS[name]()
    params = parameters(head)
    support, labels, query = episode()
    found = head.outputs(params, support, one_hot(labels), query)
    assert found.shape == (QUERIES, WAY)
    renamed = torch.tensor([2, 0, 3, 1])
    moved = head.outputs(params, support, one_hot(renamed[labels]), query)
    torch.testing.assert_close(moved[:, renamed], found)
    order = torch.randperm(len(support), generator=torch.Generator().manual_seed(5))
    shuffled = head.outputs(params, support[order], one_hot(labels[order]), query)
    torch.testing.assert_close(shuffled, found)
    # A query's outputs are its own.
    alone = head.outputs(params, support, one_hot(labels), query[2:3])
    torch.testing.assert_close(alone, found[2:3])


def test_matching_attends_as_a_loop_does() -> None:
    support, labels, query = episode()
    head = heads.matching(temperature=0.2)
    found = head.outputs({}, support, one_hot(labels), query)
    for at in range(QUERIES):
        weight = []
        for row in support:
            product = sum(float(a) * float(b) for a, b in zip(query[at], row, strict=True))
            norms = math.sqrt(float(query[at] @ query[at])) * math.sqrt(float(row @ row))
            weight.append(math.exp(product / norms / 0.2))
        for label in range(WAY):
            mine = sum(w for w, y in zip(weight, labels.tolist(), strict=True) if y == label)
            assert float(found[at, label]) == pytest.approx(math.log(mine / sum(weight)))
    torch.testing.assert_close(found.logsumexp(1), torch.zeros(QUERIES, dtype=torch.float64))


def test_matching_with_no_attention_left_has_a_finite_loss() -> None:
    support = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    head = heads.matching(temperature=0.001)
    found = head.outputs({}, support, torch.eye(2), torch.tensor([[1.0, 0.0]]))
    assert torch.isfinite(found).all()
    (gradient,) = torch.autograd.grad(found.sum(), support)
    assert torch.isfinite(gradient).all()


def test_relation_is_the_module_on_each_concatenated_pair() -> None:
    support, labels, query = episode()
    head = heads.relation((7, 5))
    params = parameters(head)
    found = head.outputs(params, support, one_hot(labels), query)

    def standardised(x: Tensor) -> Tensor:
        return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()

    for at in range(QUERIES):
        for label in range(WAY):
            total = support[labels == label].sum(0)
            x = torch.cat([standardised(total), standardised(query[at])])
            for layer in (1, 2, 3):
                weight, bias = (params[f"head.relation{layer}.{p}"] for p in ("weight", "bias"))
                x = weight @ x + bias
                x = standardised(x).clamp_min(0) if layer < 3 else x
            torch.testing.assert_close(found[at, label], x[0])


@pytest.mark.parametrize("rows", [3, 6, 20])
def test_ridge_solves_the_normal_equations(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn((rows, 6), generator=generator, dtype=torch.float64)
    y = torch.randn((rows, 2), generator=generator, dtype=torch.float64)
    lam = torch.tensor(0.3, dtype=torch.float64)
    found = heads.solve_ridge(x, y, lam)
    inverse = torch.linalg.inv(x.T @ x + 0.3 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(found, inverse @ x.T @ y)
    # And it is the least of the regularised squared error.
    point = found.clone().requires_grad_()
    error = (x @ point - y).square().sum() + 0.3 * point.square().sum()
    (slope,) = torch.autograd.grad(error, point)
    assert slope.abs().max() < 1e-10
    held = (x.clone().requires_grad_(), y.clone().requires_grad_(), lam.clone().requires_grad_())
    assert torch.autograd.gradcheck(heads.solve_ridge, held)


def test_ridge_scales_and_shifts_its_predictions() -> None:
    support, labels, query = episode()
    head = heads.ridge(0.5, 2.0)
    params = parameters(head) | {"head.ridge.bias": torch.tensor(0.25, dtype=torch.float64)}
    found = head.outputs(params, support, one_hot(labels), query)
    ones = torch.ones(len(support), 1, dtype=torch.float64)
    x = torch.cat([support, ones], 1)
    weights = torch.linalg.inv(x.T @ x + 0.5 * torch.eye(7)) @ x.T @ one_hot(labels)
    torch.testing.assert_close(found, 2 * (torch.cat([query, ones[:QUERIES]], 1) @ weights) + 0.25)


def test_cosines_forget_lengths() -> None:
    support, labels, query = episode()
    for head in (heads.prototypes("cosine"), heads.matching("cosine")):
        found = head.outputs({}, support, one_hot(labels), query)
        longer = head.outputs({}, 7 * support, one_hot(labels), 0.2 * query)
        torch.testing.assert_close(longer, found)
    assert heads.cosine(query, support).abs().max() <= 1 + 1e-12
