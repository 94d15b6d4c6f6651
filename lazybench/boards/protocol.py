"""The protocol of a board in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lazybench.boards.build import Board

Words = Callable[[Any, Mapping[str, Any]], str]


def _number(value: Any) -> str:
    is_count = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15
    return f"{value:,}" if is_count else str(value)


def _counted(one: str, several: str) -> Words:
    return lambda value, _: f"{_number(value)} {one if value == 1 else several}"


def _where(words: str) -> Words:
    """The words where a setting is on, nothing where it is off."""
    return lambda value, _: words if value is True else ""


def _target(value: Any, protocol: Mapping[str, Any]) -> str:
    accuracy = protocol.get("target_accuracy")
    if not isinstance(accuracy, float) or not 0 <= accuracy <= 1:
        return f"target network {value}"
    return f"target network {value} ({100 * accuracy:.4g} % right)"


_AIM = {True: "targeted", False: "untargeted"}
_ACCESS = {"scores": "the attacker sees all scores", "label": "the attacker sees the label alone"}
_MODE = {"first": "an image ends at its first success", "minimise": "all queries are used"}
_RULE = {"next": "the target class is the next one"}
_NORM = {"l2": "L2", "linf": "L∞"}

# In the order in which readers ask; what isn't here comes last, by its name.
_WORDS: dict[str, Words] = {
    "way": _counted("way", "ways"),
    "shot": _counted("shot", "shots"),
    "query": _counted("query image a class", "query images a class"),
    "noniid": _where("each label has its own group of training classes (memorisation trap)"),
    "imbalance": lambda value, _: f"the largest class has {_number(value)} times the smallest",
    "head": lambda value, _: f"{_number(value)} training images in the largest class",
    "dev_per_class": _counted("development image a class", "development images a class"),
    "targeted": lambda value, p: (
        f"{_AIM[value]} attacks" if isinstance(value, bool) else f"targeted: {value}"
    ),
    "target": _target,
    "access": lambda value, _: _ACCESS.get(str(value), f"access: {value}"),
    "eps": lambda value, p: (
        f"success within {_NORM.get(str(p.get('norm')), str(p.get('norm', 'a')))} distance {value}"
    ),
    "query_budget": lambda value, _: f"{_number(value)} queries an image",
    "mode": lambda value, _: _MODE.get(str(value), f"mode: {value}"),
    "target_rule": lambda value, p: (
        _RULE.get(str(value), f"target classes: {value}") if p.get("targeted") is not False else ""
    ),
    "strict": _where("the target network runs in a separate process"),
    "subset": lambda value, _: f"subset: {value}",
    "trials": _counted("test trial", "test trials"),
}
_ELSEWHERE = frozenset({"norm", "target_accuracy", "target_sha256"})
"""Said with other settings; a hash says nothing to a reader."""


def protocol_words(board: Board) -> str:
    """The protocol of a board as one sentence without its end, such as `5 ways, 1 shot`.

    Settings that are off or not given are left out; those of other packages are named as they are.
    """
    protocol = dict(board.protocol)
    known = [name for name in _WORDS if name in protocol]
    if board.family == "attack":
        known = [name for name in known if name != "trials"]
    parts = [_WORDS[name](protocol[name], protocol) for name in known if protocol[name] is not None]
    if board.family == "attack" and protocol.get("trials") is not None:
        parts.append(_counted("test image", "test images")(protocol["trials"], protocol))
    parts += [
        f"{name.replace('_', ' ')}: {_plain(value)}"
        for name, value in protocol.items()
        if name not in _WORDS and name not in _ELSEWHERE and value not in (None, False)
    ]
    return ", ".join(filter(None, parts))


def _plain(value: Any) -> str:
    return "yes" if value is True else _number(value)
