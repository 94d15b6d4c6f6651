"""Answers that were given before, played to the environment as a policy, so that it judges them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lazybench.data.fingerprint import instance_hash
from lazybench.data.labelled import Part, open_labelled
from lazybench.errors import UsageError
from lazybench.harness.judge import Scored, gathered, judge
from lazybench.specs import EnvSpec


class NotReplayed(UsageError):
    """Answers that can't be played again, for no fault of their own."""


class Replay:
    """A policy that gives stored answers block by block, whatever it is asked.

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


def judge_answers(spec: EnvSpec, env: Any, answers: NDArray[Any], seed: int) -> Scored:
    """Return what the environment makes of answers to its trials from the first one on.

    Args:
        spec: the environment.
        env: it, opened for the test.
        answers: `[n, …]`, or `[n]` for a pass over a test set.
        seed: of the run.

    Raises:
        UsageError: answers of another shape, or to other images than there are.
        NotReplayed: a pass whose images can't be told apart.
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
    blocks = list(judge(env, policy, spec.metric, trials, seed=seed, columns=spec.columns))
    return gathered(env, blocks, spec.columns, 0.0, 0.0)
