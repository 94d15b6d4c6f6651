"""Kept searches of agents' settings, and which rows of boards run with what they chose."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lazybench.boards.group import Group
from lazybench.errors import StoreError
from lazybench.files import read_file
from lazybench.paper.claims import OF_READING, READING, Side

_TASKS = re.compile(r"-(\d+way-\d+shot)")


class Search(NamedTuple):
    """What was searched of an agent's settings on an environment, in one search or in several.

    Attributes:
        env: environment whose validation tasks were used.
        agent: agent id.
        fixed: settings that all configurations share, as text.
        trials: configurations tried.
        best: settings that were chosen, each by the configuration that validated best. Where the
            preset did, they are its values; empty if these weren't kept.
        searched: names of the settings that some configuration replaced.
    """

    env: str
    agent: str
    fixed: Mapping[str, str]
    trials: int
    best: Mapping[str, Any]
    searched: frozenset[str] = frozenset()

    def is_like(self, other: Search) -> bool:
        """Return whether another search had as many trials under the same conditions."""
        same = (self.env, self.trials) == (other.env, other.trials)
        fixed = [
            {name: value for name, value in each.fixed.items() if name != READING}
            for each in (self, other)
        ]
        return same and fixed[0] == fixed[1]

    def joined(self, other: Search) -> Search:
        """Return this search together with a later one of the same agent, whose choices win."""
        shared = dict(self.fixed.items() & other.fixed.items())
        return self._replace(
            fixed=shared,
            trials=self.trials + other.trials,
            best={**self.best, **other.best},
            searched=self.searched | other.searched,
        )

    def is_used(self, side: Side, group: Group) -> bool:
        """Return whether a row runs with the settings that this search chose.

        Where the preset won and its values weren't kept, the row replaces none of the settings that
        were searched. Settings of the side are its own. `Choice:` so is the outer rate of a row
        that overrides the reading of gamma: how far a leap goes depends on the reading, so the
        rates can't be equal.
        """
        first = group.records[0]
        own = {*side.settings, *(OF_READING if READING in first.overrides else ())}
        chosen = {name: value for name, value in self.best.items() if name not in own}
        of_preset = self.searched - self.best.keys() - own
        return not of_preset & first.overrides.keys() and all(
            first.config.get(name) == value for name, value in chosen.items()
        )


def read_searches(folder: Path) -> list[Search]:
    """Return the searches kept below a folder, one for each agent and environment.

    Searches of further settings, `<env>/<agent>-*.json` next to `<env>/<agent>.json`, add their
    configurations and what they chose. None where the folder isn't there.

    Raises:
        StoreError: a file isn't a search that `tools/keep_tuning.py` kept.
    """
    searches: dict[tuple[str, str], Search] = {}
    for kept in read_kept(folder):
        scored = [trial for trial in kept["trials"] if trial["val"] is not None]
        best = max(scored, key=lambda trial: float(trial["val"]))["settings"] if scored else {}
        if scored and not best:
            best = kept["preset"]
        place = (kept["env"], kept["agent"])
        searched = frozenset(name for trial in kept["trials"] for name in trial["settings"])
        one = Search(*place, kept["fixed"], len(kept["trials"]), best, searched)
        searches[place] = searches[place].joined(one) if place in searches else one
    return list(searches.values())


def read_kept(folder: Path) -> list[dict[str, Any]]:
    """Return the searches kept below a folder, by path, as they were written: all configurations.

    Raises:
        StoreError: a file isn't a search that `tools/keep_tuning.py` kept.
    """
    searches = []
    for path in sorted(folder.rglob("*.json"), key=lambda path: (path.parent, path.stem)):
        try:
            kept = json.loads(read_file(path))
            names = {name: str(kept[name]) for name in ("env", "agent")}
            trials = [
                trial
                | {
                    "val": None if trial["val"] is None else float(trial["val"]),
                    "settings": dict(trial["settings"]),
                }
                for trial in kept["trials"]
            ]
            more = {"fixed": dict(kept["fixed"]), "preset": dict(kept.get("preset", {}))}
            searches.append({**kept, **names, **more, "trials": trials})
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} isn't a search of settings as tools/keep_tuning.py keeps it: {error}; "
                "keep it again, or move it away"
            ) from error
    return searches


def searches_of(agent: str, env: str, searches: Sequence[Search]) -> list[Search]:
    """Return an agent's searches on an environment, or on tasks of the same ways and shots."""
    tasks = _TASKS.search(env)
    fitting = []
    for search in searches:
        other = _TASKS.search(search.env)
        alike = tasks is not None and other is not None and tasks[1] == other[1]
        if search.agent == agent and (search.env == env or alike):
            fitting.append(search)
    return fitting
