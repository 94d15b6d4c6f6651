"""Audit a record: evaluate its agent on fresh trials, which it can't have been tuned on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lazybench.agent import OpenedEnv, Policy
from lazybench.errors import StoreError, UsageError
from lazybench.findings import refuted
from lazybench.records import Record
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.evaluate import evaluate_blocks, open_env
from lazybench.runner.request import check_device
from lazybench.runtime.precision import using_precision
from lazybench.runtime.threads import using_threads
from lazybench.specs import EnvSpec
from lazybench.stats import Interval, mean_interval
from lazybench.verify.load_policy import StateSource, remade, trained_policy
from lazybench.verify.rescore import draw_seed
from lazybench.verify.static_checks import read_record, spec_of

TRIALS = 200
"""Default number of fresh trials."""

LEVEL = 0.99
"""Smallest share of honest records that an audit finds consistent."""

SPLITS = 9_999
"""Number of random splits of the permutation test."""

_MOST_TRIAL = 1 << 31


@dataclass(frozen=True)
class Audit:
    """A record's score on fresh trials next to the stored one.

    Attributes:
        path: the file.
        key: the record's key.
        agent: agent id.
        env: environment id.
        metric: name of the score, and its `unit`.
        stored: mean and 95 % interval over the record's trials.
        fresh: mean and 95 % interval over the fresh ones.
        difference: fresh minus stored, with its 99 % interval (Welch), of width 0 if the scores of
            neither side vary.
        p: p-value of a permutation test: the share of random splits of all trials in two such
            parts whose means differ as much.
        first: index of the first fresh trial.
        trials: number of fresh trials.
        seed: seed from which the first one was drawn; None if it wasn't drawn.
        consistent: whether p is above 1 %.
    """

    path: Path
    key: str
    agent: str
    env: str
    metric: str
    unit: str
    stored: Interval
    fresh: Interval
    difference: Interval
    p: float
    first: int
    trials: int
    seed: int | None
    consistent: bool


def audit(  # noqa: PLR0913 - a public function
    path: Path,
    *,
    trials: int = TRIALS,
    source: StateSource | None = None,
    seed: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    watch: Callback = SILENT,
) -> Audit:
    """Evaluate a record's agent on fresh trials, beyond the official ones of its budget.

    Args:
        path: the record's file.
        trials: number of fresh trials.
        source: source of the trained state.
        seed: seed of their choice; None for the system's entropy.
        device: device of the computations; None for the record's.
        threads: tasks in parallel; None for all available cores.
        watch: called with the progress.

    Raises:
        UsageError: a record that can't be evaluated again, or an environment without fresh trials.
        StoreError: the file isn't a valid record, or the state isn't the record's.
        DataUnavailable: the data isn't installed or is damaged.
        Interrupted: a signal stopped a training at a checkpoint; the same call resumes it.
    """
    if trials < 2:
        raise UsageError(f"an audit needs at least 2 fresh trials for an interval, got {trials}")
    record, findings = read_record(path)
    if record is None or refuted(findings):
        raise StoreError(f"{path}: {findings[-1].detail}; see: lazybench verify {path}")
    if record.status != "ok" or not record.trials.n:
        raise UsageError(f"the record has no scores of trials (status {record.status}) to audit")
    if record.agent.trained_by == "external":
        raise UsageError(
            f"'{record.agent.id}' was trained and run elsewhere, so it can't be evaluated on "
            "fresh trials; check its answers with: lazybench verify"
        )
    spec = spec_of(record)
    if spec.vector_target is None:
        raise UsageError(
            f"{spec.id} is evaluated on all images of its test set: there are no fresh ones; check "
            "it with: lazybench verify"
        )
    on = check_device(device or record.device)
    with using_threads(threads), using_precision(record.precision, on):
        return _audit(path, record, spec, trials, source or StateSource(), seed, on, watch)


def _audit(  # noqa: PLR0913 - all that an audit depends on
    path: Path,
    record: Record,
    spec: EnvSpec,
    trials: int,
    source: StateSource,
    seed: int | None,
    device: str,
    watch: Callback,
) -> Audit:
    """The audit of a record whose agent can be evaluated again."""
    agent, _ = remade(record)
    rows = spec.rows(trials)
    env = open_env(spec, rows, "test", device)
    policy, about = trained_policy(record, agent, env, source, device, watch)
    if policy is None or (refuted(about) and not source.retrain):
        raise StoreError(f"the state isn't the record's: {about[-1].detail}")
    first, drawn = _first_fresh(spec, rows, record, seed)
    scores = _scores(env, policy, spec, first, trials, record.seed, watch)
    stored = record.trials.scores_array().astype(np.float64)
    # Records keep float32: the same score must be the same number on both sides.
    scores = scores.astype(np.float32).astype(np.float64)
    p = split_p(scores, stored)
    return Audit(
        path=path,
        key=record.key,
        agent=record.agent.id,
        env=record.env.id,
        metric=record.env.metric,
        unit=record.env.unit,
        stored=mean_interval(stored),
        fresh=mean_interval(scores),
        difference=_difference(scores, stored),
        p=p,
        first=first,
        trials=trials,
        seed=drawn,
        consistent=p > 1 - LEVEL,
    )


def _first_fresh(
    spec: EnvSpec, rows: int, record: Record, seed: int | None
) -> tuple[int, int | None]:
    """Index of the first fresh trial, and the seed from which it was drawn.

    Attacks have as many trials as images: the next ones after the record's are used, which a longer
    budget may test, too.
    Otherwise the first index is drawn at random, so that nobody can know the trials in advance.
    """
    past = -(-max(record.trials.n, *spec.trials.values()) // rows)
    if spec.family == "attack":
        return record.trials.n, None
    drawn = draw_seed(seed)
    rng = np.random.Generator(np.random.Philox(drawn))
    return int(rng.integers(past, _MOST_TRIAL // rows)) * rows, drawn


def _scores(  # noqa: PLR0913 - what is evaluated on which trials
    env: OpenedEnv,
    policy: Policy,
    spec: EnvSpec,
    first: int,
    trials: int,
    seed: int,
    watch: Callback,
) -> NDArray[np.float64]:
    """The scores of trials first, first + 1, …, `[trials]`."""
    watch.stage("audit", trials)
    scores: list[NDArray[np.float64]] = []
    end = first + trials
    for block in evaluate_blocks(
        env, policy, spec.metric, end, start=first, seed=seed, columns=spec.columns
    ):
        scores.append(block.scores)
        watch.advance(len(block.scores), {spec.metric: float(np.concatenate(scores).mean())})
    watch.finished()
    return np.concatenate(scores)


def split_p(a: NDArray[np.float64], b: NDArray[np.float64], splits: int = SPLITS) -> float:
    """Return the share of splits of all scores whose parts' means differ as much as these do.

    If both sides are drawn from the same distribution, p is at most x with a probability of at most
    x, even if scores hardly vary, if hits are rare, and for a single score.

    Choice: a permutation test and not Welch's t, whose interval is empty or too narrow if a side
    happens to have no spread: no hit among 200 trials is likely if one in a thousand hits.

    Args:
        a: `[n]` scores.
        b: `[m]` scores.
        splits: number of random splits, the same ones in every call.
    """
    everything = np.concatenate([a, b])
    few = min(len(a), len(b))
    total, mean = float(everything.sum()), float(everything.mean())
    # The smaller part determines the other. Equal sums may differ by rounding.
    smaller = a if len(a) == few else b
    least = abs(float(smaller.sum()) - few * mean) - 1e-9 * max(1.0, abs(total))
    rng = np.random.Generator(np.random.Philox(0))
    sums = np.array(
        [
            everything[rng.choice(len(everything), few, replace=False, shuffle=False)].sum()
            for _ in range(splits)
        ]
    )
    return float((1 + (np.abs(sums - few * mean) >= least).sum()) / (1 + splits))


def _difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> Interval:
    """Mean of `a` less that of `b`, with its 99 % interval (Welch): other trials on each side."""
    from scipy.stats import ttest_ind

    mean = float(a.mean() - b.mean())
    if np.ptp(a) == np.ptp(b) == 0:
        return Interval(mean, mean, mean)
    # The variance of a single score is unknown, so the other side's is used: the pooled test.
    single = min(len(a), len(b)) == 1
    with warnings.catch_warnings():
        # One side may be constant, for which scipy warns of a loss of precision.
        warnings.simplefilter("ignore", RuntimeWarning)
        ends = ttest_ind(a, b, equal_var=single).confidence_interval(LEVEL)
    return Interval(mean, float(ends.low), float(ends.high))
