"""Scores stored answers again, and evaluates trials again and compares them."""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lazybench.agent import OpenedEnv, Policy
from lazybench.data.fingerprint import instance_hash
from lazybench.data.pool import Part, open_labelled
from lazybench.errors import UsageError
from lazybench.findings import Finding
from lazybench.records import Record
from lazybench.runner import provenance
from lazybench.runner.callbacks import Callback
from lazybench.runner.evaluate import (
    Evaluation,
    combined,
    evaluate_block,
    evaluate_blocks,
    is_block,
)
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape


class NotReplayed(UsageError):
    """The answers can't be scored again, though they may be right."""


class Replay:
    """A policy that returns stored answers block by block, whatever it observes.

    Blocks must be opened in the order of their trials, from the first one.
    """

    vectorized = True

    def __init__(self, answers: NDArray[Any], rows: int) -> None:
        """Keep answers `[n, …]`, for blocks of `rows` trials."""
        self._answers, self._rows, self._at = answers, rows, 0

    def __call__(self, observation: Any, memory: Any = None) -> tuple[torch.Tensor, Any]:
        """Return the next block's answers; zeros after the last trial."""
        stored = self._answers[self._at : self._at + self._rows]
        self._at += self._rows
        whole = np.zeros((self._rows, *stored.shape[1:]), stored.dtype)
        whole[: len(stored)] = stored
        return torch.from_numpy(whole), memory


class PassReplay:
    """A policy that returns the stored answer to each image of a test set, in any order."""

    def __init__(self, answers: NDArray[Any], images: list[bytes]) -> None:
        """Keep one answer `[n]` for each image, known by its hash.

        Raises:
            NotReplayed: identical images have different answers.
        """
        self._known: dict[bytes, int] = {}
        for place, (image, answer) in enumerate(zip(images, answers.tolist(), strict=True)):
            if self._known.setdefault(image, answer) != answer:
                raise NotReplayed(
                    f"image {place} of the test set is identical to an earlier one, whose answer "
                    f"is {self._known[image]}, but its own answer is {answer}; identical images "
                    "must have the same answer"
                )

    def __call__(self, observation: Any, memory: Any = None) -> tuple[torch.Tensor, Any]:
        """Return the answers to a batch of images; -1 for rows that only fill it up."""
        x = observation["x"].cpu().numpy()
        seen = observation["mask"].cpu().numpy()
        said = [
            self._known[instance_hash(row)] if real else -1
            for row, real in zip(x, seen, strict=True)
        ]
        return torch.tensor(said), memory


def test_images(spec: EnvSpec) -> Part:
    """Return the images of an environment whose test is one pass, in the order of its answers.

    Raises:
        NotReplayed: lazybench doesn't know them.
        DataUnavailable: the data isn't installed or is damaged.
    """
    if spec.family != "longtail":
        raise NotReplayed(f"the test images of {spec.id}, of family {spec.family}, are unknown")
    return open_labelled(str(spec.kwargs.get("data", spec.data))).test


def part_hashes(part: Part) -> list[bytes]:
    """Return the `instance_hash` of each image, in the part's order."""
    return [instance_hash(part.x[row]) for row in part.rows]


def shaped(answers: NDArray[Any], task: TaskShape) -> NDArray[Any]:
    """Return stored answers `[n, …]` in the shape of an environment's actions.

    Raises:
        UsageError: the wrong number of answers per trial.
    """
    shape = (task.query_rows, *task.target_shape)
    if answers.ndim < 2 or math.prod(answers.shape[1:]) != math.prod(shape):
        raise UsageError(
            f"answers must be [trials, {', '.join(map(str, shape))}], got {list(answers.shape)}"
        )
    whole = answers.reshape(len(answers), *shape)
    return whole.astype(np.int64) if task.target == "class" else whole


