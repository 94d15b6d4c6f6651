"""What every test runs under: no network but loopback, and one torch thread; shared fixtures."""

from __future__ import annotations

import errno
import functools
import importlib.util
import ipaddress
import os
import socket
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Read when torch or numpy is first imported, here and in subprocesses of the tests.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def _script(path: str) -> ModuleType:
    name = f"script_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is being read.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """A function from the path of a script or test below the repository to its module."""
    return _script


@pytest.fixture(scope="session")
def write_averages() -> Callable[..., str]:
    """A function that writes `net.py`: a backbone that averages an image over `edge`^2 cells.

    It returns the path with the name of the factory, which is the name of the features.
    """

    def write(folder: Path, name: str, edge: int, weights: str) -> str:
        file = folder / "net.py"
        file.write_text(
            f"import torch\n\nWEIGHTS = {weights!r}\n\n\n"
            "class Averages(torch.nn.Module):\n"
            "    def forward(self, x):\n"
            f"        return torch.nn.functional.adaptive_avg_pool2d(x, {edge}).flatten(1)\n\n\n"
            f"def {name}(task):\n    return Averages()\n"
        )
        return f"{file}:{name}"

    return write


def _is_loopback(family: int, address: Any) -> bool:
    if family == getattr(socket, "AF_UNIX", None):
        return True
    if not isinstance(address, tuple):
        return False
    host = str(address[0])
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection off this machine fail as it does where there is no network."""
    for name in ("connect", "connect_ex", "sendto"):
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, *args: Any, _original: Any = original) -> Any:
            # The address is the last argument of all three calls.
            if not _is_loopback(self.family, args[-1]):
                raise OSError(errno.ENETUNREACH, f"tests may only reach loopback, got {args[-1]!r}")
            return _original(self, *args)

        monkeypatch.setattr(socket.socket, name, guarded)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Pin torch to one thread where a test module has loaded it, and undo it at the end."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def record_fields() -> Callable[..., dict[str, Any]]:
    """A function from changes to a sound record's fields; `env__id="x"` changes `env.id`.

    `given` replaces whole fields before the changes.
    """

    def fields(given: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        sound: dict[str, Any] = {
            "status": "ok",
            "env": {
                "id": "glyphs-5way-1shot",
                "version": 1,
                "family": "fewshot",
                "metric": "accuracy",
                "better": "higher",
                "unit": "fraction",
                "protocol": {"trials": 4},
            },
            "data": {"name": "glyphs", "fingerprint": "ab" * 32, "prep": "1", "source": "embedded"},
            "agent": {
                "id": "reptile",
                "origin": "lazybench",
                "trained_by": "lazybench",
                "resumable": True,
            },
            "config": {"lr": 0.1},
            "preset": "small",
            "budget": "small",
            "seed": 0,
            "code": {"version": "0.1.0"},
            "machine": {
                "python": "3.11",
                "platform": "linux",
                "processor": "x86_64",
                "cores": 2,
                "threads": 1,
            },
            "started": "2026-01-01T00:00:00Z",
            **(given or {}),
        }
        for name, value in changes.items():
            outer, _, inner = name.partition("__")
            sound[outer] = {**sound[outer], inner: value} if inner else value
        return sound

    return fields


@pytest.fixture
def make_run(record_fields: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """A function `(agent, shift, seed, **changes)` to a record whose trials share a difficulty.

    `scores` are the trials' own instead, and `n` their number.
    """

    import numpy as np

    from lazybench.records import Record, Trials

    def make(agent: str, shift: float = 0.0, seed: int = 0, **changes: Any) -> Any:
        difficulty = np.random.default_rng(0).uniform(0.3, 0.7, changes.pop("n", 40))
        noise = np.random.default_rng([zlib.crc32(agent.encode()), seed])
        scores = np.clip(difficulty + shift + noise.normal(0, 0.01, len(difficulty)), 0, 1)
        scores = changes.pop("scores", scores)
        sound = changes.get("status", "ok") == "ok"
        given = {
            "seed": seed,
            "trials": Trials.of(scores) if sound else Trials(),
            "cost": {"train_wall_s": 10.0 + seed, "peak_memory_bytes": 5_000_000 + seed},
        }
        names = {"env__protocol": {"trials": 40}, "agent__id": agent}
        return Record.keyed(**record_fields(given, **{**names, **changes}))

    return make


@pytest.fixture
def store(tmp_path: Path, make_run: Callable[..., Any]) -> Any:
    """A store with two agents, one of them over two seeds."""
    from lazybench.records import Store

    store = Store(tmp_path / "leaderboards")
    for record in (make_run("a", 0.1), make_run("b"), make_run("b", seed=1)):
        store.publish(record)
    return store
