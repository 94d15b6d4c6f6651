"""Blocks of tasks, row by row: what every few-shot agent does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lazybench.agent import Observation
from lazybench.parallel import map_tasks

Row = dict[str, Tensor]
"""One task of a block."""


def select_row(batch: Observation, index: int) -> Row:
    """Return row `index` of each tensor of a block."""
    return {name: part[index] for name, part in batch.items()}


class PerTask:
    """A policy that answers each task of a block by itself, tasks in parallel."""

    vectorized = True

    def __init__(self, answer: Callable[[Row], Tensor]) -> None:
        """Hold the function from a task to the answers to its queries."""
        self._answer = answer

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Tensor, Any]:
        """Return the answers to a block of tasks, `[R, query rows, …]`."""
        rows = range(len(observation["support_x"]))
        answers = map_tasks(lambda row: self._answer(select_row(observation, row)), rows)
        return torch.stack(answers), None
