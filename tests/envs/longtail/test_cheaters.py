"""Who remembers where a test image came, or what its index was, gains nothing from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lazybench.envs.longtail.env import EVAL, LongTailEnv

Answer = Callable[[dict[str, Any], int], np.ndarray]

CLASSES, EACH = 60, 30
# Guesses are right with 1/60; four standard deviations of 1,800 guesses.
CHANCE = 1 / CLASSES + 4 * np.sqrt(1 / CLASSES / (CLASSES * EACH))


def one_pass(env: LongTailEnv, answer: Answer, seed: int = 0) -> float:
    obs, _ = env.reset(seed=seed)
    at, done, reward = 0, False, 0.0
    while not done:
        obs, reward, done, _, _ = env.step(answer(obs, at))
        at += 1
    return reward


def test_the_order_of_another_pass_reveals_nothing() -> None:
    env = LongTailEnv(data="glyphs", imbalance=100, split="test")
    image_class = {
        image.tobytes(): place // EACH for place, image in enumerate(env._labelled.test.x)
    }
    seen: list[np.ndarray] = []

    def knows_the_images(obs: dict[str, Any], at: int) -> np.ndarray:
        seen.append(np.array([image_class[image.tobytes()] for image in obs["x"]]))
        return seen[at]

    def remembers_the_order(obs: dict[str, Any], at: int) -> np.ndarray:
        return seen[at]

    # The images themselves tell all, so what the next cheater remembers is right.
    assert one_pass(env, knows_the_images) == 1.0
    assert one_pass(env, remembers_the_order) < CHANCE


def test_position_and_index_tell_nothing() -> None:
    env = LongTailEnv(data="glyphs", imbalance=100, split="test")

    def counts_on_sorted_files(obs: dict[str, Any], at: int) -> np.ndarray:
        return np.asarray((at * len(obs["y"]) + np.arange(len(obs["y"]))) // EACH)

    def looks_at_the_index(obs: dict[str, Any], at: int) -> np.ndarray:
        return np.clip(obs["index"], 0, CLASSES - 1)

    assert one_pass(env, counts_on_sorted_files) < CHANCE
    assert one_pass(env, looks_at_the_index) == 1 / CLASSES


def test_what_was_seen_in_training_reveals_nothing() -> None:
    env = LongTailEnv(data="glyphs", imbalance=100, batch=200, head=100)
    known: dict[bytes, int] = {}
    order: list[int] = []

    def remembers(obs: dict[str, Any], at: int) -> np.ndarray:
        if obs["phase"] != EVAL:
            known.update(
                (image.tobytes(), int(y)) for image, y in zip(obs["x"], obs["y"], strict=True)
            )
            order.extend(obs["y"])
            return np.full(200, -1)
        found = [known.get(image.tobytes()) for image in obs["x"]]
        # No image of the test was in the training; what is left is the order there.
        assert set(found) == {None}
        return np.array(order[:200])

    # Head classes are more frequent in that order, which doesn't help on a balanced test.
    assert one_pass(env, remembers) < CHANCE
