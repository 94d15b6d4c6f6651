"""`lazybench show ID --png FILE`: environments, records and runs as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lazybench.cli import out
from lazybench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from lazybench.records import Record


def draw(
    name: str, path: Path, *, trial: int, attacker: str | None, root: Path, runs: Path
) -> None:
    """Write the picture of an environment, a record or a finished run, and say where it is.

    Args:
        name: id or alias of an environment, or the first digits of a key.
        path: file to write.
        trial: which trial of an environment.
        attacker: who attacks, where attacks are drawn.
        root: folder of the store.
        runs: folder of the runs.

    Raises:
        UnknownName: nothing is called so.
        UsageError: a file that doesn't end in .png, or a name of something without a picture.
        DataUnavailable: the environment's data isn't installed.
        OutputUnavailable: the file can't be written.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--png takes a file that ends in .png, got '{path}'")
    content = _environment(name, trial, attacker)
    if content is None:
        if trial or attacker is not None:
            raise UsageError(f"--trial and --agent go with environments, and '{name}' is none")
        from lazybench.boards.record_picture import record_picture

        content = record_picture(_record(name, root, runs))
    from lazybench.records import write_bytes

    out.line(f"{write_bytes(path, content)}: drawn")


def _environment(name: str, trial: int, attacker: str | None) -> bytes | None:
    from lazybench.registry import AGENTS, DATASETS, ENVS

    try:
        found = ENVS.resolve(name)
    except UnknownName:
        if name in {spec.id for spec in AGENTS.specs()} or ":" in name:
            raise UsageError(
                f"'{name}' is an agent, which has no picture; draw a record of it: lazybench list "
                "runs"
            ) from None
        if name in {spec.id for spec in DATASETS.specs()}:
            raise UsageError(
                f"'{name}' is a data set; draw one of its environments: lazybench list envs"
            ) from None
        return None
    if found.note:
        out.note(found.note)
    from lazybench.harness.env_picture import env_picture

    return env_picture(found.spec, trial=trial, attacker=attacker)


def _record(key: str, root: Path, runs: Path) -> Record:
    """The record of a key, or of the finished run whose key begins so."""
    from lazybench.cli.show import KEY
    from lazybench.errors import StoreError, nearest
    from lazybench.files import read_file
    from lazybench.harness.runs import list_runs
    from lazybench.records import Record, Store
    from lazybench.registry import ENVS

    if not KEY.fullmatch(key):
        known = [spec.id for spec in ENVS.specs()]
        raise UnknownName(
            f"nothing is called '{key}': no environment, nor the start of a key (6 or more hex "
            f"digits).{nearest(key, known)} See: lazybench list envs|runs"
        )
    record = Store(root).find(key)
    if record is not None:
        return record
    found = [run for run in list_runs(runs) if run.key12.startswith(key[:12])]
    if len(found) != 1:
        several = ", ".join(run.key12 for run in found)
        raise UnknownName(
            f"key '{key}' fits several runs: {several}; give more digits"
            if found
            else f"no record in {root} and no run in {runs} has a key that begins with '{key}'; "
            "see: lazybench list runs"
        )
    done = sorted(found[0].path.glob("done*.json"), key=lambda path: len(path.name))
    if not done:
        raise UsageError(
            f"the run {found[0].key12} has no record yet: it is {found[0].status}; let it finish "
            f"(lazybench run --agent {found[0].agent} --env {found[0].env} …)"
        )
    try:
        return Record.from_json(read_file(str(json.loads(read_file(done[0]))["record"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise StoreError(
            f"{done[0]} names no record that can be read ({error}); run again with --force"
        ) from error
