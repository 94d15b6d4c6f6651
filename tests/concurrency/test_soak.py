"""Two hundred runs in one process: memory and open files stay where they are."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from lazybench.runner.request import RunRequest
from lazybench.runner.run import run

RUNS, WARM = 200, 40
ALLOWED_BYTES = 48 << 20
"""Growth over the runs after warm-up; a state or an environment that stays is megabytes a run."""

PLAYED = (
    ("nearest_pixel", "glyphs-5way-1shot"),
    ("chance", "glyphs-5way-1shot"),
    ("reptile", "sinusoid-5shot"),
    ("nearest_pixel", "sinusoid-5shot"),
)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_and_open_files_stay(tmp_path: Path) -> None:
    before_bytes = before_files = 0
    for number in range(RUNS):
        agent, env = PLAYED[number % len(PLAYED)]
        request = RunRequest(
            agent, env, "smoke", seed=number, out=tmp_path / "store", runs=tmp_path / "runs"
        )
        assert run(request).status == "ok"
        if number == WARM:
            gc.collect()
            before_bytes, before_files = resident_bytes(), open_files()
    gc.collect()
    assert open_files() <= before_files
    grown = resident_bytes() - before_bytes
    assert grown < ALLOWED_BYTES, f"{grown >> 20} MiB more after {RUNS - WARM} runs"
