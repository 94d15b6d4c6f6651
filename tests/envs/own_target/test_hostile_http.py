"""Servers that lie, drip, flood or send elsewhere: one line, in time, and no secret leaves."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lazybench.envs.own_target import http
from lazybench.envs.own_target.form import TargetForm
from lazybench.envs.own_target.http import HttpSettings, HttpTarget
from lazybench.errors import ContractError

IMAGES = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
Serve = Callable[[socket.socket], None]


def read_request(client: socket.socket) -> None:
    """Take a request in whole: closing a socket that holds unread bytes takes the answer back."""
    result = b""
    while b"\r\n\r\n" not in result:
        result += received(client)
    head, _, body = result.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    while length and len(body) < int(length[1]):
        body += received(client)


def received(client: socket.socket) -> bytes:
    """The next bytes of a request that isn't whole yet."""
    part = client.recv(1 << 16)
    if not part:
        raise OSError("the client left before its request was whole")
    return part


@contextmanager
def raw(serve: Serve) -> Iterator[str]:
    """The address of a server that answers each connection by `serve`, bytes as they are."""
    server = socket.create_server(("127.0.0.1", 0))

    def one(client: socket.socket) -> None:
        with client:
            try:
                read_request(client)
                serve(client)
            except OSError:
                return

    def run() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(client,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/predict"
    finally:
        # Closing alone doesn't wake who waits in accept.
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def refusal(url: str, **settings: Any) -> str:
    """The one line that asking ends in, with nothing kept."""
    asked = HttpSettings(**{"pause_s": 0.01, "retries": 1, "timeout_s": 5.0, **settings})
    target = HttpTarget(url, TargetForm(), asked)
    with closing(target), pytest.raises(ContractError) as raised:
        target(IMAGES)
    assert len(target.journal) == 0
    message = str(raised.value)
    assert len(message) < 1000
    assert message.isprintable()
    return message


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_isnt_followed_and_no_header_goes_there(loopback: Any, status: int) -> None:
    events: list[bytes] = []
    with raw(lambda client: events.append(b"asked")) as elsewhere:
        loopback.before = lambda number: (status, {"Location": elsewhere}, b"")
        message = refusal(loopback.url, headers={"Authorization": "hush"})
    assert f"'{elsewhere}'" in message
    assert "isn't followed" in message
    assert "hush" not in message
    assert events == []
    assert len(loopback.requests) == 1


def test_a_reply_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_REPLY_BYTES", 1 << 20)
    sent = 0

    def flood(client: socket.socket) -> None:
        nonlocal sent
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += client.send(b"[" * (1 << 16))

    with raw(flood) as url:
        assert "more than 1 MiB" in refusal(url)
    assert sent < 64 << 20


def test_a_reply_that_drips_is_given_up_in_time() -> None:
    def drip(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            client.sendall(b"[")
            time.sleep(0.05)

    with raw(drip) as url:
        begin_s = time.monotonic()
        assert "no answer within 0.5 s" in refusal(url, timeout_s=0.5)
    assert time.monotonic() - begin_s < 20


@pytest.mark.parametrize(
    ("head", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 2", b"0"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
        (b"HTTP/1.1 503 busy\r\nContent-Length: 999\r\n\r\n", b" "),
    ],
)
def test_no_part_of_a_reply_can_outlast_the_deadline(head: bytes, again: bytes) -> None:
    ended = threading.Event()

    def drip(client: socket.socket) -> None:
        try:
            client.sendall(head)
            while True:
                client.sendall(again)
                time.sleep(0.02)
        except OSError:
            ended.set()

    with raw(drip) as url:
        begin_s = time.monotonic()
        assert "no answer within 0.3 s" in refusal(url, timeout_s=0.3, retries=0)
        assert time.monotonic() - begin_s < 5
        # The connection is shut down as well, so that nothing goes on behind.
        assert ended.wait(5)


def test_a_proxy_that_drips_is_left_in_time() -> None:
    ended = threading.Event()

    def drip(client: socket.socket) -> None:
        try:
            client.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                client.sendall(b"X: y\r\n")
                time.sleep(0.02)
        except OSError:
            ended.set()

    with raw(drip) as url:
        message = refusal("https://model.invalid/", proxy=url, timeout_s=0.3, retries=0)
        assert "no answer within 0.3 s" in message
        assert ended.wait(5)


def test_a_server_that_takes_no_request_or_no_handshake_is_left_in_time() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    big = torch.zeros(1, 3, 1024, 1024)
    try:
        # Nobody accepts: the system takes the connection, and then nothing moves.
        for url, images in (
            (f"http://127.0.0.1:{port}/", big),
            (f"https://127.0.0.1:{port}/", IMAGES),
        ):
            begin_s = time.monotonic()
            target = HttpTarget(url, TargetForm(), HttpSettings(retries=0, timeout_s=0.3))
            with closing(target), pytest.raises(ContractError, match=r"no answer within 0.3 s"):
                target(images)
            assert time.monotonic() - begin_s < 20
    finally:
        server.close()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"", "no connection"),
        (b"no http at all\r\n\r\n", "no connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[1", "no connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no connection"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n[]", "no connection"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n[]", "no connection"),
        (b"HTTP/1.1 503 \x1b[31mred\r\nRetry-After: 0\r\n\r\n", "HTTP 503"),
        (b"HTTP/1.1 418 x\r\n\r\n\x1b[2J\x07" + b"a" * 9999, "HTTP 418 x: [2J"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08", "no JSON"),
    ],
)
def test_replies_that_are_no_http(reply: bytes, message: str) -> None:
    with raw(lambda client: client.sendall(reply)) as url:
        assert message in refusal(url)


