"""What a record says, checked against its environment and its own answers; no agent is needed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lazybench.errors import ContractError, UsageError
from lazybench.records import Record
from lazybench.records.store import first_difference
from lazybench.runner import record as report
from lazybench.runner.evaluate import Judged, Scored, env_facts, gathered
from lazybench.runner.request import official_trials, resolve_env, with_protocol
from lazybench.specs import EnvSpec
from lazybench.verify.findings import Finding
from lazybench.verify.rescore import NotReplayed, judge_answers

_ROUNDING = 1e-6
"""Relative; scores are kept as float32 and were averaged as float64."""

_CONTENT = ("name", "fingerprint", "prep")
"""What of the data must be the same; where it was read from needn't."""


def spec_of(record: Record) -> EnvSpec:
    """Return the environment of a record, with the settings that its run chose.

    Raises:
        UnknownName: no such environment.
        UsageError: this lazybench has another version of it.
    """
    spec, _ = resolve_env(record.env.id)
    if spec.version != record.env.version:
        raise UsageError(
            f"{spec.id} is at version {spec.version} here, the record was made on version "
            f"{record.env.version}; verify it with the lazybench that made it "
            f"({record.code.version})"
        )
    told = record.env.protocol
    return with_protocol(spec, {name: told[name] for name in spec.options if name in told})


def check_environment(record: Record, spec: EnvSpec, env: Any) -> list[Finding]:
    """Return whether the record's environment, data and trials are those that are installed.

    Args:
        record: the record.
        spec: its environment.
        env: it, opened for the test.
    """
    n = int(record.env.protocol.get("trials", 0))
    here = env_facts(spec, env, n)
    findings = [
        _same("environment", here["env"], record.env.model_dump(mode="json"), f"{spec.id} as here"),
        _same(
            "data",
            {name: here["data"][name] for name in _CONTENT},
            {name: getattr(record.data, name) for name in _CONTENT},
            f"{record.data.name}, fingerprint {record.data.fingerprint[:12]} as installed here",
        ),
    ]
    official = official_trials(spec, record.budget)
    if (n < official) != record.limited or n > official:
        says = "" if record.limited else "not "
        detail = f"{n} trials, {says}marked as limited; {official} are official at {record.budget}"
        return [*findings, Finding("trials", False, detail)]
    if spec.vector_target is not None and record.trials.n != n:
        detail = f"scores of {record.trials.n} trials are stored, the protocol says {n}"
        return [*findings, Finding("trials", False, detail)]
    return [
        *findings,
        Finding("trials", True, f"the {n} official ones" if n == official else f"{n}"),
    ]


def _same(check: str, here: dict[str, Any], told: dict[str, Any], what: str) -> Finding:
    difference = first_difference(told, here)
    if difference is None:
        return Finding(check, True, what)
    name, old, new = difference
    return Finding(check, False, f"{name} is {old} in the record and {new} here")


def check_answers(record: Record, spec: EnvSpec, env: Any) -> tuple[list[Finding], Scored | None]:
    """Return whether the stored answers earn the stored scores, and what the environment told.

    All answers are judged again; whatever the machine, the result is the same to the last bit.

    Raises:
        DataUnavailable: the data isn't installed or is damaged.
    """
    packed = record.trials.predictions
    if packed is None:
        told = "no answers are stored, so that scores can't be judged again from them"
        return [Finding("answers", None, told)], None
    answers = packed.unpack()
    try:
        scored = judge_answers(spec, env, answers, record.seed)
    except NotReplayed as error:
        return [Finding("answers", None, f"the answers can't be judged again: {error}")], None
    except (UsageError, ContractError) as error:
        return [Finding("answers", False, f"the stored answers can't be judged: {error}")], None
    stored, again = record.trials.scores_array(), scored.scores.astype(np.float32)
    wrong = np.flatnonzero(stored != again)
    if not len(wrong):
        detail = f"all {len(stored)} trials judged again from their answers: the stored scores"
        return [Finding("answers", True, detail)], scored
    at = int(wrong[0])
    detail = (
        f"{len(wrong)} of {len(stored)} scores aren't those of their answers; first trial {at}: "
        f"{stored[at]:.6g} stored, {again[at]:.6g} judged"
    )
    return [Finding("answers", False, detail)], scored


def check_numbers(record: Record, spec: EnvSpec, env: Any, judged: Scored | None) -> Finding:
    """Return whether headline number, interval and measures follow from the stored trials.

    Args:
        record: the record.
        spec: its environment.
        env: it, opened for the test.
        judged: what the environment told of the stored answers; None where there are none.
    """
    if judged is None and spec.vector_target is None:
        return Finding("numbers", None, "a pass without answers: nothing to compute them from")
    scores = record.trials.scores_array().astype(np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        return Finding("numbers", False, "there isn't one finite score for each trial")
    if judged is not None and spec.vector_target is None:
        scored = Scored(scores, judged.answers, 0.0, 0.0, judged.metrics)
    else:
        columns = {name: packed.unpack() for name, packed in record.trials.columns.items()}
        missing = [name for name in spec.columns if name not in columns]
        if missing:
            return Finding("numbers", False, f"the column {missing[0]} of each trial is missing")
        block = Judged(0, scores, np.empty(0), 0.0, 0.0, columns=columns)
        scored = gathered(env, [block], spec.columns, 0.0, 0.0)
    derived = report.metrics(spec, scored)
    for name, fields in derived.items():
        if name not in record.metrics:
            return Finding(
                "numbers", False, f"{name} is missing; the trials give {fields['value']}"
            )
        told = record.metrics[name].model_dump(mode="json")
        for part in fields:
            if not _close(told[part], fields[part]):
                where = name if part == "value" else f"{part} of {name}"
                detail = f"{where} is {told[part]} in the record, its trials give {fields[part]}"
                return Finding("numbers", False, detail)
    more = sorted(set(record.metrics) - set(derived))
    beside = f"; not from answers alone: {', '.join(more)}" if more else ""
    value = derived[spec.metric]["value"]
    return Finding("numbers", True, f"{spec.metric} {value:.6g} follows from its trials{beside}")


def _close(told: Any, derived: Any) -> bool:
    """Whether two values are equal, numbers but for rounding; None and NaN alike."""
    if isinstance(told, list | tuple) and isinstance(derived, list | tuple):
        both = zip(told, derived, strict=False)
        return len(told) == len(derived) and all(_close(a, b) for a, b in both)
    if isinstance(derived, float) and isinstance(told, int | float | None):
        if told is None or not math.isfinite(derived):
            return told is None and not math.isfinite(derived)
        return math.isclose(told, derived, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(told == derived)
