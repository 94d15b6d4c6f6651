"""Nothing that an agent can reach by attributes holds a network or the answers to a trial."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from lazybench import gymnasium_ids, registry

IDS = ("glyphs-5way-1shot", "glyphs-5way-1shot-noniid", "sinusoid-5shot")
MOST = 200_000


def children(thing: object) -> Iterator[object]:
    """What an object leads to: attributes, items, closures and what functions are bound to."""
    if isinstance(thing, Mapping):
        yield from thing.keys()
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from thing
    elif isinstance(thing, types.MethodType):
        yield thing.__self__
        yield thing.__func__
    elif isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            yield cell.cell_contents
        yield from thing.__defaults__ or ()
        yield from (thing.__kwdefaults__ or {}).values()
    if not isinstance(thing, type | types.ModuleType):
        yield from getattr(thing, "__dict__", {}).values()
        for kind in type(thing).__mro__:
            for name in getattr(kind, "__slots__", ()):
                yield getattr(thing, name, None)


def reach(*roots: object) -> Iterator[object]:
    seen: dict[int, object] = {}
    todo = list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, str | bytes | int | float | type(None)):
            continue
        seen[id(thing)] = thing
        assert len(seen) < MOST, "the walk left the environment"
        yield thing
        todo.extend(children(thing))


def leaks(answers: np.ndarray, *roots: object) -> list[str]:
    """Networks, and arrays that hold the answers, whole or as one row of a block."""
    found = []
    for thing in reach(*roots):
        if isinstance(thing, torch.nn.Module):
            found.append(type(thing).__name__)
        if isinstance(thing, torch.Tensor):
            thing = thing.detach().cpu().numpy()
        if isinstance(thing, np.ndarray) and thing.size % answers.size == 0 and thing.size:
            if thing.dtype.kind not in "iuf" or thing.size > 100 * answers.size:
                continue
            if (thing.reshape(-1, answers.size) == answers.reshape(-1)).all(axis=1).any():
                found.append(f"array {thing.shape}")
    return found


def opened(name: str, vector: bool, split: str) -> tuple[Any, np.ndarray, list[object]]:
    gymnasium_ids.register_all()
    if vector:
        env: Any = gymnasium.make_vec(f"lazybench/{name}-v1", num_envs=2, split=split)
        env = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    else:
        env = gymnasium.make(f"lazybench/{name}-v1", split=split)
        env = gymnasium.wrappers.RecordEpisodeStatistics(env)
    observation, info = env.reset(seed=11)
    inner = env.unwrapped if vector else env.unwrapped._row
    answers = inner.trials.sampler.answers(inner._keys)[0].copy()
    held = [observation, info, env.spec, env.unwrapped.spec, registry.ENVS.resolve(name).spec]
    action = np.zeros(env.action_space.shape, env.action_space.dtype)
    return env, answers, [*held, env.step(action)]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("split", ["val", "test"])
def test_no_answer_and_no_network_is_in_reach(name: str, vector: bool, split: str) -> None:
    env, answers, held = opened(name, vector, split)
    assert leaks(answers, env, *held) == []


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_no_label_of_a_stream_is_in_reach_before_the_end(split: str) -> None:
    gymnasium_ids.register_all()
    env: Any = gymnasium.make("lazybench/glyphs-lt-100-v1", split=split, batch=600)
    env = gymnasium.wrappers.RecordEpisodeStatistics(env)
    observation, info = env.reset(seed=11)
    inner = env.unwrapped
    held: list[object] = [info, env.spec, inner.spec]
    while inner._pass is None:
        observation, *rest = env.step(np.full(600, -1))
        held.append(rest)
    hidden = inner._pass
    by_image = inner._part.labels
    as_shown = by_image[hidden._order()]
    for _ in range(hidden.batches - 1):
        observation, *rest = env.step(np.zeros(600, np.int64))
        held += [observation, rest]
    # The dev set is handed out on train, but not where it is evaluated.
    for answers in (by_image, as_shown, as_shown[:600]):
        assert leaks(answers, env, observation, *held) == []
    if hidden.batches > 1:
        assert set(rest[-1]) == set()
    observation, *rest = env.step(np.zeros(600, np.int64))
    assert rest[0] == pytest.approx(1 / 60)
    assert set(rest[-1]) >= {"accuracy", "correct", "predictions", "metrics"}


def test_the_walk_sees_what_is_there() -> None:
    """On train the answers are shown, so the same walk must find them."""
    env, answers, held = opened("glyphs-5way-1shot", False, "train")
    assert leaks(answers, env)
    assert leaks(answers, *held)
    labels = np.arange(75) % 5

    def closure() -> np.ndarray:
        return labels

    assert leaks(labels, closure) == ["array (75,)"]
    assert leaks(labels, {"a": [torch.nn.Linear(1, 1)]}) == ["Linear"]
