"""One run, from a request to a record: resolve, train, evaluate, record, publish.

`RunRequest -> ResolvedRun -> Progress and policy -> Evaluation -> Record`; the functions follow in
that order.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lazybench.agent import Policy
from lazybench.errors import (
    Busy,
    Diverged,
    Interrupted,
    OutputUnavailable,
    StoreError,
)
from lazybench.files import need_folder, plain, refuse_links
from lazybench.records import (
    RETRIABLE,
    Packed,
    Record,
    Store,
    append_line,
    read_lines,
    remove_leftovers,
    write_bytes,
    write_json,
)
from lazybench.runner import checkpoint, provenance
from lazybench.runner.callbacks import SILENT, Both, Callback
from lazybench.runner.evaluate import Evaluation, combined, evaluate_blocks, open_env
from lazybench.runner.isolated import IsolatedPolicy, isolated
from lazybench.runner.record import Outcome, run_record
from lazybench.runner.request import RunRequest, check_device
from lazybench.runner.resolve import ResolvedRun, resolve
from lazybench.runner.run_dir import locked, options_text, writable
from lazybench.runner.signals import COMMAND_ERRORS, Signals, status_and_reason
from lazybench.runner.train import Progress, Training, fit, fit_whole, saved_progress
from lazybench.runtime import distributed
from lazybench.runtime.precision import using_precision
from lazybench.runtime.threads import usable_cores, using_threads

"""Statuses of records that a repetition would reproduce."""


def run(request: RunRequest, *, watch: Callback = SILENT, tracker: Callback = SILENT) -> Record:
    """Return the record of a run: the stored one, or that of a new or resumed run.

    Args:
        request: the run.
        watch: called with the progress.
        tracker: called during a run that isn't recorded yet; its failures don't affect the run.

    Raises:
        UsageError: a name, setting, device or limit that isn't allowed.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the store or the working folder can't be written (checked before
            training).
        Busy: another process is executing the same run.
        Interrupted: a signal stopped it at a checkpoint; the same request resumes it.
        RankLost: torchrun started several processes, and another one ended.
    """
    need_folder(request.runs, "--runs")
    device = check_device(request.device)
    distributed.join(device)
    threads = distributed.cores_each(usable_cores()) if request.threads is None else request.threads
    if distributed.rank() != 0:
        watch = tracker = SILENT
    callback = Both(watch, tracker)
    with using_threads(threads), using_precision(request.precision, device):
        resolved = resolve(request, callback)
        store = Store(request.out)
        stored = distributed.of_first(lambda: store.find(resolved.key))
        if stored is not None and stored.status not in RETRIABLE and not _repeats(request, stored):
            if distributed.rank() == 0:
                _mark_killed_run(resolved, store, stored)
            callback.note("recorded already (run again with --force)")
            return stored
        if distributed.rank() == 0:
            return _run_and_publish(resolved, store, stored, callback)
        # Rank 0 writes the folder and the record; this process computes its share.
        with Signals(callback.note, request.episode_timeout_s) as signals:
            return _train_and_evaluate(resolved, callback, signals)


def _repeats(request: RunRequest, stored: Record) -> bool:
    """Whether to repeat a run whose record is in the store."""
    return request.force or (_adds_isolation(request, stored) and stored.status == "ok")


def _adds_isolation(request: RunRequest, stored: Record) -> bool:
    """Whether to repeat a run because its record isn't marked as isolated yet."""
    return request.isolated and not stored.isolated


def _run_and_publish(
    resolved: ResolvedRun, store: Store, stored: Record | None, callback: Callback
) -> Record:
    """Execute a run in its folder, compare a repetition with the stored record, and publish it."""
    request = resolved.request
    writable(request.out)
    refuse_links(resolved.folder)
    writable(resolved.folder)
    with locked(resolved.folder), Signals(callback.note, request.episode_timeout_s) as signals:
        _prepare_folder(resolved)
        callback.begin(_tracked_facts(resolved))
        status = "interrupted"
        try:
            record = _train_and_evaluate(resolved, callback, signals)
            status = record.status
        finally:
            callback.end(status)
        if stored is not None and stored.status not in RETRIABLE:
            _compare(stored, record)
        if stored is None or stored.status in RETRIABLE or _adds_isolation(request, stored):
            path = store.publish(record)
        else:
            path = store.path(stored)
        _mark_done(resolved, record, str(path.resolve()))
        if signals.number:
            # This run is complete, but its caller must stop.
            raise Interrupted(signals.number, f"interrupted once {path} was written")
    return record


