"""Progress of a run on stderr: bars with the time left on a terminal, otherwise a few lines."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lazybench.cli import console as out
from lazybench.runner.callbacks import SILENT, Callback

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY_S = 10.0
"""Seconds between two lines about the same stage."""
_WIDE = 70
_SMOOTHED = 20
"""Steps that a shown loss is averaged over, roughly: single meta-batches are noisy."""

Clock = Callable[[], float]


@dataclass
class Stage:
    """One stage of a run as it is shown.

    Attributes:
        name: train, validate or test.
        total: steps of the stage.
        done: finished steps.
        timed: steps finished in this process; resumed steps don't count towards the pace.
        active_s: seconds that the timed steps took.
        values: current numbers; the loss is an average over the last steps, later ones weigh more.
    """

    name: str
    total: int
    done: int = 0
    timed: int = 0
    active_s: float = 0.0
    values: dict[str, float] = field(default_factory=dict)

    def advance(self, amount: int, values: Mapping[str, float], elapsed_s: float) -> None:
        """Move on by `amount` steps that took `elapsed_s`."""
        self.done += amount
        self.timed += amount
        self.active_s += elapsed_s
        share = 1 - (1 - 1 / _SMOOTHED) ** amount
        for name, value in values.items():
            old = self.values.get(name, value)
            smooth = name == "loss" and math.isfinite(old)
            self.values[name] = old + share * (value - old) if smooth else value

    @property
    def left_s(self) -> float | None:
        """Seconds left at the current pace; None before the first step."""
        if self.timed == 0:
            return None
        return max(0, self.total - self.done) * self.active_s / self.timed

    @property
    def time_text(self) -> str:
        """`in 4.2 s` when finished, `12.0 s left` before; empty while unknown."""
        if self.done >= self.total:
            return f"in {out.seconds(self.active_s)}"
        return "" if self.left_s is None else f"{out.seconds(self.left_s)} left"

    @property
    def values_text(self) -> str:
        """`loss 0.43, val 0.61`."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())


class Lines(Callback):
    """A watch that writes a line when a stage begins, every few seconds, and when it ends."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Start without a stage."""
        self._clock = clock
        self._stage: Stage | None = None
        self._moved_s = self._wrote_s = 0.0

    def note(self, text: str) -> None:
        """Write the line."""
        out.note(out.one_line(text))

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Write the first line of the stage."""
        self._stage = Stage(name, total, done)
        self._moved_s = self._wrote_s = self._clock()
        out.note(f"{name}: {done}/{total}")

    def advance(self, amount: int, values: Mapping[str, float]) -> None:
        """Write a line if the last one is old or the stage is finished."""
        if self._stage is None:
            return
        now = self._clock()
        self._stage.advance(amount, values, now - self._moved_s)
        self._moved_s = now
        if self._stage.done >= self._stage.total or now - self._wrote_s >= EVERY_S:
            self._wrote_s = now
            head = f"{self._stage.name}: {self._stage.done}/{self._stage.total}"
            parts = (head, self._stage.time_text, self._stage.values_text)
            out.note(", ".join(part for part in parts if part))

    def finished(self) -> None:
        """Forget the stage."""
        self._stage = None

    def close(self) -> None:
        """Do nothing; no resource is open."""


class Bars(Callback):
    """A watch that draws a bar for each stage, with its pace and current values."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Start without a stage."""
        self._clock = clock
        self._progress: Progress = _bars()
        self._stage: Stage | None = None
        self._task: TaskID | None = None
        self._moved_s = 0.0

    def note(self, text: str) -> None:
        """Write the line above the bars."""
        self._progress.console.print(
            out.one_line(text), markup=False, highlight=False, soft_wrap=True
        )

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Add a bar."""
        self._stage = Stage(name, total, done)
        self._moved_s = self._clock()
        self._progress.start()
        self._task = self._progress.add_task(
            name, total=total, completed=done, time_text="", values_text=""
        )

    def advance(self, amount: int, values: Mapping[str, float]) -> None:
        """Advance the bar, which is redrawn a few times a second."""
        if self._stage is None or self._task is None:
            return
        now = self._clock()
        self._stage.advance(amount, values, now - self._moved_s)
        self._moved_s = now
        self._progress.update(
            self._task,
            completed=self._stage.done,
            time_text=self._stage.time_text,
            values_text=self._stage.values_text,
        )

    def finished(self) -> None:
        """Leave the bars unchanged."""
        self._stage = self._task = None

    def close(self) -> None:
        """Draw the bars a last time and release the terminal."""
        self._progress.stop()


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    # On a narrow terminal, numbers take the place of the bar.
    bar = [BarColumn(bar_width=24)] if console.width >= _WIDE else []
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        *bar,
        MofNCompleteColumn(),
        TextColumn("{task.fields[time_text]}", markup=False),
        TextColumn("{task.fields[values_text]}", markup=False),
    )
    return Progress(*columns, console=console, refresh_per_second=4)


def in_notebook() -> bool:
    """Return whether this process runs a notebook."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def interactive() -> bool:
    """Return whether somebody watches: stderr is a terminal, or this is a notebook."""
    return out.on_terminal(sys.stderr) or in_notebook()


def drawable() -> bool:
    """Return whether there is a terminal, or a notebook with widgets, that can show bars."""
    if in_notebook():
        # Without it, rich shows a warning and no bar.
        return importlib.util.find_spec("ipywidgets") is not None
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return out.on_terminal(sys.stderr) and not dumb


@contextmanager
def watching(*, quiet: bool) -> Iterator[Callback]:
    """Return a watch that fits stderr or the notebook; it is closed even after an interrupt."""
    if quiet:
        yield SILENT
        return
    watch = Bars() if drawable() else Lines()
    try:
        yield watch
    finally:
        watch.close()
