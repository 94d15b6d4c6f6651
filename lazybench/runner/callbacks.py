"""Callbacks of runs and sweeps: progress, trackers of a run's numbers, and what a sweep shows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lazybench.errors import UsageError, nearest
from lazybench.files import refuse_links
from lazybench.plugins import contained, describe
from lazybench.user_code import load


class Cell(Protocol):
    """A run of a sweep, before it has begun."""

    @property
    def name(self) -> str:
        """Agent, environment and seed in one line."""
        ...

    @property
    def budget(self) -> str:
        """Budget of the run."""
        ...


class CellEnd(Protocol):
    """How a run of a sweep ended."""

    @property
    def cell(self) -> Cell:
        """The run."""
        ...

    @property
    def status(self) -> str:
        """The status of its record, or why it has none."""
        ...

    @property
    def score(self) -> float | None:
        """The main metric; None without one."""
        ...

    @property
    def wall_s(self) -> float:
        """Seconds that it took."""
        ...

    @property
    def reason(self) -> str:
        """Why there is no score; empty if there is."""
        ...


class Callback:
    """Receives the events of a run or a sweep; it can't affect results.

    Every method does nothing until a subclass overrides it. Progress displays override the first
    four, trackers the next four, and displays of a sweep the last two. An object that has these
    four can be given as a display or tracker without inheriting this class.
    """

    def note(self, text: str) -> None:
        """Receive a message for the user, such as a resolved alias or a resumed checkpoint."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Begin a stage (train, validate or test) of `total` steps, `done` of them finished."""

    def advance(self, amount: int, values: Mapping[str, float]) -> None:
        """Advance the current stage by `amount` steps; `values` are current numbers to show."""

    def finished(self) -> None:
        """Close the current stage."""

    def begin(self, run: Mapping[str, Any]) -> None:
        """Begin or resume a run.

        Args:
            run: `key`, `agent`, `env`, `budget`, `seed`, `config`, `folder` (its working folder)
                and `step` (finished updates), as plain JSON values.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Receive the agent's logs (`loss`, …) of update number `step`."""

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Receive the metrics of the state after `step` updates on `val` or `test`, by name."""

    def end(self, status: str) -> None:
        """End the run: `ok`, `diverged`, `failed`, `oom`, or `interrupted`."""

    def run_begun(self, cell: Cell) -> None:
        """Receive a run of a sweep that has begun; may be called from any thread."""

    def run_ended(self, outcome: CellEnd) -> None:
        """Receive the outcome of a run of a sweep that has ended."""


TENSORBOARD = "tensorboard"

SILENT = Callback()
"""Does nothing."""

PROGRESS = ("note", "stage", "advance", "finished")
"""Methods that a progress display must have."""
TRACKER = ("begin", "log", "evaluated", "end")
"""Methods that a tracker must have."""

Tracker = Callback
"""The former name, for one release."""


def as_callback(given: Any, needed: tuple[str, ...], what: str = "what was given") -> Callback:
    """Return an object that has some methods of a callback, whether it inherits `Callback` or not.

    Args:
        given: the object.
        needed: methods that are called, `PROGRESS` or `TRACKER`.
        what: how messages call it.

    Raises:
        UsageError: it lacks one of these methods.
    """
    missing = [method for method in needed if not callable(getattr(given, method, None))]
    if missing:
        kind = "a tracker" if needed == TRACKER else "what shows progress"
        raise UsageError(
            f"{kind} has the methods {', '.join(needed)}; {what} lacks {', '.join(missing)}"
        )
    callback: Callback = given
    return callback


class Both(Callback):
    """Combines a run's progress display and its tracker as one callback.

    After the tracker's first failure, which is noted, it isn't called again.
    """

    def __init__(self, progress: Callback, tracker: Callback) -> None:
        """Combine a progress display and a tracker."""
        self._progress = progress
        self._tracker: Callback | None = tracker

    def note(self, text: str) -> None:
        """Show a line."""
        self._progress.note(text)

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Show a stage."""
        self._progress.stage(name, total, done)

    def advance(self, amount: int, values: Mapping[str, float]) -> None:
        """Show how far the stage is."""
        self._progress.advance(amount, values)

    def finished(self) -> None:
        """Show no stage."""
        self._progress.finished()

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

    def _call(self, what: Callable[[Callback], None]) -> None:
        if self._tracker is None:
            return
        try:
            what(self._tracker)
        # Any error: within a run a Ctrl-C is noted by `Signals` and raises nothing here.
        except BaseException as error:
            self._tracker = None
            self._progress.note(
                f"the tracker failed and is now disabled ({describe(error)}); the run continues, "
                "and its record isn't affected"
            )


