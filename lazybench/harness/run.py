"""One run, from a request to a record."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lazybench.errors import (
    Busy,
    Diverged,
    LazybenchError,
    OutputUnavailable,
    StoreError,
    UsageError,
)
from lazybench.harness import checkpoint, facts
from lazybench.harness.fit import Progress, Training, fit
from lazybench.harness.judge import BLOCK, env_facts, judge, open_env
from lazybench.harness.request import (
    Made,
    RunRequest,
    check_budget,
    check_device,
    make,
    resolve_env,
)
from lazybench.harness.signals import Interrupted, Signals
from lazybench.harness.watch import SILENT, Watch
from lazybench.parallel import set_threads
from lazybench.records import (
    AgentFacts,
    Packed,
    Record,
    Store,
    Trials,
    append_line,
    make_key,
    read_lines,
    slug,
    write_json,
)
from lazybench.specs import EnvSpec
from lazybench.stats import mean_interval

PRECISION = "fp32"


@dataclass(frozen=True)
class Cell:
    """A request with everything resolved: what will be run, and its key."""

    request: RunRequest
    spec: EnvSpec
    made: Made
    device: str
    trials: int
    identity: dict[str, Any]
    facts: dict[str, Any]
    key: str

    @property
    def folder(self) -> Path:
        """The run's working folder."""
        name = (
            f"{slug(self.made.spec.id)}-{slug(self.spec.id)}-s{self.request.seed}-{self.key[:12]}"
        )
        return self.request.runs / name


def run(request: RunRequest, *, watch: Watch = SILENT) -> Record:
    """Return the record of a run: the one that stands, else a new one, continuing what is there.

    Raises:
        UsageError: a name, setting, device or limit that isn't allowed.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the store or the working folder can't be written; found out before
            training.
        Busy: another process is at the same run.
        Interrupted: a signal stopped it at a checkpoint; the same request continues.
    """
    set_threads(request.threads)
    cell = resolve(request, watch)
    store = Store(request.out)
    standing = store.find(cell.key)
    if standing is not None and not request.force and standing.status in ("ok", "diverged"):
        watch.note("done already: this record stands (run again with --force)")
        return standing
    _writable(request.out)
    _writable(cell.folder)
    with _locked(cell.folder), Signals() as signals:
        if request.force:
            shutil.rmtree(cell.folder / "ckpt", ignore_errors=True)
            (cell.folder / "episodes.jsonl").unlink(missing_ok=True)
        write_json(cell.folder / "config.json", {"key": cell.key, **cell.identity})
        record = _make_record(cell, watch, signals)
        if standing is not None and request.force and standing.status in ("ok", "diverged"):
            _compare(standing, record)
            return record
        path = store.publish(record)
        write_json(
            cell.folder / "done.json", {"status": record.status, "record": str(path.resolve())}
        )
    return record


def resolve(request: RunRequest, watch: Watch = SILENT) -> Cell:
    """Return the request with names, presets, data and key resolved; nothing is written.

    Raises:
        UsageError: a name, setting, device or limit that isn't allowed.
        DataUnavailable: the data isn't installed or is damaged.
    """
    check_budget(request.budget)
    device = check_device(request.device)
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"limit must be at least 1 trial, got {request.limit}")
    spec, note = resolve_env(request.env)
    if note:
        watch.note(note)
    made = make(request.agent, spec, request.budget, request.overrides)
    official = spec.trials[request.budget]
    limited = request.limit is not None and request.limit < official
    trials = request.limit if limited and request.limit is not None else official
    judged = open_env(spec, 1, "test")
    if hasattr(made.agent, "plan"):
        # Opened here so that shots that the data can't serve are told before anything is written.
        open_env(spec, 1, "train", **made.agent.plan(judged.task).env)
    described = env_facts(spec, judged, trials)
    identity = {
        "env": spec.id,
        "env_version": spec.version,
        "protocol": described["env"]["protocol"],
        "data": described["data"]["fingerprint"],
        "prep": described["data"]["prep"],
        "agent": made.spec.id,
        "agent_version": made.spec.version,
        "agent_source": made.source,
        "config": made.config,
        "budget": request.budget,
        "seed": request.seed,
        "precision": PRECISION,
        "device": device.partition(":")[0],
        "world_size": 1,
        "limited": limited,
    }
    return Cell(request, spec, made, device, trials, identity, described, make_key(identity))


def _make_record(cell: Cell, watch: Watch, signals: Signals) -> Record:
    started, before = facts.now(), time.perf_counter()
    training = Training(
        cell.made.agent,
        cell.spec,
        cell.request.budget,
        cell.request.seed,
        cell.device,
        cell.folder / "ckpt",
    )
    progress = Progress()
    status, reason = "ok", None
    scored: _Scored | None = None
    try:
        progress = fit(training, watch, signals)
        scored = _test(cell, progress, watch, signals)
    except Interrupted:
        raise
    except Diverged as error:
        status, reason = "diverged", str(error)
        progress = _last(cell)
    except (UsageError, StoreError, OutputUnavailable):
        raise
    except Exception as error:
        status, reason = _failure(error)
        watch.note(f"{status}: {reason}")
        progress = _last(cell)
    watch.finished()
    outcome = _Outcome(status, reason, started, time.perf_counter() - before)
    return _record(cell, progress, scored, outcome)


