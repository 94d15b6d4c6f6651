"""Files are read in a confined process of their own; see `confined.py`."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

Read = Callable[[str, Path], dict[str, Any]]

Damage = Callable[..., None]

LIMIT_S = 20.0
"""How long the reading of one small file may take, on a busy machine."""

EACH = 40
"""Places at which a file is cut, and at which a byte is flipped."""

LONGEST = 1000
"""Characters of a message."""


class Reader:
    """A confined process that is asked about one file after another."""

    def __init__(self) -> None:
        """Start the process."""
        self._start()

    def __call__(self, loader: str, path: Path) -> dict[str, Any]:
        """Return what came of a file; a process that dies or doesn't answer fails the test."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([loader, str(path)]) + "\n")
        self._process.stdin.flush()
        line, limit_s = None, self._limit_s
        with contextlib.suppress(queue.Empty):
            line = self._answers.get(timeout=limit_s)
        if not line:
            self.close()
            ended = self._process.returncode
            self._start()
            died = f"took more than {limit_s:g} s" if line is None else f"ended with {ended}"
            pytest.fail(f"{loader}: reading {path} {died}")
        self._limit_s = LIMIT_S
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        with self._process:
            self._process.kill()

    def _start(self) -> None:
        script = Path(__file__).with_name("confined.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # Its imports are no file's fault.
        self._limit_s = 400.0
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_listen, args=(self._process, self._answers), daemon=True).start()


def _listen(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put("")


@pytest.fixture(scope="session")
def read() -> Iterator[Read]:
    """A function from a loader's name and a path to what came of it."""
    reader = Reader()
    yield reader
    reader.close()


def damages(data: bytes) -> Iterator[bytes]:
    """Yield a file cut at many places, and with bytes flipped, changed, doubled or left out."""
    random = Random(len(data))
    for at in sorted(random.sample(range(len(data)), min(EACH, len(data)))):
        yield data[:at]
        yield data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    for at in random.choices(range(len(data)), k=EACH // 4):
        size = random.randrange(1, 9)
        yield data[:at] + random.randbytes(size) + data[at + size :]
        yield data[:at] + random.randbytes(size) + data[at:]
        yield data[:at] + data[at + size :]
        yield data[:at] + b"\xff" * size + data[at + size :]
    yield data + b"\0" * 7
    yield data + data


@pytest.fixture
def damage(read: Read) -> Damage:
    """A function that damages a sample in many ways and looks at what comes of each.

    `right`: nothing else than the undamaged content may be read. `refuses`: False where what is
    damaged is left out instead.
    """

    def run(
        loader: str, asked: Path, file: Path, *, right: bool = False, refuses: bool = True
    ) -> None:
        sound = file.read_bytes()
        whole = read(loader, asked)
        assert "value" in whole, whole
        refused = 0
        for number, harmed in enumerate(damages(sound)):
            file.write_bytes(harmed)
            found = read(loader, asked)
            where = f"damage {number}: {harmed[:300]!r}"
            assert "crash" not in found, f"{where}\n{found.get('crash')}"
            if "error" in found:
                refused += 1
                assert found["code"] in (2, 69, 74), (where, found)
                assert len(found["message"]) < LONGEST, (where, found)
            elif right:
                assert found["value"] == whole["value"], where
        assert refused or not refuses, "no damage was seen"
        file.write_bytes(sound)
        assert read(loader, asked) == whole

    return run
