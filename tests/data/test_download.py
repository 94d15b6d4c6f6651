"""Downloads are whole, verified and in place, or not there at all: over a server on loopback."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lazybench.data import download
from lazybench.data.download import fetch
from lazybench.data.folders import SOURCES, Remote
from lazybench.errors import Busy, DataUnavailable, OutputUnavailable, UnknownName
from lazybench.runtime.locks import alone

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
OTHER = b"x" * len(CONTENT)

Answer = Callable[[BaseHTTPRequestHandler, int], None]


def sends(body: bytes = CONTENT, *, length: int | None = None, code: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, asked: int) -> None:
        del asked
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def fails_once(handler: BaseHTTPRequestHandler, asked: int) -> None:
    sends(b"", code=503)(handler, asked) if asked == 1 else sends()(handler, asked)


def stalls(handler: BaseHTTPRequestHandler, asked: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[:1000])
    handler.wfile.flush()
    STOPPED.wait(20)


STOPPED = threading.Event()


class Server:
    """A server that answers each path as told, and counts how often it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked[self.path] += 1
                answer = server.answers.get(self.path, sends(b"no such file", code=404))
                answer(self, server.asked[self.path])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # Proxies and waiting between tries have no place here.
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    STOPPED.clear()
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    STOPPED.set()
    made.http.shutdown()
    thread.join()
    made.http.server_close()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def remotes(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[Remote, ...]:
    """A data set `toy` of two files on the server, one of them with a published checksum."""
    made = (
        Remote(f"{server.url}/sure.bin", "toy/raw/sure.bin", MD5),
        Remote(f"{server.url}/bare.bin", "toy/bare.bin"),
    )
    monkeypatch.setattr(download, "SOURCES", {"toy": made})
    for remote in made:
        server.answers[f"/{remote.file}"] = sends()
    return made


def files_below(root: Path) -> list[str]:
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith(".lock"))


def test_files_come_whole_and_once(root: Path, server: Server, remotes: object) -> None:
    received: list[tuple[str, int, int]] = []
    sure, bare = fetch("toy", progress=lambda *each: received.append(each))
    assert sure.path == root / "toy" / "raw" / "sure.bin"
    assert sure.path.read_bytes() == bare.path.read_bytes() == CONTENT
    assert (sure.md5, bare.md5) == (MD5, "")
    assert bare.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (sure.fresh, sure.bytes) == (True, len(CONTENT))
    assert files_below(root) == ["toy/bare.bin", "toy/raw/sure.bin"]
    of_sure = [
        done for file, done, total in received if file == "sure.bin" and total == len(CONTENT)
    ]
    assert of_sure == sorted(of_sure)
    assert of_sure[-1] == len(CONTENT)
    assert len(of_sure) > 3
    again = fetch("toy")
    assert [each.fresh for each in again] == [False, False]
    assert set(server.asked.values()) == {1}
    # Only what lacks is fetched.
    bare.path.unlink()
    assert [each.fresh for each in fetch("toy")] == [False, True]


@pytest.mark.parametrize(
    ("answer", "why", "times"),
    [
        (sends(OTHER), "MD5 hash of downloaded file", 4),
        (sends(CONTENT[:9000], length=len(CONTENT)), "9000", 4),
        (sends(b"<!DOCTYPE html><p>Quota exceeded"), "the server sent a web page instead", 4),
        (sends(b"", code=404), "404", 1),
        (sends(b"", code=500), "500", 4),
    ],
)
def test_what_is_not_the_file_leaves_nothing(
    root: Path, server: Server, remotes: tuple[Remote, ...], answer: Answer, why: str, times: int
) -> None:
    server.answers["/sure.bin"] = answer
    with pytest.raises(DataUnavailable, match=why) as caught:
        fetch("toy")
    for part in (remotes[0].url, MD5, str(root / "toy" / "raw" / "sure.bin"), "--from"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in root.iterdir() if path.suffix != ".lock"] == []
    assert server.asked["/sure.bin"] == times


@pytest.mark.parametrize(
    "answer", [sends(CONTENT[:9000], length=len(CONTENT)), sends(b"<html>Not today")]
)
def test_without_a_checksum_cut_files_and_web_pages_are_refused_too(
    root: Path, server: Server, remotes: object, answer: Answer
) -> None:
    server.answers["/bare.bin"] = answer
    with pytest.raises(DataUnavailable, match=r"bare\.bin"):
        fetch("toy")
    # The file that came before stays, and isn't fetched again.
    assert files_below(root) == ["toy/raw/sure.bin"]
    server.answers["/bare.bin"] = sends()
    assert [each.fresh for each in fetch("toy")] == [False, True]


def test_a_server_that_fails_once_is_asked_again(
    root: Path, server: Server, remotes: object
) -> None:
    server.answers["/sure.bin"] = fails_once
    assert fetch("toy")[0].path.read_bytes() == CONTENT
    assert server.asked["/sure.bin"] == 2


def test_a_server_that_stalls_is_given_up(
    root: Path, server: Server, remotes: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(download, "TRIES", 1)
    server.answers["/sure.bin"] = stalls
    with pytest.raises(DataUnavailable, match="timed out"):
        fetch("toy")
    assert files_below(root) == []


def test_no_server(root: Path, server: Server, remotes: object) -> None:
    with pytest.raises(DataUnavailable, match=r"couldn't be downloaded in 4 tries"):
        fetch("toy", mirror="http://127.0.0.1:1")


def test_a_mirror_holds_the_files_under_their_names(
    root: Path, server: Server, remotes: object
) -> None:
    for name in ("sure.bin", "bare.bin"):
        server.answers[f"/copy/{name}"] = sends()
    assert fetch("toy", mirror=f"{server.url}/copy/")[1].url == f"{server.url}/copy/bare.bin"
    assert set(server.asked) == {"/copy/sure.bin", "/copy/bare.bin"}


def test_other_content_is_left_alone_unless_asked(
    root: Path, server: Server, remotes: object
) -> None:
    path = root / "toy" / "raw" / "sure.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(DataUnavailable, match="it was kept; --replace downloads it again"):
        fetch("toy")
    assert path.read_bytes() == b"mine"
    server.answers["/sure.bin"] = sends(OTHER)
    with pytest.raises(DataUnavailable, match="couldn't be downloaded"):
        fetch("toy", replace=True)
    assert path.read_bytes() == b"mine", "the old file goes only when the new one is whole"
    server.answers["/sure.bin"] = sends()
    fetch("toy", replace=True)
    assert path.read_bytes() == CONTENT


def test_one_at_a_time_and_leftovers_go(root: Path, server: Server, remotes: object) -> None:
    left = root / "toy" / "raw" / ".get-killed"
    left.mkdir(parents=True)
    (left / "tmp").write_bytes(b"half")
    with alone(root / download._LOCK, "busy", str), pytest.raises(Busy, match="another process"):
        fetch("toy")
    assert left.exists()
    fetch("toy")
    assert not left.exists()


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, server: Server, remotes: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(OutputUnavailable, match="LAZYBENCH_DATA"):
        fetch("toy")


def test_unknown_names(root: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean: cifarfs"):
        fetch("cifarf")


def test_every_source_has_its_place_once() -> None:
    for remotes in SOURCES.values():
        assert len({remote.place for remote in remotes}) == len(remotes)
        for remote in remotes:
            assert remote.url.startswith("https://")
            assert remote.place.endswith(remote.file)
            assert len(remote.md5) in (0, 32)
