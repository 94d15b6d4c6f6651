"""Rows 11 to 13, 37 and 38: archives, downloads, no network, damaged caches and packages."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import faultkit
import pytest

ROOT = Path(__file__).parents[2]
CHANCE = ("run", "-a", "chance", "-e", "glyphs-5way-1shot", "-b", "smoke", "--limit", "8")
WHERE = ("--out", "store", "--runs", "runs", "--threads", "1")

Fill = Callable[[zipfile.ZipFile], None]


def linked(name: str, to: str) -> Fill:
    def fill(archive: zipfile.ZipFile) -> None:
        member = zipfile.ZipInfo(name)
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, to)

    return fill


def holding(name: str, data: bytes = b"x") -> Fill:
    return lambda archive: archive.writestr(zipfile.ZipInfo(name), data)


def bomb(archive: zipfile.ZipFile) -> None:
    for number in range(140):
        info = zipfile.ZipInfo(f"images_background/{number}.png")
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w") as member:
            for _ in range(60):
                member.write(bytes(1 << 20))


def absurd(archive: zipfile.ZipFile) -> None:
    archive.writestr("images_background/a.png", bytes(100))
    archive.infolist()[0].file_size = 1 << 45


@pytest.mark.parametrize(
    ("fill", "why"),
    [
        pytest.param(holding("../../out.txt"), "points outside", id="zip-up"),
        pytest.param(holding("/tmp/lazybench-out.txt"), "points outside", id="zip-absolute"),
        pytest.param(linked("images_background/l", "/etc/passwd"), "link or special", id="link"),
        pytest.param(absurd, "at most", id="absurd-size"),
        pytest.param(bomb, "at most", id="bomb", marks=pytest.mark.slow),
    ],
)
def test_11_hostile_zip_in_the_place_of_data(here: Any, fill: Fill, why: str) -> None:
    folder = here.folder / "data" / "omniglot-py"
    folder.mkdir(parents=True)
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            fill(archive)
    before = sorted(here.folder.rglob("*"))
    done = here("data", "verify", "omniglot", LAZYBENCH_DATA=str(here.folder / "data"))
    assert done.code == 69, done
    assert "is refused" in done.out + done.err
    assert why in done.out + done.err
    assert "Traceback" not in done.err
    made = [path for path in here.folder.rglob("*") if path not in before]
    assert [path for path in made if path.parent != here.folder] == []
    assert not Path("/tmp/lazybench-out.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, None])
def test_11_hostile_tar_in_the_place_of_data(here: Any, kind: bytes | None) -> None:
    data = here.folder / "data"
    data.mkdir()
    with tarfile.open(data / "cifar-100-python.tar.gz", "w:gz") as archive:
        for name in ("../../out", "cifar-100-python/train", "cifar-100-python/test"):
            info = tarfile.TarInfo(name)
            if kind is not None:
                info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info, io.BytesIO())
    done = here("data", "verify", "cifar100", LAZYBENCH_DATA=str(data))
    assert done.code == 69, done
    assert "cifar-100-python" in done.out + done.err
    assert "Traceback" not in done.err
    assert sorted(path.name for path in here.folder.rglob("out")) == []


Answer = Callable[[BaseHTTPRequestHandler], None]


def sends(body: bytes, *, length: int | None = None, code: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


class Server:
    """Answers every file alike, as told."""

    def __init__(self) -> None:
        self.answer: Answer = sends(b"", code=404)
        self.asked: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked[self.path] += 1
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


@pytest.mark.parametrize(
    ("answer", "why", "tries"),
    [
        pytest.param(sends(b"no such file", code=404), "404", 1, id="404"),
        pytest.param(
            sends(b"<!doctype html><p>Sign in"), "web page", 4, id="html", marks=pytest.mark.slow
        ),
        pytest.param(
            sends(bytes(5000)), "MD5 hash", 4, id="wrong-checksum", marks=pytest.mark.slow
        ),
        pytest.param(sends(bytes(900), length=5000), "900", 4, id="cut", marks=pytest.mark.slow),
        pytest.param(sends(b"", code=503), "503", 4, id="503", marks=pytest.mark.slow),
    ],
)
def test_12_download(here: Any, server: Server, answer: Answer, why: str, tries: int) -> None:
    """A stalling server: tests/data/test_download.py, which shortens the wait."""
    server.answer = answer
    data = here.folder / "data"
    done = here("data", "get", "cifar100", "--from", server.url, "--quiet",
                LAZYBENCH_DATA=str(data), NO_PROXY="*")  # fmt: skip
    assert done.code == 69, done
    md5, place = "eb9058c3a382ffc7106e4002c42a8d85", data / "cifar-100-python.tar.gz"
    for part in (why, server.url, md5, str(place), "--from"):
        assert part in done.err, done.err
    assert "Traceback" not in done.err
    assert [path.name for path in data.iterdir() if path.suffix != ".lock"] == []
    assert list(server.asked.values()) == [tries]


def test_13_no_network(here: Any, commands: Callable[..., Any]) -> None:
    """In a network namespace without an interface; tests/conftest.py keeps all tests off it."""
    done = here(*CHANCE, *WHERE, prepare=faultkit.no_network)
    if done.code == faultkit.UNABLE:
        pytest.skip("this system lets tests make no network namespace")
    assert done.code == 0, done.err
    get = here("data", "get", "cifar100", "--quiet", prepare=faultkit.no_network,
               LAZYBENCH_DATA=str(here.folder / "data"))  # fmt: skip
    assert get.code == 69
    assert "Traceback" not in get.err
    plain = commands("plain")
    assert plain(*CHANCE, *WHERE).code == 0
    assert plain.result == here.result


@pytest.mark.parametrize("harm", ["flip", "cut", "partly-deleted", "manifest"])
def test_37_cache_is_damaged(here: Any, cache: Path, harm: str) -> None:
    assert here(*CHANCE, *WHERE).code == 0
    before = here.result
    own = here.folder / "cache"
    shutil.copytree(cache, own)
    # Other tests of the session put other environments' entries there.
    entry = next(path for path in own.iterdir() if re.fullmatch(r"glyphs-[0-9a-f]{16}", path.name))
    largest = max(entry.glob("*.npy"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
    elif harm == "cut":
        largest.write_bytes(data[: len(data) // 2])
    elif harm == "partly-deleted":
        largest.unlink()
    else:
        (entry / "manifest.json").write_text("{")
    shutil.rmtree(here.folder / "store")
    shutil.rmtree(here.folder / "runs")
    done = here(*CHANCE, *WHERE, LAZYBENCH_CACHE=str(own))
    assert done.code == 0, done.err
    assert "is damaged" in done.err
    assert "building it again" in done.err
    assert here.result == before
    assert bytes(largest.read_bytes()) == (cache / largest.relative_to(own)).read_bytes()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, as an installation has it."""
    site = tmp_path_factory.mktemp("site")
    skip = shutil.ignore_patterns("__pycache__", "envs", "agents")
    shutil.copytree(ROOT / "lazybench", site / "lazybench", ignore=skip)
    for name in ("envs", "agents"):
        pyc = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, site / "lazybench" / name, ignore=pyc)
    return site


@pytest.mark.parametrize(
    ("file", "env"),
    [
        pytest.param("glyphs.npz", "glyphs-5way-1shot", id="glyphs"),
        pytest.param(
            "attack_glyphs.safetensors", "glyphs-net4-untargeted", id="target",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_38_package_data_is_damaged(installed: Path, tmp_path: Path, file: str, env: str) -> None:
    path = installed / "lazybench" / "envs" / "assets" / file
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    environment = os.environ | {
        "PYTHONPATH": str(installed),
        "LAZYBENCH_DATA": str(tmp_path / "data"),
        "LAZYBENCH_CACHE": str(tmp_path / "cache"),
    }
    agent = "chance" if file == "glyphs.npz" else "square"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lazybench", "run", "-a", agent, "-e", env, "-b", "smoke"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        path.write_bytes(whole)
    assert done.returncode == 69, done.stderr
    assert str(path) in done.stderr
    assert "sha256" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "leaderboards").exists()