@dataclass(frozen=True)
class _Outcome:
    status: str
    reason: str | None
    started: str
    wall_s: float


@dataclass(frozen=True)
class _Scored:
    scores: np.ndarray[Any, np.dtype[np.float64]]
    answers: list[np.ndarray[Any, Any]]
    eval_wall_s: float


def _test(cell: Cell, progress: Progress, watch: Watch, signals: Signals) -> _Scored:
    """Judge the official trials block by block; what was judged already isn't repeated."""
    path = cell.folder / "episodes.jsonl"
    digest, _ = checkpoint.digest(progress.best)
    blocks = [line for line in read_lines(path) if line["state"] == digest]
    start = len(blocks) * BLOCK
    watch.stage("test", cell.trials, min(start, cell.trials))
    policy = cell.made.agent.policy(progress.best)
    env = open_env(cell.spec, BLOCK, "test", cell.device)
    for block in judge(env, policy, cell.spec.metric, cell.trials, start=start):
        line = {
            "state": digest,
            "first": block.first,
            "scores": [float(score) for score in block.scores],
            "answers": Packed.of(block.answers).model_dump(mode="json"),
            "wall_s": block.wall_s,
        }
        append_line(path, line)
        blocks.append(line)
        mean = float(np.mean([score for line in blocks for score in line["scores"]]))
        watch.advance(len(block.scores), {cell.spec.metric: mean})
        if signals.number:
            raise Interrupted(
                signals.number, f"interrupted at test trial {block.first + len(block.scores)}"
            )
    scores = np.array([score for line in blocks for score in line["scores"]])
    answers = [Packed(**line["answers"]).unpack() for line in blocks]
    return _Scored(scores, answers, sum(line["wall_s"] for line in blocks))


def _last(cell: Cell) -> Progress:
    """What the newest checkpoint knows of a run that failed: its costs and its curve."""
    found = checkpoint.load(cell.folder / "ckpt")
    return Progress.of(found[1]) if found is not None and found[1] is not None else Progress()


def _failure(error: Exception) -> tuple[str, str]:
    """Status and one-line reason of an error inside an agent."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if "OutOfMemory" in type(error).__name__ or "DefaultCPUAllocator" in text:
        return "oom", f"{text}; peak memory {facts.peak_memory_bytes() >> 20} MiB"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return "failed", text + ("" if isinstance(error, LazybenchError) else where)


def _record(
    cell: Cell,
    progress: Progress,
    scored: _Scored | None,
    outcome: _Outcome,
) -> Record:
    request, made, spec = cell.request, cell.made, cell.spec
    trains = progress.step > 0
    sha256, size = checkpoint.digest(progress.best) if scored is not None else ("", 0)
    describe = getattr(made.agent, "diagnostics", None)
    known = describe(progress.state) if describe and progress.state is not None else {}
    cost = {name: round(value) for name, value in progress.totals.items()}
    return Record.keyed(
        status=outcome.status,
        reason=outcome.reason,
        **cell.facts,
        agent=AgentFacts(
            id=made.spec.id,
            version=made.spec.version,
            origin=made.spec.origin,
            source_sha256=made.source,
            trained_by="lazybench" if made.spec.trains else "none",
            resumable=True,
        ),
        config=made.config,
        preset=request.budget,
        overrides=made.overrides,
        budget=request.budget,
        limited=bool(cell.identity["limited"]),
        untuned=not made.spec.tuned,
        seed=request.seed,
        precision=PRECISION,
        device=cell.identity["device"],
        metrics={} if scored is None else {spec.metric: _metric(spec, scored.scores)},
        trials=Trials() if scored is None else _trials(scored),
        diagnostics=known,
        curve=progress.curve,
        cost={
            "train_wall_s": progress.train_wall_s,
            "eval_wall_s": scored.eval_wall_s if scored is not None else None,
            "wall_s": outcome.wall_s,
            "peak_memory_bytes": facts.peak_memory_bytes(),
            "outer_steps": progress.step,
            **cost,
        },
        code=facts.code(),
        machine=facts.machine(),
        checkpoint={"sha256": sha256, "bytes": size, "step": progress.best_step}
        if trains and scored is not None
        else None,
        started=outcome.started,
    )


def _metric(spec: EnvSpec, scores: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    mean, low, high = mean_interval(scores)
    return {
        "value": mean,
        "ci95": (low, high),
        "n": len(scores),
        "unit": spec.unit,
        "better": spec.better,
    }


def _trials(scored: _Scored) -> Trials:
    answers = np.concatenate(scored.answers)
    return Trials.of(scored.scores, predictions=answers.reshape(len(answers), -1))


def _compare(standing: Record, again: Record) -> None:
    """Check that a forced repetition gave what stands in the store."""
    if standing.comparable() != again.comparable():
        raise StoreError(
            f"run again, {again.agent.id} on {again.env.id} gave another result than the record "
            f"{standing.key12} that stands (see both with --json); the store was left as it is"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(
            f"another process is at this run ({folder}); wait for it, or use another seed"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _writable(folder: Path) -> None:
    probe = folder / f".write-test-{time.monotonic_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputUnavailable(
            f"can't write to {folder} ({error.strerror or error}); choose another folder with "
            "--out or --runs"
        ) from error
