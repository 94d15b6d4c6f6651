"""How a run tells what it is doing; the command line turns this into progress bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Watch(Protocol):
    """Hears of a run's progress; nothing that it does can change a result."""

    def note(self, text: str) -> None:
        """One line worth knowing: an alias resolved, a resumed checkpoint."""
        ...

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """A stage of `total` steps begins, `done` of them behind it: train, validate or test."""
        ...

    def advance(self, amount: int, values: Mapping[str, float]) -> None:
        """The current stage moved on; `values` are current numbers worth showing."""
        ...

    def finished(self) -> None:
        """No stage is open any more."""
        ...


class Silent:
    """A watch that shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Show nothing."""

    def advance(self, amount: int, values: Mapping[str, float]) -> None:
        """Show nothing."""

    def finished(self) -> None:
        """Show nothing."""


SILENT = Silent()
