"""The shape of a few-shot task, known before any task is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def fields(self) -> dict[str, Any]:
        """Return the shape as a dict that an agent's state can hold; `TaskShape(**it)` is equal."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

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
