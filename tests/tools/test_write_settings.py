"""The page of settings is what the docstrings make, and no shipped setting lacks a meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel

from lazybench.agent import Agent, contract, setting_meanings
from lazybench.registry import AGENTS
from lazybench.user_code import load

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_docstrings_make(script: Callable[[str], ModuleType]) -> None:
    tool = script("tools/write_settings.py")
    assert tool.PAGE.read_text("utf-8") == tool.page(), "run: python tools/write_settings.py"


def test_every_setting_of_a_shipped_agent_has_a_meaning() -> None:
    missing = {}
    for spec in AGENTS.specs():
        kind = contract(load(spec.target))
        fields = kind.Config.model_fields if kind.Config is not None else {}
        missing[spec.id] = set(fields) - set(setting_meanings(kind))
    assert {agent: names for agent, names in missing.items() if names} == {}


class Base(BaseModel):
    """A base.

    Attributes:
        lr: step size; 0 learns nothing. `Choice:` a second sentence,
            over two lines.
        old: hidden by the subclass.
    """

    lr: float = 0.0
    old: int = 1
    bare: int = 2


class Derived(Base):
    """Settings.

    Attributes:
        old: what it means
            in two lines.
        left, right: both sides.

    More text: not a setting.
    """

    left: int = 0
    right: int = 0


class Learner(Agent):
    Config = Derived


def test_meanings_are_the_first_sentences_of_the_nearest_class() -> None:
    assert setting_meanings(Learner) == {
        "lr": "step size; 0 learns nothing",
        "old": "what it means in two lines",
        "left": "both sides",
        "right": "both sides",
    }
    assert setting_meanings(Agent) == {}
