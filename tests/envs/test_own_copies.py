"""Whatever leaves an environment holds what it shows and nothing else: no view, base or attribute.

A view of a block of scores, of a whole task or of a data set would show what is hidden to whoever
looks behind it, and let them change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lazybench
from lazybench.runner.evaluate import evaluate_blocks
from lazybench.tasks import Queries
from lazybench.user_code import load

Span = tuple[int, int]

FEWSHOT = ("glyphs-5way-1shot", {}), ("sinusoid-5shot", {})
LONGTAIL = ("glyphs-lt-100", {"batch": 700, "dev_batch": 60})
ATTACKS = tuple(
    (f"glyphs-net4-{kind}", {}) for kind in ("untargeted", "untargeted-label", "targeted-linf")
)
MAPS = ("glyphs-net4-untargeted", {"shots": 3, "queries": 2})


reach = load(f"{Path(__file__).with_name('test_hidden_answers.py')}:reach")


def held(part: Any) -> tuple[Span, list[str]]:
    """The memory behind an array or tensor, and what it holds next to what it shows."""
    wrong = []
    if isinstance(part, Tensor):
        storage = part.untyped_storage()
        span = (storage.data_ptr(), storage.data_ptr() + storage.nbytes())
        shown = part.numel() * part.element_size()
        if type(part) is not Tensor or part.__dict__ or part._backward_hooks:
            wrong.append("it is of a subclass, or has attributes or hooks")
        if part.requires_grad or part.grad_fn is not None:
            wrong.append("it has a graph")
        if part._base is not None and part._base.numel() != part.numel():
            wrong.append(f"its base has {part._base.numel()} numbers")
    else:
        root = part
        while isinstance(root.base, np.ndarray):
            root = root.base
        span, shown = np.lib.array_utils.byte_bounds(root), part.nbytes
        span = span if root.size else (span[0], span[0])
        if isinstance(root.base, Tensor):
            span, _ = held(root.base)
        elif root.base is not None:
            wrong.append(f"its base is {type(root.base).__name__}")
        if type(part) is not np.ndarray:
            wrong.append(f"it is a {type(part).__name__}")
    if span[1] - span[0] != shown:
        wrong.append(f"it shows {shown} bytes of {span[1] - span[0]}")
    return span, wrong


def parts(thing: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every array and tensor of an observation, of infos, or of a step's whole answer."""
    if isinstance(thing, Tensor | np.ndarray):
        yield name, thing
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from parts(value, f"{name}.{key}")
    elif isinstance(thing, tuple | list):
        for place, value in enumerate(thing):
            yield from parts(value, f"{name}[{place}]")


class Watch:
    """Looks at what an environment gives out, one answer after another."""

    def __init__(self, env: Any) -> None:
        self.env, self.seen, self.kept = env, 0, []

    def look(self, given: Any) -> Any:
        own = [held(part)[0] for part in self._arrays()]
        earlier = [held(part)[0] for _, part in self.kept]
        now: list[Span] = []
        for name, part in parts(given):
            span, wrong = held(part)
            assert wrong == [], f"{name}: {wrong}"
            for what, others in (("the environment", own), ("an earlier answer", earlier),
                                 ("another entry", now)):  # fmt: skip
                meets = any(span[0] < end and begin < span[1] for begin, end in others)
                assert not meets, f"{name} shares memory with {what}"
            now.append(span)
            self.seen += 1
        self.kept = list(parts(given))
        return given

    def _arrays(self) -> Iterator[Any]:
        for thing in reach(self.env):
            if isinstance(thing, Tensor | np.ndarray):
                yield thing


def answer(env: Any, observation: Mapping[str, Any]) -> Any:
    """Any action that is allowed."""
    if "left" not in observation:
        action = np.zeros(env.action_space.shape, env.action_space.dtype)
        return {"labels": action, "probs": _even(env)} if hasattr(env.task, "steps") else action
    rows = np.asarray(observation["x"])
    # Brighter, so that many of them succeed and are evaluated.
    sent = np.minimum(rows + 0.9, 1).astype(np.float32)
    if hasattr(env, "num_envs"):
        return {"rows": sent[:, None], "mask": np.ones((len(sent), 1), bool)}
    return {"rows": sent[None], "mask": np.ones(1, bool)}


def _even(env: Any) -> np.ndarray:
    return np.full((env.task.batch, env.task.classes), 1 / env.task.classes, np.float32)


def opened(name: str, split: str, backend: str, rows: int | None, **settings: Any) -> Any:
    return lazybench.make_env(name, split=split, backend=backend, num_envs=rows, **settings)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("rows", [None, 1, 3])
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(("name", "settings"), FEWSHOT)
def test_few_shot(name: str, settings: Any, split: str, rows: int | None, backend: str) -> None:
    watch = Watch(opened(name, split, backend, rows, **settings))
    for _ in range(2):
        observation, _ = watch.look(watch.env.reset(seed=3))
        watch.look(watch.env.step(answer(watch.env, observation)))
    if rows == 3:
        watch.look(watch.env.reset(options={"reset_mask": np.array([True, False, True])}))
    assert watch.seen >= 16


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_long_tail(split: str, backend: str) -> None:
    name, settings = LONGTAIL
    watch = Watch(opened(name, split, backend, None, render_mode="rgb_array", **settings))
    observation, _ = watch.look(watch.env.reset(seed=3))
    done = False
    while not done:
        observation, _, done, _, info = watch.look(watch.env.step(answer(watch.env, observation)))
    assert {"correct", "predictions", "metrics"} <= set(info)
    assert watch.seen >= 16
    if split == "train":
        watch.look(watch.env.reset(options={"trials": [1]}))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("rows", [None, 1, 3])
