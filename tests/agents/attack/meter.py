"""An independent meter: one plain loop over rows, scripted targets, every row on record.

The oracle for attackers (what they ask) and for the environment (what it charges). It knows the
contract of `lazybench.tasks` and nothing of how the environment is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lazybench.seeding import Rng
from lazybench.tasks import AttackTask, Queries, Replies, TaskShape

Target = Callable[[Tensor], Tensor]
"""From images `[R, channels, height, width]` to logits `[R, classes]`."""

TOLERANCE = 1e-6


def protocol(instance: tuple[int, ...] = (1, 4, 4), classes: int = 3, **changes: Any) -> AttackTask:
    """A protocol of small images; `changes` are fields of `AttackTask`."""
    fields: dict[str, Any] = {
        "access": "scores",
        "targeted": False,
        "norm": "l2",
        "eps": math.inf,
        "query_budget": 100,
        "mode": "first",
        "whiteboxes": (),
        "maps": TaskShape(1, 8, 2, instance, "float32", "array", instance),
    }
    return AttackTask(classes=classes, instance=instance, **{**fields, **changes})


@dataclass(frozen=True)
class Entry:
    """One charged row: the image as sent, its scores, its distance and whether it is a success."""

    row: Tensor
    scores: Tensor
    distance: float
    hit: bool


class Meter:
    """Charges rows and answers them, one at a time.

    Attributes:
        ledger: for each image its charged rows, in order.
        calls: for each image how many rows of it each call charged; calls without it aren't listed.
        refused: for each image how many rows were neither charged nor answered.
    """

    def __init__(
        self, task: AttackTask, target: Target, x: Tensor, label: Tensor, goal: Tensor | None = None
    ) -> None:
        """Open images `[n, …]` with true classes `label` and, if targeted, classes `goal`."""
        self.task, self.target, self.x = task, target, x
        self.label = [int(value) for value in label]
        self.goal = None if goal is None else [int(value) for value in goal]
        self.ledger: list[list[Entry]] = [[] for _ in self.label]
        self.calls: list[list[int]] = [[] for _ in self.label]
        self.refused = [0 for _ in self.label]
        self.done = [False for _ in self.label]

    def answer(self, queries: Queries) -> Replies:
        """Charge and answer the rows of one call."""
        entries: list[Entry | None] = []
        charged = [0 for _ in self.label]
        for row, owner in zip(queries.rows, queries.owner.tolist(), strict=True):
            if self.done[owner] or len(self.ledger[owner]) >= self.task.query_budget:
                self.refused[owner] += 1
                entries.append(None)
                continue
            entry = self._serve(row, owner)
            self.ledger[owner].append(entry)
            charged[owner] += 1
            entries.append(entry)
        for image, count in enumerate(charged):
            if count:
                self.calls[image].append(count)
        # Only now: rows after a hit in the same call have been sent with it.
        for image, rows in enumerate(self.ledger):
            first = self.task.mode == "first" and any(entry.hit for entry in rows)
            self.done[image] |= first or len(rows) >= self.task.query_budget
        nothing = torch.zeros(self.task.classes)
        scores = [nothing if entry is None else entry.scores for entry in entries]
        full = torch.stack(scores) if scores else torch.zeros(0, self.task.classes)
        hidden = self.task.access == "label"
        return Replies(
            torch.zeros(0, self.task.classes) if hidden else full,
            full.argmax(1),
            torch.tensor([entry is not None and entry.hit for entry in entries], dtype=torch.bool),
            torch.tensor([entry is not None for entry in entries], dtype=torch.bool),
            torch.tensor([self.task.query_budget - count for count in self.queries]),
            torch.tensor(self.done),
        )

    @property
    def queries(self) -> list[int]:
        """Rows charged to each image."""
        return [len(rows) for rows in self.ledger]

    @property
    def success_query(self) -> list[int]:
        """Position of each image's first success in its ledger, from 1; 0 for none."""
        return [next((i + 1 for i, e in enumerate(rows) if e.hit), 0) for rows in self.ledger]

    def best(self, by: int | None = None) -> list[float]:
        """Distance of each image's nearest success within its first `by` rows; infinite if none."""
        return [
            min((e.distance for e in rows[:by] if e.hit), default=math.inf) for rows in self.ledger
        ]

    def rows(self, image: int) -> Tensor:
        """All charged rows of an image, `[queries, …]`."""
        return torch.stack([entry.row for entry in self.ledger[image]])

    def _serve(self, row: Tensor, owner: int) -> Entry:
        finite = bool(torch.isfinite(row).all())
        sent = row.to(torch.float32).clamp(0, 1) if finite else self.x[owner]
        scores = torch.log_softmax(self.target(sent[None]).detach(), 1)[0].to(torch.float32)
        offset = (sent.double() - self.x[owner].double()).flatten()
        far = float(
            offset.abs().max() if self.task.norm == "linf" else offset.square().sum().sqrt()
        )
        top = int(scores.argmax())
        right = top != self.label[owner] if self.goal is None else top == self.goal[owner]
        return Entry(sent, scores, far, finite and right and far <= self.task.eps + TOLERANCE)


