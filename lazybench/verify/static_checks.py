"""Checks of a record without its agent: its file and key, environment, answers and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lazybench.agent import OpenedEnv
from lazybench.arguments import is_key
from lazybench.errors import ContractError, StoreError, UnknownName, UsageError
from lazybench.files import read_file, read_stored
from lazybench.findings import Finding, refuted
from lazybench.records import Record, Store, make_key
from lazybench.records.store import MOST_RECORD_BYTES, first_difference
from lazybench.runner import record as report
from lazybench.runner.evaluate import Evaluation, combined, env_facts
from lazybench.runner.request import official_trials, resolve_env, with_recorded
from lazybench.specs import EnvSpec
from lazybench.verify.rescore import NotReplayed, score_answers

Verdict = Literal["reproduced", "consistent", "not reproducible here", "refuted"]


@dataclass(frozen=True)
class Verification:
    """Findings of `verify` on one record, and the verdict that follows.

    Attributes:
        path: the file.
        key: the record's key; '' if the file isn't a record.
        agent: agent id, '' if the file isn't a record.
        env: environment id, '' if the file isn't a record.
        findings: all checks, in order, by name: file, key, environment, data, trials, settings,
            answers, numbers, network, updates, counters, checkpoint, scores, drift.
        trials: number of trials that were evaluated again.
        exact: whether scores must be equal; False if they may differ by a tolerance.
        equal: whether all trials that were evaluated again are equal to the last bit.
        finds: the smallest share of forged trials that a sample of this size detects with a
            probability of 95 %; None if no trial was evaluated again, or if a forged one can't be
            distinguished from rounding on another platform.
        seed: seed of the sample of trials; None if none was drawn.
        unchecked: parts of the record that no check covers.
    """

    path: Path
    key: str
    agent: str
    env: str
    findings: tuple[Finding, ...]
    trials: int = 0
    exact: bool = False
    equal: bool = False
    finds: float | None = None
    seed: int | None = None
    unchecked: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict over all checks.

        `reproduced`: trials that were evaluated again are equal to the last bit. `consistent`: they
        differ by no more than another platform explains. `not reproducible here`: none could be
        evaluated again, or they are inconclusive. `refuted`: a check failed.
        """
        if refuted(self.findings):
            return "refuted"
        shown = any(each.name == "scores" and each.ok for each in self.findings)
        if not (self.trials and shown):
            return "not reproducible here"
        return "reproduced" if self.equal else "consistent"

    @property
    def verified(self) -> bool:
        """Whether the record was reproduced, or is consistent with the evaluation here."""
        return self.verdict in ("reproduced", "consistent")


_KEY12 = 12


def find_record(name: str, out: Path) -> Path:
    """The file of a record, given by its path or by the first digits of its key.

    Args:
        name: a path, or 6 to 64 hex digits.
        out: the store.

    Raises:
        UnknownName: neither a file nor a key in the store.
        UsageError: the digits match several records.
    """
    path = Path(name)
    if path.is_file():
        return path
    if is_key(name):
        fitting = sorted(Store(out).root.glob(f"records/*/*/{name[:_KEY12]}*.json"))
        if len(name) > _KEY12:
            fitting = [each for each in fitting if f'"key": "{name}'.encode() in read_file(each)]
        if len(fitting) > 1:
            keys = ", ".join(each.stem for each in fitting)
            raise UsageError(f"key '{name}' is ambiguous: records {keys}; give more digits")
        if fitting:
            return fitting[0]
    raise UnknownName(
        f"no record '{name}': it isn't a file, and no key in {out} begins with it (at least 6 "
        "digits); see the column of keys in: lazybench leaderboard --env ENV"
    )


def read_record(path: Path) -> tuple[Record | None, list[Finding]]:
    """The record of a file (None if it isn't valid), and whether file and key are valid.

    Raises:
        StoreError: the file can't be read.
    """
    data = read_stored(path, MOST_RECORD_BYTES)
    try:
        record = Record.from_json(data)
    except StoreError as error:
        return None, [Finding("file", False, str(error))]
    findings = [Finding("file", True, f"a valid record of schema {record.schema_version}")]
    expected = make_key(record.identity())
    if expected == record.key:
        detail = f"{record.key12} matches the record's environment, data, agent and settings"
        return record, [*findings, Finding("key", True, detail)]
    detail = (
        f"the record's key is {record.key12}, but its environment, data, agent and settings give "
        f"{expected[:_KEY12]}: one of them was changed after the run"
    )
    return record, [*findings, Finding("key", False, detail)]


_ROUNDING = 1e-6
"""Relative tolerance; scores are stored as float32 and were averaged as float64."""

_CONTENT = ("name", "fingerprint", "prep")
"""Facts about the data that must be equal; its source may differ."""


def spec_of(record: Record) -> EnvSpec:
    """The environment of a record, with the settings of its run.

    Raises:
        UnknownName: no such environment.
        UsageError: this lazybench has another version of it.
    """
    spec, _ = resolve_env(record.env.id)
    if spec.version != record.env.version:
        raise UsageError(
            f"{spec.id} has version {spec.version} here, but the record was made on version "
            f"{record.env.version}; verify it with the lazybench that made it "
            f"({record.code.version})"
        )
    return with_recorded(spec, record.env.protocol)


