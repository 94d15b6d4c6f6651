"""Trials evaluated again, and how their scores differ from the stored ones."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.harness import facts
from lazybench.harness.judge import Judged, judge
from lazybench.harness.watch import Watch
from lazybench.records import Record
from lazybench.specs import EnvSpec
from lazybench.verify.findings import Finding

TRIAL_SHARE = 0.1
"""How far one trial's score may be off on another platform: of the scores' range."""

MEAN_SHARE = 0.01
"""How far the mean over the sampled trials may be off there, likewise."""

RETRAINED_SHARE = 0.2
"""How far that mean may be off for a state that other arithmetic trained: another model.

`Choice:` twenty points of accuracy. Seeds of our own rows lie up to 11.5 apart (lazy_maml with 30
ways), those of all others less than six.
"""


@dataclass(frozen=True)
class Again:
    """Trials that were evaluated again.

    Attributes:
        trials: `[m]` their indices.
        scores: `[m]` float32, their scores now.
        answers: `[m, …]` their answers now; empty where they are no arrays.
        columns: their further numbers, each `[m]`.
    """

    trials: NDArray[np.int64]
    scores: NDArray[np.float32]
    answers: NDArray[Any]
    columns: dict[str, NDArray[Any]]


def draw_seed(seed: int | None) -> int:
    """Return `seed`, or one from the system's entropy, so that nobody can know the sample."""
    return secrets.randbits(48) if seed is None else seed


def same_platform(record: Record, device: str) -> bool:
    """Return whether this machine computes to the last bit what the record's did.

    That takes the processor of the same name, the same torch, and a CPU; how many threads work side
    by side changes nothing.
    """
    here, there = facts.machine(), record.machine
    alike = all(
        getattr(here, name) == getattr(there, name) for name in ("platform", "processor", "torch")
    )
    return alike and device == record.device == "cpu"


def evaluate_sample(  # noqa: PLR0913 - what is played, by whom, how much of it, and who hears
    record: Record, spec: EnvSpec, env: Any, policy: Any, wanted: int, seed: int, watch: Watch
) -> Again:
    """Return about `wanted` of a record's trials, evaluated again.

    They come in the blocks in which the run computed them, since rounding may depend on what lies
    beside a trial; which blocks is drawn by `seed`. Where the test is one pass, that is all of it.
    """
    rows, n = env.num_envs, record.trials.n
    firsts = _firsts(spec, rows, n, wanted, np.random.Generator(np.random.Philox(seed)))
    watch.stage("verify", len(firsts) * rows)
    judged: list[Judged] = []
    for first in firsts.tolist():
        judged += judge(
            env,
            policy,
            spec.metric,
            min(n, first + rows),
            start=first,
            seed=record.seed,
            columns=spec.columns,
        )
        mean = float(np.concatenate([block.scores for block in judged]).mean())
        watch.advance(rows, {spec.metric: mean})
    watch.finished()
    return Again(
        np.concatenate([block.first + np.arange(len(block.scores)) for block in judged]),
        np.concatenate([block.scores for block in judged]).astype(np.float32),
        np.concatenate([block.answers for block in judged]),
        {name: np.concatenate([block.columns[name] for block in judged]) for name in spec.columns},
    )


