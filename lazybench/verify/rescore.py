"""Stored answers scored again by their environment, and trials evaluated again and compared."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lazybench.data.fingerprint import instance_hash
from lazybench.data.pool import Part, open_labelled
from lazybench.errors import UsageError
from lazybench.records import Record
from lazybench.runner import provenance
from lazybench.runner.callbacks import Callback
from lazybench.runner.evaluate import Evaluation, combined, evaluate_block, evaluate_blocks
from lazybench.specs import EnvSpec
from lazybench.verify.read_record import Finding


class NotReplayed(UsageError):
    """Answers that can't be scored again, though they may be right."""


class Replay:
    """A policy that gives stored answers block by block, whatever it observes.

    Blocks must be opened in the order of their trials, from the first one.
    """

    vectorized = True

    def __init__(self, answers: NDArray[Any], rows: int) -> None:
        """Keep answers `[n, …]`, for blocks of `rows` trials."""
        self._answers, self._rows, self._at = answers, rows, 0

    def __call__(self, observation: Any, memory: Any = None) -> tuple[torch.Tensor, Any]:
        """Return the next block's answers; zeros for trials past the last one."""
        found = self._answers[self._at : self._at + self._rows]
        self._at += self._rows
        whole = np.zeros((self._rows, *found.shape[1:]), found.dtype)
        whole[: len(found)] = found
        return torch.from_numpy(whole), memory


class PassReplay:
    """A policy that knows the answer to every image of a test set, in whatever order they come."""

    def __init__(self, answers: NDArray[Any], images: list[bytes]) -> None:
        """Keep one answer `[n]` for each image, known by its hash.

        Raises:
            NotReplayed: images that look the same have different answers.
        """
        self._known: dict[bytes, int] = {}
        for place, (image, answer) in enumerate(zip(images, answers.tolist(), strict=True)):
            if self._known.setdefault(image, answer) != answer:
                raise NotReplayed(
                    f"image {place} of the test set looks like an earlier one, whose answer is "
                    f"{self._known[image]}; here it is {answer}: answers of a function of the "
                    "image are the same"
                )

    def __call__(self, observation: Any, memory: Any = None) -> tuple[torch.Tensor, Any]:
        """Return the answers to a batch of images; -1 for rows that fill it up."""
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
        NotReplayed: nothing is known of them.
        DataUnavailable: it isn't installed or is damaged.
    """
    if spec.family != "longtail":
        raise NotReplayed(f"nothing is known of the test set of {spec.id}, of family {spec.family}")
    return open_labelled(str(spec.kwargs.get("data", spec.data))).test


def part_hashes(part: Part) -> list[bytes]:
    """Return the hash of each image, `instance_hash`, in the part's order."""
    return [instance_hash(part.x[row]) for row in part.rows]


def shaped(answers: NDArray[Any], task: Any) -> NDArray[Any]:
    """Return stored answers `[n, …]` as an environment of these tasks takes them.

    Raises:
        UsageError: a number of answers that no trial has.
    """
    shape = (task.query_rows, *task.target_shape)
    if answers.ndim < 2 or answers[0].size != int(np.prod(shape)):
        raise UsageError(
            f"answers must be [trials, {', '.join(map(str, shape))}], got {list(answers.shape)}"
        )
    whole = answers.reshape(len(answers), *shape)
    return whole.astype(np.int64) if task.target == "class" else whole


