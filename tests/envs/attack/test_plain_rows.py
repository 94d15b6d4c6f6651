"""A query is numbers: whatever else its rows carry, the target sees none of it, nor they it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lazybench.envs.attack.adapters import as_callable, as_foolbox
from lazybench.envs.attack.blackbox import BlackBox
from lazybench.envs.attack.env import AttackVectorEnv
from lazybench.envs.attack.oracle import Oracle, plain
from lazybench.envs.own_target.form import TargetForm, in_form
from lazybench.envs.own_target.images import UserImages
from lazybench.envs.own_target.user_target import UserAttack
from lazybench.errors import ContractError
from lazybench.tasks import Queries

CLEAN = torch.full((2, 1, 2, 2), 0.5)
LABEL = torch.zeros(2, dtype=torch.int64)
SEEN: list[Any] = []


def spy() -> None:
    """Note every network and parameter that the code of a row can see from where it runs."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "attacker":
        SEEN.extend(
            value for value in frame.f_locals.values() if isinstance(value, torch.nn.Module)
        )
        frame = frame.f_back


class SpyTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        spy()
        SEEN.extend(arg for arg in args if isinstance(arg, torch.nn.Parameter))
        return super().__torch_function__(func, types, args, kwargs or {})


class SpyArray(np.ndarray):
    def __array_finalize__(self, other: Any) -> None:
        spy()

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        spy()
        return super().__array_function__(func, types, args, kwargs)


class Duck:
    """No tensor, but torch asks it what to do."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch.full((2, 1, 2, 2), 0.9).as_subclass(SpyTensor)


def with_hook(rows: Tensor) -> Tensor:
    rows = rows.clone().requires_grad_()
    rows.register_hook(lambda grad: spy())
    return rows


def with_attributes(rows: Tensor) -> Tensor:
    rows = rows.clone()
    evil = rows.as_subclass(SpyTensor)
    rows.detach = rows.to = rows.clone = rows.clamp = lambda *_, **__: evil  # type: ignore
    return rows


KINDS = {
    "subclass": lambda rows: rows.clone().as_subclass(SpyTensor),
    "parameter": torch.nn.Parameter,
    "hook": with_hook,
    "attributes": with_attributes,
    "array": lambda rows: rows.numpy().copy().view(SpyArray),
    "duck": lambda rows: Duck(),
}


class Net(torch.nn.Module):
    """Class 1 from a mean brightness of .6 on; looks at what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.0, 50.0]]))
        self.sent = 0

    def forward(self, rows: Any) -> Tensor:
        if isinstance(rows, np.ndarray):
            assert type(rows) is np.ndarray
            rows = torch.from_numpy(rows.copy())
        assert type(rows) is Tensor
        assert not rows.__dict__
        assert not rows.requires_grad
        assert rows._backward_hooks is None
        self.sent += len(rows)
        return (rows.flatten(1).mean(1, keepdim=True) - 0.6) @ self.weight


