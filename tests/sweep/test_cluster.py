"""A sweep on a real Dask cluster on this machine's loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lazybench.errors import ClusterUnavailable, UsageError
from lazybench.records import Store
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runtime.threads import usable_cores
from lazybench.sweep import cluster as cluster_module
from lazybench.sweep.cluster import on_cluster
from lazybench.sweep.process import Call
from lazybench.sweep.scheduler import SweepRequest, split
from lazybench.sweep.suite import SuiteCell

PLAYERS = Path(__file__).parents[1] / "runner" / "players.py"
ENV = "glyphs-5way-1shot"

distributed = pytest.importorskip("distributed", reason="needs the extra lazybench[cluster]")
pytestmark = pytest.mark.slow


def cell(agent: str, seed: int = 0, **settings: object) -> SuiteCell:
    env = "sinusoid-5shot" if agent.startswith(str(PLAYERS)) else ENV
    return SuiteCell(agent, env, seed, "smoke", dict(settings))


def asked(tmp_path: Path, **changes: Any) -> SweepRequest:
    folders = {"out": tmp_path / "store", "runs": tmp_path / "runs"}
    return SweepRequest(**{**folders, **changes})


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a second for each update of the agent `Slow`."""
    monkeypatch.setenv("LAZYBENCH_TEST_PAUSE_S", "0.2")


@pytest.fixture
def cluster(unhurried: None) -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as two:
        yield two


def under_way(cluster: Any) -> int:
    """The process id of the worker that has a cell."""
    with distributed.Client(cluster, set_as_default=False) as client:
        pids = client.run(os.getpid)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            busy = [worker for worker, tasks in client.processing().items() if tasks]
            if busy:
                return int(pids[busy[0]])
            time.sleep(0.1)
    raise AssertionError("no worker has a cell")


def wait_for(true: Callable[[], object], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.1)


def test_a_cell_whose_worker_is_killed_runs_again_and_leaves_one_record(
    tmp_path: Path, cluster: Any
) -> None:
    request = asked(tmp_path, elsewhere=True)
    slow = cell(f"{PLAYERS}:Slow", updates=25)
    alone = asked(tmp_path / "alone")
    killed: list[int] = []

    def kill_once() -> None:
        wait_for(lambda: list(request.runs.glob("*/ckpt/*/manifest.json")))
        killed.append(under_way(cluster))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_once)
    killer.start()
    with on_cluster(request, scheduler=cluster.scheduler_address) as engine:
        ended = {o.cell.agent: o for o in engine.run([slow, cell("chance")], SILENT)}
    killer.join()
    assert killed
    assert {agent: o.status for agent, o in ended.items()} == {slow.agent: "ok", "chance": "ok"}
    records = {record.agent.id: record for record in Store(request.out).records()}
    assert len(list(request.out.glob("records/**/*.json"))) == len(records) == 2
    with on_cluster(alone, workers=1) as engine:
        (outcome,) = engine.run([slow], SILENT)
    assert outcome.status == "ok"
    (whole,) = Store(alone.out).records()
    assert whole.comparable() == records[whole.agent.id].comparable()


def test_a_cell_that_always_kills_its_worker_has_crashed_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    request = asked(tmp_path)
    bad = cell(f"{PLAYERS}:KillsWorker")
    cells = [bad, *(cell("chance", seed) for seed in range(3))]
    with on_cluster(request, workers=2) as engine:
        ended = {out.cell.name: out for out in engine.run(cells, SILENT)}
    assert ended[bad.name].status == "crashed"
    assert ended[bad.name].reason == "its worker died 2 times"
    assert [ended[good.name].status for good in cells[1:]] == ["ok"] * 3
    assert sorted(record.seed for record in Store(request.out).records()) == [0, 1, 2]