def score_answers(spec: EnvSpec, env: Any, answers: NDArray[Any], seed: int) -> Evaluation:
    """The environment's scores of answers to its trials, from the first one on.

    Args:
        spec: the environment.
        env: it, opened for the test.
        answers: `[n, …]`, or `[n]` for a pass over a test set.
        seed: of the run.

    Raises:
        UsageError: answers of another shape, or to other images than there are.
        NotReplayed: a pass with equal images of different answers.
        ContractError: answers out of range.
        DataUnavailable: the data isn't installed or is damaged.
    """
    if spec.vector_target is None:
        images = part_hashes(test_images(spec))
        flat = answers.reshape(-1)
        if len(flat) != len(images):
            raise UsageError(
                f"the test set of {spec.id} has {len(images)} images, got {len(flat)} answers"
            )
        policy: Any = PassReplay(flat, images)
    else:
        policy = Replay(shaped(answers, env.task), env.num_envs)
    trials = len(answers)
    blocks = list(
        evaluate_blocks(env, policy, spec.metric, trials, seed=seed, columns=spec.columns)
    )
    return combined(env, blocks, spec.columns, 0.0, 0.0)


TRIAL_SHARE = 0.1
"""How far one trial's score may be off on another platform: of the scores' range."""

MEAN_SHARE = 0.01
"""How far the mean over the sampled trials may be off there, as a share of the same range."""

DRIFT = 1e-3
"""Share of honest records that the tests of drift refute elsewhere, at most: one in a thousand."""

FOUND = 0.95
"""Chance with which a sample holds one of the forged trials that it is said to find."""

_DRAWS, _SIGNS = 10, 10_000
_MOST_SIGNS = 200

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
    here, there = (
        (machine.platform, machine.processor, machine.torch)
        for machine in (provenance.machine(), record.machine)
    )
    return here == there and device == record.device == "cpu"


