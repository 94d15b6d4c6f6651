"""Suites: TOML files that list agents, environments, seeds and settings to run.

name = "table2"
about = "one line"

[[cells]]
agents = ["cross_entropy", "drw"]
envs = ["cifar100-lt-100"]
seeds = [0, 1, 2]               # default [0]
budget = "small"                # default
set = { tau = "scaled" }        # settings of every agent of this block
protocol = { eps = 1.5 }        # settings of every environment of this block
[cells.grid]                    # every combination of these settings
inner_steps = [5, 10]
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lazybench.arguments import check_one_of
from lazybench.errors import DataUnavailable, LazybenchError, UsageError, nearest
from lazybench.files import read_text
from lazybench.runner.request import in_range, resolve_env
from lazybench.specs import BUDGETS

_SHOWN = 200
SHIPPED = Path(__file__).parent.parent / "suites"


class Block(BaseModel):
    """Cells that share agents, environments, seeds and settings: all their combinations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agents: list[str] = Field(min_length=1)
    envs: list[str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default=[0], min_length=1)
    budget: str = "small"
    set: dict[str, Any] = Field(default_factory=dict)
    protocol: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _as_options(self) -> Self:
        """Check that settings can be passed on a command line, which dates can't."""
        for name, value in (*self.set.items(), *self.protocol.items(), *self.grid.items()):
            try:
                json.dumps(value)
            except TypeError as error:
                raise ValueError(
                    f"{name} must be numbers, text, true, false, lists or tables ({error})"
                ) from error
            in_range(value, value, finite=True)
        return self


class Suite(BaseModel):
    """The content of a suite's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    about: str = ""
    cells: list[Block] = Field(min_length=1)


@dataclass(frozen=True)
class SuiteCell:
    """One run of a suite."""

    agent: str
    env: str
    seed: int
    budget: str
    settings: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Agent, environment, seed and settings in one line."""
        more = [f"{key}={value}" for key, value in (self.settings | self.protocol).items()]
        return " ".join([self.agent, self.env, f"s{self.seed}", *more])


def shipped() -> list[str]:
    """Return the names of the included suites."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read_suite(name: str) -> Suite:
    """Return the suite in a TOML file, or the included one of that name.

    Raises:
        UsageError: no such file or suite, or a key or value that isn't allowed.
    """
    path = Path(name) if name.endswith(".toml") or "/" in name else SHIPPED / f"{name}.toml"
    if not path.is_file():
        raise UsageError(
            f"no suite '{name}': give a TOML file or one of {', '.join(shipped())}."
            f"{nearest(name, shipped())}"
        )
    try:
        suite = Suite(**tomllib.loads(read_text(path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, key = _place(first["loc"])
        if first["type"] == "extra_forbidden":
            allowed = list(Block.model_fields if place else Suite.model_fields)
            raise UsageError(
                f"{path}: unknown key '{key}' {place or 'at the top of the file'}; allowed keys: "
                f"{', '.join(allowed)}.{nearest(key, allowed)}"
            ) from error
        where = " ".join(part for part in (key, place) if part)
        given = repr(first["input"])
        got = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
        raise UsageError(f"{path}: {where}: {first['msg']}, got {got}") from error
    except (DataUnavailable, ValueError, RecursionError) as error:
        raise UsageError(f"{path} isn't a readable TOML file: {error}") from error
    for number, block in enumerate(suite.cells):
        place, _ = _place(("cells", number))
        check_one_of(f"{path}: budget {place}", block.budget, BUDGETS)
    return suite


def _place(loc: Sequence[int | str]) -> tuple[str, str]:
    """Return the block of an error, counted from 1, empty outside of blocks; and the key in it."""
    table, *rest = loc or ("",)
    if table != "cells" or not rest:
        return "", ".".join(map(str, loc))
    return f"in block {int(rest[0]) + 1} of cells", ".".join(map(str, rest[1:]))


def aliases(cells: Iterable[SuiteCell]) -> list[str]:
    """Return a note for each alias among the environments of cells: which one it is."""
    notes: dict[str, None] = {}
    for name in dict.fromkeys(cell.env for cell in cells):
        # A name that isn't known is the outcome of its cells.
        with contextlib.suppress(LazybenchError):
            notes[resolve_env(name)[1]] = None
    return [note for note in notes if note]


def expand(suite: Suite) -> list[SuiteCell]:
    """Return a suite's cells in the order of its file, without repetitions."""
    cells: dict[str, SuiteCell] = {}
    for block in suite.cells:
        choices = [[(key, value) for value in values] for key, values in block.grid.items()]
        for agent, env, seed, *chosen in itertools.product(
            block.agents, block.envs, block.seeds, *choices
        ):
            settings = {**block.set, **dict(chosen)}
            cell = SuiteCell(agent, env, seed, block.budget, settings, dict(block.protocol))
            cells.setdefault(json.dumps(asdict(cell), sort_keys=True), cell)
    return list(cells.values())