def score_answers(spec: EnvSpec, env: OpenedEnv, answers: NDArray[Any], seed: int) -> Evaluation:
    """Score answers to an environment's trials, beginning with the first.

    Args:
        spec: the environment's spec.
        env: the environment, opened for the test.
        answers: `[n, …]`, or `[n]` for a pass over a test set.
        seed: seed of the run.

    Raises:
        UsageError: answers of another shape, or for another number of images.
        NotReplayed: a pass in which identical images have different answers.
        ContractError: answers out of range.
        DataUnavailable: the data isn't installed or is damaged.
    """
    policy: Policy
    if not is_block(env):
        images = part_hashes(test_images(spec))
        flat = answers.reshape(-1)
        if len(flat) != len(images):
            raise UsageError(
                f"the test set of {spec.id} has {len(images)} images, got {len(flat)} answers"
            )
        policy = PassReplay(flat, images)
    else:
        policy = Replay(shaped(answers, env.task), env.num_envs)
    trials = len(answers)
    blocks = list(
        evaluate_blocks(env, policy, spec.metric, trials, seed=seed, columns=spec.columns)
    )
    return combined(env, blocks, spec.columns, 0.0, 0.0)


TRIAL_SHARE = 0.1
"""How far a trial's score may be off on another platform, as a share of the scores' range."""

MEAN_SHARE = 0.01
"""How far the mean over the sampled trials may be off there, as a share of the same range."""

DRIFT = 1e-3
"""Largest share of honest records that the drift tests refute on other platforms."""

FOUND = 0.95
"""Probability with which a sample contains one of the forged trials that it claims to detect."""

_DRAWS, _SIGNS = 10, 10_000
_MOST_SIGNS = 200

RETRAINED_SHARE = 0.2
"""How far that mean may be off for a state that was trained again with other rounding.

`Choice:` twenty points of accuracy. Seeds of our own rows differ by up to 11.5 (lazy_maml with 30
ways), those of all others by less than six.
"""


@dataclass(frozen=True)
class Again:
    """Trials that were evaluated again.

    Attributes:
        trials: `[m]` their indices.
        scores: `[m]` float32, their new scores.
        answers: `[m, …]` their new answers; empty if they aren't arrays.
        columns: their further numbers, each `[m]`.
    """

    trials: NDArray[np.int64]
    scores: NDArray[np.float32]
    answers: NDArray[Any]
    columns: dict[str, NDArray[Any]]


def draw_seed(seed: int | None) -> int:
    """Return `seed`, or a random one, so that nobody can know the sample in advance."""
    return secrets.randbits(48) if seed is None else seed


def same_platform(record: Record, device: str) -> bool:
    """Return whether this machine must reproduce the record to the last bit.

    That needs the same processor name, the same torch, and a CPU; the number of threads doesn't
    matter.
    """
    here, there = (
        (machine.platform, machine.processor, machine.torch)
        for machine in (provenance.machine(), record.machine)
    )
    return here == there and device == record.device == "cpu"