def _prepare_folder(resolved: ResolvedRun) -> None:
    """Write the run's configuration into its folder; with `force`, delete earlier work there."""
    remove_leftovers(resolved.folder)
    if resolved.request.force:
        shutil.rmtree(resolved.folder / "ckpt", ignore_errors=True)
        resolved.file("episodes", "jsonl").unlink(missing_ok=True)
    facts = {
        "key": resolved.fit_key,
        "asked": resolved.trainer.asked,
        "overrides": resolved.trainer.overrides,
        "network_facts": None if resolved.network is None else resolved.network.model_dump(),
    }
    write_json(resolved.folder / "config.json", facts | resolved.fit_identity)
    # A class that no file defines can't be named in a file.
    if resolved.agent.in_file and resolved.agent.repeatable:
        text = options_text(resolved.request, resolved.agent)
        write_bytes(resolved.file("run", "toml"), text.encode("utf-8", "backslashreplace"))


def _tracked_facts(resolved: ResolvedRun) -> dict[str, Any]:
    """The facts for a tracker at the beginning of a run."""
    steps = checkpoint.steps(resolved.folder / "ckpt")
    facts = {name: resolved.identity[name] for name in ("agent", "env", "budget", "seed", "config")}
    known: dict[str, Any] = plain({**facts, "key": resolved.key, "folder": str(resolved.folder)})
    return {**known, "step": max(steps, default=0)}


def _train_and_evaluate(resolved: ResolvedRun, callback: Callback, signals: Signals) -> Record:
    """Execute a run and return its record, with scores or with the reason of its failure."""
    started = provenance.now()
    provenance.reset_peak_memory(resolved.device)
    # Read before training: files of a checkout may change during a long run.
    provenance.code()
    resolved.file("error", "txt").unlink(missing_ok=True)
    status, reason = "ok", None
    evaluation: Evaluation | None = None
    diagnostics: dict[str, Any] = {}
    try:
        progress, policy = _train(resolved, callback, signals)
        if progress.state is not None:
            diagnostics = dict(plain(resolved.trainer.instance.diagnostics(progress.state)))
        evaluation = _evaluate(resolved, progress, policy, callback, signals)
        metric = resolved.spec.metric
        value = evaluation.score(metric)
        callback.evaluated(progress.best_step, "test", {metric: value})
    except COMMAND_ERRORS:
        raise
    except Diverged as error:
        status, reason = status_and_reason(error)
        progress = saved_progress(resolved.folder / "ckpt")
    # An agent that calls `exit` mustn't end the run with success, and its KeyboardInterrupt isn't
    # the user's: `Signals` turns a real Ctrl-C into `Interrupted`.
    except BaseException as error:
        status, reason = status_and_reason(error)
        trace = traceback.format_exc().encode("utf-8", "backslashreplace")
        path = write_bytes(resolved.file("error", "txt"), trace)
        callback.note(f"{status}: {reason}; traceback in {path}")
        progress = saved_progress(resolved.folder / "ckpt")
    callback.finished()
    return run_record(resolved, progress, evaluation, Outcome(status, reason, started, diagnostics))


def _train(
    resolved: ResolvedRun, callback: Callback, signals: Signals
) -> tuple[Progress, Policy | None]:
    """Train, and return the progress and the policy; None if another process makes the policy."""
    training = Training.of(resolved, resolved.folder / "ckpt")
    if training.agent.has_own_loop():
        progress, policy = fit_whole(training, signals)
        resolved.file("episodes", "jsonl").unlink(missing_ok=True)
        return progress, policy
    progress = fit(training, callback, signals)
    if resolved.request.isolated:
        return progress, None
    return progress, resolved.agent.instance.policy(checkpoint.copied(progress.best))


def _evaluate(
    resolved: ResolvedRun,
    progress: Progress,
    policy: Policy | None,
    callback: Callback,
    signals: Signals,
) -> Evaluation:
    """Evaluate the official trials block by block, except those that were evaluated before."""
    state_sha256, _ = checkpoint.digest(progress.best)
    blocks = _stored_blocks(resolved, state_sha256, callback)
    start = sum(len(block.scores) for block in blocks)
    callback.stage("test", resolved.trials, min(start, resolved.trials))
    spec = resolved.spec
    rows = spec.rows(math.ceil(resolved.trials / distributed.size()))
    env = open_env(spec, rows, "test", resolved.device)
    seed, metric, names = resolved.request.seed, spec.metric, spec.columns
    with contextlib.ExitStack() as held:
        process: IsolatedPolicy | None = None
        if resolved.request.isolated and start < resolved.trials:
            with signals.at_once("interrupted before the test"):
                process = policy = held.enter_context(isolated(resolved, progress.best, env))
        # Without a policy, every block is stored.
        fresh = (
            iter(())
            if policy is None
            else evaluate_blocks(
                env, policy, metric, resolved.trials, start=start, seed=seed, columns=names
            )
        )
        _evaluate_rest(resolved, fresh, blocks, state_sha256, rows, process, callback, signals)
        if process is not None:
            progress.peak_memory_bytes = max(progress.peak_memory_bytes, process.peak_memory_bytes)
            progress.peak_gpu_memory_bytes = max(
                progress.peak_gpu_memory_bytes, process.peak_gpu_memory_bytes
            )
    wall_s = distributed.longest_side_by_side([block.wall_s for block in blocks])
    cpu_s = sum(block.cpu_s for block in blocks)
    return combined(env, blocks, names, wall_s, cpu_s)