def open_box(net: Any, **settings: Any) -> BlackBox:
    given = {"eps": 10.0, "query_budget": 9, "mode": "minimise", **settings}
    return BlackBox(Oracle(net, None), CLEAN, LABEL, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_numbers_alone(kind: str) -> None:
    SEEN.clear()
    net = Net()
    box = open_box(net)
    door = as_callable(box, classes=2)

    def attacker() -> Any:
        rows = KINDS[kind](torch.full((2, 1, 2, 2), 0.9))
        owner = torch.arange(2)
        if isinstance(rows, Duck):
            with pytest.raises(ContractError, match="rows must be"):
                box.query(rows, owner)
            return [box.query(torch.ones(2, 1, 2, 2), owner)]
        door(rows)
        return [box.query(rows, owner.as_subclass(SpyTensor)), box.query(rows, [0, 1])]

    for result in attacker():
        assert result.labels.tolist() == [1, 1]
        assert all(type(part) is Tensor for part in result)
    assert SEEN == []
    assert net.sent == int(box.ledger.queries.sum()) > 0


@pytest.mark.parametrize("kind", ["subclass", "attributes", "array"])
def test_actions_of_an_environment_and_doors(scripted: SimpleNamespace, kind: str) -> None:
    SEEN.clear()
    env = AttackVectorEnv(
        2,
        target=f"{scripted.file}:net",
        images=scripted.images,
        eps=9.0,
        mode="minimise",
        backend="torch",
    )
    env.reset(seed=0)

    def attacker() -> Any:
        make = KINDS[kind]
        rows = make(torch.full((2, 1, 2, 2), 0.9))
        mask = torch.ones(2, 1).as_subclass(SpyTensor)
        result = [env.step(Queries(rows, torch.arange(2).as_subclass(SpyTensor)))]
        result.append(env.step({"rows": make(torch.full((2, 1, 1, 2, 2), 0.9)), "mask": mask}))
        door, again = as_foolbox(env), make(torch.full((2, 1, 2, 2), 0.9))
        if kind == "attributes":
            assert type(door(again)) is Tensor
        else:
            with pytest.raises(ContractError, match="torch or numpy arrays, got Spy"):
                door(again)
        return result

    for observation, *_ in attacker():
        assert observation["labels"].ravel().tolist() == [2, 2]
        assert {type(part) for part in observation.values()} == {Tensor}
    assert SEEN == []


@pytest.mark.parametrize("arrays", ["torch", "numpy"])
@pytest.mark.parametrize("kind", ["subclass", "hook", "attributes", "array"])
def test_a_target_of_ones_own(kind: str, arrays: Any) -> None:
    SEEN.clear()
    images = UserImages(CLEAN.numpy(), LABEL.numpy(), ("a", "b"))
    settings = {"norm": "l2", "eps": 2.0, "query_budget": 5, "mode": "minimise"}
    settings |= {"targeted": False, "access": "scores"}
    net = Net()
    target = UserAttack(
        in_form(net, TargetForm(arrays=arrays)), images, settings, eight_bit=False, probe=None
    )
    block, _ = target.open(np.arange(2))

    def attacker() -> Any:
        rows = KINDS[kind](torch.full((2, 1, 2, 2), 0.9))
        return block.step(Queries(rows, torch.arange(2)))

    assert attacker()[0]["labels"].tolist() == [1, 1]
    assert SEEN == []


class Told(torch.Tensor):
    """Scores that lead to the network that gave them."""


def test_answers_lead_nowhere() -> None:
    def predict(rows: Tensor) -> Tensor:
        net = Net()
        with torch.enable_grad():
            scores = net(rows).as_subclass(Told)
        scores.net = net
        return scores

    for access in ("scores", "label"):
        for part in open_box(predict, access=access).query(torch.ones(2, 1, 2, 2), [0, 1]):
            assert type(part) is Tensor
            assert not part.__dict__
            assert part.grad_fn is None
            assert not part.requires_grad


def test_what_is_no_array_is_refused() -> None:
    box = open_box(Net())
    for rows in ("rows", [[1], [1, 2]], object()):
        with pytest.raises(ContractError, match="rows must be"):
            box.query(rows, [0, 1])
    with pytest.raises(ContractError, match="no array of scores"):
        open_box(lambda rows: "scores").query(torch.ones(2, 1, 2, 2), [0, 1])
    assert box.ledger.queries.tolist() == [0, 0]


def test_rows_are_the_environments_own_once_they_are_sent() -> None:
    """A target, or another thread, that writes into what was sent changes nothing of it."""
    rows = torch.full((2, 1, 2, 2), 0.9)

    def writes(sent: Tensor) -> Tensor:
        scores = torch.stack([0 * sent.flatten(1).mean(1), sent.flatten(1).mean(1) - 0.6], 1)
        rows.fill_(0.5)
        return scores

    box = open_box(writes)
    assert box.query(rows, [0, 1]).labels.tolist() == [1, 1]
    assert box.best.unique().tolist() == [pytest.approx(0.9)]


def test_plain_keeps_values_and_types() -> None:
    for value in (torch.arange(3), np.arange(3.0), [1, 2], torch.ones(2, dtype=torch.float16)):
        found = plain(value)
        assert type(found) is Tensor
        assert found.tolist() == list(value)
    assert plain(torch.ones(2).half().as_subclass(SpyTensor)).dtype == torch.float16


def test_a_target_that_needs_gradients_inside_has_them(scripted: SimpleNamespace) -> None:
    for strict in (False, True):
        env = AttackVectorEnv(
            1, target=f"{scripted.file}:purifier", images=scripted.images, eps=9.0, strict=strict
        )
        observation, _ = env.reset(seed=0)
        assert observation["label"].tolist() == [0]
        observation, *_ = env.step(Queries(torch.full((1, 1, 2, 2), 0.9), torch.tensor([0])))
        assert observation["labels"].tolist() == [2]
        env.close()
    net = in_form(Net(), TargetForm())
    assert not plain(Oracle(net, None)(CLEAN)).requires_grad
