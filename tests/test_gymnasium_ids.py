"""Gymnasium's registry holds every environment and its own checks pass on each of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from lazybench import gymnasium_ids
from lazybench.envs import CATALOGUE, DATA_CATALOGUE
from lazybench.errors import DataUnavailable
from lazybench.specs import EnvSpec

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = {spec.id for spec in DATA_CATALOGUE if spec.embedded}
FEW_SHOT = [spec for spec in CATALOGUE if spec.family == "fewshot"]
LIGHT = [spec for spec in FEW_SHOT if spec.data in EMBEDDED]
EDGES = ("5way-1shot", "20way-5shot", "50way-5shot-noniid")
HEAVY = [spec for spec in FEW_SHOT if spec.data not in EMBEDDED and spec.id.endswith(EDGES)]


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    gymnasium_ids.register_all()


def check(spec: EnvSpec) -> None:
    # Warnings are errors here, so Gymnasium's advice counts too.
    env = gymnasium.make(spec.gymnasium_id, render_mode="rgb_array", disable_env_checker=True)
    check_env(env.unwrapped)
    assert env.spec is not None
    assert env.spec.max_episode_steps is None
    rewards = []
    for _ in range(2):
        first, info = env.reset(seed=7)
        env.action_space.seed(3)
        again, reward, terminated, truncated, evaluated = env.step(env.action_space.sample())
        assert (info["trial"], evaluated["trial"]) == (7, 7)
        assert (terminated, truncated) == (True, False)
        assert type(reward) is float
        rewards.append(reward)
        for name, part in first.items():
            np.testing.assert_array_equal(part, again[name])
    assert rewards[0] == rewards[1]
    second, _ = env.reset()
    assert not np.array_equal(first["query_x"], second["query_x"])


@pytest.mark.parametrize("spec", LIGHT, ids=lambda spec: spec.id)
def test_gymnasiums_checks_pass(spec: EnvSpec) -> None:
    check(spec)


@pytest.mark.data
@pytest.mark.parametrize("spec", HEAVY, ids=lambda spec: spec.id)
def test_gymnasiums_checks_pass_on_data(spec: EnvSpec) -> None:
    try:
        check(spec)
    except DataUnavailable as error:
        pytest.skip(str(error))


def test_registering_twice_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    gymnasium_ids.register_all()
    assert gymnasium.registry == before
    assert {spec.gymnasium_id for spec in CATALOGUE} <= set(before)


def test_any_way_and_shot_of_each_classification_data_set() -> None:
    names = {name for name in gymnasium.registry if name.endswith("-fewshot-v1")}
    ways = {spec.data for spec in FEW_SHOT if spec.kwargs["way"] > 1}
    assert {f"lazybench/{data}-fewshot-v1" for data in ways} <= names
    others = {spec.id for spec in DATA_CATALOGUE} - ways
    assert others == {"sinusoid", "mnist", "cifar10", "cifar100"}
    assert not {f"lazybench/{data}-fewshot-v1" for data in others} & names
    env: Any = gymnasium.make("lazybench/glyphs-fewshot-v1", way=7, shot=2).unwrapped
    assert (env.task.way, env.task.shot) == (7, 2)
    # The same trials as under the canonical id.
    there = gymnasium.make("lazybench/glyphs-fewshot-v1", way=5, shot=1).reset(seed=3)[0]
    here = gymnasium.make("lazybench/glyphs-5way-1shot-v1").reset(seed=3)[0]
    np.testing.assert_array_equal(there["query_x"], here["query_x"])


def test_vector_environments_are_native() -> None:
    envs = gymnasium.make_vec("lazybench/glyphs-5way-1shot-v1", num_envs=3, split="val")
    assert type(envs.unwrapped).__name__ == "FewShotVectorEnv"
    assert envs.num_envs == 3
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    observation, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observation)
    assert envs.single_observation_space.contains({k: v[0] for k, v in observation.items()})


def test_single_wrappers_work() -> None:
    env = gymnasium.make("lazybench/glyphs-5way-1shot-v1")
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.TimeLimit(env, 2))
    env.reset(seed=1)
    _, reward, terminated, truncated, info = env.step(np.zeros(75, np.int64))
    assert (terminated, truncated) == (True, False)
    assert info["episode"]["r"] == reward == 0.2
    assert info["episode"]["l"] == 1


def test_vector_wrappers_work() -> None:
    envs = gymnasium.make_vec("lazybench/glyphs-5way-1shot-v1", num_envs=2, max_episode_steps=2)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=1)
    _, rewards, done, _, info = envs.step(np.zeros((2, 75), np.int64))
    assert done.all()
    np.testing.assert_array_equal(info["episode"]["r"], rewards)
    np.testing.assert_array_equal(info["episode"]["l"], [1, 1])
    _, info = envs.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(info["trial"], [3, 2])
    _, rewards, _, _, info = envs.step(np.zeros((2, 75), np.int64))
    np.testing.assert_allclose(rewards, [0.2, 0.0])
    np.testing.assert_array_equal(info["_accuracy"], [True, False])


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LATER = """
import sys
from lazybench.gymnasium_ids import register_when_gymnasium_is_imported as later
later(); later()
import importlib.util
importlib.util.find_spec("gymnasium")  # asking is not importing
assert not {"gymnasium", "numpy", "torch"} & set(sys.modules)
import gymnasium
assert "lazybench/glyphs-5way-1shot-v1" in gymnasium.registry
assert not any("gymnasium_ids" in type(finder).__module__ for finder in sys.meta_path)
assert type(gymnasium.__spec__.loader).__module__.startswith(("importlib", "_frozen"))
assert gymnasium.__loader__ is gymnasium.__spec__.loader
assert "torch" not in sys.modules
import importlib.resources
assert importlib.resources.files("gymnasium").is_dir()
"""

FIRST = """
import gymnasium
from lazybench.gymnasium_ids import register_when_gymnasium_is_imported as later
later()
assert "lazybench/glyphs-5way-1shot-v1" in gymnasium.registry
"""


@pytest.mark.parametrize("code", [LATER, FIRST], ids=["lazybench first", "gymnasium first"])
def test_registers_in_either_order_of_imports(code: str) -> None:
    python(code)


@pytest.mark.parametrize("first", ["", "import lazybench\n"], ids=["alone", "lazybench first"])
def test_gymnasium_finds_us_by_module_name(first: str) -> None:
    out = python(
        f"{first}import gymnasium\n"
        "env = gymnasium.make('lazybench:lazybench/sinusoid-5shot-v1')\n"
        "print(env.unwrapped.task.target)"
    )
    assert out == "array"
