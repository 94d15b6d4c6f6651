"""Other tools through doors: they run unchanged, and pay for every row."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lazybench.envs.attack.adapters import BudgetSpent, Door, as_art, as_callable, as_foolbox
from lazybench.envs.attack.blackbox import BlackBox
from lazybench.envs.attack.env import AttackVectorEnv
from lazybench.envs.attack.oracle import Oracle
from lazybench.errors import ContractError, UsageError

CLEAN = torch.full((3, 1, 2, 2), 0.5)
LABEL = torch.zeros(3, dtype=torch.int64)


class Counted:
    """Class 0 up to a mean brightness of .6, class 1 beyond; remembers what it was sent."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def __call__(self, rows: Tensor) -> Tensor:
        self.rows.append(rows.clone())
        mean = rows.flatten(1).mean(1)
        return torch.stack([0 * mean, 50 * (mean - 0.6)], 1)

    def __len__(self) -> int:
        return sum(map(len, self.rows))


def box(target: Any = None, images: int = 3, **settings: Any) -> BlackBox:
    given = {"eps": 10.0, "query_budget": 4, "mode": "minimise", **settings}
    return BlackBox(
        Oracle(Counted() if target is None else target, 2), CLEAN[:images], LABEL[:images], **given
    )


def rows(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2).clone()


def test_rows_belong_to_images_by_position_or_by_word() -> None:
    open_box = box()
    door = as_callable(open_box)
    door(rows(0.5, 0.5, 0.7))
    assert open_box.ledger.queries.tolist() == [1, 1, 1]
    with door.owner(2):
        door(rows(0.7, 0.7))
        # Also where there would be one for each image.
        door(np.full((1, 1, 2, 2), 0.5))
    with door.owner([0, 2]):
        door(rows(0.5, 0.5))
    assert open_box.ledger.queries.tolist() == [2, 1, 4]
    with pytest.raises(ContractError, match="whose are they"):
        door(rows(0.5, 0.5))
    with door.owner([0, 1]), pytest.raises(ContractError, match="2 rows"):
        door(rows(0.5))
    single = as_callable(box(images=1))
    assert len(single(rows(0.5, 0.5, 0.7))) == 3


def test_answers_are_the_targets_log_probabilities() -> None:
    target = Counted()
    result = as_callable(box(target))(rows(0.5, 0.61, 0.8))
    expected = torch.log_softmax(target(rows(0.5, 0.61, 0.8)), 1)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_labels_alone_are_shown_as_logits() -> None:
    door = as_callable(box(access="label"), classes=2)
    assert door(rows(0.5, 0.7, 0.5)).tolist() == [[10, 0], [0, 10], [10, 0]]
    with pytest.raises(UsageError, match="classes="):
        Door(box(access="label"))


def test_finished_images_cost_nothing_and_seem_to_be_won() -> None:
    target = Counted()
    open_box = box(target)
    door = as_callable(open_box)
    with door.owner(1):
        door(rows(0.5, 0.5, 0.5, 0.5))
    sent = len(target)
    result = door(rows(0.5, 0.5, 0.5))
    assert len(target) == sent + 2
    assert result.argmax(1).tolist() == [0, 1, 0]
    assert open_box.ledger.queries.tolist() == [1, 4, 1]
    with door.owner(1), pytest.raises(BudgetSpent):
        door(rows(0.5))
    assert open_box.verdict()["success"].tolist() == [0, 0, 0]


def test_a_door_on_an_environment_moves_with_its_resets(scripted: SimpleNamespace) -> None:
    env = AttackVectorEnv(
        2, target=f"{scripted.file}:make", images=scripted.images, query_budget=3, access="label"
    )
    env.reset(seed=0)
    door = as_foolbox(env)
    first = door.box
    door(torch.full((2, 1, 2, 2), 0.5))
    env.reset(seed=2)
    door(torch.full((2, 1, 2, 2), 0.5))
    assert door.box is not first
    assert first.ledger.queries.tolist() == door.box.ledger.queries.tolist() == [1, 1]
    with pytest.raises(UsageError, match="environment or a BlackBox"):
        as_callable(object())