class TensorBoard(Callback):
    """Tracker that writes a run's numbers for TensorBoard, in one folder per run."""

    def __init__(self, folder: Path) -> None:
        """Check that TensorBoard is installed; write nothing yet.

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
        """Open the run's folder, and remove the entries of steps that will be repeated."""
        place = self._folder / Path(str(run["folder"])).name
        refuse_links(self._folder, place)
        step = int(run["step"])
        self._writer = self._open(str(place), purge_step=step + 1 if step else None)
        settings = "\n".join(f"    {name}: {value}" for name, value in run["config"].items())
        head = f"{run['agent']} on {run['env']}, {run['budget']}, seed {run['seed']}"
        self._writer.add_text("run", f"{head}\n\n{settings}", step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the logs of an update."""
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


class Service(Callback):
    """Base of trackers that log to another package, under a project's name.

    Attributes:
        package: name of the package.
    """

    package: ClassVar[str]

    def __init__(self, project: str) -> None:
        """Check that the package is installed; start nothing yet.

        Raises:
            UsageError: it isn't.
        """
        try:
            self._package: Any = importlib.import_module(self.package)
        except ImportError as error:
            raise UsageError(
                f"--track {self.package} needs the package {self.package} ({error}); install it "
                f"with: pip install {self.package}"
            ) from error
        self._project = project
        self._run: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log an update."""
        self.evaluated(step, "train", values)


class WandB(Service):
    """Tracker that logs a run to Weights & Biases; a resumed run continues its own page there."""

    package = "wandb"

    def begin(self, run: Mapping[str, Any]) -> None:
        """Begin or resume the run, with its settings as its configuration."""
        self._run = self._package.init(
            project=self._project,
            name=Path(str(run["folder"])).name,
            id=str(run["key"])[:12],
            resume="allow",
            config=dict(run),
        )
        # Steps of their own axis may repeat, as in a run that resumes.
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Log an evaluation's metrics."""
        self._run.log({"update": step, **_named(split, values)})

    def end(self, status: str) -> None:
        """Finish the run, as failed unless it ended well."""
        self._run.finish(exit_code=0 if status == "ok" else 1)


class MLflow(Service):
    """Tracker that logs a run to MLflow, with the key of the run as a tag."""

    package = "mlflow"

    def begin(self, run: Mapping[str, Any]) -> None:
        """Begin a run, with its settings as its parameters."""
        self._package.set_experiment(self._project)
        name = Path(str(run["folder"])).name
        self._package.start_run(run_name=name, tags={"lazybench.key": str(run["key"])})
        facts = {each: run[each] for each in ("agent", "env", "budget", "seed")}
        self._package.log_params(facts | dict(run["config"]))

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Log an evaluation's metrics."""
        self._package.log_metrics(_named(split, values), step=step)

    def end(self, status: str) -> None:
        """End the run as finished, failed or killed."""
        ends = {"ok": "FINISHED", "interrupted": "KILLED"}
        self._package.end_run(ends.get(status, "FAILED"))


class Aim(Service):
    """Tracker that logs a run to Aim, with `train`, `val` and `test` as subsets."""

    package = "aim"

    def begin(self, run: Mapping[str, Any]) -> None:
        """Begin a run, with its settings as its parameters."""
        self._run = self._package.Run(experiment=self._project)
        self._run.name = Path(str(run["folder"])).name
        self._run["hparams"] = dict(run)

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Log an evaluation's metrics."""
        for name, value in values.items():
            self._run.track(float(value), name=name, step=step, context={"subset": split})

    def end(self, status: str) -> None:
        """Close the run, with its status."""
        self._run["status"] = status
        self._run.close()


def _named(split: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": float(value) for name, value in values.items()}


_SERVICES: Mapping[str, type[Service]] = {kind.package: kind for kind in (WandB, MLflow, Aim)}
"""Trackers by name, each made from the name of a project."""
TRACKERS = (TENSORBOARD, *_SERVICES)
"""Names that `--track` takes, besides a factory of the user."""
_PROJECT = "lazybench"


def make_tracker(text: str, runs: Path) -> Callback:
    """Return the tracker that `--track` names.

    Args:
        text: `tensorboard`, `tensorboard:DIR`, `wandb`, `mlflow` or `aim` (each also as
            `NAME:PROJECT`), or `module:factory` or `file.py:factory` of a function that returns a
            tracker.
        runs: folder of runs; TensorBoard's default folder is `tensorboard` in it.

    Raises:
        UsageError: no such factory, it doesn't return a tracker, or a package isn't installed.
    """
    name, _, rest = text.partition(":")
    if name == TENSORBOARD:
        return TensorBoard(Path(rest) if rest else runs / TENSORBOARD)
    if name in _SERVICES:
        return _SERVICES[name](rest or _PROJECT)
    if ":" not in text:
        raise UsageError(
            f"--track takes {TENSORBOARD}, {TENSORBOARD}:DIR, {', '.join(_SERVICES)} (each also as "
            f"NAME:PROJECT), module:factory or file.py:factory; got '{text}'."
            f"{nearest(text, TRACKERS)}"
        )
    factory = load(text)
    try:
        with contained():
            tracker = factory()
    except Exception as error:
        raise UsageError(f"{text}() failed: {describe(error)}") from error
    return as_callback(tracker, TRACKER, f"what {text}() gives")
