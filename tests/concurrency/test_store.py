"""Real processes at one store: nothing is lost, doubled or half read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lazybench.boards import check, write
from lazybench.records import Store

SUITE = """name = "{name}"
[[cells]]
agents = ["chance", "nearest_pixel"]
envs = ["glyphs-5way-1shot"]
seeds = [{seeds}]
budget = "smoke"
"""
SEEDS = ("0, 1", "1, 2", "2, 3", "0, 3")
"""Each cell is in two of the four sweeps."""


def start(tmp_path: Path, name: str, *argv: str) -> subprocess.Popen[str]:
    # The child keeps its own handles of both files.
    with (tmp_path / f"{name}.out").open("w") as out, (tmp_path / f"{name}.err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "lazybench", *argv],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=out,
            stderr=err,
            text=True,
        )


@pytest.mark.slow
def test_four_sweeps_into_one_store_while_boards_are_rendered(tmp_path: Path) -> None:
    for number, seeds in enumerate(SEEDS):
        (tmp_path / f"{number}.toml").write_text(SUITE.format(name=number, seeds=seeds))
    sweeps = [
        start(tmp_path, str(number), "sweep", f"{number}.toml", "--quiet") for number in range(4)
    ]
    store, pages = Store(tmp_path / "leaderboards"), 0
    while any(sweep.poll() is None for sweep in sweeps):
        done = start(tmp_path, "page", "leaderboard", "--html", "boards.html")
        assert done.wait(300) == 0, (tmp_path / "page.err").read_text()
        page = (tmp_path / "boards.html").read_text()
        assert page.rstrip().endswith("</html>")
        # What is in the store is whole at any moment.
        assert store.records().skipped == []
        pages += 1
    assert pages
    # A cell that another sweep is at ends with 75; the same sweep again finds it done.
    for number in range(4):
        again = start(tmp_path, f"again{number}", "sweep", f"{number}.toml", "--quiet")
        assert again.wait(600) == 0, (tmp_path / f"again{number}.err").read_text()
    records = store.records()
    assert sorted((r.agent.id, r.seed) for r in records) == [
        (agent, seed) for agent in ("chance", "nearest_pixel") for seed in range(4)
    ]
    assert {r.status for r in records} == {"ok"}
    assert records.skipped == []
    write(store)
    assert check(store) == []
    left = [path.name for path in tmp_path.rglob(".*") if path.name.startswith((".tmp-", ".write"))]
    assert left == []


PUBLISH = """
import sys, time
from lazybench.boards import write
from lazybench.records import Record, Store

store, number, fields = Store(sys.argv[1]), int(sys.argv[2]), eval(sys.argv[3])
for seed in range(20):
    # Half of the records are everybody's, half are one's own.
    own = seed if seed % 2 else 100 * number + seed
    store.publish(Record.keyed(**{**fields, "seed": own}))
    if seed % 5 == 4:
        write(store)
"""


def test_four_writers_publish_and_render_at_once(tmp_path: Path, record_fields: Any) -> None:
    fields = repr(record_fields(status="failed", reason="x"))
    writers = [
        subprocess.Popen([sys.executable, "-c", PUBLISH, str(tmp_path), str(number), fields])
        for number in range(1, 5)
    ]
    store, readings = Store(tmp_path), 0
    while any(writer.poll() is None for writer in writers):
        assert store.records().skipped == []
        for path in tmp_path.glob("boards/*.json"):
            json.loads(path.read_bytes())
        for path in tmp_path.glob("boards/*.md"):
            assert path.read_bytes().endswith(b"\n")
        readings += 1
        time.sleep(0.01)
    assert [writer.wait() for writer in writers] == [0] * 4
    assert readings
    assert len(store.records()) == 10 + 4 * 10
    write(store)
    assert check(store) == []
    assert not list(tmp_path.rglob(".tmp-*"))
