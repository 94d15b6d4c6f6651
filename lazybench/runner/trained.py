"""What earlier runs left behind: their trained states, and weights to start from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from lazybench.errors import StoreError, UnknownName, UsageError
from lazybench.files import read_file
from lazybench.records import NetworkFacts
from lazybench.runner import checkpoint
from lazybench.runner.run_dir import list_runs
from lazybench.runner.train import Progress

FIRST_DIGITS = 6
"""Fewest digits of a key that name a run."""

MOST_WEIGHTS_BYTES = 1 << 34
"""Bytes of a file of weights, at most."""


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder with what it was asked for and how far it came.

    Attributes:
        folder: the working folder.
        asked: the agent as it was typed: an id, or `file.py:Class`.
        overrides: the settings that were asked for.
        network: what was trained, where the agent told.
        identity: what its key is made of.
        key: its key, 64 hex digits.
        progress: the newest sound checkpoint.
    """

    folder: Path
    asked: str
    overrides: dict[str, Any]
    network: NetworkFacts | None
    identity: dict[str, Any]
    key: str
    progress: Progress

    def state(self, step: str) -> tuple[Any, int]:
        """Return a state and the number of updates behind it.

        Args:
            step: `best` (as validated), `last`, or the number of updates of a kept checkpoint.

        Raises:
            UsageError: no such step is kept; the message names those that are.
        """
        progress = self.progress
        if step == "last":
            return progress.state, progress.step
        if step == "best":
            if progress.best is None:
                raise UsageError(
                    f"{self.folder} was cut off before its first validation, so there is no best "
                    "state; continue the run, or take --step last"
                )
            return progress.best, progress.best_step
        kept = checkpoint.steps(self.folder / "ckpt")
        if step in map(str, kept):
            tree = checkpoint.read(self.folder / "ckpt" / f"step-{step}")
            return Progress.of(tree).state, int(step)
        raise UsageError(
            f"step must be best, last or one of the kept checkpoints "
            f"({', '.join(map(str, kept)) or 'none'}), got '{step}'"
        )


@dataclass(frozen=True)
class Weights:
    """Parameters to start from, where they come from, and the sha256 of their content."""

    params: dict[str, Tensor]
    source: str
    sha256: str


def find_run(name: str, runs: Path) -> TrainedRun:
    """Return the run in a folder, or the one below `runs` whose key begins with `name`.

    Raises:
        UnknownName: there is no such run.
        UsageError: the key fits several, or nothing was trained there.
        StoreError: the newest checkpoint is damaged.
    """
    folder = Path(name)
    if not (folder / "config.json").is_file():
        known = list_runs(runs)
        fits = [run for run in known if len(name) >= FIRST_DIGITS and run.key12.startswith(name)]
        if len(fits) > 1:
            raise UsageError(
                f"key '{name}' fits several runs: {', '.join(run.key12 for run in fits)}; give "
                "more digits"
            )
        marks = sorted(runs.glob(f"*/done-{name}*.json")) if not fits else []
        if marks:
            raise UsageError(
                f"key '{name}' is that of a judgement; evaluate its fit, {marks[0].parent}, with "
                "the same settings of judging as --set"
            )
        if not fits:
            raise UnknownName(
                f"no run in {runs} has a key that begins with '{name}', and it is no run's folder; "
                "see: lazybench list runs"
            )
        folder = fits[0].path
    try:
        facts = json.loads(read_file(folder / "config.json"))
        key, asked = facts.pop("key"), facts.pop("asked")
        overrides, told = dict(facts.pop("overrides")), facts.pop("network_facts")
        network = None if told is None else NetworkFacts(**told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{folder}/config.json doesn't tell what is needed ({error}): it is no run's, or an "
            "older version of lazybench made it; run again with --force"
        ) from error
    found = checkpoint.load(folder / "ckpt")
    if found is not None and found[2]:
        # An earlier state would be judged as if it were the one that was trained.
        raise StoreError(
            f"{found[2][0].partition(';')[0]}; the command that trained it makes it anew"
        )
    if found is None or found[1] is None:
        raise UsageError(
            f"{folder} holds no trained state: an agent without training, or a run that was cut "
            "off before its first checkpoint"
        )
    return TrainedRun(folder, asked, overrides, network, facts, key, Progress.of(found[1]))


def read_weights(source: str, runs: Path) -> Weights:
    """Return the weights of a safetensors file, or the best meta-model of a run.

    Args:
        source: `FILE.safetensors`, a run's folder, or the first digits of its key.
        runs: folder of runs that keys are looked up in.

    Raises:
        UnknownName: neither a file nor a run.
        UsageError: a file that isn't whole, or a run whose state has no parameters `theta`.
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
                f"can't read weights from {path}: no whole safetensors file ({error}); write one "
                "with safetensors.torch.save_file"
            ) from error
        wild = [name for name, value in params.items() if not value.isfinite().all()]
        if wild:
            raise UsageError(f"weights in {path} must be finite, '{wild[0]}' isn't; save them anew")
        return Weights(params, path.name, hashlib.sha256(data).hexdigest())
    run = find_run(source, runs)
    state, step = run.state("best")
    theta = state.get("theta") if isinstance(state, dict) else None
    if not isinstance(theta, dict):
        raise UsageError(
            f"the agent of {run.folder} keeps no parameters as 'theta', so that another can't "
            "start from them"
        )
    agent, env = run.identity["agent"], run.identity["env"]
    text = f"{agent} on {env} ({run.key[:12]}, step {step})"
    return Weights(theta, text, checkpoint.digest(theta)[0])
