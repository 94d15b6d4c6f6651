"""Callbacks of a run: progress (`Watch`), and trackers of its numbers (`Tracker`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lazybench.errors import UsageError
from lazybench.files import refuse_links
from lazybench.plugins import contained, describe
from lazybench.user_code import load


class Watch(Protocol):
    """Is called with a run's progress; nothing that it does can change a result."""

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


TENSORBOARD = "tensorboard"
METHODS = ("begin", "log", "evaluated", "end")


class Tracker(Protocol):
    """Is called with a run's numbers, from its begin to its end."""

    def begin(self, run: Mapping[str, Any]) -> None:
        """A run begins or goes on.

        Args:
            run: `key`, `agent`, `env`, `budget`, `seed`, `config`, `folder` (its working folder)
                and `step` (updates behind it), as plain JSON values.
        """
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Update number `step` was done; `values` are what the agent logs (`loss`, …)."""
        ...

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """The state after `step` updates was evaluated on `val` or `test`; metrics by name."""
        ...

    def end(self, status: str) -> None:
        """The run ended: `ok`, `diverged`, `failed`, `oom`, or `interrupted`."""
        ...


class Untracked:
    """A tracker that does nothing."""

    def begin(self, run: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def end(self, status: str) -> None:
        """Do nothing."""


UNTRACKED = Untracked()


class GuardedTracker:
    """A tracker around another: after its first failure, which is noted, it isn't called again."""

    def __init__(self, tracker: Tracker, watch: Watch) -> None:
        """Take the tracker, and the callback that notes its failure."""
        self._tracker: Tracker | None = tracker
        self._watch = watch

    def begin(self, run: Mapping[str, Any]) -> None:
        """Pass on that a run begins."""
        self._call(lambda tracker: tracker.begin(run))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on an update."""
        # Copies, since a tracker may change what it gets, and logs may be tensors of the state.
        # Here, since the command line loads this module for its progress bars.
        from lazybench.runner.checkpoint import copied

        self._call(lambda tracker: tracker.log(step, copied(dict(values))))

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Pass on an evaluation."""
        self._call(lambda tracker: tracker.evaluated(step, split, dict(values)))

    def end(self, status: str) -> None:
        """Pass on that the run ended."""
        self._call(lambda tracker: tracker.end(status))

    def _call(self, what: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            what(self._tracker)
        # Any error: within a run a Ctrl-C is noted by `Signals` and raises nothing here.
        except BaseException as error:
            self._tracker = None
            self._watch.note(
                f"the tracker failed and isn't asked any more ({describe(error)}); "
                "the run goes on, and its record is whole"
            )


class TensorBoard:
    """Writes a run's numbers where `tensorboard --logdir` finds them, a folder for each run."""

    def __init__(self, folder: Path) -> None:
        """Look whether TensorBoard is installed; write nothing yet.

        Raises:
            UsageError: it isn't.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"--track {TENSORBOARD} needs TensorBoard ({error}); install it with: pip install "
                "'lazybench[track]'"
            ) from error
        self._folder, self._open = folder, SummaryWriter
        self._writer: Any = None

    def begin(self, run: Mapping[str, Any]) -> None:
        """Open the run's folder; what it holds of steps that are done again is taken back."""
        place = self._folder / Path(str(run["folder"])).name
        refuse_links(self._folder, place)
        step = int(run["step"])
        self._writer = self._open(str(place), purge_step=step + 1 if step else None)
        settings = "\n".join(f"    {name}: {value}" for name, value in run["config"].items())
        head = f"{run['agent']} on {run['env']}, {run['budget']}, seed {run['seed']}"
        self._writer.add_text("run", f"{head}\n\n{settings}", step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write what an update logs."""
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", float(value), step)

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write an evaluation's metrics."""
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", float(value), step)
        self._writer.flush()

    def end(self, status: str) -> None:
        """Close the run's folder."""
        self._writer.close()


def make_tracker(text: str, runs: Path) -> Tracker:
    """Return the tracker that `--track` names.

    Args:
        text: `tensorboard`, `tensorboard:DIR`, or `module:factory` or `file.py:factory` of what
            gives a tracker.
        runs: folder of runs; TensorBoard's is `tensorboard` in it, unless told.

    Raises:
        UsageError: no such factory, what it gives is no tracker, or TensorBoard isn't installed.
    """
    name, _, rest = text.partition(":")
    if name == TENSORBOARD:
        return TensorBoard(Path(rest) if rest else runs / TENSORBOARD)
    if ":" not in text:
        raise UsageError(
            f"--track takes {TENSORBOARD}, {TENSORBOARD}:DIR, module:factory or file.py:factory; "
            f"got '{text}'"
        )
    factory = load(text)
    try:
        with contained():
            tracker: Tracker = factory()
    except Exception as error:
        raise UsageError(f"{text}() failed: {describe(error)}") from error
    check_tracker(tracker, f"what {text}() gives")
    return tracker


def check_tracker(tracker: Any, what: str = "what was given") -> None:
    """Look whether a tracker has what every one has.

    Raises:
        UsageError: it lacks methods.
    """
    missing = [method for method in METHODS if not callable(getattr(tracker, method, None))]
    if missing:
        raise UsageError(
            f"a tracker has the methods {', '.join(METHODS)}; {what} lacks {', '.join(missing)}"
        )