def test_records_come_back_from_workers_that_share_no_folder(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = asked(tmp_path, elsewhere=True)
    cells = [cell("chance", seed) for seed in range(2)]
    missing, _ = split(cells, here)
    handed = cluster_module.call

    def far(cell: SuiteCell, request: SweepRequest) -> Call:
        # As on another machine: what the worker writes isn't where the caller looks.
        return handed(cell, replace(request, out=tmp_path / "far", runs=tmp_path / "far-runs"))

    monkeypatch.setattr(cluster_module, "call", far)
    with on_cluster(here, scheduler=cluster.scheduler_address) as engine:
        ended = list(engine.run(missing, SILENT))
    assert [out.status for out in ended] == ["ok", "ok"]
    for name in ("store", "far"):
        assert {record.seed for record in Store(tmp_path / name).records()} == {0, 1}
    assert split(cells, here)[0] == []


def test_stopping_ends_what_runs_on_workers_at_a_checkpoint(tmp_path: Path) -> None:
    request = asked(tmp_path)
    cells = [cell(f"{PLAYERS}:Slow", seed, updates=10_000) for seed in range(3)]
    with on_cluster(request, workers=1) as engine:

        def stop_once_under_way() -> None:
            wait_for(lambda: list(request.runs.glob("*/ckpt/*/manifest.json")))
            engine.stop()

        threading.Thread(target=stop_once_under_way).start()
        begin_s = time.monotonic()
        statuses = [out.status for out in engine.run(cells, SILENT)]
    assert statuses == ["stopped"] * 3
    assert time.monotonic() - begin_s < 60
    assert len(list(request.runs.glob("*/config.json"))) == 1


def test_the_command_line_runs_on_workers_and_the_same_command_skips_recorded_cells(
    tmp_path: Path,
) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(
        f'name = "two"\n[[cells]]\nagents = ["chance"]\nenvs = ["{ENV}"]\nbudget = "smoke"\n'
        "seeds = [0, 1]\n"
    )
    words = ["sweep", str(suite), "--workers", "2", "--json", "--out", "store", "--runs", "runs"]
    for status in ("ok", "done"):
        done = subprocess.run(
            [sys.executable, "-m", "lazybench", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert [row["status"] for row in json.loads(done.stdout)] == [status] * 2, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["nonsense", "foo://x:1"])
def test_an_address_that_is_none_is_a_usage_error(tmp_path: Path, address: str) -> None:
    with (
        pytest.raises(UsageError, match="takes an address such as tcp://host:8786"),
        on_cluster(asked(tmp_path), scheduler=address),
    ):
        pass


def test_a_scheduler_that_does_not_answer_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lazybench.sweep.cluster.CONNECT_S", 1.0)
    with (
        pytest.raises(
            ClusterUnavailable, match=r"no Dask scheduler responds at tcp://127\.0\.0\.1:1"
        ),
        on_cluster(asked(tmp_path), scheduler="tcp://127.0.0.1:1"),
    ):
        pass


def test_local_workers_share_the_cores(tmp_path: Path) -> None:
    with on_cluster(asked(tmp_path), workers=2) as engine:
        request = engine._request
    assert request.threads == max(1, usable_cores() // 2)


def test_a_lost_scheduler_leaves_outcomes_and_a_next_step(tmp_path: Path) -> None:
    place = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    command += ["--port", "0", "--no-dashboard", "--scheduler-file", str(place)]
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(place.exists, 60)
    address = json.loads(place.read_text())["address"]
    work = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    worker = subprocess.Popen([*work, "--no-dashboard"], stderr=subprocess.DEVNULL, cwd=tmp_path)

    class Kills(Callback):
        def run_begun(self, cell: Any) -> None:
            scheduler.kill()

    slow = cell(f"{PLAYERS}:Slow", updates=400)
    request = asked(tmp_path, elsewhere=True)
    try:
        with on_cluster(request, scheduler=address) as engine:
            ended = list(engine.run([slow, cell("chance"), cell("chance", 1)], Kills()))
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert {outcome.status for outcome in ended} == {"failed"}
    assert len(ended) == 3
    assert all("the scheduler is gone; start it again" in outcome.reason for outcome in ended)


def test_a_scheduler_without_workers_is_reported(tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(Callback):
        def note(self, text: str) -> None:
            notes.append(text)
            two.scale(1)

    with distributed.LocalCluster(
        n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    ) as two:
        request = asked(tmp_path, elsewhere=True)
        with on_cluster(request, scheduler=two.scheduler_address) as engine:
            (ended,) = engine.run([cell("chance")], Notes())
    assert ended.status == "ok"
    assert notes == ["no worker is connected to the scheduler; waiting for one"]
