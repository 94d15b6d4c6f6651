from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lazybench.errors import DeviceUnavailable, UsageError
from lazybench.runner.callbacks import SILENT
from lazybench.sweep import process
from lazybench.sweep.scheduler import Slot, Sweep, SweepRequest, slots
from lazybench.sweep.suite import SuiteCell

SCRIPT = """
import json, os, sys, time
time.sleep(0.3)
with open(os.environ["TEMPLATE"]) as file:
    record = json.load(file)
record["metrics"]["accuracy"]["value"] = float(os.environ["CUDA_VISIBLE_DEVICES"])
record["reason"] = " ".join(sys.argv[1:])
with open(os.environ["LAZYBENCH_REPORT"], "w") as file:
    json.dump(record, file)
"""
"""A cell whose score is the device that it sees."""


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def seen(found: tuple[Slot, ...]) -> list[str]:
    assert {slot.device for slot in found} == {"cuda"}
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found]


@pytest.mark.usefixtures("eight_gpus")
@pytest.mark.parametrize(
    ("devices", "numbers"),
    [
        ("cuda:0-7", "01234567"),
        ("cuda", "01234567"),
        ("cuda:3", "3"),
        ("cuda:0,2,5-7", "02567"),
        ("cuda:6,cuda:1", "61"),
    ],
)
def test_names_and_ranges_of_devices(devices: str, numbers: str) -> None:
    assert seen(slots(devices)) == list(numbers)


@pytest.mark.usefixtures("eight_gpus")
def test_cells_go_round_the_devices_before_round_again() -> None:
    assert seen(slots("cuda:0-2", 2)) == ["0", "1", "2", "0", "1", "2"]


@pytest.mark.usefixtures("eight_gpus")
def test_numbers_count_among_the_devices_that_a_queue_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7f2a,6")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert seen(slots("cuda:0-2")) == ["4", "GPU-7f2a", "6"]
    with pytest.raises(DeviceUnavailable, match=r"cuda:3 isn't there; this torch finds cuda:0-2"):
        slots("cuda:0-3")


@pytest.mark.usefixtures("eight_gpus")
@pytest.mark.parametrize(
    "devices", ["gpu:0", "cuda:", "cuda:7-0", "cuda:a", "cuda:0-", "0-3", "mps", "cuda:0-99999", ""]
)
def test_other_forms_are_refused(devices: str) -> None:
    with pytest.raises(UsageError, match="--devices takes cpu, cuda"):
        slots(devices)


@pytest.mark.usefixtures("eight_gpus")
def test_a_device_is_named_once() -> None:
    with pytest.raises(UsageError, match="twice; several cells on one: --cells-per-device"):
        slots("cuda:0-3,2")


def test_a_machine_without_a_gpu_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(DeviceUnavailable, match="this torch finds no CUDA device"):
        slots("cuda")
    assert slots("cpu", 3) == (Slot(),) * 3
    with pytest.raises(UsageError, match="at least 1 and at most 1024, got 0"):
        slots("cpu", 0)


def test_each_cell_sees_its_device_alone_and_no_slot_has_two_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: Any
) -> None:
    template = tmp_path / "template.json"
    metric = {"value": 0.0, "ci95": None, "n": 40, "unit": "fraction", "better": "higher"}
    template.write_text(make_run("a", metrics={"accuracy": metric}).to_json())
    monkeypatch.setenv("TEMPLATE", str(template))
    monkeypatch.setattr(process, "command", lambda words: [sys.executable, "-c", SCRIPT, *words])
    pinned = tuple(Slot("cuda", {"CUDA_VISIBLE_DEVICES": name}) for name in "57")
    request = SweepRequest(
        device="cuda", out=tmp_path / "store", runs=tmp_path / "runs", slots=pinned
    )
    cells = [SuiteCell("a", "e", seed, "small") for seed in range(6)]
    begin_s = time.perf_counter()
    ended = list(Sweep(request).run(cells, SILENT))
    assert time.perf_counter() - begin_s > 0.9, "six cells on two slots take three rounds"
    assert {outcome.status for outcome in ended} == {"ok"}, json.dumps([o.reason for o in ended])
    assert Counter(outcome.score for outcome in ended) == {5.0: 3, 7.0: 3}
    assert all("--device cuda" in outcome.reason for outcome in ended)
