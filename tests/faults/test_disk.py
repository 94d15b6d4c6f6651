"""Rows 5 and 6: the disk is full, or the output can't be written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faultkit
import numpy as np
import pytest

from lazybench.runner import checkpoint

CHANCE = ("run", "-a", "chance", "-e", "glyphs-5way-1shot", "-b", "smoke", "--limit", "8")
WHERE = ("--out", "store", "--runs", "runs", "--threads", "1")


def able(done: Any) -> Any:
    if done.code == faultkit.UNABLE:
        pytest.skip("this system lets tests mount nothing")
    return done


def in_one_line(done: Any) -> str:
    """The last line of stderr, where the error is."""
    assert "Traceback" not in done.err
    line: str = done.err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_05_full_while_a_checkpoint_is_written(here: Any, reference: Callable[[str], Any]) -> None:
    done = here.play("Growing", prepare=partial(faultkit.full_disk, 24_000)).wait()
    assert done.code == 74
    reported = in_one_line(done)
    assert "ckpt/.new-4/tensors.safetensors" in reported
    assert "can't write 24" in reported, "the bytes are told"
    assert "earlier files are intact" in reported
    assert checkpoint.read(here.run / "ckpt" / "step-2")["step"] == 2
    assert here.temporaries() == []
    assert not (here.folder / "store" / "records").exists(), "a full disk is no result"
    again = here.play("Growing").wait()
    assert again.code == 0
    assert "resuming from the checkpoint at meta-iteration 2" in again.err
    assert here.result == reference("Growing")[0].result


def test_05_full_while_trials_are_written(here: Any, reference: Callable[[str], Any]) -> None:
    # All that is written before is smaller than five lines of trials.
    done = here.play("Steady", prepare=partial(faultkit.full_disk, 1900)).wait()
    assert done.code == 74
    assert "episodes.jsonl" in in_one_line(done)
    lines = (here.run / "episodes.jsonl").read_bytes()
    assert lines.endswith(b"\n"), "no part of the line that didn't fit is left"
    again = here.play("Steady").wait()
    assert again.code == 0
    assert "training is complete" in again.err
    assert "test: 32/40" in again.err
    assert here.result == reference("Steady")[0].result


def test_05_full_where_the_records_are(here: Any, reference: Callable[[str], Any]) -> None:
    """A real disk of one page, which the record fits, but no board next to it."""
    small = partial(faultkit.small_disk, str(here.folder / "store"), 4096)
    done = able(here.play("Steady", prepare=small).wait())
    assert done.code == 74
    assert "No space left on device" in in_one_line(done)
    assert "store/boards/sinusoid-5shot-v1" in in_one_line(done)
    again = here.play("Steady").wait()
    assert again.code == 0
    assert "training is complete" in again.err
    assert here.result == reference("Steady")[0].result


def test_05_checkpoints_that_will_not_fit_are_reported_before_training(here: Any) -> None:
    small = partial(faultkit.small_disk, str(here.folder / "runs"), 4 << 20)
    done = able(here.play("Large", prepare=small).wait())
    assert done.code == 74
    reported = in_one_line(done)
    assert "bytes, but the disk has" in reported
    assert "nothing was trained" in reported
    assert "--runs" in reported
    assert "train:" not in done.err


def test_05_full_where_the_cache_is(commands: Callable[..., Any]) -> None:
    """Better than exit 74: what can't be kept is held in memory, and one line says so."""
    here = commands(LAZYBENCH_CACHE=str(Path("cache").absolute()))
    cache = here.folder / "cache"
    here.environment["LAZYBENCH_CACHE"] = str(cache)
    done = able(here(*CHANCE, *WHERE, prepare=partial(faultkit.small_disk, str(cache), 64 << 10)))
    assert done.code == 0, done.err
    assert str(cache) in done.err
    assert "it stays in memory" in done.err
    full = here.result
    plain = commands("plain")
    assert plain(*CHANCE, *WHERE).code == 0
    assert plain.result == full


def test_05_arrays_under_construction_on_a_full_disk(tmp_path: Path) -> None:
    """A file with holes, mapped, used to end the process with SIGBUS."""
    code = (
        "import sys, faultkit, numpy as np\n"
        "faultkit.small_disk(sys.argv[1], 64 << 10)\n"
        "from lazybench.data.cache import scratch\n"
        "made = scratch((1 << 20,), np.uint8)\n"
        "made[:] = 7\n"
        "print(type(made).__name__, int(made.sum()))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache")],
        env={
            "LAZYBENCH_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": f"{root}:{Path(__file__).parent}",
        },
        capture_output=True,
        text=True,
    )
    if done.returncode == faultkit.UNABLE:
        pytest.skip("this system lets tests mount nothing")
    assert (done.returncode, done.stdout) == (0, f"ndarray {7 << 20}\n"), done.stderr


def test_05_full_while_data_is_imported(here: Any) -> None:
    x = np.random.default_rng(0).normal(size=(600, 64)).astype(np.float32)
    np.savez(here.folder / "f.npz", x=x, y=np.repeat(np.arange(30), 20))
    data = here.folder / "data"
    argv = ("data", "import", "f.npz", "--name", "mine")
    small = partial(faultkit.small_disk, str(data), 64 << 10)
    done = able(here(*argv, prepare=small, LAZYBENCH_DATA=str(data)))
    assert done.code == 74
    assert str(data) in in_one_line(done)
    assert list(data.iterdir()) == []
    assert here(*argv, LAZYBENCH_DATA=str(data)).code == 0
    assert "mine" in here("data", "list", LAZYBENCH_DATA=str(data)).out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_05_full_where_the_log_goes_stops_no_run(
    here: Any, reference: Callable[[str], Any]
) -> None:
    """Progress that couldn't be written used to make a sound training a failed one."""
    running = here.play("Steady", prepare=faultkit.full_log)
    running.process.join()
    assert running.process.exitcode == 0
    assert here.record.status == "ok"
    assert here.result == reference("Steady")[0].result


@pytest.mark.parametrize("option", ["--out", "--runs"])
@pytest.mark.parametrize("why", ["read-only", "below-a-file", "dangling"])
def test_06_output_that_cannot_be_written(here: Any, option: str, why: str) -> None:
    prepare = None
    if why == "read-only":
        place = here.folder / "shut"
        place.mkdir()
        place.chmod(0o555)
        prepare = faultkit.powerless
    elif why == "below-a-file":
        place = here.folder / "file" / "below"
        place.parent.write_text("")
    else:
        place = here.folder / "link"
        place.symlink_to(here.folder / "nowhere" / "at" / "all")
    done = here.play("Steady", option, str(place / "deeper"), prepare=prepare).wait()
    assert done.code == 73
    assert str(place) in in_one_line(done)
    assert option in in_one_line(done)
    assert "train:" not in done.err
