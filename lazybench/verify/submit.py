"""Predictions of other frameworks: official trials as a file, and records of the answers.

Such frameworks don't run Gymnasium environments.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.agent import OpenedBlock
from lazybench.arguments import check_path, check_settings, check_whole
from lazybench.data.fingerprint import instance_hash
from lazybench.data.importing.arrays import read_arrays
from lazybench.errors import ContractError, DataUnavailable, UsageError
from lazybench.files import check_replaceable
from lazybench.records import Cost, Record, Store, replace_ours
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.evaluate import env_facts, is_block, open_env
from lazybench.runner.request import chosen_trials, official_trials, resolve_env
from lazybench.runner.run_dir import writable
from lazybench.runner.transfer import evaluate
from lazybench.specs import EnvSpec
from lazybench.tasks import TaskShape
from lazybench.verify.rescore import PassReplay, Replay, part_hashes, shaped, test_images

ENDINGS = {".npz": b"about.npy", ".jsonl": b'"protocol": {'}
"""Endings of files of trials, each with a mark in their first bytes."""
_MOST_BYTES = 1 << 32

Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Exported:
    """A file of exported trials.

    Attributes:
        path: the file.
        about: environment, data and the shape of the predictions that `score` takes.
        size: size of the file in bytes.
    """

    path: Path
    about: Mapping[str, Any]
    size: int


def need_answers(spec: EnvSpec) -> None:
    """Check that an environment's trials can be scored from answers alone.

    Raises:
        UsageError: they can't.
    """
    if spec.family == "attack":
        raise UsageError(
            f"{spec.id} is scored by the queries of an attack, and a file of answers can't prove "
            "how many queries were sent; run the environment instead: lazybench run, "
            "lazybench.evaluate, or the adapters of docs/attack.md"
        )
    if spec.family not in ("fewshot", "longtail"):
        raise UsageError(
            f"only trials of few-shot and long-tailed environments can be exported; {spec.id} is "
            f"of family {spec.family}; use lazybench.evaluate"
        )


def export_trials(
    env: str,
    path: Path,
    *,
    budget: str = "small",
    limit: int | None = None,
    arrays: bool = False,
    watch: Callback = SILENT,
) -> Exported:
    """Write an environment's official trials to a file, without query labels.

    Args:
        env: id or alias.
        path: `.npz`, or `.jsonl` with a line of facts and a line for each trial.
        budget: budget that sets the number of test trials.
        limit: export only the first `limit` trials.
        arrays: whether to write the instances as well as their hashes; only for npz.
        watch: called with the progress.

    Raises:
        UsageError: an unknown environment, budget or ending, trials that can't be scored from
            answers, or more bytes than a file should hold.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the file can't be written, or exists and isn't an export of trials.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"trials are written to {' or '.join(ENDINGS)}, got '{path}'")
    if arrays and path.suffix != ".npz":
        raise UsageError(f"--arrays goes with .npz, got '{path}'")
    mark, instead = ENDINGS[path.suffix], "name another file with --to, or move that one away"
    check_replaceable(path, mark=mark, instead=instead)
    spec, note = resolve_env(env)
    if note:
        watch.note(note)
    need_answers(spec)
    n, _ = chosen_trials(spec, budget, limit)
    opened = open_env(spec, spec.rows(n), "test")
    facts = env_facts(spec, opened, n)
    parts: Rows
    if not is_block(opened):
        images = test_images(spec)
        hashes = _as_text(part_hashes(images))
        parts = {"index": np.arange(len(hashes)), "image_sha256": hashes}
        if arrays:
            parts["x"] = np.asarray(images.x[images.rows])
        shape = [len(hashes)]
    else:
        _check_size(opened.task, n if arrays else 0)
        blocks = list(_blocks(opened, n, arrays, watch))
        parts = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        shape = [n, opened.task.query_rows, *opened.task.target_shape]
    about = {
        "env": spec.id,
        "version": spec.version,
        "budget": budget,
        "protocol": facts["env"]["protocol"],
        "data": facts["data"],
        "predictions": shape,
    }
    data = _npz(about, parts) if path.suffix == ".npz" else _lines(about, parts)
    written = replace_ours(path, data, mark=mark, instead=instead)
    return Exported(written, about, len(data))