def check_environment(record: Record, spec: EnvSpec, env: OpenedEnv) -> list[Finding]:
    """Whether the record's environment, data and trials match the installed ones.

    Args:
        record: the record.
        spec: its environment.
        env: the environment, opened for the test.
    """
    n = record.env.protocol.get("trials", 0)
    if type(n) is not int or n < 0:
        return [Finding("trials", False, f"the protocol's trials must be a whole number, got {n}")]
    here = env_facts(spec, env, n)
    findings = [
        _same("environment", here["env"], record.env.model_dump(mode="json"), f"{spec.id} as here"),
        _same(
            "data",
            {name: here["data"][name] for name in _CONTENT},
            record.data.model_dump(include=set(_CONTENT)),
            f"{record.data.name}, fingerprint {record.data.fingerprint[:12]} as installed here",
        ),
    ]
    official = official_trials(spec, record.budget)
    if (n < official) != record.limited or n > official:
        says = "" if record.limited else "not "
        detail = (
            f"{n} trials, {says}marked as limited; {record.budget} has {official} official ones"
        )
        return [*findings, Finding("trials", False, detail)]
    if spec.vector_target is not None and record.trials.n != n:
        detail = f"scores of {record.trials.n} trials are stored, the protocol says {n}"
        return [*findings, Finding("trials", False, detail)]
    return [
        *findings,
        Finding("trials", True, f"the {n} official ones" if n == official else f"{n}"),
    ]


def _same(check: str, here: dict[str, Any], stored: dict[str, Any], what: str) -> Finding:
    difference = first_difference(stored, here)
    if difference is None:
        return Finding(check, True, what)
    name, old, new = difference
    return Finding(check, False, f"{name} is {old} in the record and {new} here")


def check_answers(
    record: Record, spec: EnvSpec, env: OpenedEnv
) -> tuple[list[Finding], Evaluation | None]:
    """Score all stored answers again; return whether they give the stored scores, and the scores.

    The result is the same to the last bit on every machine.

    Raises:
        DataUnavailable: the data isn't installed or is damaged.
    """
    packed = record.trials.predictions
    if packed is None:
        detail = "no answers are stored, so their scores can't be computed again"
        return [Finding("answers", None, detail)], None
    answers = packed.unpack()
    try:
        scored = score_answers(spec, env, answers, record.seed)
    except NotReplayed as error:
        return [Finding("answers", None, f"the answers can't be scored again: {error}")], None
    except (UsageError, ContractError) as error:
        return [Finding("answers", False, f"the stored answers can't be scored: {error}")], None
    stored, again = record.trials.scores_array(), scored.scores.astype(np.float32)
    wrong = np.flatnonzero(stored != again)
    if not len(wrong):
        detail = f"all {len(stored)} stored answers, scored again, give the stored scores"
        return [Finding("answers", True, detail)], scored
    at = int(wrong[0])
    detail = (
        f"{len(wrong)} of {len(stored)} scores differ from those of their answers; trial {at}: "
        f"{stored[at]:.6g} stored, {again[at]:.6g} scored again"
    )
    return [Finding("answers", False, detail)], scored


def check_numbers(
    record: Record, spec: EnvSpec, env: OpenedEnv, scored: Evaluation | None
) -> Finding:
    """Whether headline number, interval and measures follow from the stored trials.

    Args:
        record: the record.
        spec: its environment.
        env: the environment, opened for the test.
        scored: the result of `check_answers`; None if no answers are stored.
    """
    if scored is None and spec.vector_target is None:
        return Finding("numbers", None, "a pass without answers, so they can't be computed again")
    scores = record.trials.scores_array().astype(np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        return Finding("numbers", False, "there isn't one finite score for each trial")
    if scored is not None and spec.vector_target is None:
        scored = Evaluation(0, scores, scored.answers, 0.0, 0.0, scored.metrics)
    else:
        columns = {name: packed.unpack() for name, packed in record.trials.columns.items()}
        earlier = not columns.keys() & set(spec.later_columns)
        names = tuple(name for name in spec.columns if not (earlier and name in spec.later_columns))
        missing = [name for name in names if name not in columns]
        if missing:
            return Finding("numbers", False, f"the column {missing[0]} of each trial is missing")
        block = Evaluation(0, scores, np.empty(0), 0.0, 0.0, columns=columns)
        scored = combined(env, [block], names, 0.0, 0.0)
    derived = report.metrics(spec, scored)
    for name, fields in derived.items():
        if name not in record.metrics:
            return Finding(
                "numbers", False, f"{name} is missing; the trials give {fields['value']}"
            )
        stored = record.metrics[name].model_dump(mode="json")
        for part in fields:
            if not _close(stored[part], fields[part]):
                where = name if part == "value" else f"{part} of {name}"
                detail = f"{where} is {stored[part]} in the record, its trials give {fields[part]}"
                return Finding("numbers", False, detail)
    more = sorted(set(record.metrics) - set(derived))
    others = f"; not from answers alone: {', '.join(more)}" if more else ""
    value = derived[spec.metric]["value"]
    return Finding("numbers", True, f"{spec.metric} {value:.6g} follows from its trials{others}")


def _close(stored: Any, derived: Any) -> bool:
    """Whether two values are equal, numbers up to rounding; None equals NaN."""
    if isinstance(stored, list | tuple) and isinstance(derived, list | tuple):
        both = zip(stored, derived, strict=False)
        return len(stored) == len(derived) and all(_close(a, b) for a, b in both)
    if isinstance(derived, float) and isinstance(stored, int | float | None):
        if stored is None or not math.isfinite(derived):
            return stored is None and not math.isfinite(derived)
        return math.isclose(stored, derived, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(stored == derived)
