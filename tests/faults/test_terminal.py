"""Rows 32 and 34: terminals of every kind, and devices that aren't there."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
RUN = (
    "run", "-a", "chance", "-e", "sinusoid-5shot", "-b", "smoke", "--limit", "8",
    "--out", "store", "--runs", "runs", "--threads", "1",
)  # fmt: skip


def shell(folder: Path, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of a real shell in which `lazybench` is the command."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), **env}
    command = f'lazybench() {{ {sys.executable} -m lazybench "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=variables, capture_output=True, check=False,
        text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("lazybench list agents | head -1", 0),
        ("lazybench list agents >&-", 0),
        ("lazybench list agents 2>&-", 0),
        ("lazybench list nothing 2>&-", 2),
        ("lazybench list nothing >&- 2>&-", 2),
        ("lazybench list nothing 2>/dev/full", 2),
        ("lazybench list agents <&-", 0),
    ],
)
def test_32_pipes_and_closed_streams_keep_the_exit_code(
    tmp_path: Path, line: str, code: int
) -> None:
    done = shell(tmp_path, line)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirect", ["| head -1", ">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_32_runs_end_well_whoever_listens(tmp_path: Path, redirect: str) -> None:
    done = shell(tmp_path, f"lazybench {' '.join(RUN)} {redirect}")
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("store/records/*/*/*.json"))) == 1


@pytest.mark.parametrize("language", ["C", "POSIX", "de_DE.ISO-8859-1"])
def test_32_locales_without_the_letters(tmp_path: Path, language: str) -> None:
    done = shell(
        tmp_path, "lazybench list agents", LC_ALL=language, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert done.returncode == 0, done
    assert "Traceback" not in done.stderr
    assert "lazy_reptile" in done.stdout


def on_terminal(folder: Path, columns: int, *argv: str, **env: str) -> tuple[int, str]:
    """Exit code and all that was written, on a real terminal of that many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-m", "lazybench", *argv],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", **env},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    reported = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        reported += part
    os.close(ours)
    return child.wait(), reported.decode()


@pytest.mark.parametrize(
    ("columns", "env"),
    [
        pytest.param(20, {}, id="20-columns"),
        pytest.param(80, {"NO_COLOR": "1"}, id="no-colour"),
        pytest.param(80, {"TERM": "dumb"}, id="dumb", marks=pytest.mark.slow),
        pytest.param(1, {}, id="1-column", marks=pytest.mark.slow),
    ],
)
def test_32_a_terminal(tmp_path: Path, columns: int, env: dict[str, str]) -> None:
    code, reported = on_terminal(tmp_path, columns, *RUN, **env)
    assert code == 0, reported
    assert "Traceback" not in reported
    assert len(list(tmp_path.glob("store/records/*/*/*.json"))) == 1
    if env.get("TERM") == "dumb":
        assert "\x1b" not in reported
    if "NO_COLOR" in env:
        assert "\x1b[3" not in reported.replace("\x1b[3m", ""), "no colours"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "cuda"), "device cuda isn't available: this torch finds none"),
        (("--device", "cuda:7"), "device cuda"),
        (("--device", "cpu:1"), "a device is cpu, cuda, mps or numbered, such as cuda:1"),
        (("--device", "cuda:x"), "numbered, such as cuda:1, got 'cuda:x'"),
        (("--device", "mps"), "device mps isn't available on this machine"),
        (("--precision", "tf32"), "precision tf32 is a format of CUDA devices"),
        (("--precision", "fp8"), "precision must be one of"),
    ],
)
def test_34_devices_and_formats_that_are_not_there(
    here: Any, options: tuple[str, str], words: str
) -> None:
    if torch.cuda.is_available() and options[1] == "cuda":
        pytest.skip("this machine has CUDA")
    if torch.backends.mps.is_available() and options[1] == "mps":
        pytest.skip("this machine has MPS")
    done = here(*RUN, *options)
    assert done.code == 2, done
    assert words in done.err
    assert not (here.folder / "store").exists()
    assert not (here.folder / "runs").exists()


@pytest.mark.gpu
def test_34_a_number_that_no_device_has(here: Any) -> None:
    done = here(*RUN, "--device", f"cuda:{torch.cuda.device_count()}")
    assert done.code == 2
    assert f"the last one is cuda:{torch.cuda.device_count() - 1}" in done.err


@pytest.mark.gpu
def test_23_out_of_memory_on_a_device(here: Any) -> None:
    done = here.play("Filling", "--device", "cuda").wait()
    assert done.code == 3
    assert here.record.status == "oom"
