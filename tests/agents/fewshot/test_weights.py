"""Weights from elsewhere: what is taken, what stays fresh, what is refused."""

from __future__ import annotations

import pytest
import torch

from lazybench.agents.fewshot.episode import adapting
from lazybench.agents.fewshot.weights import overlay
from lazybench.errors import UsageError


def theta() -> dict[str, torch.Tensor]:
    return {"body": torch.zeros(2, 3), "head.weight": torch.zeros(4, 2)}


def test_bodies_are_taken_and_heads_of_another_size_stay_fresh() -> None:
    given = {"body": torch.ones(2, 3), "head.weight": torch.ones(9, 2), "more": torch.ones(1)}
    found = overlay(theta(), given)
    assert torch.equal(found["body"], torch.ones(2, 3))
    assert torch.equal(found["head.weight"], torch.zeros(4, 2))
    assert set(found) == set(theta())
    given["head.weight"] = torch.ones(4, 2)
    assert torch.equal(overlay(theta(), given)["head.weight"], torch.ones(4, 2))


def test_a_body_must_fit() -> None:
    for given in ({}, {"body": torch.ones(3, 2)}):
        with pytest.raises(UsageError, match="'body' must have shape"):
            overlay(theta(), given)


def test_weights_of_which_nothing_is_taken_are_refused() -> None:
    alone = {"head.weight": torch.zeros(4, 2)}
    with pytest.raises(UsageError, match="none of the weights fit the network"):
        overlay(alone, {"head.weight": torch.ones(9, 2)})


def test_batch_norms_are_recognised_by_how_their_names_begin() -> None:
    names = ["body.layernorm.weight", "norm.1.weight", "norm1.bias", "head.weight"]
    assert adapting(names, "all", True) == names
    assert adapting(names, "all", False) == ["body.layernorm.weight", "head.weight"]
    assert adapting(names, "head", False) == ["head.weight"]
