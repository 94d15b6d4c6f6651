"""Finite differences against autograd, on smooth targets and at the box's edges."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.agents.attack.differences import coordinate_slopes, directional_slopes, placed
from lazybench.agents.attack.lockstep import Start
from lazybench.agents.attack.search import Iterates, Space, pixels, project, tiled, variables
from lazybench.tasks import distance, margin

INSTANCE = (2, 4, 4)


@pytest.fixture
def at(meter: ModuleType) -> Callable[..., tuple[Iterates, Any, Callable[[Tensor], Tensor]]]:
    """A function from images to iterates there, their meter, and the margin as a function."""

    def make(x: Tensor, space: Space = "pixel") -> tuple[Iterates, Any, Callable[[Tensor], Tensor]]:
        # A ball so small that no probe is a success.
        task = meter.protocol(INSTANCE, query_budget=10_000, eps=1e-5)
        target = meter.smooth(INSTANCE)
        label = target(x).argmax(1)
        start = Start(task, 0, torch.arange(len(x)), x, label, None)
        box = meter.Meter(task, target, x, label)

        def height(images: Tensor) -> Tensor:
            return margin(torch.log_softmax(target(images), 1), label)

        return Iterates(start, 10.0, space), box, height

    return make


def slopes_by_autograd(
    height: Callable[[Tensor], Tensor], x: Tensor, space: Space = "pixel"
) -> Tensor:
    """The margin's gradient by the values of a space, in float64."""
    values = variables(x.double(), space).requires_grad_()
    (found,) = torch.autograd.grad(height(pixels(values, space)).sum(), values)
    return found


@pytest.mark.parametrize("space", ["pixel", "tanh"])
@pytest.mark.parametrize("both_sides", [False, True])
def test_coordinate_slopes_are_the_gradient(
    meter: ModuleType, at: Callable[..., Any], space: Space, both_sides: bool
) -> None:
    x = 0.2 + 0.6 * torch.rand(3, *INSTANCE, generator=torch.Generator().manual_seed(1))
    iterates, box, height = at(x, space)
    meter.drive(iterates.check(), box)
    index = torch.rand(3, 32, generator=torch.Generator().manual_seed(2)).argsort(1)
    found, kept = meter.drive(coordinate_slopes(iterates, index, 1e-2, both_sides=both_sides), box)
    assert kept.tolist() == [0, 1, 2]
    assert box.queries == [1 + 32 * (1 + both_sides)] * 3
    expected = slopes_by_autograd(height, x, space).float()
    error = 2e-3 if both_sides else 5e-2
    torch.testing.assert_close(placed(found, index, x), expected, rtol=error, atol=error)


@pytest.mark.parametrize("both_sides", [False, True])
def test_at_the_edges_probes_stay_inside(
    meter: ModuleType, at: Callable[..., Any], both_sides: bool
) -> None:
    x = torch.rand(2, *INSTANCE, generator=torch.Generator().manual_seed(1)).round()
    iterates, box, height = at(x)
    meter.drive(iterates.check(), box)
    index = torch.arange(32).expand(2, -1)
    found, _ = meter.drive(coordinate_slopes(iterates, index, 1e-2, both_sides=both_sides), box)
    expected = slopes_by_autograd(height, x).float()
    torch.testing.assert_close(placed(found, index, x), expected, rtol=0.1, atol=0.05)
    # Nothing was clipped on the way: each probe differs from the image in one pixel by h.
    probes = box.rows(0)[1:]
    offset = (probes - x[0]).flatten(1).abs()
    assert offset.amax(1).max() <= 0.0101
    if not both_sides:
        torch.testing.assert_close(offset.sum(1), torch.full((32,), 1e-2), atol=1e-6, rtol=0)


def test_the_loss_is_differentiated_in_place_of_the_margin(
    meter: ModuleType, at: Callable[..., Any]
) -> None:
    x = torch.full((1, *INSTANCE), 0.3)
    index = torch.arange(32)[None]
    plain, squared = at(x), at(x)
    for iterates, box, _ in (plain, squared):
        meter.drive(iterates.check(), box)
    found, _ = meter.drive(coordinate_slopes(plain[0], index, 1e-2, both_sides=True), plain[1])
    asked = coordinate_slopes(
        squared[0], index, 1e-2, both_sides=True, loss=lambda value: value.square()
    )
    by_chain, _ = meter.drive(asked, squared[1])
    expected = 2 * plain[0].margin[0] * found
    torch.testing.assert_close(by_chain, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("both_sides", [False, True])
def test_directional_slopes_are_products_with_the_gradient(
    meter: ModuleType, at: Callable[..., Any], both_sides: bool
) -> None:
    generator = torch.Generator().manual_seed(5)
    x = 0.2 + 0.6 * torch.rand(3, *INSTANCE, generator=generator)
    directions = torch.randn(3, 6, *INSTANCE, generator=generator)
    iterates, box, height = at(x)
    meter.drive(iterates.check(), box)
    found, _ = meter.drive(
        directional_slopes(iterates, directions, 2e-3, both_sides=both_sides), box
    )
    gradient = slopes_by_autograd(height, x).float()
    expected = torch.einsum("mchw,mqchw->mq", gradient, directions)
    error = 1e-2 if both_sides else 5e-2
    torch.testing.assert_close(found, expected, rtol=error, atol=error)
    assert box.queries == [1 + 6 * (1 + both_sides)] * 3


def test_projection_reaches_the_ball_and_leaves_what_is_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(20, 3, 8, 8, generator=generator).round(decimals=1)
    near = clean + 0.05 * torch.randn(clean.shape, generator=generator)
    far = clean + 4 * torch.randn(clean.shape, generator=generator)
    for norm, radius in (("l2", 1.5), ("linf", 0.25)):
        assert torch.equal(project(near, clean, norm, radius), near.clamp(0, 1))
        inside = project(far, clean, norm, radius)
        assert distance(inside.double(), clean.double(), norm).max() <= radius + 1e-6
        assert inside.min() >= 0
        assert inside.max() <= 1
    middle = torch.full((4, 3, 8, 8), 0.5)
    edge = project(middle + 0.3 * torch.randn(middle.shape), middle, "l2", 1.0)
    torch.testing.assert_close(distance(edge, middle, "l2"), torch.ones(4), rtol=0, atol=3e-6)


def test_moving_keeps_values_that_were_not_brought_back(at: Callable[..., Any]) -> None:
    iterates, _, _ = at(torch.zeros(1, *INSTANCE), "tanh")
    before = iterates.values.clone()
    # There and back from near 0 in float32 would have moved w by a tenth.
    iterates.move(before + 1e-3)
    torch.testing.assert_close(iterates.values, before + 1e-3, rtol=0, atol=1e-6)


def test_tiles_are_rectangles_of_one_value() -> None:
    cells = torch.arange(6.0).view(1, 2, 3)
    assert tiled(cells, 4, 6)[0].tolist() == [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 2, 2],
        [3, 3, 4, 4, 5, 5],
        [3, 3, 4, 4, 5, 5],
    ]
    assert tiled(torch.arange(3.0).view(1, 1, 3), 1, 7)[0].tolist() == [[0, 0, 0, 1, 1, 2, 2]]
