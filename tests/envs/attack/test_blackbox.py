"""Queries: charged before they are sent, judged by the environment, answered once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lazybench.envs.attack.blackbox import BlackBox
from lazybench.envs.attack.oracle import Oracle
from lazybench.errors import ContractError
from lazybench.tasks import Queries

CLEAN = torch.full((3, 1, 2, 2), 0.5)
LABEL = torch.zeros(3, dtype=torch.int64)


def brightness(rows: Tensor) -> Tensor:
    """Class 0 up to a mean brightness of .6, class 1 beyond, class 2 from .8 on."""
    mean = rows.flatten(1).mean(1)
    return torch.stack([0 * mean, 50 * (mean - 0.6), 100 * (mean - 0.7)], 1)


class Counted:
    """A target that remembers how many rows it was sent, call by call."""

    def __init__(self, predict: Callable[[Tensor], Any] = brightness) -> None:
        self.calls: list[int] = []
        self.predict = predict

    def __call__(self, rows: Tensor) -> Any:
        self.calls.append(len(rows))
        return self.predict(rows)


def box(target: Any = brightness, goal: Tensor | None = None, **settings: Any) -> BlackBox:
    given = {"eps": 1.0, "query_budget": 5, **settings}
    return BlackBox(Oracle(target, 3), CLEAN, LABEL, goal, **given)


def rows(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2).clone()


def test_replies_are_log_probabilities_and_successes_inside_the_ball() -> None:
    result = box(eps=0.5).query(rows(0.5, 0.7, 0.9), [0, 1, 2])
    torch.testing.assert_close(
        result.scores, torch.log_softmax(brightness(rows(0.5, 0.7, 0.9)), 1), rtol=0, atol=0
    )
    assert result.labels.tolist() == [0, 1, 2]
    # Four pixels .2 and .4 away: L2 .4 and .8.
    assert result.hit.tolist() == [False, True, False]
    assert result.left.tolist() == [4, 4, 4]
    assert result.done.tolist() == [False, True, False]
    assert not result.scores.requires_grad
    (result.scores * torch.ones(3, requires_grad=True)).sum().backward()


def test_a_targeted_success_is_the_goal_alone_and_linf_is_the_largest_change() -> None:
    goal = torch.tensor([1, 2, 2])
    attacked = box(goal=goal, norm="linf", eps=0.4)
    result = attacked.query(rows(0.9, 0.7, 0.9), [0, 1, 2])
    assert result.hit.tolist() == [False, False, True]
    verdict = attacked.verdict()
    assert verdict["success"].tolist() == [0, 0, 1]
    assert verdict["best_l2"].tolist() == pytest.approx([-1, -1, 0.8])


def test_rows_past_the_budget_are_refused_and_not_sent() -> None:
    target = Counted()
    attacked = box(target, query_budget=2, mode="minimise")
    result = attacked.query(rows(0.5, 0.7, 0.5, 0.7, 0.9), [0, 0, 1, 0, 1])
    assert target.calls == [4]
    assert result.served.tolist() == [True, True, True, False, True]
    assert result.labels.tolist() == [0, 1, 0, -1, 2]
    assert result.done.tolist() == [True, True, False]
    result = attacked.query(rows(0.7, 0.7), [0, 1])
    assert target.calls == [4], "nothing was sent"
    assert not result.served.any()
    assert not result.hit.any()
    assert attacked.ledger.queries.tolist() == [2, 2, 0]


def test_rows_after_a_success_in_the_same_call_are_charged() -> None:
    attacked = box()
    attacked.query(rows(0.5, 0.7, 0.65), [1, 1, 1])
    verdict = attacked.verdict()
    assert verdict["queries"].tolist() == [0, 3, 0]
    assert verdict["success_query"].tolist() == [0, 2, 0]
    assert verdict["best_l2"][1] == pytest.approx(0.3)
    torch.testing.assert_close(attacked.best[1], rows(0.65)[0])
    assert attacked.best_class.tolist() == [-1, 1, -1]
    attacked.open(np.array([False, True, False]), CLEAN[:1], LABEL[:1], None)
    assert attacked.best_class.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_charged_and_never_succeed(bad: float) -> None:
    def naive(images: Tensor) -> Tensor:
        assert bool(images.isfinite().all()), "none of them may reach the target"
        return brightness(images)

    attacked = box(naive, eps=float("inf"))
    spoilt = rows(0.9, 0.9)
    spoilt[0, 0, 0, 0] = bad
    result = attacked.query(spoilt, [0, 1])
    assert result.labels.tolist() == [0, 2], "the clean image's answer"
    assert result.hit.tolist() == [False, True]
    assert attacked.invalid.tolist() == [1, 0, 0]
    assert attacked.ledger.queries.tolist() == [1, 1, 0]
    assert attacked.verdict()["best_l2"][0] == -1


def test_rows_are_cast_and_clipped_before_they_are_evaluated() -> None:
    attacked = box(eps=1.0)
    result = attacked.query(np.full((1, 1, 2, 2), 7.5), [0])
    assert result.labels.tolist() == [2]
    assert result.hit.tolist() == [True], "clipped to 1: L2 1"
    assert attacked.best.dtype == torch.float32
    assert float(attacked.best[0].max()) == 1.0


def test_neither_agent_nor_target_can_change_what_was_evaluated() -> None:
    def spoils(images: Tensor) -> Tensor:
        answer = brightness(images)
        images.zero_()
        return answer

    attacked = box(spoils)
    sent = rows(0.7)
    result = attacked.query(sent, torch.tensor([0]))
    sent.zero_()
    result.done.fill_(False)
    result.left.fill_(99)
    attacked.x[1:].clone().zero_()
    verdict = attacked.verdict()
    assert verdict["success"].tolist() == [1, 0, 0]
    assert verdict["best_l2"][0] == pytest.approx(0.4)
    assert attacked.ledger.left.tolist() == [4, 5, 5]


def test_success_is_asked_once_more_in_float_and_in_8_bits() -> None:
    def fine(images: Tensor) -> Tensor:
        """Sees what no 8-bit image holds."""
        off = (images * 255 - (images * 255).round()).abs().flatten(1).amax(1) > 0.2
        return torch.stack([0 * off, 2.0 * off - 1, 0 * off - 9], 1).float()

    attacked = box(Counted(fine), eps=0.01)
    attacked._x[:] = attacked._best[:] = 128 / 255
    attacked.query(rows(128 / 255, 128.4 / 255), [0, 1])
    before = attacked.ledger.queries.copy()
    verdict = attacked.verdict()
    assert verdict["success"].tolist() == [0, 1, 0]
    assert verdict["success_8bit"].tolist() == [0, 0, 0]
    assert attacked.ledger.queries.tolist() == before.tolist(), "the check isn't charged"
    unchecked = attacked.verdict(recheck=False)
    assert unchecked["success"].tolist() == [0, 1, 0]
    assert unchecked["success_8bit"].tolist() == [-1, -1, -1]


def test_a_target_that_changes_its_mind_gives_no_success() -> None:
    answers = iter([1, 0, 0])

    def fickle(images: Tensor) -> Tensor:
        return torch.eye(3)[[next(answers)]].expand(len(images), 3)

    attacked = box(fickle)
    assert attacked.query(rows(0.7), [0]).hit.tolist() == [True]
    assert attacked.verdict()["success"].tolist() == [0, 0, 0]
    assert attacked.verdict(recheck=False)["success_query"].tolist() == [1, 0, 0]


def test_rounding_happens_before_sending_and_measuring() -> None:
    attacked = box(levels=2, eps=1.0)
    result = attacked.query(rows(0.7, 0.4), [0, 1])
    assert result.labels.tolist() == [2, 0]
    assert attacked.verdict()["best_l2"][0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (lambda images: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda images: torch.zeros(len(images), 4), r"\[1, 3\], got torch.float32 \[1, 4\]"),
        (lambda images: torch.zeros(1, dtype=torch.int64), "torch.int64"),
        (lambda images: torch.full((len(images), 3), float("nan")), "NaN"),
        (lambda images: torch.full((len(images), 3), float("inf")), "infinity"),
    ],
)
def test_what_a_broken_target_was_sent_stays_charged(target: Any, why: str) -> None:
    attacked = box(target)
    with pytest.raises(ContractError, match=why):
        attacked.query(rows(0.7), [0])
    assert attacked.ledger.queries.tolist() == [1, 0, 0]
    with pytest.raises(ContractError, match=why):
        attacked.query(rows(0.7), [0])
    assert attacked.ledger.queries.tolist() == [2, 0, 0]


def test_an_interrupt_stays_one_and_the_target_answers_again() -> None:
    pressed = iter([True, False])

    def slow(images: Tensor) -> Tensor:
        if next(pressed):
            raise KeyboardInterrupt
        return brightness(images)

    attacked = box(slow)
    with pytest.raises(KeyboardInterrupt):
        attacked.query(rows(0.5), [0])
    assert attacked.query(rows(0.5), [0]).left.tolist() == [3, 5, 5]


@pytest.mark.parametrize(
    ("given", "owner", "why"),
    [
        (torch.zeros(2, 1, 2), [0, 1], "float images"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), [0], "torch.uint8"),
        (torch.zeros(2, 1, 2, 2), [0], "one image for each of 2 rows"),
        (torch.zeros(1, 1, 2, 2), [0.0], "integers"),
        (torch.zeros(1, 1, 2, 2), [3], r"\[0, 3\)"),
        (torch.zeros(1, 1, 2, 2), [-1], r"\[0, 3\)"),
        ([["a"]], [0], "tensor or array"),
    ],
)
def test_what_is_no_query_is_refused_and_not_charged(given: Any, owner: Any, why: str) -> None:
    target = Counted()
    attacked = box(target)
    with pytest.raises(ContractError, match=why):
        attacked.query(given, owner)
    assert not attacked.ledger.queries.any()
    assert not target.calls


def test_large_calls_are_sent_in_chunks() -> None:
    target = Counted()
    attacked = box(target, query_budget=2000, mode="minimise")
    result = attacked.query(CLEAN[:1].expand(1100, -1, -1, -1), np.zeros(1100, np.int64))
    assert target.calls == [512, 512, 76]
    assert result.scores.shape == (1100, 3)
    assert attacked.query(CLEAN[:0], np.zeros(0)).scores.shape == (0, 3)


def test_label_access_shows_no_scores_and_giving_up_closes() -> None:
    attacked = box(access="label")
    result = attacked.answer(Queries(rows(0.7), torch.tensor([0])))
    assert result.scores.shape == (1, 0)
    assert result.labels.tolist() == [1]
    result = attacked.answer(Queries(rows(0.7)[:0], torch.zeros(0, dtype=torch.int64)))
    assert result.done.all()
    assert attacked.ledger.queries.tolist() == [1, 0, 0]


def test_certain_targets_keep_scores_finite() -> None:
    def certain(images: Tensor) -> Tensor:
        return torch.tensor([[0.0, -float("inf"), -1e30]]).expand(len(images), 3)

    assert box(certain).query(rows(0.5), [0]).scores.isfinite().all()


def test_other_images_take_a_place_without_touching_the_others() -> None:
    attacked = box()
    before = attacked.x
    attacked.query(rows(0.7, 0.7), [0, 1])
    fresh = rows(0.25)
    attacked.open(np.array([False, True, False]), fresh, torch.tensor([2]), None)
    assert before[1].unique().tolist() == [0.5], "what was handed out stays"
    assert attacked.ledger.queries.tolist() == [1, 0, 0]
    assert attacked.query(rows(0.25), [1]).hit.tolist() == [True]
    assert attacked.verdict()["success_query"].tolist() == [1, 1, 0]


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_neither_target_nor_attack_can_be_copied(how: Callable[[Any], Any]) -> None:
    for thing in (box(), Oracle(brightness, 3)):
        with pytest.raises(ContractError, match="can't be pickled or copied"):
            how(thing)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(
    ("beyond", "near"), [(0.0, True), (4e-7, True), (4e-6, False), (2e-4, False)]
)
def test_the_ball_ends_at_eps_but_for_rounding(norm: str, beyond: float, near: bool) -> None:
    # Four pixels: the Euclidean distance is twice the largest change.
    change = 0.25 + (beyond / 2 if norm == "l2" else beyond)
    attacked = box(norm=norm, eps=0.5 if norm == "l2" else 0.25)
    result = attacked.query(rows(0.5 + change), [0])
    assert result.labels.tolist() == [1]
    assert result.hit.tolist() == [near]
    for recheck in (True, False):
        assert attacked.verdict(recheck=recheck)["success"].tolist() == [near, 0, 0]
    assert attacked.ledger.success_query.tolist() == [int(near), 0, 0]


def test_8_bits_succeed_only_where_the_image_itself_does() -> None:
    answers = iter([1, 0, 1])

    def fickle(images: Tensor) -> Tensor:
        return torch.eye(3)[[next(answers)]].expand(len(images), 3)

    attacked = box(fickle)
    assert attacked.query(rows(0.7), [0]).hit.tolist() == [True]
    verdict = attacked.verdict()
    assert verdict["success"].tolist() == [0, 0, 0]
    assert verdict["success_8bit"].tolist() == [0, 0, 0]


def test_8_bits_are_the_256_levels_of_a_byte() -> None:
    sent: list[Tensor] = []

    def noted(images: Tensor) -> Tensor:
        sent.append(images.clone())
        return brightness(images)

    attacked = box(noted)
    attacked.query(rows(0.7013), [0])
    assert attacked.verdict()["success_8bit"].tolist() == [1, 0, 0]
    asked, again, rounded = sent
    assert torch.equal(asked, again)
    assert torch.equal(rounded, rows(179 / 255))


@pytest.mark.parametrize("leaf", [True, False])
def test_nothing_keeps_the_graph_of_the_rows(leaf: bool) -> None:
    seen: list[bool] = []

    def noted(images: Tensor) -> Tensor:
        seen.append(images.requires_grad)
        return brightness(images)

    attacked = box(noted, mode="minimise")
    sent = rows(0.7, 0.7).requires_grad_()
    result = attacked.query(sent if leaf else sent * 1.0, [0, 1])
    assert result.hit.tolist() == [True, True]
    assert seen == [False]
    shown = [attacked.best, attacked.x, *result]
    assert not any(part.requires_grad for part in shown)
    assert not any(part.grad_fn is not None for part in shown)


def test_rows_that_are_not_finite_are_counted_one_by_one_and_again() -> None:
    attacked = box()
    attacked.query(rows(float("nan"), float("inf"), 0.5, float("nan")), [0, 0, 1, 1])
    assert attacked.invalid.tolist() == [2, 1, 0]
    attacked.open(np.array([True, False, False]), rows(0.25), torch.tensor([0]), None)
    assert attacked.invalid.tolist() == [0, 1, 0]


def test_rows_that_are_not_finite_never_succeed_even_where_the_clean_image_would() -> None:
    """As of a target that gets the clean image wrong, whose answer they are given."""
    wrong = BlackBox(Oracle(brightness, 3), CLEAN, LABEL + 1, eps=1.0, query_budget=5)
    result = wrong.query(rows(float("nan"), 0.5), [0, 1])
    assert result.labels.tolist() == [0, 0]
    assert result.hit.tolist() == [False, True]
    assert wrong.verdict()["success"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("together", [True, False])
def test_the_best_image_is_the_nearest_wherever_it_comes(together: bool) -> None:
    attacked = box(mode="minimise")
    sent = rows(0.75, 0.65, 0.7, 0.9)
    for part in sent[None] if together else sent[:, None]:
        attacked.query(part, [1] * len(part))
    torch.testing.assert_close(attacked.best[1], rows(0.65)[0])
    assert torch.equal(attacked.best[[0, 2]], CLEAN[:2])
    assert attacked.verdict()["success_query"].tolist() == [0, 1, 0]
