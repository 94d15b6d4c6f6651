"""Quadratic tasks, whose inner loops have closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lazybench.nets.params import Params


@dataclass(frozen=True)
class Quadratic:
    """Loss .5 * sum(curvature * (phi - optimum)^2), in float64, over a matrix and a vector."""

    curvature: Params
    optimum: Params
    theta: Params

    def __call__(self, phi: Params) -> Tensor:
        parts = [
            (self.curvature[name] * (value - self.optimum[name]).square()).sum()
            for name, value in phi.items()
        ]
        return 0.5 * torch.stack(parts).sum()

    def after(self, steps: int, lr: float) -> Params:
        """phi_k = optimum + (1 - lr * curvature)^k * (theta - optimum)."""
        return {
            name: optimum + (1 - lr * self.curvature[name]) ** steps * (self.theta[name] - optimum)
            for name, optimum in self.optimum.items()
        }


@pytest.fixture
def make_quadratic() -> Callable[[int], Quadratic]:
    def make(seed: int) -> Quadratic:
        generator = torch.Generator().manual_seed(seed)

        def draw() -> Params:
            shapes: dict[str, tuple[int, ...]] = {"w": (2, 3), "b": (4,)}
            return {
                name: torch.randn(shape, generator=generator, dtype=torch.float64)
                for name, shape in shapes.items()
            }

        curvature = {name: value.square() + 0.1 for name, value in draw().items()}
        return Quadratic(curvature, draw(), draw())

    return make


@pytest.fixture
def quadratic(make_quadratic: Callable[[int], Quadratic]) -> Quadratic:
    return make_quadratic(0)