def evaluate_sample(  # noqa: PLR0913 - what is played, by whom, how much of it, and its callback
    record: Record,
    spec: EnvSpec,
    env: OpenedEnv,
    policy: Policy,
    wanted: int,
    seed: int,
    watch: Callback,
) -> Again:
    """Evaluate a random sample of `wanted` trials of a record again, drawn by `seed`.

    Rounding may depend on a trial's row in its block and, rarely, on the other rows. So each trial
    is evaluated in its original row, together with others of the sample; if it differs from the
    stored trial, it is evaluated again in its original block, and that result counts. If the test
    is one pass, the sample is the whole pass.
    """
    n = record.trials.n
    if not is_block(env):
        watch.stage("verify", n)
        whole = list(
            evaluate_blocks(env, policy, spec.metric, n, seed=record.seed, columns=spec.columns)
        )
        watch.advance(n, {spec.metric: float(whole[0].scores.mean())})
        watch.finished()
        return _gathered([(np.arange(len(each.scores)), each) for each in whole], spec.columns)
    rows = env.num_envs
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = np.sort(rng.choice(n, min(n, wanted), replace=False)).astype(np.int64)
    watch.stage("verify", len(drawn))
    blocks = []
    left = set(drawn.tolist())
    for block in _blocks(drawn, rows, n, any_row=spec.independent_trials):
        evaluated = evaluate_block(env, policy, spec.metric, block, spec.columns)
        blocks.append((block, evaluated))
        # Others fill up a block whose rows the sample doesn't fill.
        count, left = len(left), left - set(block.tolist())
        watch.advance(count - len(left), {spec.metric: float(evaluated.scores.mean())})
    again = _of(_gathered(blocks, spec.columns), drawn)
    odd = drawn[differing(record, again)]
    if len(odd) and len(drawn) < n and not spec.independent_trials:
        originals = []
        for first in np.unique(odd // rows) * rows:
            block = np.arange(first, first + rows)
            originals.append((block, evaluate_block(env, policy, spec.metric, block, spec.columns)))
        again = _replaced(again, _of(_gathered(originals, spec.columns), odd))
    watch.finished()
    return again


def _blocks(
    drawn: NDArray[np.int64], rows: int, n: int, *, any_row: bool
) -> Iterator[NDArray[np.int64]]:
    """Blocks `[rows]` with the drawn trials, each in its original row.

    A row without a remaining trial repeats an earlier one. Independent trials may be in any row.
    """
    if len(drawn) == n and not any_row:
        yield from np.arange(-(-n // rows) * rows).reshape(-1, rows)
        return
    if any_row:
        count = -(-len(drawn) // rows)
        yield from np.resize(drawn, count * rows).reshape(-1, rows)
        return
    by_row = [drawn[drawn % rows == row] for row in range(rows)]
    for turn in range(max(map(len, by_row))):
        yield np.array([own[turn] if turn < len(own) else row for row, own in enumerate(by_row)])


def _gathered(
    evaluated: Sequence[tuple[NDArray[np.int64], Evaluation]], columns: tuple[str, ...]
) -> Again:
    """Evaluated blocks as one, in their order."""
    blocks = [block for _, block in evaluated]
    return Again(
        np.concatenate([trials for trials, _ in evaluated]),
        np.concatenate([block.scores for block in blocks]).astype(np.float32),
        np.concatenate([block.answers for block in blocks]),
        {name: np.concatenate([block.columns[name] for block in blocks]) for name in columns},
    )


def _of(again: Again, trials: NDArray[np.int64]) -> Again:
    """Some of the trials that were evaluated again, in the given order."""
    _, firsts = np.unique(again.trials, return_index=True)
    at = firsts[np.searchsorted(again.trials[firsts], trials)]
    columns = {name: values[at] for name, values in again.columns.items()}
    return Again(trials, again.scores[at], again.answers[at], columns)


def _replaced(again: Again, newer: Again) -> Again:
    """Trials evaluated again, some of them replaced by a newer evaluation."""
    at = np.searchsorted(again.trials, newer.trials)
    scores, answers = again.scores.copy(), again.answers.copy()
    scores[at], answers[at] = newer.scores, newer.answers
    columns = {name: values.copy() for name, values in again.columns.items()}
    for name, values in columns.items():
        values[at] = newer.columns[name]
    return Again(again.trials, scores, answers, columns)


Pair = tuple[str, NDArray[Any], NDArray[Any]]


def _pairs(record: Record, again: Again) -> list[Pair]:
    """Stored and new values of some trials, `[m, …]` each, by name."""
    pairs: list[Pair] = [("scores", record.trials.scores_array()[again.trials], again.scores)]
    if record.trials.predictions is not None and again.answers.size:
        stored = record.trials.predictions.unpack()[again.trials]
        now = again.answers.reshape(stored.shape).astype(stored.dtype)
        pairs.append(("answers", stored, now))
    for name, values in again.columns.items():
        if name in record.trials.columns:
            stored = record.trials.columns[name].unpack()[again.trials]
            pairs.append((name, stored, values.astype(stored.dtype)))
    return pairs


def differing(record: Record, again: Again) -> NDArray[np.bool_]:
    """Return which trials, `[m]`, differ from the stored ones in any bit."""
    odd: NDArray[np.bool_] = np.zeros(len(again.trials), np.bool_)
    for _, stored, now in _pairs(record, again):
        odd |= ~_same(stored, now)
    return odd


def _same(stored: NDArray[Any], now: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of `[m, …]` are equal; NaN is equal to NaN."""
    kind = stored.dtype.kind == "f"
    same = np.isclose(stored, now, rtol=0, atol=0, equal_nan=True) if kind else stored == now
    equal: NDArray[np.bool_] = same.reshape(len(same), -1).all(axis=1)
    return equal


def compare(record: Record, again: Again, *, exact: bool) -> list[Finding]:
    """Compare scores, answers and columns of trials evaluated again with the stored ones.

    Args:
        record: the record.
        again: the new evaluation.
        exact: whether they must be equal to the last bit; otherwise scores may differ by as much
            as rounding on another platform explains.
    """
    pairs = _pairs(record, again)
    what = ", ".join(name for name, _, _ in pairs)
    where = "" if exact else " on another platform"
    if not differing(record, again).any():
        detail = f"{len(again.trials)} trials evaluated again{where}: {what} equal to the last bit"
        return [Finding("scores", True, detail)]
    if not exact:
        return _elsewhere(record, again, pairs)
    findings = [_equal(name, stored, now, again.trials) for name, stored, now in pairs]
    return [finding for finding in findings if finding.ok is False]


def _equal(
    what: str, stored: NDArray[Any], now: NDArray[Any], trials: NDArray[np.int64]
) -> Finding:
    """Whether arrays `[m, …]` are equal."""
    wrong = np.flatnonzero(~_same(stored, now))
    if not len(wrong):
        return Finding(what, True, "equal")
    at = int(wrong[0])
    if stored.ndim == 1:
        values = f"{stored[at]:.6g} stored, {now[at]:.6g} evaluated"
    else:
        values = f"{int((stored[at] != now[at]).sum())} of {stored[at].size} differ"
    return Finding(
        what,
        False,
        f"{what} of {len(wrong)} of {len(stored)} trials evaluated again differ; first trial "
        f"{trials[at]}: {values}",
    )


def _elsewhere(record: Record, again: Again, pairs: Sequence[Pair]) -> list[Finding]:
    """Whether rounding on another platform explains how trials differ.

    Trials with further numbers are sequences of queries, which diverge early, so they are compared
    as distributions and not one by one. A hit flips or doesn't, so only the mean of hits has a
    tolerance.
    """
    named = [(name, stored, now) for name, stored, now in pairs if name != "answers"]
    paths = bool(record.trials.columns)
    findings = [] if paths else [_within(record, named[0][1], again)]
    tests = [
        (f"the {name} {how}", p)
        for name, stored, now in named
        for how, p in drifts(stored, now, distribution=paths).items()
    ]
    level = DRIFT / len(tests)
    if len(again.trials) < least_trials(level):
        detail = (
            f"{len(again.trials)} trials evaluated again on another platform differ, and are too "
            f"few to show whether by rounding: evaluate {least_trials(level)} or more (--trials)"
        )
        failed = [each for each in findings if each.ok is False]
        return failed or [Finding("scores", None, detail)]
    name, p = min(tests, key=lambda test: test[1])
    detail = f"on another platform, of {len(tests)} tests the least p is {p:.2g}, of {name}"
    if p < level:
        detail = f"{detail}; rounding seldom gives one below {level:.2g}"
        return [*findings, Finding("drift", False, detail)]
    if not findings:
        what = ", ".join(name for name, _, _ in named)
        trials = f"{len(again.trials)} trials evaluated again on another platform"
        findings = [Finding("scores", True, f"{trials}: {what} alike as distributions")]
    return [*findings, Finding("drift", True, f"{detail} (refuted below {level:.2g})")]


def drifts(
    stored: NDArray[Any], now: NDArray[Any], *, distribution: bool = False
) -> dict[str, float]:
    """Return p-values for stored numbers `[m]` being neither higher nor lower than new ones.

    If only rounding differs, both orders of a trial's two numbers are equally likely. That gives
    the probability of as many equal signs, and of a sum of differences as far from 0. With
    `distribution`, the Kolmogorov-Smirnov test of equal distributions is added (similar pairs make
    its p larger, so it refutes less). NaN is left out.
    """
    from scipy.stats import binomtest, ks_2samp

    both = np.isfinite(stored.astype(np.float64)) & np.isfinite(now.astype(np.float64))
    left, right = (side[both].astype(np.float64) for side in (stored, now))
    gaps = left - right
    gaps = gaps[gaps != 0]
    p_values = {"of one sign": 1.0, "summed": 1.0}
    if len(gaps):
        p_values["of one sign"] = float(binomtest(int((gaps > 0).sum()), len(gaps)).pvalue)
        p_values["summed"] = _sum_p(gaps)
    if distribution:
        p_values["as a distribution"] = 1.0
        if len(left):
            with warnings.catch_warnings():
                # Where numbers tie, the exact p can't always be had; p is near 1 then.
                warnings.simplefilter("ignore", RuntimeWarning)
                p_values["as a distribution"] = float(ks_2samp(left, right).pvalue)
    return p_values


def _sum_p(gaps: NDArray[np.float64]) -> float:
    """The share of random signs of the differences whose sum is as far from 0."""
    if len(gaps) > _MOST_SIGNS:
        from scipy.special import ndtr

        # A sum of this many is approximately normal, with the variance of the random signs.
        return float(2 * ndtr(-abs(gaps.sum()) / np.sqrt((gaps**2).sum())))
    rng = np.random.Generator(np.random.Philox(0))
    least, far = abs(gaps.sum()) * (1 - 1e-9), 0
    for _ in range(_DRAWS):
        signs = 2.0 * rng.integers(0, 2, (_SIGNS, len(gaps)), dtype=np.int8) - 1
        far += int((np.abs(signs @ gaps) >= least).sum())
    return (1 + far) / (1 + _DRAWS * _SIGNS)


def least_trials(level: float) -> int:
    """Return the number of trials from which equal signs of all have a p below a level."""
    return int(np.ceil(np.log2(2 / level)))


def finds(record: Record, again: Again) -> float | None:
    """`finds_share` of a sample; None if a forged trial can't be distinguished from rounding.

    That is so on other platforms for hits and sequences of queries, which have no tolerance per
    trial.
    """
    single = not record.trials.columns and not _hits(record)
    if differing(record, again).any() and not single:
        return None
    return finds_share(record.trials.n, len(again.trials))


def _hits(record: Record) -> bool:
    """Whether each trial is a hit or a miss."""
    return bool(np.isin(record.trials.scores_array(), (0, 1)).all())


def finds_share(n: int, m: int) -> float:
    """Return the smallest share of forged trials that a sample detects with 95 % probability.

    Args:
        n: number of trials of the record.
        m: number of trials of the sample, drawn without replacement.
    """
    from scipy.stats import hypergeom

    forged = np.arange(1, n + 1)
    likely = hypergeom.pmf(0, n, forged, m) <= 1 - FOUND
    return float(forged[likely][0] / n)


def _within(record: Record, stored: NDArray[np.float32], again: Again) -> Finding:
    """Whether rounding on another platform explains the differences of scores."""
    scale, mean = _scale(record), abs(_mean_off(stored, again))
    gaps = np.abs(stored.astype(np.float64) - again.scores)
    worst = int(gaps.argmax())
    hits = _hits(record)
    within = mean <= MEAN_SHARE * scale and (hits or gaps[worst] <= TRIAL_SHARE * scale)
    most = "" if hits else f" (allowed {TRIAL_SHARE * scale:.4g})"
    detail = (
        f"{len(gaps)} trials evaluated again on another platform: mean off by {mean:.4g} (allowed "
        f"{MEAN_SHARE * scale:.4g}), trial {again.trials[worst]} by {gaps[worst]:.4g}{most}"
    )
    return Finding("scores", bool(within), detail)


def compare_trained(record: Record, again: Again) -> list[Finding]:
    """Compare the mean score of a model trained again on another platform with the recorded one.

    Rounding differences grow during training, so single trials can't be compared. The result is
    inconclusive if the mean is off by more than rounding of one state explains, and by less than
    `RETRAINED_SHARE`.
    """
    scale = _scale(record)
    mean = abs(_mean_off(record.trials.scores_array()[again.trials], again))
    detail = (
        f"{len(again.trials)} trials of a model trained on another platform: mean off by "
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


def _mean_off(stored: NDArray[np.float32], again: Again) -> float:
    """How far the stored mean is above the new one."""
    return float(stored.mean(dtype=np.float64) - again.scores.mean(dtype=np.float64))
