"""One run, from a request to a record."""

from __future__ import annotations

import contextlib
import math
import shutil
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lazybench.agent import Agent
from lazybench.arguments import need_folder
from lazybench.errors import (
    Busy,
    DataUnavailable,
    Diverged,
    Interrupted,
    OutputUnavailable,
    RankLost,
    StoreError,
    UsageError,
)
from lazybench.files import plain, refuse_links
from lazybench.records import (
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
from lazybench.runner.callbacks import SILENT, UNTRACKED, Harmless, Tracker, Watch
from lazybench.runner.evaluate import Judged, Scored, gathered, judge, open_env
from lazybench.runner.failures import status_and_reason
from lazybench.runner.isolated import IsolatedPolicy, isolated
from lazybench.runner.record import Outcome, record
from lazybench.runner.request import RunRequest, check_device
from lazybench.runner.resolve import Cell, resolve
from lazybench.runner.run_dir import locked, writable
from lazybench.runner.signals import Signals
from lazybench.runner.train import Progress, Training, fit, fit_whole
from lazybench.runtime import distributed
from lazybench.runtime.precision import using_precision
from lazybench.runtime.threads import usable_cores, using_threads


def run(request: RunRequest, *, watch: Watch = SILENT, tracker: Tracker = UNTRACKED) -> Record:
    """Return the record of a run: the one that stands, else a new one, continuing what is there.

    Args:
        request: what is asked for.
        watch: hears of the progress.
        tracker: hears of a run that isn't done already; its failures are noted and harm nothing.

    Raises:
        UsageError: a name, setting, device or limit that isn't allowed.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the store or the working folder can't be written; found out before
            training.
        Busy: another process is at the same run.
        Interrupted: a signal stopped it at a checkpoint; the same request continues.
        RankLost: torchrun started several processes, and another one ended.
    """
    need_folder(request.runs, "--runs")
    device = check_device(request.device)
    distributed.join(device)
    threads = distributed.cores_each(usable_cores()) if request.threads is None else request.threads
    if distributed.rank() != 0:
        watch, tracker = SILENT, UNTRACKED
    with using_threads(threads), using_precision(request.precision, device):
        return _run(request, watch, Harmless(tracker, watch))


def _run(request: RunRequest, watch: Watch, tracker: Tracker) -> Record:
    cell = resolve(request, watch)
    store = Store(request.out)
    standing = distributed.of_first(lambda: store.find(cell.key))
    # The same result once more, of which the record can say that it was made in isolation.
    lacking = request.isolated and standing is not None and not standing.isolated
    again = request.force or (lacking and standing is not None and standing.status == "ok")
    if standing is not None and not again and standing.status in ("ok", "diverged"):
        if not distributed.rank():
            _finish(cell, store, standing)
        watch.note("done already: this record stands (run again with --force)")
        return standing
    if distributed.rank():
        # Rank 0 keeps the folder and the record; this one computes its part.
        with Signals(watch.note, request.episode_timeout_s) as signals:
            return _make_record(cell, watch, signals, tracker)
    writable(request.out)
    refuse_links(cell.folder)
    writable(cell.folder)
    with locked(cell.folder), Signals(watch.note, request.episode_timeout_s) as signals:
        remove_leftovers(cell.folder)
        if request.force:
            shutil.rmtree(cell.folder / "ckpt", ignore_errors=True)
            cell.file("episodes", "jsonl").unlink(missing_ok=True)
        beside = {
            "key": cell.fit_key,
            "asked": cell.trainer.asked,
            "overrides": cell.trainer.overrides,
            "network_facts": None if cell.network is None else cell.network.model_dump(),
        }
        write_json(cell.folder / "config.json", beside | cell.fit_identity)
        tracker.begin(_told(cell))
        status = "interrupted"
        try:
            made = _make_record(cell, watch, signals, tracker)
            status = made.status
        finally:
            tracker.end(status)
        if standing is not None and again and standing.status in ("ok", "diverged"):
            _compare(standing, made)
            if not lacking:
                return made
        path = store.publish(made)
        _mark_done(cell, made, path)
        if signals.number:
            # Nothing of this run is left to do, but whoever asked for it wants to do no more.
            raise Interrupted(signals.number, f"interrupted once {path} was written")
    return made


def _mark_done(cell: Cell, made: Record, path: Path) -> None:
    """Write into a run's folder that its record is in the store."""
    write_json(cell.file("done", "json"), {"status": made.status, "record": str(path.resolve())})


def _finish(cell: Cell, store: Store, standing: Record) -> None:
    """Mark a folder as done whose run was killed once its record stood, before it was marked."""
    done = cell.file("done", "json")
    if done.exists() or not (cell.folder / "config.json").exists():
        return
    # The record stands whatever becomes of the folder, and who holds it marks it.
    with contextlib.suppress(Busy, OutputUnavailable, StoreError), locked(cell.folder):
        refuse_links(cell.folder)
        remove_leftovers(cell.folder)
        _mark_done(cell, standing, store.path(standing))


def _told(cell: Cell) -> dict[str, Any]:
    """What a tracker is told of a run as it begins."""
    steps = checkpoint.steps(cell.folder / "ckpt")
    told = {name: cell.identity[name] for name in ("agent", "env", "budget", "seed", "config")}
    known: dict[str, Any] = plain({**told, "key": cell.key, "folder": str(cell.folder)})
    return {**known, "step": max(steps, default=0)}


def _make_record(cell: Cell, watch: Watch, signals: Signals, tracker: Tracker) -> Record:
    started = provenance.now()
    provenance.reset_peak_memory(cell.device)
    # Asked now, while the files are what was imported: a checkout may move on during a long run.
    provenance.code()
    cell.file("error", "txt").unlink(missing_ok=True)
    training = Training.of(cell, cell.folder / "ckpt")
    progress = Progress()
    status, reason = "ok", None
    request = cell.request
    policy: Any = None
    scored: Scored | None = None
    known: dict[str, Any] = {}
    try:
        if training.agent.has_own_loop():
            progress, policy = fit_whole(training, signals)
            cell.file("episodes", "jsonl").unlink(missing_ok=True)
        else:
            progress = fit(training, watch, signals, tracker)
            if not request.isolated:
                policy = cell.made.agent.policy(checkpoint.copied(progress.best))
        known = _diagnostics(training.agent, progress.state)
        scored = _test(cell, progress, policy, watch, signals)
        metric = cell.spec.metric
        value = scored.metrics.get(metric, scored.scores.mean())
        tracker.evaluated(progress.best_step, "test", {metric: float(value)})
    except Interrupted:
        raise
    except Diverged as error:
        status, reason = "diverged", str(error)
        progress = _last(cell)
    except (UsageError, DataUnavailable, StoreError, OutputUnavailable, RankLost):
        raise
    # An agent that calls `exit` mustn't end the run as if all were well, nor one that raises
    # KeyboardInterrupt pass for its user: `Signals` turns a real Ctrl-C into `Interrupted`.
    except BaseException as error:
        status, reason = status_and_reason(error)
        told = traceback.format_exc().encode("utf-8", "backslashreplace")
        path = write_bytes(cell.file("error", "txt"), told)
        watch.note(f"{status}: {reason}; traceback in {path}")
        progress = _last(cell)
    watch.finished()
    return record(cell, progress, scored, Outcome(status, reason, started, known))


def _diagnostics(agent: Agent, state: Any) -> dict[str, Any]:
    """What an agent tells of its training, as plain JSON values."""
    return {} if state is None else dict(plain(agent.diagnostics(state)))


def _test(cell: Cell, progress: Progress, policy: Any, watch: Watch, signals: Signals) -> Scored:
    """Judge the official trials block by block; what was judged already isn't repeated."""
    path = cell.file("episodes", "jsonl")
    digest, _ = checkpoint.digest(progress.best)
    lines = distributed.of_first(
        lambda: read_lines(
            path,
            torn=lambda number: watch.note(
                f"{path}:{number}: the last line is cut off; its trials are judged again"
            ),
        )
    )
    own = cell.request.isolated
    blocks = [
        _block(line)
        for line in lines
        if line["state"] == digest and (line.get("isolated", False) or not own)
    ]
    start = sum(len(block.scores) for block in blocks)
    watch.stage("test", cell.trials, min(start, cell.trials))
    spec = cell.spec
    rows = spec.rows(math.ceil(cell.trials / distributed.size()))
    env = open_env(spec, rows, "test", cell.device)
    seed, metric, names = cell.request.seed, spec.metric, spec.columns
    with contextlib.ExitStack() as held:
        apart = None
        if own and start < cell.trials:
            with signals.at_once("interrupted before the test"):
                apart = policy = held.enter_context(isolated(cell, progress.best, env))
        judged = judge(env, policy, metric, cell.trials, start=start, seed=seed, columns=names)
        _all_blocks(cell, judged, blocks, digest, rows, apart, watch, signals)
        if apart is not None:
            progress.peak_memory_bytes = max(progress.peak_memory_bytes, apart.peak_memory_bytes)
            progress.peak_gpu_memory_bytes = max(
                progress.peak_gpu_memory_bytes, apart.peak_gpu_memory_bytes
            )
    wall_s = distributed.longest_side_by_side([block.wall_s for block in blocks])
    cpu_s = sum(block.cpu_s for block in blocks)
    return gathered(env, blocks, names, wall_s, cpu_s)


def _all_blocks(  # noqa: PLR0913 - what is scored, what of it is there, and who hears
    cell: Cell,
    judged: Iterator[Judged],
    blocks: list[Judged],
    digest: str,
    rows: int,
    apart: IsolatedPolicy | None,
    watch: Watch,
    signals: Signals,
) -> None:
    """Add the blocks that are left to those that are there, and a line of each to the folder."""
    path, metric = cell.file("episodes", "jsonl"), cell.spec.metric
    start = sum(len(block.scores) for block in blocks)
    while True:
        # A block may take minutes, and is judged as a whole the next time.
        doing = f"the block of test trials from {start}"
        with (
            signals.at_once(f"interrupted at test trial {start}"),
            signals.in_time(min(rows, cell.trials - start), doing),
        ):
            block = next(judged, None)
        if block is None:
            break
        if apart is not None:
            block = block._replace(cpu_s=block.cpu_s + apart.take_cpu_s())
        line = {
            "state": digest,
            "isolated": apart is not None,
            "first": block.first,
            "scores": [float(score) for score in block.scores],
            "answers": Packed.of(block.answers).model_dump(mode="json"),
            "wall_s": block.wall_s,
            "cpu_s": block.cpu_s,
            "metrics": dict(block.metrics),
            "columns": {name: values.tolist() for name, values in block.columns.items()},
        }
        if distributed.rank() == 0:
            append_line(path, line)
        blocks.append(block)
        start = block.first + len(block.scores)
        mean = float(np.concatenate([each.scores for each in blocks]).mean())
        watch.advance(len(block.scores), {metric: mean})


def _block(line: Mapping[str, Any]) -> Judged:
    """A judged block as a line of the run's folder has it."""
    return Judged(
        line["first"],
        np.array(line["scores"]),
        Packed(**line["answers"]).unpack(),
        line["wall_s"],
        line["cpu_s"],
        line["metrics"],
        {name: np.array(values) for name, values in line["columns"].items()},
    )


def _last(cell: Cell) -> Progress:
    """What the newest checkpoint knows of a run that failed: its costs and its curve."""
    found = checkpoint.load(cell.folder / "ckpt")
    return Progress.of(found[1]) if found is not None and found[1] is not None else Progress()


def _compare(standing: Record, again: Record) -> None:
    """Check that a forced repetition gave what stands in the store."""
    if standing.comparable() != again.comparable():
        raise StoreError(
            f"run again, {again.agent.id} on {again.env.id} gave another result than the record "
            f"{standing.key12} that stands (see both with --json); the store was left as it is"
        )
