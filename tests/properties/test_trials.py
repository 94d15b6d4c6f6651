"""Official episodes are a function of the trial's number, however many are opened and as what."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import lazybench

LIKE_CI = settings(max_examples=12, deadline=None, derandomize=True, database=None)
TRIALS = st.lists(st.integers(0, 10**6), min_size=1, max_size=7)


@cache
def opened(env: str, split: str, rows: int, backend: str) -> Any:
    return lazybench.make_env(env, num_envs=rows, split=split, backend=backend)


def episodes(env: str, split: str, trials: list[int], rows: int, backend: str) -> list[Any]:
    """Episodes as arrays, opened so many at once; the last block is filled with others."""
    vector, found = opened(env, split, rows, backend), []
    for first in range(0, len(trials), rows):
        block = (trials[first : first + rows] + list(range(rows)))[:rows]
        observation, _ = vector.reset(options={"trials": np.array(block)})
        for row in range(min(rows, len(trials) - first)):
            found.append({name: np.asarray(part)[row].copy() for name, part in observation.items()})
    return found


@LIKE_CI
@given(
    env=st.sampled_from(["glyphs-5way-1shot", "glyphs-20way-5shot", "glyphs-5way-1shot-noniid"]),
    split=st.sampled_from(["val", "test"]),
    trials=TRIALS,
    rows=st.sampled_from([1, 2, 3, 5]),
    backend=st.sampled_from(["numpy", "torch"]),
)
def test_an_episode_is_its_number_alone(
    env: str, split: str, trials: list[int], rows: int, backend: str
) -> None:
    found = episodes(env, split, trials, rows, backend)
    for here, there in zip(found, episodes(env, split, trials, 1, "numpy"), strict=True):
        assert here.keys() == there.keys()
        for name in here:
            np.testing.assert_array_equal(here[name], there[name])
            assert here[name].dtype == there[name].dtype
    way, shot = (int(part.rstrip("wayshot")) for part in env.split("-")[1:3])
    for each in found:
        assert np.bincount(each["support_y"], minlength=way).tolist() == [shot] * way
        assert (each["query_y"] == -1).all(), "answers stay inside"
        assert len(each["query_x"]) == 15 * way
        pictures = np.concatenate([each["support_x"], each["query_x"]])
        assert len({picture.tobytes() for picture in pictures}) > 0.9 * len(pictures)


@LIKE_CI
@given(seed=st.integers(0, 2**31), rows=st.sampled_from([1, 3]))
def test_a_training_stream_is_its_seed_and_place(seed: int, rows: int) -> None:
    first, again = (
        opened("glyphs-5way-1shot", "train", rows, "numpy"),
        lazybench.make_env("glyphs-5way-1shot", num_envs=rows, split="train"),
    )
    for env in (first, again):
        env.reset(seed=seed)
    places = np.arange(rows) + seed % 1000
    one, other = (env.reset(options={"trials": places})[0] for env in (first, again))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    again.close()