@pytest.mark.parametrize(
    ("body", "answers", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "scores", "no JSON"),
        (b"[[1e999, 0], [0, 1]]", "scores", "a list of finite numbers"),
        (b"[[1" + b"0" * 400 + b", 0], [0, 1]]", "scores", "a list of finite numbers"),
        (b"[" + b"9" * 5000 + b", 0]", "scores", "no JSON"),
        (b"\xff\xfe[[0, 1], [0, 1]]", "scores", "no JSON"),
        (b"[[], []]", "scores", "a list of finite numbers"),
        (b"null", "scores", "must answer 2 instances"),
        (b'{"predictions": {"0": [0, 1]}}', "scores", "must answer 2 instances"),
        (b"[1180591620717411303424, 0]", "label", "an integer"),
        (b"[true, 0]", "label", "an integer"),
    ],
)
def test_answers_that_harm_who_reads_them(
    loopback: Any, body: bytes, answers: Any, message: str
) -> None:
    loopback.before = lambda number: (200, {}, body)
    form = TargetForm(answers=answers, classes=2)
    target = HttpTarget(loopback.url, form, HttpSettings(retries=0))
    with closing(target), pytest.raises(ContractError, match=message):
        target(IMAGES)
    assert len(target.journal) == 0


def test_a_wait_that_is_asked_for_has_an_end(loopback: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(http, "_LONGEST_PAUSE_S", 0.05)
    loopback.before = lambda number: (503, {"Retry-After": "7200"}, b"")
    target = HttpTarget(loopback.url, TargetForm(), HttpSettings(retries=5))
    with closing(target), pytest.raises(ContractError, match=r"in 1 tries.*asks to wait 7200 s"):
        target(IMAGES)
    later = {0: "9" * 5000, 1: "٣", 2: "-1", 3: "Wed, 21 Oct 2009 07:28:00 GMT"}

    def before(number: int) -> Any:
        result = later.get(number)
        return (
            None
            if result is None
            else (503, {"Retry-After": result.encode().decode("latin-1")}, b"")
        )

    loopback.before = before
    target = HttpTarget(loopback.url, TargetForm(), HttpSettings(retries=5, pause_s=0.01))
    with closing(target):
        assert target(IMAGES).shape == (2, 2)


def test_an_address_with_tricks_asks_and_shows_what_it_says(loopback: Any, tmp_path: Path) -> None:
    path = "/a/../../b%2e%2e%0d%0aX-Bad:%20yes/<script>"
    url = loopback.url.rpartition("/v1")[0] + path
    journal = tmp_path / "queries.jsonl"
    target = HttpTarget(url, TargetForm(), HttpSettings(retries=0), journal=journal)
    with closing(target):
        target(IMAGES)
    assert "X-Bad" not in loopback.headers
    assert json.loads(journal.read_text().splitlines()[0])["url"] == target.name
    assert list(tmp_path.iterdir()) == [journal]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_a_certificate_is_trusted_where_it_is_named_and_else_not_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, own = tmp_path / "key.pem", tmp_path / "own.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(key), "-out", str(own))
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    subprocess.run(
        ["openssl", "req", "-x509", *kind, *files, *subject], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    server = socket.create_server(("127.0.0.1", 0))
    came = 0

    def run() -> None:
        nonlocal came
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            came += 1
            try:
                if client.recv(7, socket.MSG_PEEK) == b"CONNECT":
                    read_request(client)
                    client.sendall(b"HTTP/1.1 200 go on\r\n\r\n")
                with context.wrap_socket(client, server_side=True) as safe:
                    read_request(safe)
                    body = b'{"predictions": [[0, 1], [1, 0]]}'
                    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                    safe.sendall(head + body)
            except OSError:
                client.close()

    threading.Thread(target=run, daemon=True).start()
    url = f"https://127.0.0.1:{server.getsockname()[1]}/"
    try:
        assert "certificate isn't trusted" in refusal(url, retries=3)
        assert came == 1
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(own))
        with closing(HttpTarget(url, TargetForm(), HttpSettings(retries=0))) as target:
            assert target(IMAGES).argmax(1).tolist() == [1, 0]
        # Through a proxy it is the target's certificate that counts, not the proxy's.
        proxy = url.replace("https", "http")
        for host, reason in (("127.0.0.1", None), ("model.invalid", "certificate isn't trusted")):
            there = HttpSettings(retries=0, proxy=proxy)
            with closing(HttpTarget(f"https://{host}/", TargetForm(), there)) as target:
                if reason is None:
                    assert target(IMAGES).argmax(1).tolist() == [1, 0]
                    continue
                with pytest.raises(ContractError, match=reason):
                    target(IMAGES)
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