@pytest.mark.parametrize("split", ["train", "val"])
def test_gradient_maps(split: str, rows: int | None, backend: str) -> None:
    name, settings = MAPS
    watch = Watch(opened(name, split, backend, rows, **settings))
    observation, _ = watch.look(watch.env.reset(seed=3))
    watch.look(watch.env.step(answer(watch.env, observation)))
    if rows is not None:
        watch.look(watch.env.examples())
    assert watch.seen >= 8


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("rows", [None, 1, 3])
@pytest.mark.parametrize(("name", "settings"), ATTACKS)
def test_attacks(name: str, settings: Any, rows: int | None, backend: str) -> None:
    watch = Watch(opened(name, "test", backend, rows, query_budget=3, **settings))
    env = watch.env
    observation, _ = watch.look(env.reset(seed=3))
    watch.look(env.step(answer(env, observation)))
    if "scores" in observation:
        assert name != "glyphs-net4-untargeted-label"
    many = rows or 1
    # Of the second round no row is served any more.
    for _ in range(2):
        images = torch.as_tensor(observation["x"]).reshape(many, 1, 28, 28).repeat(2, 1, 1, 1)
        result = watch.look(env.step(Queries(images, torch.arange(many).repeat(2))))
        if "label" in name:
            scores = result[0]["scores"]
            assert held(scores)[0][0] == held(scores)[0][1], "scores are hidden"
        if rows is None and (result[2] or result[3]):
            break
    if rows == 3:
        watch.look(env.reset(options={"reset_mask": np.array([True, False, True])}))
    box = env.box
    watch.look([box.x, box.label, box.best, box.goal, box.verdict()])
    result = Watch(env).look(box.query(images.double().numpy(), np.arange(2 * many) % many))
    assert watch.seen > 30


def test_taken_tasks() -> None:
    x, y = torch.rand(4, 6, 3), torch.arange(6).repeat(4, 1) % 3
    batches = [{"train": (x, y), "test": (x, y)}]
    for split in ("train", "test"):
        for backend in ("numpy", "torch"):
            env = lazybench.from_torchmeta(batches, num_envs=2, split=split, backend=backend)
            watch = Watch(env)
            observation, _ = watch.look(env.reset(seed=0))
            watch.look(env.step(answer(env, observation)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("glyphs-5way-1shot", {"num_envs": 2}), ("sinusoid-5shot", {"num_envs": 1}),
     (LONGTAIL[0], LONGTAIL[1]), (MAPS[0], {"num_envs": 2, **MAPS[1]})],
)  # fmt: skip
def test_training_batches(name: str, settings: Any) -> None:
    env = lazybench.make_env(name, split="train", **settings)
    watch = Watch(env)
    for batch in lazybench.as_dataset(env, seed=1, batches=2):
        watch.look(batch)
    if "way" in name:
        for batch in lazybench.as_torchmeta(env, batches=2):
            watch.look(batch)
    assert watch.seen


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize(
    ("name", "settings"),
    [*FEWSHOT, ("glyphs-net4-untargeted-label", {"query_budget": 2}), (LONGTAIL[0], {})],
)
def test_what_policies_receive(name: str, settings: Any, vectorized: bool) -> None:
    rows = None if name.startswith("glyphs-lt") else 2
    env = opened(name, "test", "torch", rows, **settings)
    watch = Watch(env)
    given: list[Any] = []

    def policy(observation: Any, memory: Any) -> tuple[Any, Any]:
        # Rows of one block are given out together, so all of them are kept.
        given.append(watch.look(observation))
        watch.kept = [pair for each in given[-3:] for pair in parts(each)]
        if "left" in observation:
            n = len(observation["x"]) if vectorized else 1
            x = observation["x"].reshape(n, 1, 1, 28, 28)
            return {"rows": x if vectorized else x[0], "mask": torch.ones(n, 1)}, None
        asked = observation["query_y" if "query_y" in observation else "y"]
        return torch.zeros_like(asked), None

    policy.vectorized = vectorized  # type: ignore[attr-defined]
    metric = {"sinusoid-5shot": "mse", "glyphs-net4-untargeted-label": "success"}
    if "left" in env.observation_space.spaces and not vectorized:
        pytest.skip("attackers send for a whole block")
    first = next(evaluate_blocks(env, policy, metric.get(name, "accuracy"), 2))
    assert len(first.scores) >= 2
    assert watch.seen >= 4


def test_the_walk_sees_views() -> None:
    block = torch.zeros(4, 3)
    for view in (block[:, :0], block[1], block[1:2].numpy()):
        assert held(view)[1] != []
    assert held(block.clone().requires_grad_())[1] == ["it has a graph"]
    env = lazybench.make_env("glyphs-5way-1shot", backend="torch", num_envs=2)
    env.reset(seed=0)
    with pytest.raises(AssertionError, match="shares memory with the environment"):
        Watch(env).look(env._block.query_x)
