"""Shapes of tasks of the three families, known before any task is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

Target = Literal["class", "array"]


@dataclass(frozen=True)
class TaskShape:
    """What an agent may know of its tasks beforehand.

    Attributes:
        way: classes in a task, N; 1 for regression.
        shot: support instances of each class, K.
        query: query instances of each class.
        instance: shape of one instance (`(1, 28, 28)`, `(1,)`).
        dtype: `uint8` images or `float32` vectors.
        target: `class`, with labels in [0, way), or `array`, with float32 targets.
        target_shape: shape of one target; () for labels.
        classes: classes that tasks of this split are drawn from; 0 where they are unlimited.
    """

    way: int
    shot: int
    query: int
    instance: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    target: Target = "class"
    target_shape: tuple[int, ...] = ()
    classes: int = 0

    def __post_init__(self) -> None:
        """Make tuples of what a file may have made lists of."""
        for name in ("instance", "target_shape"):
            object.__setattr__(self, name, tuple(vars(self)[name]))

    def fields(self) -> dict[str, Any]:
        """Return the shape as a dict that an agent's state can hold; `TaskShape(**it)` is equal."""
        return dict(vars(self))

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
        """Numbers that a network must give for one instance."""
        if self.target == "class":
            return self.way
        size = 1
        for edge in self.target_shape:
            size *= edge
        return size


Track = Literal["LT", "LT+dev"]
"""Whether training sees the images of the dev set with their labels (`LT+dev`), or doesn't."""


@runtime_checkable
class Tracked(Protocol):
    """An environment whose runs are kept apart by what data their training sees."""

    @property
    def track(self) -> Track:
        """The track of a training on it."""
        ...


@runtime_checkable
class HasProtocol(Protocol):
    """An environment that says which settings of its protocol its id doesn't name."""

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Settings of the protocol, as JSON values."""
        ...


@runtime_checkable
class Summarised(Protocol):
    """An environment with metrics of all its trials together."""

    def summary(self, scores: Any, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return metrics by name, from the score `[n]` and the further numbers of each trial."""
        ...


@dataclass(frozen=True)
class LongTailTask:
    """What an agent may know of a stream beforehand; the same on every split.

    Attributes:
        classes: number of classes C; labels lie in [0, classes).
        instance: shape of one image, (channels, height, width).
        dtype: `uint8`.
        class_counts: training images of each class, in the order of the labels, after the dev set
            was taken out.
        steps: training batches of the episode.
        batch: images of a batch, B.
        dev_per_class: images of each class in the dev set.
    """

    classes: int
    instance: tuple[int, ...]
    dtype: Literal["uint8"]
    class_counts: tuple[int, ...]
    steps: int
    batch: int
    dev_per_class: int

    def __post_init__(self) -> None:
        """Make tuples of what a file may have made lists of."""
        for name in ("instance", "class_counts"):
            object.__setattr__(self, name, tuple(vars(self)[name]))

    def fields(self) -> dict[str, Any]:
        """Return it as a dict that an agent's state can hold; `LongTailTask(**it)` is equal."""
        return dict(vars(self))

    @property
    def outputs(self) -> int:
        """Numbers that a network must give for one image."""
        return self.classes

    @property
    def images(self) -> int:
        """Training images, all classes together."""
        return sum(self.class_counts)

    def train_steps(self, epochs: float, batch: int) -> int:
        """Return the batches that `epochs` passes over the training images make, at least 1.

        Batches are always full: epochs follow each other without a gap, and the last batch is
        filled up from the epoch after.
        """
        return max(1, ceil(self.images * epochs / batch))


Access = Literal["scores", "label"]
Norm = Literal["l2", "linf"]
Mode = Literal["first", "minimise"]


@dataclass(frozen=True)
class AttackTask:
    """What an agent may know of an attack beforehand; the same on every split.

    Attributes:
        classes: number of classes C of the target.
        instance: shape of one image, (channels, height, width), float32 in [0, 1].
        access: `scores`: each query is answered by log-probabilities; `label`: by the top class.
        targeted: whether the goal is one given class rather than any wrong one.
        norm: how the distance from the clean image is measured, over all pixels and channels.
        eps: largest distance at which an adversarial image counts; infinity allows any.
        query_budget: rows that may be sent for one image.
        mode: `first` ends an image at its first success, `minimise` goes on to the budget.
        whiteboxes: names of the networks whose gradients the train split gives.
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

    def __post_init__(self) -> None:
        """Make tuples of what a file may have made lists of, and a shape of its fields."""
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
        """Numbers that the target gives for one image."""
        return self.classes


class Queries(NamedTuple):
    """Images to send to the target, any number for each attacked image; the action of an attacker.

    No row at all says that the attacker gives the images up that aren't finished.

    Attributes:
        rows: `[R, channels, height, width]` float32: whole images, not differences. They are
            clipped to [0, 1] before they are sent.
        owner: `[R]` int64: for which of the n attacked images a row is charged. Rows of one image
            are served in their order.
    """

    rows: Tensor
    owner: Tensor


class Replies(NamedTuple):
    """What came back, row by row, and where every image stands after it.

    Attributes:
        scores: `[R, classes]` float32 log-probabilities; empty where access is `label`.
        labels: `[R]` int64: the target's top class.
        hit: `[R]` bool: whether the row is a success: right class, inside the ball.
        served: `[R]` bool: False for rows that were refused: past the budget, or of an image that
            is finished. They weren't forwarded or charged, and their other entries mean nothing.
        left: `[n]` int64: queries that each image has left.
        done: `[n]` bool: images that are finished; rows for them are refused.
    """

    scores: Tensor
    labels: Tensor
    hit: Tensor
    served: Tensor
    left: Tensor
    done: Tensor


def margin(scores: Tensor, label: Tensor, goal: Tensor | None = None) -> Tensor:
    """Return how far each row is past the decision, above 0 where it is adversarial, `[R]`.

    Args:
        scores: `[R, classes]` log-probabilities or logits.
        label: `[R]` the true class.
        goal: `[R]` the class to reach; None for any wrong one.

    Reference: Carlini & Wagner 2017, f6, without its clamp and with the sign turned.
    """
    at = (label if goal is None else goal)[:, None]
    rest = scores.scatter(1, at, float("-inf")).amax(1)
    own = scores.gather(1, at)[:, 0]
    return rest - own if goal is None else own - rest


def distance(images: Tensor, clean: Tensor, norm: Norm) -> Tensor:
    """Return each image's distance from its clean one, `[R]`, in the unit of pixels in [0, 1].

    Args:
        images: `[R, …]`.
        clean: `[R, …]`.
        norm: `l2` (Euclidean, over all pixels and channels) or `linf` (largest difference).
    """
    apart = (images - clean).flatten(1)
    order = 2.0 if norm == "l2" else float("inf")
    found: Tensor = torch.linalg.vector_norm(apart, ord=order, dim=1)
    return found
