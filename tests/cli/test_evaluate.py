"""`lazybench evaluate`: from the command line to a record in the transfer block of a board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lazybench.boards import check
from lazybench.records import Store

PLAYERS = Path(__file__).parents[1] / "runner" / "players.py"


@pytest.fixture
def key(lazybench: Any) -> str:
    done = lazybench(
        *("run", "-a", f"{PLAYERS}:Movable", "-e", "sinusoid-5shot", "-b", "smoke"),
        *("--quiet", "--json"),
    )
    assert done.code == 0
    return str(json.loads(done.out)["key"])[:12]


def test_a_run_is_evaluated_elsewhere_and_shown(lazybench: Any, key: str) -> None:
    done = lazybench("evaluate", key, "--env", "sinusoid-10shot")
    assert done.code == 0
    assert done.out.startswith(f"Movable, trained on sinusoid-5shot {key} best (step")
    assert "on test trials of sinusoid-10shot: " in done.out
    assert f"trained on sinusoid-5shot {key}" in done.out.partition("\n")[2]
    store = Store("leaderboards")
    assert check(store) == []
    assert "Transfer" in (store.root / "boards" / "sinusoid-10shot-v1.md").read_text()


def test_json_is_the_record_or_the_numbers(lazybench: Any, key: str) -> None:
    done = lazybench("evaluate", key, "--env", "sinusoid-10shot", "--json", "--quiet")
    assert json.loads(done.out)["trained_on"].startswith("sinusoid-5shot")
    done = lazybench("evaluate", key, "--split", "val", "--limit", "8", "--json", "--quiet")
    facts = json.loads(done.out)
    assert (facts["split"], facts["metric"]["n"]) == ("val", 8)
    assert len(Store("leaderboards").records()) == 2


def test_what_cannot_be_done_is_one_line(lazybench: Any, key: str) -> None:
    done = lazybench("evaluate", key, "--env", "glyphs-5way-1shot")
    assert (done.code, done.out) == (2, "")
    assert done.err.strip().splitlines()[-1].startswith("error: trained on 1 way")
    assert lazybench("evaluate", "123456").code == 2
