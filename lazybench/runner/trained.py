"""Finished runs: their trained states, and weights to start from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from lazybench.arguments import is_key
from lazybench.errors import StoreError, UnknownName, UsageError
from lazybench.files import read_file
from lazybench.records import NetworkFacts
from lazybench.runner import checkpoint
from lazybench.runner.run_dir import list_runs
from lazybench.runner.train import Progress

MOST_WEIGHTS_BYTES = 1 << 34
"""Size limit of a file of weights in bytes."""


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder with its request and its progress.

    Attributes:
        folder: the working folder.
        asked: the requested agent: an id, or `file.py:Class`.
        overrides: the settings that the request sets.
        network: the trained network, if the agent describes it.
        identity: fields that its key is computed from.
        key: its key, 64 hex digits.
        progress: the newest valid checkpoint.
    """

    folder: Path
    asked: str
    overrides: dict[str, Any]
    network: NetworkFacts | None
    identity: dict[str, Any]
    key: str
    progress: Progress

    def state(self, step: str) -> tuple[Any, int]:
        """Return a state and its number of updates.

        Args:
            step: `best` (by validation), `last`, or the number of updates of a stored checkpoint.

        Raises:
            UsageError: no such step is stored; the message names the stored ones.
        """
        progress = self.progress
        if step == "last":
            return progress.state, progress.step
        if step == "best":
            if progress.best is None:
                raise UsageError(
                    f"{self.folder} was interrupted before its first validation, so there is no "
                    "best state; resume the run, or use --step last"
                )
            return progress.best, progress.best_step
        kept = checkpoint.steps(self.folder / "ckpt")
        if step in map(str, kept):
            tree = checkpoint.read(self.folder / "ckpt" / f"step-{step}")
            return Progress.of(tree).state, int(step)
        raise UsageError(
            f"step must be best, last or one of the stored checkpoints "
            f"({', '.join(map(str, kept)) or 'none'}), got '{step}'"
        )


@dataclass(frozen=True)
class Weights:
    """Parameters to start from, where they come from, and the sha256 of their content."""

    params: dict[str, Tensor]
    source: str
    sha256: str


def _key(folder: Path) -> str:
    """The whole key of the run in a folder, whose configuration `list_runs` has read."""
    return str(json.loads(read_file(folder / "config.json"))["key"])


def find_run(name: str, runs: Path) -> TrainedRun:
    """Return the run in a folder, or the one below `runs` whose key begins with `name`.

    Raises:
        UnknownName: there is no such run.
        UsageError: several keys match, or the folder has no trained state.
        StoreError: the newest checkpoint is damaged.
    """
    folder = Path(name)
    if not (folder / "config.json").is_file():
        near = [run for run in list_runs(runs) if is_key(name) and run.key12.startswith(name[:12])]
        fits = [run for run in near if _key(run.path).startswith(name)]
        if len(fits) > 1:
            raise UsageError(
                f"key '{name}' is ambiguous: runs {', '.join(run.key12 for run in fits)}; give "
                "more digits"
            )
        marks = sorted(runs.glob(f"*/done-{name[:12]}*.json")) if is_key(name) and not fits else []
        if marks:
            raise UsageError(
                f"key '{name}' is that of an evaluation; use the training run {marks[0].parent}, "
                "with the same evaluation settings as --set"
            )
        if not fits:
            raise UnknownName(
                f"no run in {runs} has a key that begins with '{name}', and it isn't a run's "
                "folder; see: lazybench list runs"
            )
        folder = fits[0].path
    try:
        facts = json.loads(read_file(folder / "config.json"))
        key, asked = facts.pop("key"), facts.pop("asked")
        overrides, network_facts = dict(facts.pop("overrides")), facts.pop("network_facts")
        network = None if network_facts is None else NetworkFacts(**network_facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{folder}/config.json isn't a valid configuration of a run ({error}), or an older "
            "version of lazybench wrote it; run again with --force"
        ) from error
    saved = checkpoint.load(folder / "ckpt")
    if saved is not None and saved[2]:
        # An earlier state must not be evaluated as the final one.
        raise StoreError(
            f"{saved[2][0].partition(';')[0]}; repeat the training command to restore it"
        )
    if saved is None or saved[1] is None:
        raise UsageError(
            f"{folder} has no trained state: its agent doesn't train, or the run was interrupted "
            "before its first checkpoint"
        )
    return TrainedRun(folder, asked, overrides, network, facts, key, Progress.of(saved[1]))


def read_weights(source: str, runs: Path) -> Weights:
    """Return the weights of a safetensors file, or the best meta-model of a run.

    Args:
        source: `FILE.safetensors`, a run's folder, or the first digits of its key.
        runs: folder of runs in which keys are looked up.

    Raises:
        UnknownName: neither a file nor a run.
        UsageError: an invalid file, or a run whose state has no parameters `theta`.
    """
    path = Path(source)
    if path.suffix == ".safetensors" or path.is_file():
        try:
            data = read_file(path, MOST_WEIGHTS_BYTES)
            params = load_tensors(data)
        except OSError as error:
            raise UsageError(f"can't read weights from {path}: {error.strerror}") from error
        except SafetensorError as error:
            raise UsageError(
                f"can't read weights from {path}: not a valid safetensors file ({error}); write "
                "one with safetensors.torch.save_file"
            ) from error
        wild = [name for name, value in params.items() if not value.isfinite().all()]
        if wild:
            raise UsageError(
                f"weights in {path} must be finite, '{wild[0]}' isn't; save them again"
            )
        return Weights(params, path.name, hashlib.sha256(data).hexdigest())
    run = find_run(source, runs)
    state, step = run.state("best")
    theta = state.get("theta") if isinstance(state, dict) else None
    if not isinstance(theta, dict):
        raise UsageError(
            f"the state of {run.folder} has no parameters named 'theta', so another agent can't "
            "start from it"
        )
    agent, env = run.identity["agent"], run.identity["env"]
    text = f"{agent} on {env} ({run.key[:12]}, step {step})"
    return Weights(theta, text, checkpoint.digest(theta)[0])