def _firsts(
    spec: EnvSpec, rows: int, n: int, wanted: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The first trial of each block to evaluate again, ascending."""
    if spec.vector_target is None:
        return np.zeros(1, np.int64)
    if spec.apart:
        # Any block will do, and there may be no trials past the last one to fill it up with.
        return rng.integers(0, max(1, n - rows + 1), 1)
    blocks = -(-n // rows)
    count = min(blocks, -(-wanted // rows))
    return np.sort(rng.choice(blocks, count, replace=False)) * rows


def compare(record: Record, again: Again, *, exact: bool) -> list[Finding]:
    """Return whether trials evaluated again are the stored ones: scores, answers, columns.

    Args:
        record: the record.
        again: what its agent does now.
        exact: whether they must be equal to the last bit; else scores may differ by a tolerance,
            and answers and columns aren't compared.
    """
    stored = record.trials.scores_array()[again.trials]
    if not exact:
        return [_within(record, stored, again)]
    findings = [_equal("scores", stored, again.scores, again.trials)]
    named = dict(record.trials.columns)
    if record.trials.predictions is not None and again.answers.size:
        told = record.trials.predictions.unpack()[again.trials]
        now = again.answers.reshape(told.shape).astype(told.dtype)
        findings.append(_equal("answers", told, now, again.trials))
    for name, values in again.columns.items():
        if name in named:
            told = named[name].unpack()[again.trials]
            findings.append(_equal(name, told, values.astype(told.dtype), again.trials))
    bad = [finding for finding in findings if finding.ok is False]
    if bad:
        return bad
    what = ", ".join(finding.check for finding in findings)
    detail = f"{len(again.trials)} trials evaluated again: {what} equal to the last bit"
    return [Finding("scores", True, detail)]


def _equal(what: str, told: NDArray[Any], now: NDArray[Any], trials: NDArray[np.int64]) -> Finding:
    """Whether arrays `[m, …]` are equal; NaN is equal to NaN."""
    kind = told.dtype.kind == "f"
    same = np.isclose(told, now, rtol=0, atol=0, equal_nan=True) if kind else told == now
    wrong = np.flatnonzero(~same.reshape(len(same), -1).all(axis=1))
    if not len(wrong):
        return Finding(what, True, "equal")
    at = int(wrong[0])
    if told.ndim == 1:
        values = f"{told[at]:.6g} stored, {now[at]:.6g} evaluated"
    else:
        values = f"{int((~same[at]).sum())} of {same[at].size} differ"
    return Finding(
        what,
        False,
        f"{what} of {len(wrong)} of {len(told)} trials evaluated again differ; first trial "
        f"{trials[at]}: {values}",
    )


def _within(record: Record, told: NDArray[np.float32], again: Again) -> Finding:
    """Whether scores are within what other arithmetic explains."""
    scale, mean = _scale(record), _mean_off(told, again)
    apart = np.abs(told.astype(np.float64) - again.scores)
    worst = int(apart.argmax())
    within = mean <= MEAN_SHARE * scale and apart[worst] <= TRIAL_SHARE * scale
    detail = (
        f"{len(apart)} trials evaluated again on another platform: mean off by {mean:.4g} (allowed "
        f"{MEAN_SHARE * scale:.4g}), trial {again.trials[worst]} by {apart[worst]:.4g} (allowed "
        f"{TRIAL_SHARE * scale:.4g})"
    )
    return Finding("scores", bool(within), detail)


def compare_trained(record: Record, again: Again) -> list[Finding]:
    """Return whether a model that was trained again elsewhere scores as the recorded one does.

    Rounding that differs grows over a training, so that its trials say nothing about the recorded
    ones: the mean alone is compared. Nothing is shown either way where it is off by more than
    other arithmetic on one state explains, and by less than `RETRAINED_SHARE`.
    """
    scale = _scale(record)
    mean = _mean_off(record.trials.scores_array()[again.trials], again)
    detail = (
        f"{len(again.trials)} trials of a model trained by other arithmetic: mean off by "
        f"{mean:.4g} (up to {MEAN_SHARE * scale:.4g} agrees, more than "
        f"{RETRAINED_SHARE * scale:.4g} refutes)"
    )
    if mean <= MEAN_SHARE * scale:
        return [Finding("scores", True, detail)]
    return [Finding("scores", None if mean <= RETRAINED_SHARE * scale else False, detail)]


def _scale(record: Record) -> float:
    """The range of the scores: 1 for fractions."""
    everything = record.trials.scores_array()
    return 1.0 if record.env.unit == "fraction" else float(everything.max() - everything.min())


def _mean_off(told: NDArray[np.float32], again: Again) -> float:
    return abs(float(told.mean(dtype=np.float64) - again.scores.mean(dtype=np.float64)))
