"""Shapes of tasks of the three families, known before any task is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

Target = Literal["class", "array"]

PADDING = -2
"""The label of rows that only fill up the support and query sets of uneven tasks."""


@dataclass(frozen=True)
class TaskShape:
    """Shape of few-shot tasks, which an agent knows before training.

    Attributes:
        way: classes in a task, N; 1 for regression.
        shot: support instances of each class, K.
        query: query instances of each class.
        instance: shape of one instance (`(1, 28, 28)`, `(1,)`).
        dtype: `uint8` images or `float32` vectors.
        target: `class`, with labels in [0, way), or `array`, with float32 targets.
        target_shape: shape of one target; () for labels.
        classes: number of classes that tasks of this split are drawn from; 0 if unlimited.
        uneven: whether tasks differ in size. `way` and `shot` are then the largest ones; the rows
            that a task doesn't have come last, with the label `PADDING`, and aren't scored.
    """

    way: int
    shot: int
    query: int
    instance: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    target: Target = "class"
    target_shape: tuple[int, ...] = ()
    classes: int = 0
    uneven: bool = False

    def __post_init__(self) -> None:
        """Convert lists, as read from a file, to tuples."""
        for name in ("instance", "target_shape"):
            object.__setattr__(self, name, tuple(vars(self)[name]))

    def fields(self) -> dict[str, Any]:
        """Return the shape as a dict that an agent's state can hold; `TaskShape(**it)` is equal."""
        # States of even tasks are as they were before there were others.
        return {name: value for name, value in vars(self).items() if name != "uneven" or value}

    @property
    def support_rows(self) -> int:
        """Rows of a support set, way * shot."""
        return self.way * self.shot

    @property
    def query_rows(self) -> int:
        """Rows of a query set, way * query."""
        return self.way * self.query

    @property
    def outputs(self) -> int:
        """Outputs of a network per instance."""
        if self.target == "class":
            return self.way
        size = 1
        for edge in self.target_shape:
            size *= edge
        return size


class Answers(NamedTuple):
    """Labels of a block's queries, with how sure the agent is: an action of few-shot environments.

    The environment scores how well the agent knows what it knows, next to its accuracy and never in
    its ranking. Fields of one trial lack the leading R.

    Attributes:
        labels: `[R, Q]` integers, the answers.
        probabilities: `[R, Q, way]` of each class, each row summing to 1; None without them.
        accuracy: `[R]` in [0, 1], the accuracy that the agent expects on each task; None takes the
            mean probability of its answers.
    """

    labels: Tensor
    probabilities: Tensor | None = None
    accuracy: Tensor | None = None

    @classmethod
    def stacked(cls, rows: Sequence[Answers]) -> Answers:
        """Return the answers to a block, from those to its trials."""
        parts = [[part for part in field if part is not None] for field in zip(*rows, strict=True)]
        whole = [
            torch.stack([torch.as_tensor(part) for part in field])
            if len(field) == len(rows)
            else None
            for field in parts
        ]
        return cls(*whole)  # type: ignore[arg-type]


CALIBRATION = ("calibration_gaps", "calibration_rows", "brier_sum", "self_estimate_error")
"""What the last info of a few-shot trial has for an agent that says how sure it is."""


Track = Literal["LT", "LT+dev"]
"""Whether training sees the images of the dev set with their labels (`LT+dev`) or not (`LT`)."""


@runtime_checkable
class Tracked(Protocol):
    """An environment whose boards are split by which data training sees."""

    @property
    def track(self) -> Track:
        """The track of training on it."""
        ...


@runtime_checkable
class HasProtocol(Protocol):
    """An environment with protocol settings that its id doesn't name."""

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Protocol settings, as JSON values."""
        ...


@runtime_checkable
class Summarised(Protocol):
    """An environment with metrics over all its trials."""

    def summary(self, scores: Any, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return metrics by name, from the score `[n]` and the further numbers of each trial."""
        ...


@dataclass(frozen=True)
class LongTailTask:
    """Shape of a long-tailed stream, which an agent knows before training; equal on every split.

    Attributes:
        classes: number of classes C; labels lie in [0, classes).
        instance: shape of one image, (channels, height, width), or of one vector, (d,).
        dtype: `uint8` for images, `float32` for vectors.
        class_counts: number of training images of each class, in the order of the labels, without
            the dev set.
        steps: training batches of the episode.
        batch: images of a batch, B.
        dev_per_class: images of each class in the dev set.
    """

    classes: int
    instance: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    class_counts: tuple[int, ...]
    steps: int
    batch: int
    dev_per_class: int

    def __post_init__(self) -> None:
        """Convert lists, as read from a file, to tuples."""
        for name in ("instance", "class_counts"):
            object.__setattr__(self, name, tuple(vars(self)[name]))

    def fields(self) -> dict[str, Any]:
        """Return it as a dict that an agent's state can hold; `LongTailTask(**it)` is equal."""
        return dict(vars(self))

    @property
    def outputs(self) -> int:
        """Outputs of a network per image."""
        return self.classes

    @property
    def images(self) -> int:
        """Number of training images."""
        return sum(self.class_counts)

    def train_steps(self, epochs: float, batch: int) -> int:
        """Return the number of batches in `epochs` passes over the training images, at least 1.

        Batches are always full: the last one of an epoch is filled up from the next epoch.
        """
        return max(1, ceil(self.images * epochs / batch))


