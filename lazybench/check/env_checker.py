"""Checks that an environment satisfies its contract; findings say what was observed or to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import env_checker

from lazybench.agent import OpenedEnv
from lazybench.check.contract import (
    Broken,
    Zeros,
    changed,
    copied,
    global_state_untouched,
    look,
    same,
)
from lazybench.errors import ContractError
from lazybench.findings import Finding
from lazybench.runner.evaluate import env_facts, evaluate_blocks, open_env
from lazybench.runner.request import official_trials, resolve_env
from lazybench.specs import EnvSpec
from lazybench.tasks import PADDING, Queries
from lazybench.user_code import load

_ROWS = 2
_FACTS = ("name", "fingerprint", "prep", "source")
_ANSWERS = ("query_y", "y")


def check_env(env: str) -> list[Finding]:
    """Check an environment: opening, spaces, determinism, scoring and hidden answers.

    Args:
        env: id or alias.
    """
    spec, _ = resolve_env(env)
    check = _EnvCheck(spec)
    findings = [look("opens", check.opens, "open it with lazybench.make_env to see where")]
    if not findings[0].ok:
        return findings
    looks: list[tuple[str, Callable[[], str]]] = [
        ("trials by index", check.trials_by_index),
        ("training by index", check.training_by_index),
        ("spaces", check.spaces_hold),
        ("hidden answers", check.hides),
        ("own copies", check.shows_copies),
        ("scores", check.scores),
    ]
    if spec.family == "attack":
        looks.append(("counts", check.counts))
    looks.append(("gymnasium", check.gymnasiums_checks))
    return [*findings, *(look(name, method) for name, method in looks)]


class _EnvCheck:
    """An environment under check, opened once for each split."""

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec
        self._opened: dict[str, Any] = {}

    @property
    def _in_blocks(self) -> bool:
        return self._spec.vector_target is not None

    def opens(self) -> str:
        spec = self._spec
        official_trials(spec, "smoke")
        for split in ("train", "val", "test"):
            with global_state_untouched():
                self._opened[split] = open_env(spec, _ROWS, split)
                self._opened[split].reset(seed=0)
        test = self._opened["test"]
        env_facts(spec, test, 1)
        missing = [name for name in _FACTS if not isinstance(test.data.get(name), str)]
        if missing:
            raise Broken(
                f"data must have {', '.join(_FACTS)} as text, missing: {', '.join(missing)}; "
                "records need them"
            )
        return f"{spec.id} on {test.data['source']}"

    def trials_by_index(self) -> str:
        if not self._in_blocks:
            self._a_pass_is_the_runs()
            return "a pass over the test shows all of it, whatever came before"
        first, _ = self._trials(self._opened["test"], 3, 4)
        second, _ = self._trials(self._opened["test"], 4, 3)
        elsewhere, _ = self._trials(open_env(self._spec, _ROWS, "test"), 3, 4)
        for name in first:
            if not same(first[name], torch.as_tensor(second[name]).flip(0)):
                raise Broken(f"{name} of a trial depends on its row; use only its index")
        if name := changed(first, elsewhere):
            raise Broken(
                f"{name} of a trial depends on what came before or on the process; use only the "
                "trial's index, so that every agent gets the same trials"
            )
        if all(same(first[name][0], first[name][1]) for name in first):
            raise Broken("trials 3 and 4 are the same; draw each by its index")
        return "a trial is the same in every row, block and environment"

    def _a_pass_is_the_runs(self) -> None:
        spec, policy = self._spec, Zeros()
        first, again = (
            next(evaluate_blocks(open_env(spec, 1, "val"), policy, spec.metric, 1, seed=0))
            for _ in range(2)
        )
        if not np.array_equal(first.scores, again.scores):
            raise Broken("a second pass over val gives other scores; use only the seed")

    def training_by_index(self) -> str:
        train = self._opened["train"]
        train.reset(seed=0)
        rows = train.num_envs
        first, second, again = (
            copied(train.reset(options={"trials": np.arange(at, at + rows)})[0])
            for at in (3, 3 + rows, 3)
        )
        if name := changed(first, again):
            raise Broken(f"{name} of a batch depends on what came before; use only its index")
        if not changed(first, second):
            raise Broken("two training batches are the same; draw each by its index")
        fresh = open_env(self._spec, _ROWS, "train")
        fresh.reset(seed=0)
        resumed = fresh.reset(options={"trials": np.arange(3, 3 + rows)})[0]
        if name := changed(first, resumed):
            raise Broken(
                f"{name} of a batch differs in a new process, so an interrupted run couldn't be "
                "resumed: use only seed and index"
            )
        return "a training batch is a function of the seed and its index, so runs can be resumed"

    def spaces_hold(self) -> str:
        for split in self._opened:
            shown = open_env(self._spec, _ROWS, split, backend="numpy")
            observation, _ = shown.reset(seed=0)
            space = shown.observation_space
            if not space.contains(observation):
                parts = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {}
                outside = [
                    name
                    for name, space in parts.items()
                    if name not in observation or not space.contains(observation[name])
                ]
                raise Broken(
                    f"an observation on {split} is outside of observation_space: "
                    f"{', '.join(outside) or 'it has other entries'}"
                )
        return "observations are in their spaces on every split"

    def hides(self) -> str:
        for split in ("val", "test"):
            observation, info = self._opened[split].reset(seed=0)
            for name in _ANSWERS:
                shown = observation.get(name)
                if shown is None:
                    continue
                values = torch.as_tensor(shown)
                hidden = values == (0 if values.is_floating_point() else -1)
                if not bool((hidden | (values == PADDING)).all()):
                    raise Broken(
                        f"{name} shows answers on {split}; hide them (-1 for labels, 0 for real "
                        "values)"
                    )
            held = [name for name, value in info.items() if isinstance(value, torch.Tensor)]
            if held:
                raise Broken(f"info of {split} has tensors: {', '.join(held)}; use numbers")
        return "answers of val and test are hidden"

    def shows_copies(self) -> str:
        for split in self._opened if self._in_blocks else ("train",):
            env = self._opened[split]
            trials = np.arange(env.num_envs)
            shown, _ = env.reset(options={"trials": trials})
            kept = copied(shown)
            for part in shown.values():
                tensor = torch.as_tensor(part)
                if tensor.ndim:
                    tensor.zero_()
            again, _ = env.reset(options={"trials": trials})
            if name := changed(kept, again):
                raise Broken(
                    f"writing into {name} of an observation on {split} changes the environment's "
                    "data; return copies"
                )
        return "changes of an observation don't affect the data"

    def scores(self) -> str:
        spec = self._spec
        if not self._in_blocks:
            return self._scores_a_pass()
        if spec.family == "attack":
            return "attacks are scored by their queries: see 'counts'"
        train, test = self._opened["train"], self._opened["test"]
        observation, _ = self._trials(train, 0, 1)
        right, wrong = observation["query_y"], Zeros()(observation)[0]
        best = self._score(train, right)
        observation, _ = self._trials(train, 0, 1)
        if not _better(best, self._score(train, wrong), spec.better):
            raise Broken(
                f"correct answers to training tasks get {spec.metric} {best.mean():.3f}, which "
                f"isn't better than predicting 0; {spec.better} must be better"
            )
        self._trials(test, 3, 4)
        scores = [self._score(test, wrong)]
        self._trials(test, 3, 4)
        scores.append(self._score(test, wrong))
        if not np.array_equal(*scores):
            raise Broken("equal answers to the same trial get different scores; use only its index")
        self._trials(test, 3, 4)
        _refuses(lambda: test.step(wrong[:, 1:]), "answers to all but one query row")
        return f"correct answers get {spec.metric} {best.mean():.3f}; wrong shapes are refused"

    def _scores_a_pass(self) -> str:
        spec = self._spec
        test = self._opened["test"]
        passed = next(evaluate_blocks(test, Zeros(), spec.metric, 1))
        official = spec.trials["smoke"]
        if len(passed.scores) != official:
            raise Broken(
                f"a pass over the test scores {len(passed.scores)} trials, but the EnvSpec has "
                f"{official}; correct its trials"
            )
        observation, _ = test.reset(seed=0)
        few = torch.zeros_like(torch.as_tensor(observation["y"]))[1:]
        _refuses(lambda: test.step(few), "answers to all but one row")
        return f"predicting 0 gets {spec.metric} {passed.score(spec.metric):.3f} on {official} rows"

    def counts(self) -> str:
        test = self._opened["test"]
        seen, _ = self._trials(test, 0, 1)
        left = torch.as_tensor(seen["left"]).clone()
        query = Queries(seen["x"][:1].clone(), torch.zeros(1, dtype=torch.int64))
        seen, _, _, _, _ = test.step(query)
        spent = (left - torch.as_tensor(seen["left"])).tolist()
        if spent != [1, 0]:
            raise Broken(
                f"a query for the first of two images costs {spent} queries; charge each row to "
                "its owner"
            )
        return "a query is charged once, and only to its image"

    def gymnasiums_checks(self) -> str:
        spec = self._spec
        split = "test" if self._in_blocks else "train"
        env = load(spec.target)(**{**spec.kwargs, "split": split})
        with warnings.catch_warnings(record=True) as advice:
            warnings.simplefilter("always")
            try:
                env_checker.check_env(env, skip_render_check=True)
            except Exception as error:
                raise Broken(
                    f"Gymnasium's own check of {spec.target} fails: {error}; see "
                    "gymnasium.utils.env_checker.check_env"
                ) from error
        if advice:
            raise Broken(f"Gymnasium's own check of {spec.target} warns: {advice[0].message}")
        drawn = self._draws(split)
        return f"Gymnasium's own check passes; {drawn}"

    def _draws(self, split: str) -> str:
        target = load(self._spec.target)
        if "rgb_array" not in target.metadata.get("render_modes", ()):
            return "it has no render mode"
        env = target(**{**self._spec.kwargs, "split": split, "render_mode": "rgb_array"})
        env.reset(seed=0)
        picture = np.asarray(env.render())
        env.close()
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise Broken(
                f"render must return uint8 [height, width, 3], got {picture.dtype} "
                f"{list(picture.shape)}"
            )
        return f"it renders {picture.shape[1]}x{picture.shape[0]} pixels"

    def _trials(self, env: OpenedEnv, *trials: int) -> tuple[Any, Mapping[str, Any]]:
        observation, info = env.reset(options={"trials": np.array(trials)})
        return copied(observation), info

    def _score(self, env: gymnasium.vector.VectorEnv[Any, Any, Any], action: Any) -> Any:
        with global_state_untouched():
            _, _, _, _, info = env.step(action)
        metric = self._spec.metric
        if metric not in info:
            raise Broken(
                f"the info of a trial's last step must have {metric}; got {', '.join(info)}"
            )
        return np.asarray(info[metric], dtype=np.float64)


def _better(ours: Any, theirs: Any, better: str) -> bool:
    return bool(ours.mean() > theirs.mean() if better == "higher" else ours.mean() < theirs.mean())


def _refuses(step: Callable[[], Any], what: str) -> None:
    """Check that a step with an invalid action is refused.

    Raises:
        Broken: it is accepted, or refused without a reason.
    """
    try:
        step()
    except ContractError:
        return
    except Exception as error:
        raise Broken(
            f"{what} end in {type(error).__name__}: {error}; raise lazybench.errors.ContractError, "
            "which says what is allowed"
        ) from error
    raise Broken(f"{what} are accepted; refuse them with lazybench.errors.ContractError")
