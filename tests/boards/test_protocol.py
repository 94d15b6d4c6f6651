"""Protocols in words, without Python in them."""

from __future__ import annotations

from typing import Any

import pytest

from lazybench.boards import build
from lazybench.boards.page import protocol_words

ATTACK = {
    "access": "scores",
    "eps": 3.0,
    "images": None,
    "mode": "first",
    "norm": "l2",
    "query_budget": 3000,
    "strict": False,
    "target": "mnist-net4",
    "target_accuracy": 0.992,
    "target_rule": "next",
    "target_sha256": "ab" * 32,
    "targeted": True,
    "trials": 100,
}


def words(make_run: Any, protocol: dict[str, Any], family: str = "fewshot") -> str:
    (board,) = build([make_run("a", env__protocol=protocol, env__family=family)])
    return protocol_words(board)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        (
            {"noniid": False, "query": 15, "shot": 1, "trials": 600, "way": 5},
            "5 ways, 1 shot, 15 query images a class, 600 test trials",
        ),
        (
            {"dev_per_class": 10, "head": 490, "imbalance": 100, "subset": None, "trials": 10000},
            "the largest class has 100 times the smallest, 490 training images in the largest "
            "class, 10 development images a class, 10,000 test trials",
        ),
        ({"my_own": True, "other": 7, "off": False, "none": None}, "my own: yes, other: 7"),
        ({"way": "<b>", "targeted": "x", "eps": None}, "<b> ways, targeted: x"),
        ({}, ""),
    ],
)
def test_settings_are_words(make_run: Any, protocol: dict[str, Any], said: str) -> None:
    assert words(make_run, protocol) == said


def test_attacks_in_words(make_run: Any) -> None:
    said = words(make_run, ATTACK, "attack")
    assert said == (
        "targeted attacks, target network mnist-net4 (99.2 % right), the attacker sees all scores, "
        "success within L2 distance 3.0, 3,000 queries an image, an image ends at its first "
        "success, the target class is the next one, 100 test images"
    )
    said = words(make_run, ATTACK | {"targeted": False, "strict": True}, "attack")
    assert "target class" not in said
    assert "separate process" in said
    assert not {"None", "False", "True", "strict"} & set(said.replace(",", "").split())