def attack(
    agent: Any,
    task: AttackTask,
    target: Target,
    x: Tensor,
    label: Tensor,
    goal: Tensor | None = None,
    *,
    trial: Tensor | None = None,
    seed: int = 0,
    state: Any = None,
    most_calls: int = 1_000_000,
) -> Meter:
    """Let an agent attack images until all are finished or it asks nothing; return the meter.

    Args:
        agent: attacker; it is driven through `policy`, as the harness does.
        task: protocol.
        target: scripted target.
        x: `[n, …]` clean images.
        label: `[n]` true classes.
        goal: `[n]` classes to reach, in a targeted attack.
        trial: `[n]` numbers of the images; by default 0..n-1.
        seed: of the run.
        state: of the agent; by default its first one.
        most_calls: stop after that many calls.
    """
    meter = Meter(task, target, x, label, goal)
    n = len(x)
    if state is None:
        state = agent.init(SimpleNamespace(task=task), Rng(seed))
    observation: dict[str, Any] = {
        "trial": torch.arange(n) if trial is None else trial,
        "x": x,
        "label": label,
        "goal": torch.full((n,), -1) if goal is None else goal,
        "left": torch.full((n,), task.query_budget),
        "done": torch.zeros(n, dtype=torch.bool),
        "best_distance": torch.full((n,), -1.0),
    }
    policy, memory = agent.policy(state), None
    for _ in range(most_calls):
        queries, memory = policy(observation, memory)
        if len(queries.rows) == 0:
            break
        best = [-1.0 if math.isinf(value) else value for value in meter.best()]
        replies = meter.answer(queries)
        observation |= {**replies._asdict(), "best_distance": torch.tensor(best)}
        if all(meter.done):
            break
    return meter


def linear(weight: Tensor, bias: Tensor) -> Target:
    """A target whose logits are linear: `weight [classes, …]`, `bias [classes]`.

    Added up row by row, so that an image's logits don't depend on what is sent with it.
    """

    def logits(images: Tensor) -> Tensor:
        each = [(weight * row[None]).flatten(1).sum(1) + bias for row in images]
        return torch.stack(each) if each else images.new_zeros(0, len(bias))

    return logits


def ball(centre: Tensor, radius: float, classes: int = 3) -> Target:
    """A target that says class 0 within a distance of `centre` and class 1 outside it."""

    def logits(images: Tensor) -> Tensor:
        far = (images - centre).flatten(1).square().sum(1).sqrt() - radius
        rest = torch.full((len(images), classes - 2), -10.0)
        return torch.cat([-far[:, None], far[:, None], rest], 1)

    return logits


def always(classes: int, label: int = 0) -> Target:
    """A target that nothing changes: it counts what an attack asks."""

    def logits(images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), classes)
        scores[:, label] = 1.0
        return scores

    return logits


def smooth(instance: tuple[int, ...], classes: int = 3, seed: int = 0, hidden: int = 16) -> Target:
    """A fixed random network of one layer of tanh: differentiable, and curved everywhere."""
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(instance)
    first = torch.randn(hidden, size, generator=generator) * 3 / size**0.5
    second = torch.randn(classes, hidden, generator=generator)

    def logits(images: Tensor) -> Tensor:
        inner = (images.flatten(1)[:, None] - 0.5) * first.to(images.dtype)
        return (torch.tanh(inner.sum(2))[:, None] * second.to(images.dtype)).sum(2)

    return logits


def drive(part: Generator[Any, Any, Any], box: Any) -> Any:
    """Answer a part of an attack and return what it returns."""
    try:
        queries = next(part)
        while True:
            queries = part.send(box.answer(queries))
    except StopIteration as ended:
        return ended.value