@pytest.mark.parametrize("name", ["BoundaryAttack", "HopSkipJumpAttack"])
def test_foolbox_attacks_run_unchanged_and_pay_for_every_row(name: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    target = Counted()
    open_box = box(target, query_budget=120, access="label")
    door = as_foolbox(open_box, classes=2)
    assert not isinstance(door, torch.nn.Module)
    torch.manual_seed(0)
    attack = getattr(foolbox.attacks, name)(steps=400)
    finished = False
    with contextlib.suppress(BudgetSpent):
        attack(door, CLEAN, LABEL, epsilons=None, starting_points=torch.ones_like(CLEAN))
        finished = True
    result = open_box.verdict(recheck=False)
    assert not finished
    assert result["queries"].tolist() == [120, 120, 120]
    assert len(target) == 360
    assert result["success"].tolist() == [1, 1, 1]
    # The nearest adversarial is .1 a pixel away, .2 in all; attacks start at 1.
    assert (result["best_l2"] >= 0.2 - 1e-6).all()
    assert (result["best_l2"] < 0.6).all()


def test_foolbox_takes_the_kind_of_tensor_that_it_gave() -> None:
    eagerpy = pytest.importorskip("eagerpy")
    door = as_foolbox(box())
    assert tuple(door.bounds) == (0, 1)
    assert isinstance(door(eagerpy.astensor(CLEAN)), eagerpy.PyTorchTensor)
    assert isinstance(door(CLEAN.numpy()), np.ndarray)
    with door.owner(0), pytest.raises(ContractError, match="float images"):
        door(torch.zeros(1, 2, 2))


def test_an_art_attack_pays_for_every_row() -> None:
    pytest.importorskip("art", reason="ART isn't installed")
    from art.attacks.evasion import HopSkipJump

    target = Counted()
    open_box = box(target, images=1, query_budget=200)
    classifier = as_art(open_box, classes=2)
    attack = HopSkipJump(classifier, max_iter=3, max_eval=50, init_eval=10, verbose=False)
    with contextlib.suppress(BudgetSpent):
        attack.generate(CLEAN[:1].numpy(), np.zeros(1, np.int64))
    assert 0 < len(target) == int(open_box.ledger.queries[0]) <= 200
    assert open_box.verdict(recheck=False)["success"].tolist() == [1]


def test_without_art_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "art", None)
    with pytest.raises(UsageError, match="pip install"):
        as_art(box(), classes=2)


def slow(rows: Tensor) -> Tensor:
    """As `Counted`, with time for other threads in its middle."""
    time.sleep(0.0005)
    mean = rows.flatten(1).mean(1)
    return torch.stack([0 * mean, 50 * (mean - 0.6)], 1)


def at_once(ask: Callable[[int], Any], threads: int = 8) -> list[Any]:
    """What each of several threads gets, begun together."""
    gate = threading.Barrier(threads)

    def work(number: int) -> Any:
        gate.wait(30)
        return ask(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(threads)))


def test_threads_are_answered_one_after_another_and_all_charged() -> None:
    open_box = box(slow, query_budget=40)
    doors = [as_callable(open_box), as_foolbox(open_box, classes=2)]

    def ask(number: int) -> int:
        light = 0.5 + 0.03 * number
        right = 0
        for turn in range(20):
            result = doors[turn % 2](rows(light, light, light))
            right += int((result.argmax(1) == int(light > 0.6)).sum())
        return right

    with pytest.raises(BudgetSpent):
        # 160 calls, of which 40 can be paid: the others end in a line of their own.
        at_once(ask)
    assert open_box.ledger.queries.tolist() == [40, 40, 40]
    open_box = box(slow, query_budget=200)
    doors = [as_callable(open_box), as_foolbox(open_box, classes=2)]
    assert at_once(ask) == [60] * 8
    assert open_box.ledger.queries.tolist() == [160, 160, 160]
    assert open_box.ledger.left.tolist() == [40, 40, 40]
    # .62 is the darkest of the rows that were adversarial.
    assert open_box.verdict()["best_l2"] == pytest.approx(0.12 * 2, abs=1e-6)


def test_no_thread_is_charged_while_another_is(monkeypatch: pytest.MonkeyPatch) -> None:
    open_box = box(slow, query_budget=100)
    charge, busy, met = open_box.ledger.charge, threading.Lock(), []

    def charging(owner: Any) -> Any:
        met.append(busy.acquire(blocking=False))
        time.sleep(0.001)
        charged = charge(owner)
        if met[-1]:
            busy.release()
        return charged

    monkeypatch.setattr(open_box.ledger, "charge", charging)
    at_once(lambda number: [open_box.query(rows(0.5), [0]) for _ in range(5)])
    assert met == [True] * 40


def test_attacks_that_share_a_target_are_answered_in_turn() -> None:
    oracle = Oracle(slow, 2)
    boxes = [BlackBox(oracle, CLEAN, LABEL, eps=0.01, query_budget=99) for _ in range(8)]

    def ask(number: int) -> list[float]:
        result = [boxes[number].query(rows(0.5, 0.1 * number), [0, 1]) for _ in range(10)]
        return [float(each.scores[1, 0]) for each in result]

    for number, found in enumerate(at_once(ask)):
        expected = torch.log_softmax(torch.tensor([0.0, 50 * (0.1 * number - 0.6)]), 0)[0]
        assert found == pytest.approx([float(expected)] * 10, rel=1e-4, abs=1e-4)
    assert {tuple(each.ledger.queries) for each in boxes} == {(10, 10, 0)}


def test_each_thread_says_whose_its_rows_are() -> None:
    open_box = box(slow, query_budget=500)
    door = as_callable(open_box)

    def ask(number: int) -> None:
        with door.owner(number % 3):
            for _ in range(10):
                door(rows(0.5, 0.5))

    at_once(ask, threads=6)
    assert open_box.ledger.queries.tolist() == [40, 40, 40]


def test_a_target_that_asks_about_itself_is_reported() -> None:
    held: list[BlackBox] = []

    def predict(sent: Tensor) -> Tensor:
        if held:
            held[0].query(rows(0.5), [0])
        return slow(sent)

    held.append(box(predict))
    with pytest.raises(ContractError, match="queries itself"):
        held[0].query(rows(0.5), [0])