def _stored_blocks(
    resolved: ResolvedRun, state_sha256: str, callback: Callback
) -> list[Evaluation]:
    """The blocks in the run's folder that an earlier process evaluated with this state.

    They are of the first trials, without a gap.
    """
    path = resolved.file("episodes", "jsonl")
    lines = distributed.of_first(
        lambda: read_lines(
            path,
            torn=lambda number: callback.note(
                f"{path}:{number}: the last line is incomplete; its trials are evaluated again"
            ),
        )
    )
    blocks: list[Evaluation] = []
    reached = 0
    for line in lines:
        fits = (
            line["state"] == state_sha256
            # An earlier version may have kept fewer numbers of a trial.
            and line["columns"].keys() >= set(resolved.spec.columns)
            and "calibration" in line
            and (line.get("isolated", False) or not resolved.request.isolated)
        )
        # Isolated and other evaluations of a run write to the same file: each trial counts once.
        if fits and line["first"] == reached:
            blocks.append(_block(line))
            reached += len(blocks[-1].scores)
    return blocks


def _evaluate_rest(  # noqa: PLR0913 - what is evaluated, what of it is there, and the callbacks
    resolved: ResolvedRun,
    fresh: Iterator[Evaluation],
    blocks: list[Evaluation],
    state_sha256: str,
    rows: int,
    process: IsolatedPolicy | None,
    callback: Callback,
    signals: Signals,
) -> None:
    """Evaluate the missing blocks, and add a line for each to the run's folder."""
    path, metric = resolved.file("episodes", "jsonl"), resolved.spec.metric
    start = sum(len(block.scores) for block in blocks)
    while True:
        # A block may take minutes; an interrupted one is evaluated again as a whole.
        doing = f"the block of test trials from {start}"
        with (
            signals.at_once(f"interrupted at test trial {start}"),
            signals.in_time(min(rows, resolved.trials - start), doing),
        ):
            block = next(fresh, None)
        if block is None:
            break
        if process is not None:
            block = block._replace(cpu_s=block.cpu_s + process.take_cpu_s())
        if distributed.rank() == 0:
            isolation = {"state": state_sha256, "isolated": process is not None}
            append_line(path, isolation | _line(block))
        blocks.append(block)
        start = block.first + len(block.scores)
        mean = float(np.concatenate([each.scores for each in blocks]).mean())
        callback.advance(len(block.scores), {metric: mean})


def _line(block: Evaluation) -> dict[str, Any]:
    """A block as a line of the run's folder."""
    return {
        "first": block.first,
        "scores": [float(score) for score in block.scores],
        "answers": Packed.of(block.answers).model_dump(mode="json"),
        "wall_s": block.wall_s,
        "cpu_s": block.cpu_s,
        "metrics": dict(block.metrics),
        "columns": {name: values.tolist() for name, values in block.columns.items()},
        "calibration": {name: values.tolist() for name, values in block.calibration.items()},
    }


def _block(line: Mapping[str, Any]) -> Evaluation:
    """The block of a line of the run's folder."""
    return Evaluation(
        line["first"],
        np.array(line["scores"]),
        Packed(**line["answers"]).unpack(),
        line["wall_s"],
        line["cpu_s"],
        line["metrics"],
        {name: np.array(values) for name, values in line["columns"].items()},
        {name: np.array(values) for name, values in line["calibration"].items()},
    )


def _compare(stored: Record, record: Record) -> None:
    """Check that a repetition reproduced the stored result.

    Raises:
        StoreError: it didn't.
    """
    if stored.comparable() != record.comparable():
        raise StoreError(
            f"a repetition of {record.agent.id} on {record.env.id} gave another result than the "
            f"stored record {stored.key12} (see both with --json); the store wasn't changed"
        )


def _mark_done(resolved: ResolvedRun, record: Record, path: str) -> None:
    """Mark a run's folder as done: its record is in the store."""
    write_json(resolved.file("done", "json"), {"status": record.status, "record": path})


def _mark_killed_run(resolved: ResolvedRun, store: Store, stored: Record) -> None:
    """Mark the folder of a run as done that was killed after its record was published."""
    done = resolved.file("done", "json")
    if done.exists() or not (resolved.folder / "config.json").exists():
        return
    # Errors don't matter: the record is valid anyway, and a process that holds the folder marks it.
    with contextlib.suppress(Busy, OutputUnavailable, StoreError), locked(resolved.folder):
        refuse_links(resolved.folder)
        remove_leftovers(resolved.folder)
        _mark_done(resolved, stored, str(store.path(stored).resolve()))