def _check_size(task: TaskShape, trials: int) -> None:
    each = int(np.prod(task.instance)) * np.dtype(task.dtype).itemsize
    size = trials * (task.support_rows + task.query_rows) * each
    if size > _MOST_BYTES:
        raise UsageError(
            f"the arrays of {trials} trials take {size >> 30} GiB; write fewer with --limit, only "
            "their hashes without --arrays, or open them one by one with lazybench.make_env"
        )


def _blocks(env: OpenedBlock, trials: int, arrays: bool, watch: Callback) -> Iterator[Rows]:
    """The trials block by block: index, support labels, hashes, and optionally instances."""
    rows = env.num_envs
    watch.stage("trials", trials)
    for first in range(0, trials, rows):
        seen, _ = env.reset(options={"trials": np.arange(first, first + rows)})
        count = min(rows, trials - first)
        held = {name: part[:count].cpu().numpy() for name, part in seen.items()}
        block: Rows = {
            "index": np.arange(first, first + count),
            "support_y": held["support_y"],
            **{f"{side}_sha256": _hashed(held[f"{side}_x"]) for side in ("support", "query")},
        }
        if arrays:
            block |= {name: held[name] for name in ("support_x", "query_x")}
        yield block
        watch.advance(count, {})
    watch.finished()


def _hashed(x: NDArray[Any]) -> NDArray[np.str_]:
    """64 hex digits of each instance of `[n, rows, …]`, `[n, rows]`."""
    return np.stack([_as_text([instance_hash(each) for each in trial]) for trial in x])


def _as_text(hashes: list[bytes]) -> NDArray[np.str_]:
    return np.array([each.hex() for each in hashes])


def _npz(about: Mapping[str, Any], parts: Rows) -> bytes:
    held = io.BytesIO()
    packed: dict[str, Any] = {"about": np.array(json.dumps(about))}
    packed |= {k: v.astype("S64") if v.dtype.kind == "U" else v for k, v in parts.items()}
    np.savez_compressed(held, **packed)
    return held.getvalue()


def _lines(about: Mapping[str, Any], parts: Rows) -> bytes:
    rows = zip(*(part.tolist() for part in parts.values()), strict=True)
    lines = [about, *(dict(zip(parts, row, strict=True)) for row in rows)]
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode("ascii")


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
    arrays = _read(path)
    answers = _in_order(arrays, path)
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
    policy = _policy(spec, answers, arrays, path)
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


def _policy(spec: EnvSpec, answers: NDArray[Any], arrays: dict[str, Any], path: Path) -> Any:
    """A policy that returns these answers.

    Raises:
        UsageError: they have another shape, or belong to other data.
    """
    opened = open_env(spec, 1, "test")
    if "about" in arrays:
        _check_about(arrays["about"], spec, opened.data, path)
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
        arrays = read_arrays(path, single=True)
    except DataUnavailable as error:
        raise UsageError(f"can't read predictions from {path}: {error}; {_FORM}") from error
    if "" in arrays:
        return {"predictions": arrays[""]}
    if "predictions" not in arrays:
        raise UsageError(
            f"{path} has no 'predictions', it holds {', '.join(arrays) or 'nothing'}; {_FORM}"
        )
    return arrays


def _in_order(arrays: Mapping[str, Any], path: Path) -> NDArray[Any]:
    """Predictions in the order of trials, from trial 0.

    Raises:
        UsageError: no trials, or an index that doesn't name each of the first trials once.
    """
    answers: NDArray[Any] = arrays["predictions"]
    if answers.ndim < 1 or not len(answers):
        raise UsageError(f"{path}: predictions are {list(answers.shape)}, without trials; {_FORM}")
    if "index" not in arrays:
        return answers
    index = np.asarray(arrays["index"])
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
