"""The meter that attackers are driven under, and a small trained network to attack."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents import CATALOGUE
from lazybench.envs.datasets.glyphs import instances, read_frozen
from lazybench.specs import EnvSpec
from lazybench.user_code import load

CLASSES = 10


@pytest.fixture(scope="session")
def meter(script: Callable[[str], ModuleType]) -> ModuleType:
    """The module next to this file: `meter.attack(agent, meter.protocol(), target, x, label)`."""
    return script("tests/agents/attack/meter.py")


@pytest.fixture(scope="session")
def make_attacker() -> Callable[..., Any]:
    """A function from an attacker's id, data and settings to it, settings over its preset."""

    def make(name: str, data: str = "mnist", **settings: Any) -> Any:
        row = next(row for row in CATALOGUE if row.id == name)
        agent = load(row.target)
        env = EnvSpec("tiny-net-untargeted", "attack", "a:b", None, data)
        return agent(agent.Config(**{**agent.preset(name, env, "small"), **settings}))

    return make


@pytest.fixture(scope="session")
def glyph_net() -> SimpleNamespace:
    """A convolutional network trained on ten glyphs, and images that it classifies correctly.

    `target` gives logits; `x [n, 1, 14, 14]` in [0, 1], `label [n]`, ten to a class at most;
    `instance` and `classes` for the protocol.
    """
    frozen = read_frozen()
    rows = frozen.rows("train")[:CLASSES]
    drawn = torch.from_numpy(instances(frozen, rows, 0, 40, "medium")).float() / 255
    x = F.avg_pool2d(drawn.flatten(0, 1)[:, None], 2)
    label = torch.arange(CLASSES).repeat_interleave(40)
    generator = torch.Generator().manual_seed(0)
    shapes = {"kernel": (12, 1, 3, 3), "inner": (48, 12 * 36), "outer": (CLASSES, 48)}
    params = {
        name: (torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5).requires_grad_()
        for name, shape in ((name, torch.Size(size)) for name, size in shapes.items())
    }

    def logits(images: Tensor) -> Tensor:
        held = {name: value.to(images.dtype) for name, value in params.items()}
        seen = F.max_pool2d(torch.tanh(F.conv2d(images, held["kernel"])), 2).flatten(1)
        return F.linear(F.relu(F.linear(seen, held["inner"])), held["outer"])

    optimiser = torch.optim.Adam(params.values(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(logits(x), label).backward()
        optimiser.step()
    for value in params.values():
        value.requires_grad_(False)
    right = logits(x).argmax(1) == label
    chosen = torch.cat([torch.nonzero(right & (label == each))[:10, 0] for each in range(CLASSES)])
    return SimpleNamespace(
        target=logits,
        x=x[chosen],
        label=label[chosen],
        instance=(1, 14, 14),
        classes=CLASSES,
    )
