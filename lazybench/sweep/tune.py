"""Searches an agent's settings on validation tasks, without access to test tasks."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lazybench.arguments import check_whole
from lazybench.errors import UsageError
from lazybench.files import read_file, refuse_links
from lazybench.records import (
    RETRIABLE,
    Tuning,
    append_line,
    read_lines,
    remove_leftovers,
    write_json,
)
from lazybench.runner import checkpoint
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.request import RunRequest, read_setting
from lazybench.runner.resolve import ResolvedRun, resolve
from lazybench.runner.run_dir import locked, writable
from lazybench.runner.signals import COMMAND_ERRORS, Signals, status_and_reason
from lazybench.runner.train import Training, fit, saved_progress, validation_score
from lazybench.runtime.precision import using_precision
from lazybench.runtime.threads import using_threads

WIDE = 10.0
"""Factor below and above its preset between which a step size is searched."""

# A path such as ../nets.py:small is no range.
_RANGE = re.compile(r"(?P<lo>[^.,/:]*\.?[^.,/:]*)\.\.(?P<hi>[^/:]*)")
_DIGITS = 3
_LOG2_POINTS = 14
"""Largest number of points of a search, as a power of two."""
_FOUND = "found.json"


@dataclass(frozen=True)
class Axis:
    """The values that a search tries for a setting.

    Attributes:
        values: values to choose from; empty for a range.
        lo: lower end of a range, which is searched on a logarithmic scale.
        hi: upper end.
        whole: whether a range has whole numbers only.
    """

    values: tuple[Any, ...] = ()
    lo: float = 0.0
    hi: float = 0.0
    whole: bool = False

    def at(self, share: float) -> Any:
        """Return the value at a fraction in [0, 1) of the axis."""
        if self.values:
            return self.values[int(share * len(self.values))]
        value = math.exp(math.log(self.lo) + share * math.log(self.hi / self.lo))
        return round(value) if self.whole else float(f"{value:.{_DIGITS}g}")


@dataclass(frozen=True)
class Configuration:
    """A configuration that was tried.

    Attributes:
        number: number of the trial; 0 is the preset.
        settings: settings that replace the preset's.
        val: best validation score, higher is better; None if training failed.
        step: number of updates of that score, or of the training that failed.
        cpu_s: processor seconds of training.
        image_gradients: number of image gradients computed in training.
        reason: why there is no score.
    """

    number: int
    settings: dict[str, Any]
    val: float | None
    step: int
    cpu_s: float
    reason: str = ""
    image_gradients: float = 0.0


@dataclass(frozen=True)
class TuningResult:
    """The result of a search.

    Attributes:
        agent: name of the agent.
        env: the environment's id.
        budget: the compute budget.
        settings: the best configuration, including fixed settings.
        tuning: cost of the search.
    """

    agent: str
    env: str
    budget: str
    settings: dict[str, Any]
    tuning: Tuning


def read_axis(text: str) -> tuple[str, Axis]:
    """Return the name and axis of `NAME=LO..HI` or `NAME=A,B,C`.

    Raises:
        UsageError: a text of another form, or a range that isn't ascending and above 0.
    """
    name, equals, what = text.partition("=")
    if not equals or not name.strip() or not what.strip():
        raise UsageError(f"--search takes NAME=LO..HI or NAME=A,B,C, got '{text}'")
    match = _RANGE.fullmatch(what.strip())
    if match is None:
        return name.strip(), Axis(tuple(read_setting(part.strip()) for part in what.split(",")))
    try:
        lo, hi = float(match["lo"]), float(match["hi"])
    except ValueError:
        lo = hi = math.nan
    if not 0 < lo < hi < math.inf or not math.isfinite(hi / lo):
        raise UsageError(
            f"a range is two numbers above 0, ascending, such as inner_lr=0.01..1; got '{text}'"
        )
    return name.strip(), Axis(lo=lo, hi=hi)


def step_sizes(config: Mapping[str, Any]) -> dict[str, Axis]:
    """Return the axes that are searched by default: each step size from a tenth to ten times."""
    return {
        name: Axis(lo=value / WIDE, hi=value * WIDE)
        for name, value in config.items()
        if (name == "lr" or name.endswith("_lr")) and isinstance(value, float) and value > 0
    }


def drawn(axes: Mapping[str, Axis], seed: int) -> Iterator[dict[str, Any]]:
    """Yield settings, each once: none, then points of a scrambled Sobol sequence.

    If every axis is a list of values, all their combinations are included.
    """
    yield {}
    known: set[str] = set()
    for values in itertools.chain(_sobol(axes, seed), _grid(axes)):
        text = json.dumps(values)
        if text not in known:
            known.add(text)
            yield dict(zip(axes, values, strict=True))


def _sobol(axes: Mapping[str, Axis], seed: int) -> Iterator[tuple[Any, ...]]:
    from scipy.stats import qmc

    for row in qmc.Sobol(len(axes), seed=seed).random_base2(_LOG2_POINTS):
        yield tuple(axis.at(float(share)) for axis, share in zip(axes.values(), row, strict=True))


def _grid(axes: Mapping[str, Axis]) -> Iterator[tuple[Any, ...]]:
    """All combinations of values, for those that the sequence missed; none with a range."""
    if all(axis.values for axis in axes.values()):
        yield from itertools.product(*(axis.values for axis in axes.values()))


def tune(
    request: RunRequest, trials: int, axes: Mapping[str, Axis] | None, watch: Callback = SILENT
) -> tuple[Path, list[Configuration]]:
    """Run a search, and return its folder and the tried configurations, in order.

    Every trial has the same seed and budget, and counts with its best state on validation tasks.
    The first n trials of a longer search are those of a shorter one. Finished trials aren't
    repeated.

    Args:
        request: the run to tune; its overrides apply to every trial.
        trials: number of configurations, including the preset; fewer if the axes have fewer.
        axes: the settings to search; None for the agent's step sizes.
        watch: called with the progress.

    Raises:
        UsageError: a name, setting or number that isn't allowed, or nothing to search.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the working folder can't be written.
        Busy: another process is executing the same search.
        Interrupted: a signal stopped it; the same request resumes it.
    """
    if check_whole("trials", trials, least=None) < 1:
        raise UsageError(f"trials must be at least 1, got {trials}")
    first = resolve(request, watch)
    if not first.agent.instance.learns():
        raise UsageError(
            f"agent '{first.agent.spec.id}' isn't trained by lazybench's loop, so there is no "
            "validation score to tune; compare settings with lazybench run --set NAME=VALUE"
        )
    settings = first.agent.settings()
    axes = step_sizes(settings) if axes is None else dict(axes)
    if not axes:
        raise UsageError(
            f"agent '{first.agent.spec.id}' has no step size; name what to search, such as "
            "--search inner_steps=5,10"
        )
    for name, axis in axes.items():
        if type(settings.get(name)) is int:
            axes[name] = replace(axis, whole=True)
    # Another search of the same run has a folder of its own, also where the fixed settings differ
    # in the evaluation alone.
    of_search = hashlib.sha256(repr((first.key, sorted(axes.items()))).encode()).hexdigest()[:6]
    folder = first.folder.with_name(f"tune-{first.folder.name}-{of_search}")
    refuse_links(folder)
    writable(folder)
    # All are resolved first, so that errors are reported before any training.
    chosen = _distinct(request, drawn(axes, request.seed), trials)
    with (
        locked(folder),
        Signals(watch.note) as signals,
        using_threads(request.threads),
        using_precision(request.precision, first.device),
    ):
        remove_leftovers(folder)
        found = list(_all(folder, chosen, watch, signals))
        _keep(folder, request, first, found)
    return folder, found


def _distinct(
    request: RunRequest, points: Iterator[dict[str, Any]], trials: int
) -> list[tuple[dict[str, Any], ResolvedRun]]:
    """The first settings that give `trials` different runs, each with its resolved run."""
    chosen: dict[str, tuple[dict[str, Any], ResolvedRun]] = {}
    for settings in points:
        resolved = resolve(replace(request, overrides={**request.overrides, **settings}))
        # Different settings may give the same run, such as the preset's own value.
        chosen.setdefault(resolved.key, (settings, resolved))
        if len(chosen) == trials:
            break
    return list(chosen.values())


def best(found: Sequence[Configuration]) -> list[Configuration]:
    """Return the configurations, best first; those without a score come last."""
    return sorted(
        found, key=lambda configuration: (configuration.val is None, -(configuration.val or 0.0))
    )


def read_tuning(folder: Path) -> TuningResult:
    """Return the result of the search in a folder.

    Raises:
        UsageError: the folder has no finished search.
    """
    path = folder / _FOUND
    try:
        result = json.loads(read_file(path))
        return TuningResult(**{**result, "tuning": Tuning(**result["tuning"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder} has no finished search ({type(error).__name__} at {path.name}); give the "
            "folder that lazybench tune prints at its end"
        ) from error


def _keep(
    folder: Path, request: RunRequest, resolved: ResolvedRun, found: Sequence[Configuration]
) -> None:
    """Write the result of a search, unless no configuration has a score."""
    first = best(found)[0]
    if first.val is None:
        (folder / _FOUND).unlink(missing_ok=True)
        return
    tuning = Tuning(
        trials=len(found),
        cpu_s=sum(configuration.cpu_s for configuration in found),
        image_gradients=round(sum(configuration.image_gradients for configuration in found)),
    )
    result = {
        "agent": resolved.agent.asked,
        "env": resolved.spec.id,
        "budget": request.budget,
        "settings": {**request.overrides, **first.settings},
        "tuning": tuning.model_dump(mode="json"),
    }
    write_json(folder / _FOUND, result)


def _all(
    folder: Path,
    chosen: Sequence[tuple[dict[str, Any], ResolvedRun]],
    watch: Callback,
    signals: Signals,
) -> Iterator[Configuration]:
    path = folder / "trials.jsonl"
    lines = read_lines(path)
    known = {x["key"]: x["tried"] for x in lines if x.get("status", "ok") not in RETRIABLE}
    trained: set[str] = set()
    for number, (settings, resolved) in enumerate(chosen):
        if resolved.key in known:
            yield replace(Configuration(**known[resolved.key]), number=number)
        else:
            shown = ", ".join(f"{name}={value}" for name, value in settings.items())
            watch.note(f"trial {number}: {shown or 'the preset'}")
            status, configuration = _one(folder, number, settings, resolved, watch, signals)
            if resolved.fit_key in trained:
                # It differs from an earlier one in the evaluation alone, which costs no training.
                configuration = replace(configuration, cpu_s=0.0, image_gradients=0.0)
            line = {"key": resolved.key, "status": status, "tried": vars(configuration)}
            append_line(path, line)
            yield configuration
        trained.add(resolved.fit_key)


def _one(
    folder: Path,
    number: int,
    settings: dict[str, Any],
    resolved: ResolvedRun,
    watch: Callback,
    signals: Signals,
) -> tuple[str, Configuration]:
    """The status of a configuration's training, as of a run, and its result."""
    checkpoints = folder / resolved.fit_key[:12]
    training = Training.of(resolved, checkpoints)
    status, why, score = "ok", "", -math.inf
    try:
        progress = fit(training, watch, signals)
        score = progress.best_score
        if resolved.agent.config != resolved.trainer.config and progress.best is not None:
            # Validations of the training have the defaults of settings of evaluation.
            with signals.at_once("interrupted at a validation"):
                policy = resolved.agent.instance.policy(checkpoint.copied(progress.best))
                value, _ = validation_score(training, policy, training.open_val())
            score = value if resolved.spec.validation[1] == "higher" else -value
    except COMMAND_ERRORS:
        raise
    except BaseException as error:
        # A setting that fails has no score, but a cost: that of the last checkpoint.
        status, why = status_and_reason(error)
        progress = saved_progress(checkpoints)
    val = score if math.isfinite(score) and not why else None
    if val is None and not why:
        why = "it was never validated"
    images = progress.totals.get("image_gradients", 0.0)
    step = progress.step if val is None else progress.best_step
    return status, Configuration(number, settings, val, step, progress.train_cpu_s, why, images)
