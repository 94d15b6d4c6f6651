"""How many parts the tuples of a pickle have, told from its instructions without following them.

A tuple is hashed as a whole, part by part, each time that it becomes a key. Forty instructions can
nest one tuple twice in the next, so that hashing the last takes longer than anyone waits, and a
million can nest them so deep that Python's stack ends.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})

_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_FILLS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"})
_MAKES = frozenset(
    {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"}
    | {"INST"}
)


@dataclass(slots=True)
class _Part:
    """An object under construction; one that is filled later is the same in every place."""

    parts: int = 1
    depth: int = 1

    def take(self, others: Iterable[_Part]) -> None:
        for other in others:
            self.parts += other.parts
            self.depth = max(self.depth, other.depth + 1)


class Tuples:
    """Follows a pickle's instructions; `parts` and `depth` are those of its largest tuple so far.

    What a function gives counts as much as what it is given, and a list or dict as much as what is
    in it: either can become a tuple.
    """

    def __init__(self) -> None:
        """Nothing was followed yet."""
        self.parts = self.depth = 0
        self._stack: list[_Part] = []
        self._marks: list[int] = []
        self._memo: dict[int, _Part] = {}

    def follow(self, code: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do one instruction.

        Raises:
            IndexError: it takes what isn't there.
            KeyError: it gets what wasn't put.
        """
        name, stack = code.name, self._stack
        if name == "MARK":
            self._marks.append(len(stack))
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in PUTS:
            self._memo[int(argument)] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[int(argument)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP" and self._marks and self._marks[-1] == len(stack):
            self._marks.pop()
        elif name == "BUILD":
            # It gives back the object that it sets the state of.
            state = stack.pop()
            stack[-1].take([state])
        elif name in _FILLS:
            items = self._taken(code.stack_before[1:])
            stack[-1].take(items)
        else:
            made = _Part()
            made.take(self._taken(code.stack_before))
            stack.extend(made for _ in code.stack_after)
            if name in _MAKES:
                self.parts, self.depth = max(self.parts, made.parts), max(self.depth, made.depth)

    def _taken(self, wanted: Sequence[pickletools.StackObject]) -> list[_Part]:
        """What an instruction takes off the stack."""
        at = len(self._stack) - len(wanted)
        if pickletools.markobject in wanted:
            at = self._marks.pop() - wanted.index(pickletools.markobject)
        if at < 0:
            raise IndexError("it takes more than there is")
        taken = self._stack[at:]
        del self._stack[at:]
        return taken