Access = Literal["scores", "label"]
Norm = Literal["l2", "linf"]
Mode = Literal["first", "minimise"]


@dataclass(frozen=True)
class AttackTask:
    """Shape of an attack, which an agent knows before training; equal on every split.

    Attributes:
        classes: number of classes C of the target.
        instance: shape of one image, (channels, height, width), float32 in [0, 1].
        access: what a query returns: `scores` (log-probabilities) or `label` (the top class).
        targeted: whether the goal is one given class rather than any wrong one.
        norm: norm of the distance from the clean image, over all pixels and channels.
        eps: largest distance of an adversarial image; infinity allows any.
        query_budget: queries per image.
        mode: `first` ends an image at its first success, `minimise` continues until the budget is
            spent.
        bad_query_budget: bad answers that end an image; None for any number.
        defence: what the target does against attacks (`none`, `noise:0.02`, `round:2`,
            `detect:blacklight`). Whether queries were flagged isn't shown.
        whiteboxes: names of the networks whose gradients the train split contains.
        maps: shape of the train and val tasks, which regress gradient maps on images.
    """

    classes: int
    instance: tuple[int, ...]
    access: Access
    targeted: bool
    norm: Norm
    eps: float
    query_budget: int
    mode: Mode
    whiteboxes: tuple[str, ...]
    maps: TaskShape
    bad_query_budget: int | None = None
    defence: str = "none"

    def __post_init__(self) -> None:
        """Convert lists, as read from a file, to tuples, and fields of `maps` to a shape."""
        for name in ("instance", "whiteboxes"):
            object.__setattr__(self, name, tuple(vars(self)[name]))
        if isinstance(self.maps, dict):
            object.__setattr__(self, "maps", TaskShape(**self.maps))

    def fields(self) -> dict[str, Any]:
        """Return it as a dict that an agent's state can hold; `AttackTask(**it)` is equal."""
        named = dict(vars(self))
        return {**named, "maps": self.maps.fields()}

    @property
    def outputs(self) -> int:
        """Outputs of the target per image."""
        return self.classes


class Queries(NamedTuple):
    """An attacker's action: images to send to the target, any number for each attacked image.

    An action without rows gives up all unfinished images.

    Attributes:
        rows: `[R, channels, height, width]` float32: whole images, not differences. They are
            clipped to [0, 1] before they are sent.
        owner: `[R]` int64: the attacked image, in [0, n), that each row is charged to. Rows of one
            image are served in order.
    """

    rows: Tensor
    owner: Tensor


class Replies(NamedTuple):
    """The target's replies, row by row, and the state of every image after them.

    Attributes:
        scores: `[R, classes]` float32 log-probabilities; empty if access is `label`.
        labels: `[R]` int64: the target's top class.
        hit: `[R]` bool: whether the row is a success: an adversarial class, inside the ball.
        served: `[R]` bool: False for rows that were refused, beyond the budget or of a finished
            image. They aren't sent or charged, and their other entries are meaningless.
        left: `[n]` int64: remaining queries of each image.
        done: `[n]` bool: whether the image is finished; rows for it are refused.
    """

    scores: Tensor
    labels: Tensor
    hit: Tensor
    served: Tensor
    left: Tensor
    done: Tensor


def margin(scores: Tensor, label: Tensor, goal: Tensor | None = None) -> Tensor:
    """Return each row's margin, above 0 if it is adversarial, `[R]`.

    Args:
        scores: `[R, classes]` log-probabilities or logits.
        label: `[R]` the true class.
        goal: `[R]` the class to reach; None for any wrong one.

    Reference: Carlini & Wagner 2017, f6, without its clamp and with opposite sign.
    """
    at = (label if goal is None else goal)[:, None]
    rest = scores.scatter(1, at, float("-inf")).amax(1)
    own = scores.gather(1, at)[:, 0]
    return rest - own if goal is None else own - rest


def distance(images: Tensor, clean: Tensor, norm: Norm) -> Tensor:
    """Return each image's distance from its clean image, `[R]`, for pixels in [0, 1].

    Args:
        images: `[R, …]`.
        clean: `[R, …]`.
        norm: `l2` (Euclidean, over all pixels and channels) or `linf` (largest difference).
    """
    difference = (images - clean).flatten(1)
    order = 2.0 if norm == "l2" else float("inf")
    found: Tensor = torch.linalg.vector_norm(difference, ord=order, dim=1)
    return found
