"""Algebra on parameter sets; nothing changes its arguments."""

from __future__ import annotations

import math
import re

import pytest
import torch

from lazybench.nets import params
from lazybench.nets.params import Params


def pair(*entries: float) -> Params:
    return {
        "a": torch.tensor(entries[:1], dtype=torch.float64),
        "b": torch.tensor([entries[1:]], dtype=torch.float64),
    }


LEFT, RIGHT = pair(1.0, 2.0, -4.0), pair(3.0, -2.0, 0.5)


def test_lerp_weighs_the_first_argument() -> None:
    torch.testing.assert_close(params.lerp(LEFT, RIGHT, 0.75), pair(1.5, 1.0, -2.875))
    torch.testing.assert_close(params.lerp(LEFT, RIGHT, 1.0), LEFT, rtol=0, atol=0)
    torch.testing.assert_close(params.lerp(LEFT, RIGHT, 0.0), RIGHT, rtol=0, atol=0)


def test_lerp_is_differentiable_in_both() -> None:
    left, right = params.leaves(LEFT), params.leaves(RIGHT)
    total = sum((v.sum() for v in params.lerp(left, right, 0.75).values()), torch.zeros(()))
    grads = torch.autograd.grad(total, [left["a"], left["b"], right["a"], right["b"]])
    assert [set(grad.flatten().tolist()) for grad in grads] == [{0.75}] * 2 + [{0.25}] * 2


def test_subtract_scale_and_combine() -> None:
    torch.testing.assert_close(params.subtract(LEFT, RIGHT), pair(-2.0, 4.0, -4.5))
    torch.testing.assert_close(params.scale(LEFT, -2.0), pair(-2.0, -4.0, 8.0))
    torch.testing.assert_close(params.combine([LEFT, RIGHT], [2.0, -1.0]), pair(-1.0, 6.0, -8.5))
    torch.testing.assert_close(params.mean([LEFT, RIGHT]), pair(2.0, 0.0, -1.75))
    torch.testing.assert_close(LEFT, pair(1.0, 2.0, -4.0), rtol=0, atol=0)


def test_combine_needs_one_weight_for_each_set() -> None:
    message = "need one weight for each parameter set, got 2 sets and 1 weights"
    with pytest.raises(ValueError, match=re.escape(message)):
        params.combine([LEFT, RIGHT], [1.0])
    with pytest.raises(ValueError, match="got 0 sets and 0 weights"):
        params.combine([], [])
    with pytest.raises(ValueError, match="got 0 sets and 0 weights"):
        params.mean([])


def test_detached_copies_and_leaves_share() -> None:
    source = params.leaves(LEFT)
    assert all(value.is_leaf and value.requires_grad for value in source.values())
    assert source["a"].data_ptr() == LEFT["a"].data_ptr()
    assert not LEFT["a"].requires_grad
    moved = params.scale(source, 2.0)
    for requires_grad in (False, True):
        copy = params.detached(moved, requires_grad=requires_grad)
        for name, value in copy.items():
            assert value.is_leaf
            assert value.requires_grad == requires_grad
            assert value.data_ptr() != moved[name].data_ptr()


def test_layout_survives_a_copy() -> None:
    weight = torch.zeros(4, 3, 3, 3).to(memory_format=torch.channels_last)
    copy = params.detached({"w": weight})["w"]
    assert copy.stride() == weight.stride()


def test_finite() -> None:
    assert params.finite(LEFT)
    for bad in (math.nan, math.inf, -math.inf):
        assert not params.finite(pair(1.0, 2.0, bad))