def evaluate_sample(  # noqa: PLR0913 - what is played, by whom, how much of it, and who hears
    record: Record, spec: EnvSpec, env: Any, policy: Any, wanted: int, seed: int, watch: Callback
) -> Again:
    """Return `wanted` of a record's trials, each drawn by itself by `seed`, evaluated again.

    Rounding may depend on a trial's row in its block and, rarely, on what lies in the other rows.
    So each trial is evaluated in the row that it had in the run, with others of the sample, and
    one that doesn't give what is stored once more in the block that it had: that counts. Where the
    test is one pass, that is all of it.
    """
    rows, n = env.num_envs, record.trials.n
    if spec.vector_target is None:
        watch.stage("verify", n)
        found = [
            (np.arange(len(block.scores)), block)
            for block in evaluate_blocks(
                env, policy, spec.metric, n, seed=record.seed, columns=spec.columns
            )
        ]
        watch.advance(n, {spec.metric: float(found[0][1].scores.mean())})
        watch.finished()
        return _gathered(found, spec.columns)
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = np.sort(rng.choice(n, min(n, wanted), replace=False)).astype(np.int64)
    watch.stage("verify", len(drawn))
    found = []
    for block in _blocks(drawn, rows, n, apart=spec.independent_trials):
        judged = evaluate_block(env, policy, spec.metric, block, spec.columns)
        found.append((block, judged))
        watch.advance(rows, {spec.metric: float(judged.scores.mean())})
    again = _of(_gathered(found, spec.columns), drawn)
    odd = drawn[differing(record, again)]
    if len(odd) and len(drawn) < n and not spec.independent_trials:
        found = []
        for first in np.unique(odd // rows) * rows:
            block = np.arange(first, first + rows)
            found.append((block, evaluate_block(env, policy, spec.metric, block, spec.columns)))
        again = _replaced(again, _of(_gathered(found, spec.columns), odd))
    watch.finished()
    return again


def _blocks(
    drawn: NDArray[np.int64], rows: int, n: int, *, apart: bool
) -> Iterator[NDArray[np.int64]]:
    """Blocks `[rows]` that hold the drawn trials, each in the row that it had in the run.

    A row without any repeats one of its own. Where trials are apart, any row will do.
    """
    if len(drawn) == n and not apart:
        yield from np.arange(-(-n // rows) * rows).reshape(-1, rows)
        return
    if apart:
        count = -(-len(drawn) // rows)
        yield from np.resize(drawn, count * rows).reshape(-1, rows)
        return
    by_row = [drawn[drawn % rows == row] for row in range(rows)]
    for turn in range(max(map(len, by_row))):
        yield np.array([own[turn] if turn < len(own) else row for row, own in enumerate(by_row)])


def _gathered(
    found: Sequence[tuple[NDArray[np.int64], Evaluation]], columns: tuple[str, ...]
) -> Again:
    """Evaluation blocks as one, in their order."""
    judged = [block for _, block in found]
    return Again(
        np.concatenate([trials for trials, _ in found]),
        np.concatenate([block.scores for block in judged]).astype(np.float32),
        np.concatenate([block.answers for block in judged]),
        {name: np.concatenate([block.columns[name] for block in judged]) for name in columns},
    )


def _of(again: Again, trials: NDArray[np.int64]) -> Again:
    """Of trials evaluated again, these, in their order."""
    _, firsts = np.unique(again.trials, return_index=True)
    at = firsts[np.searchsorted(again.trials[firsts], trials)]
    columns = {name: values[at] for name, values in again.columns.items()}
    return Again(trials, again.scores[at], again.answers[at], columns)


def _replaced(again: Again, newer: Again) -> Again:
    """Trials evaluated again, some of them once more."""
    at = np.searchsorted(again.trials, newer.trials)
    scores, answers = again.scores.copy(), again.answers.copy()
    scores[at], answers[at] = newer.scores, newer.answers
    columns = {name: values.copy() for name, values in again.columns.items()}
    for name, values in columns.items():
        values[at] = newer.columns[name]
    return Again(again.trials, scores, answers, columns)


Pair = tuple[str, NDArray[Any], NDArray[Any]]


def _pairs(record: Record, again: Again) -> list[Pair]:
    """What is stored of some trials and what they gave now, `[m, …]` each, by name."""
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
    """Return which trials, `[m]`, gave anything else than what is stored, to the last bit."""
    odd: NDArray[np.bool_] = np.zeros(len(again.trials), np.bool_)
    for _, stored, now in _pairs(record, again):
        odd |= ~_same(stored, now)
    return odd


def _same(stored: NDArray[Any], now: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of `[m, …]` are equal; NaN is equal to NaN."""
    kind = stored.dtype.kind == "f"
    same = np.isclose(stored, now, rtol=0, atol=0, equal_nan=True) if kind else stored == now
    found: NDArray[np.bool_] = same.reshape(len(same), -1).all(axis=1)
    return found


def compare(record: Record, again: Again, *, exact: bool) -> list[Finding]:
    """Return whether trials evaluated again are the stored ones: scores, answers, columns.

    Args:
        record: the record.
        again: what its agent does now.
        exact: whether they must be equal to the last bit; else scores may differ as other
            arithmetic explains.
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
    """Whether other arithmetic explains how trials differ.

    Trials with further numbers are paths of queries, which diverge early and say nothing one by
    one; they are compared as distributions. Hits flip or don't, so that only their mean has a
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
            f"few to tell whether by rounding: evaluate {least_trials(level)} or more (--trials)"
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
    """Return p-values of stored numbers `[m]` not being higher or lower than those of now.

    Under rounding alone it is as likely that a trial's two numbers are the other way round. That
    gives the chance of as many equal signs, and of a sum of differences as far from 0. With
    `distribution`, Kolmogorov and Smirnov's p is there too, of both being draws of one distribution
    (pairs that are alike make it larger, so that it accuses less). NaN is left out.
    """
    from scipy.stats import binomtest, ks_2samp

    both = np.isfinite(stored.astype(np.float64)) & np.isfinite(now.astype(np.float64))
    left, right = (side[both].astype(np.float64) for side in (stored, now))
    apart = left - right
    apart = apart[apart != 0]
    found = {"of one sign": 1.0, "summed": 1.0}
    if len(apart):
        found["of one sign"] = float(binomtest(int((apart > 0).sum()), len(apart)).pvalue)
        found["summed"] = _sum_p(apart)
    if distribution:
        found["as a distribution"] = 1.0
        if len(left):
            with warnings.catch_warnings():
                # Where numbers tie, the exact p can't always be had; p is near 1 then.
                warnings.simplefilter("ignore", RuntimeWarning)
                found["as a distribution"] = float(ks_2samp(left, right).pvalue)
    return found


def _sum_p(apart: NDArray[np.float64]) -> float:
    """The share of signs of differences that give a sum as far from 0."""
    if len(apart) > _MOST_SIGNS:
        from scipy.special import ndtr

        # A sum of so many is normal, with the variance that the signs give it.
        return float(2 * ndtr(-abs(apart.sum()) / np.sqrt((apart**2).sum())))
    rng = np.random.Generator(np.random.Philox(0))
    least, far = abs(apart.sum()) * (1 - 1e-9), 0
    for _ in range(_DRAWS):
        signs = 2.0 * rng.integers(0, 2, (_SIGNS, len(apart)), dtype=np.int8) - 1
        far += int((np.abs(signs @ apart) >= least).sum())
    return (1 + far) / (1 + _DRAWS * _SIGNS)


def least_trials(level: float) -> int:
    """Return how many trials it takes for equal signs of all to have a p below a level."""
    return int(np.ceil(np.log2(2 / level)))


def finds(record: Record, again: Again) -> float | None:
    """`finds_share` of a sample; None where a forged trial can't be distinguished from rounding.

    That is so elsewhere, for hits and for paths of queries, which have no tolerance one by one.
    """
    single = not record.trials.columns and not _hits(record)
    if differing(record, again).any() and not single:
        return None
    return finds_share(record.trials.n, len(again.trials))


def _hits(record: Record) -> bool:
    """Whether each trial is a hit or a miss."""
    return bool(np.isin(record.trials.scores_array(), (0, 1)).all())


def finds_share(n: int, m: int) -> float:
    """Return the smallest share of forged trials of which a sample holds one with 95 %.

    Args:
        n: trials of the record.
        m: of the sample, drawn one by one without putting back.
    """
    from scipy.stats import hypergeom

    forged = np.arange(1, n + 1)
    found = hypergeom.pmf(0, n, forged, m) <= 1 - FOUND
    return float(forged[found][0] / n)


def _within(record: Record, stored: NDArray[np.float32], again: Again) -> Finding:
    """Whether scores are within what other arithmetic explains."""
    scale, mean = _scale(record), abs(_mean_off(stored, again))
    apart = np.abs(stored.astype(np.float64) - again.scores)
    worst = int(apart.argmax())
    hits = _hits(record)
    within = mean <= MEAN_SHARE * scale and (hits or apart[worst] <= TRIAL_SHARE * scale)
    most = "" if hits else f" (allowed {TRIAL_SHARE * scale:.4g})"
    detail = (
        f"{len(apart)} trials evaluated again on another platform: mean off by {mean:.4g} (allowed "
        f"{MEAN_SHARE * scale:.4g}), trial {again.trials[worst]} by {apart[worst]:.4g}{most}"
    )
    return Finding("scores", bool(within), detail)


def compare_trained(record: Record, again: Again) -> list[Finding]:
    """Return whether a model that was trained again elsewhere scores as the recorded one does.

    Rounding that differs grows over a training, so that its trials say nothing about the recorded
    ones: the mean alone is compared. Nothing is shown either way where it is off by more than
    other arithmetic on one state explains, and by less than `RETRAINED_SHARE`.
    """
    scale = _scale(record)
    mean = abs(_mean_off(record.trials.scores_array()[again.trials], again))
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


def _mean_off(stored: NDArray[np.float32], again: Again) -> float:
    """How far the stored mean is above that of now."""
    return float(stored.mean(dtype=np.float64) - again.scores.mean(dtype=np.float64))
