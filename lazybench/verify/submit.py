"""Scores predictions of another framework, and makes a record of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.arguments import check_path, check_settings, check_whole
from lazybench.data.importing.arrays import read_arrays
from lazybench.errors import ContractError, DataUnavailable, UsageError
from lazybench.records import Cost, Record, Store
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.evaluate import open_env
from lazybench.runner.request import chosen_trials, official_trials, resolve_env
from lazybench.runner.run_dir import writable
from lazybench.runner.transfer import evaluate
from lazybench.specs import EnvSpec
from lazybench.verify.export import need_answers
from lazybench.verify.rescore import PassReplay, Replay, part_hashes, shaped, test_images

KEYS = ("predictions", "index", "about")
_FORM = "save it with numpy.savez(FILE, predictions=array), array [trials, queries]"


def score(  # noqa: PLR0913 - a public function
    path: str | Path,
    env: str,
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    budget: str = "small",
    out: str | Path | None = None,
    watch: Callback = SILENT,
) -> Record:
    """Score answers to an environment's official trials, and return the `submitted` record.

    Args:
        path: `.npz` with `predictions` `[trials, queries]` (for a long-tailed stream, one label for
            each image of the test set) and optionally `index` `[trials]`, the trial of each row,
            and `about` as `export_trials` wrote it; or `.npy` with the predictions.
        env: environment id or alias.
        name: agent name for the board.
        config: settings that distinguish variants of the same name; part of the key.
        seed: the seed of its training; part of the key.
        budget: budget that sets the number of test trials. Answers to only the first of them make
            a limited record, which is never ranked.
        out: store for the record; None saves nothing.
        watch: called with the progress.

    Raises:
        UsageError: a file of another form, answers of another shape, type or range, or an
            environment whose trials can't be scored from answers alone.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the store can't be written (checked before scoring).
        RecordConflict: the store holds the same name, config and seed with other answers.
    """
    path, out = check_path("path", path), None if out is None else check_path("out", out)
    check_whole("seed", seed)
    check_settings("config", config)
    spec, note = resolve_env(env)
    if note:
        watch.note(note)
    need_answers(spec)
    found = _read(path)
    answers = _in_order(found, path)
    limit = None
    if spec.vector_target is not None:
        official = official_trials(spec, budget)
        if len(answers) > official:
            raise UsageError(
                f"{path} has {len(answers)} trials; {spec.id} has {official} at budget {budget}"
            )
        limit, _ = chosen_trials(spec, budget, len(answers))
    if out is not None:
        writable(out)
    policy = _policy(spec, answers, found, path)
    try:
        record = evaluate(
            policy,
            spec.id,
            name=name,
            config=config,
            seed=seed,
            budget=budget,
            limit=limit,
            watch=watch,
        )
    except ContractError as error:
        raise UsageError(f"{path}: {error}") from error
    # The cost of scoring answers says nothing about the model.
    submitted = record.model_copy(update={"kind": "submitted", "cost": Cost()})
    if out is not None:
        Store(out).publish(submitted)
    return submitted


def _policy(spec: EnvSpec, answers: NDArray[Any], found: dict[str, Any], path: Path) -> Any:
    """A policy that returns these answers.

    Raises:
        UsageError: they have another shape, or belong to other data.
    """
    opened = open_env(spec, 1, "test")
    if "about" in found:
        _check_about(found["about"], spec, opened.data, path)
    if spec.vector_target is not None:
        kinds = "iu" if opened.task.target == "class" else "iuf"
        if answers.dtype.kind not in kinds:
            what = "integer labels" if kinds == "iu" else "numbers"
            raise UsageError(f"{path}: predictions must be {what}, got {answers.dtype}")
        try:
            return Replay(shaped(answers, opened.task), spec.rows(len(answers)))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
    images = part_hashes(test_images(spec))
    if answers.shape != (len(images),) or answers.dtype.kind not in "iu":
        raise UsageError(
            f"{path}: predictions must be integer labels [{len(images)}], one for each image of "
            f"the test set, got {answers.dtype} {list(answers.shape)}"
        )
    return PassReplay(answers, images)


def _read(path: Path) -> dict[str, Any]:
    """The arrays of a file by name.

    Raises:
        UsageError: it isn't there, or isn't of that form.
    """
    try:
        found = read_arrays(path, single=True)
    except DataUnavailable as error:
        raise UsageError(f"can't read predictions from {path}: {error}; {_FORM}") from error
    if "" in found:
        return {"predictions": found[""]}
    if "predictions" not in found:
        raise UsageError(
            f"{path} has no 'predictions', it holds {', '.join(found) or 'nothing'}; {_FORM}"
        )
    return found


def _in_order(found: Mapping[str, Any], path: Path) -> NDArray[Any]:
    """Predictions in the order of trials, from trial 0.

    Raises:
        UsageError: no trials, or an index that doesn't name each of the first trials once.
    """
    answers: NDArray[Any] = found["predictions"]
    if answers.ndim < 1 or not len(answers):
        raise UsageError(f"{path}: predictions are {list(answers.shape)}, without trials; {_FORM}")
    if "index" not in found:
        return answers
    index = np.asarray(found["index"])
    order = np.argsort(index, axis=None, kind="stable")
    whole = index.shape == answers.shape[:1]
    if not whole or not np.array_equal(index[order], np.arange(len(answers))):
        raise UsageError(
            f"{path}: index must name each trial from 0 to {len(answers) - 1} once, one for each "
            f"row of predictions, got {index.dtype} {list(index.shape)}"
        )
    return answers[order]


def _check_about(about: Any, spec: EnvSpec, data: Mapping[str, Any], path: Path) -> None:
    """Check that predictions were made for these trials.

    Raises:
        UsageError: they are for another environment or other data.
    """
    try:
        facts = json.loads(str(about))
        pairs = [
            ("env", facts["env"], spec.id),
            ("version", facts["version"], spec.version),
            ("data fingerprint", facts["data"]["fingerprint"], data["fingerprint"]),
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: 'about' isn't what 'lazybench trials' wrote ({error}); leave it out"
        ) from error
    for what, theirs, here in pairs:
        if theirs != here:
            raise UsageError(
                f"{path}: these predictions are for {what} {theirs}, here it is {here}; export the "
                f"trials again with: lazybench trials {spec.id}"
            )
