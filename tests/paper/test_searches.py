"""Kept searches of settings: reading them, and which rows run with what they chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lazybench.boards.group import groups
from lazybench.errors import StoreError
from lazybench.paper.claims import Side
from lazybench.paper.searches import Search, read_searches, searches_of

ENV = "glyphs-5way-1shot"
FIXED = {"image_gradients": "300000"}


def test_kept_searches_are_read(tmp_path: Path) -> None:
    assert read_searches(tmp_path / "nothing") == []
    trials = [{"settings": {"lr": lr}, "val": val} for lr, val in ((1, 0.5), (2, 0.7), (3, None))]
    path = tmp_path / ENV / "a.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"env": ENV, "agent": "a", "fixed": FIXED, "trials": trials}))
    assert read_searches(tmp_path) == [Search(ENV, "a", FIXED, 3, {"lr": 2}, frozenset({"lr"}))]
    further = [{"settings": {"queries": n}, "val": val} for n, val in ((1, 0.9), (2, 0.8))]
    fixed = {**FIXED, "lr": "2"}
    (path.parent / "a-queries.json").write_text(
        json.dumps({"env": ENV, "agent": "a", "fixed": fixed, "trials": further})
    )
    both = frozenset({"lr", "queries"})
    assert read_searches(tmp_path) == [Search(ENV, "a", FIXED, 5, {"lr": 2, "queries": 1}, both)]
    later = Search(ENV, "a", fixed, 1, {"lr": 3})
    assert read_searches(tmp_path)[0].joined(later) == Search(
        ENV, "a", FIXED, 6, {"lr": 3, "queries": 1}, both
    )
    won = [{"settings": {}, "val": 0.9}, {"settings": {"lr": 2}, "val": 0.7}]
    kept = {"env": ENV, "agent": "b", "fixed": FIXED, "preset": {"lr": 1}, "trials": won}
    (path.parent / "b.json").write_text(json.dumps(kept))
    assert read_searches(tmp_path)[1] == Search(ENV, "b", FIXED, 2, {"lr": 1}, frozenset({"lr"}))
    path.write_text("{}")
    with pytest.raises(StoreError, match="isn't a search of settings"):
        read_searches(tmp_path)


def test_searches_count_for_the_same_ways_and_shots_or_the_same_environment() -> None:
    envs = (ENV, "omniglot-5way-1shot", "omniglot-20way-1shot", "cifar100-lt-100")
    searches = [Search(env, "a", FIXED, 1, {}) for env in envs]
    found = [each.env for each in searches_of("a", "cifarfs-5way-1shot", searches)]
    assert found == [*envs[:2]]
    assert [each.env for each in searches_of("a", envs[2] + "-noniid", searches)] == [envs[2]]
    assert [each.env for each in searches_of("a", envs[3], searches)] == [envs[3]]
    assert searches_of("a", "cifar100-lt-50", searches) == []
    assert searches_of("b", ENV, searches) == []


def test_a_row_runs_with_what_was_chosen_but_for_its_own_settings(make_run: Any) -> None:
    search = Search(ENV, "a", FIXED, 4, {"lr": 0.1, "outer_lr": 3})

    def used(config: dict[str, Any], settings: Any = None, **overrides: Any) -> bool:
        (group,) = groups([make_run("a", config=config, overrides=overrides)])
        return search.is_used(Side("a", settings or {}), group)

    assert used({"lr": 0.1, "outer_lr": 3})
    assert not used({"lr": 0.2, "outer_lr": 3})
    assert not used({"lr": 0.1})
    assert used({"lr": 0.2, "outer_lr": 3}, {"lr": 0.2}, lr=0.2)
    assert used({"lr": 0.1, "outer_lr": 1}, leap_on="phi", outer_lr=1)
    assert not used({"lr": 0.1, "outer_lr": 1}, outer_lr=1)


def test_a_row_with_settings_of_its_own_has_not_what_was_chosen_where_the_preset_won(
    make_run: Any,
) -> None:
    search = Search(ENV, "a", FIXED, 4, {}, frozenset({"beta"}))
    rows = {text: groups([make_run("a", overrides=o)])[0] for text, o in OVERRIDES.items()}
    assert search.is_used(Side("a"), rows["preset"])
    assert not search.is_used(Side("a"), rows["beta"])
    assert search.is_used(Side("a", {"beta": 0.1}), rows["beta"])


OVERRIDES: dict[str, dict[str, Any]] = {"preset": {}, "beta": {"beta": 0.1}}
