"""A target behind HTTP: what is sent, sent again, kept, and never asked twice."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lazybench.envs.attack.oracle import Oracle
from lazybench.envs.own_target.form import TargetForm
from lazybench.envs.own_target.http import HttpSettings, HttpTarget, shown
from lazybench.envs.own_target.journal import Journal, set_aside
from lazybench.errors import ContractError, StoreError, UsageError
from lazybench.files import append_line

FORM = TargetForm()


@contextmanager
def opened(
    url: str, form: TargetForm = FORM, journal: Path | None = None, **settings: Any
) -> Iterator[HttpTarget]:
    target = HttpTarget(url, form, HttpSettings(**{"pause_s": 0.01, **settings}), journal=journal)
    try:
        yield target
    finally:
        target.close()


def rows(count: int, seed: int = 0) -> Tensor:
    """Images whose pixels lie between two brightnesses."""
    return torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def scores_of(images: Tensor) -> Tensor:
    mean = ((images * 255).round() / 255).double().flatten(1).mean(1)
    return torch.stack([0 * mean, 50 * (mean - 0.6)], 1).float()


def test_images_are_sent_as_eight_bits_in_layout_and_bounds(loopback: Any) -> None:
    loopback.high = 255.0
    images = rows(5)
    form = TargetForm(layout="nhwc", bounds=(0, 255), classes=2)
    with opened(loopback.url, form, batch=2) as target:
        result = target(images)
    torch.testing.assert_close(result, scores_of(images), rtol=0, atol=1e-5)
    assert sorted(map(len, loopback.requests)) == [1, 2, 2]
    sent = sorted(json.dumps(each) for part in loopback.requests for each in part)
    expected = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).tolist()
    assert sent == sorted(map(json.dumps, expected))


def test_a_png_holds_the_same_image(loopback: Any) -> None:
    images = rows(2)
    with opened(loopback.url, encoding="png") as target:
        torch.testing.assert_close(target(images), scores_of(images), rtol=0, atol=1e-5)
    (first, *_), *_ = loopback.requests
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["b64"]))))
    assert any(
        (picture == (image * 255).round().byte().permute(1, 2, 0).numpy()).all() for image in images
    )


def test_what_fails_for_now_is_sent_again_and_paid_once(loopback: Any) -> None:
    busy = {0: (503, {"Retry-After": "0"}, b"busy"), 1: (429, {"Retry-After": "0"}, b"slowly")}
    loopback.before = busy.get
    with opened(loopback.url) as target:
        target(rows(3))
        assert (target.answered, len(target.journal), target.gone) == (3, 3, None)
    assert len(loopback.requests) == 3
    assert len(loopback.answered) == 3


def test_a_late_answer_is_asked_for_again(loopback: Any) -> None:
    def late(number: int) -> None:
        if number == 0:
            time.sleep(1.5)

    loopback.before = late
    with opened(loopback.url, timeout_s=0.5) as target:
        target(rows(1))
        assert (target.answered, target.unanswered) == (1, 1)
    assert len(loopback.requests) == 2


def test_who_stays_away_is_given_up_and_what_was_answered_is_kept(
    loopback: Any, tmp_path: Path
) -> None:
    loopback.before = lambda number: (502, {}, b"") if number >= 2 else None
    journal = tmp_path / "queries.jsonl"
    with opened(loopback.url, journal=journal, batch=1, concurrency=1, retries=2) as target:
        with pytest.raises(ContractError, match=r"3 tries.*HTTP 502"):
            target(rows(6))
        assert "the same command resumes" in (target.gone or "")
        # Two requests were answered, the third was sent three times.
        assert target.unanswered == 3
    assert len(loopback.requests) == 2 + 3
    loopback.before = lambda number: None
    with opened(loopback.url, journal=journal, batch=1) as target:
        torch.testing.assert_close(target(rows(6)), scores_of(rows(6)), rtol=0, atol=1e-5)
        assert (target.answered, target.journal.replayed) == (4, 2)
    assert len(loopback.answered) == len(set(loopback.answered)) == 6


def test_a_refusal_isnt_repeated(loopback: Any) -> None:
    loopback.before = lambda number: (401, {}, b"who are you?")
    with opened(loopback.url) as target:
        with pytest.raises(ContractError, match=r"401.*who are you"):
            target(rows(2))
        assert (target.answered, target.unanswered) == (0, 2)
    assert len(loopback.requests) == 1


def test_an_address_without_anybody_behind_it(loopback: Any) -> None:
    loopback.close()
    with opened(loopback.url, retries=1) as target:
        with pytest.raises(ContractError, match="no connection"):
            target(rows(1))
        assert target.gone is not None
        # Nothing was sent that somebody could charge.
        assert target.unanswered == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "no JSON"),
        (b'{"outputs": []}', "must answer 2 instances"),
        (b'{"predictions": [[0, 1]]}', "got 1 entries"),
        (b'{"predictions": [[0, 1], "cat"]}', "a list of finite numbers"),
        (b'{"predictions": [[0, NaN], [0, 1]]}', "a list of finite numbers"),
        (b'{"predictions": [[0, 1], [0, 1, 2]]}', "one length"),
        (b'{"predictions": [[0, 1], 1]}', "a list of finite numbers"),
    ],
)
def test_answers_of_another_kind_are_refused_and_not_kept(
    loopback: Any, body: bytes, message: str
) -> None:
    loopback.before = lambda number: (200, {}, body)
    with opened(loopback.url) as target:
        with pytest.raises(ContractError, match=message):
            target(rows(2))
        assert len(target.journal) == 0


def test_a_servers_text_never_shows_our_headers(loopback: Any) -> None:
    loopback.before = lambda number: (401, {}, b"bad token: Bearer s3cr3t, s3cr3t")
    with (
        opened(loopback.url, headers={"Authorization": "Bearer s3cr3t"}) as target,
        pytest.raises(ContractError, match=r"refused a request.*bad token: …") as refused,
    ):
        target(rows(2))
    assert "s3cr3t" not in str(refused.value)


def test_requests_go_in_parallel_and_not_more(loopback: Any) -> None:
    loopback.slow_s = 0.2
    with opened(loopback.url, batch=1, concurrency=3) as target:
        target(rows(9))
    assert loopback.most in (2, 3)


def test_the_rate_holds(loopback: Any) -> None:
    with opened(loopback.url, batch=2, rate=20.0, concurrency=4) as target:
        begin_s = time.monotonic()
        target(rows(10))
    # The first two are sent at once, the others at 20 a second.
    assert time.monotonic() - begin_s >= 8 / 20
    # A request has no more images than a second.
    with opened(loopback.url, batch=16, rate=4.0) as target:
        begin_s = time.monotonic()
        target(rows(10)[:6] / 2)
    assert time.monotonic() - begin_s >= 2 / 4


def test_an_image_is_asked_once_unless_answers_are_random(loopback: Any, tmp_path: Path) -> None:
    twice = rows(1).expand(2, -1, -1, -1)
    with opened(loopback.url) as target:
        target(twice)
        target(twice[:1])
    assert len(loopback.answered) == 1
    journal = tmp_path / "queries.jsonl"
    for _ in range(2):
        with opened(loopback.url, journal=journal, repeats=True) as target:
            target(twice)
            target(twice[:1])
    assert len(loopback.answered) == 1 + 3


def test_a_journal_belongs_to_one_way_of_asking(loopback: Any, tmp_path: Path) -> None:
    journal = tmp_path / "queries.jsonl"
    with opened(loopback.url, journal=journal) as target:
        target(rows(2))
    with pytest.raises(UsageError, match=r"bounds.*--fresh"):
        HttpTarget(loopback.url, TargetForm(bounds=(0, 255)), journal=journal)
    # A line that was torn by a kill is asked about again, the one before it isn't.
    journal.write_bytes(journal.read_bytes()[:-7])
    with opened(loopback.url, journal=journal) as target:
        target(rows(2))
        assert (target.answered, target.journal.replayed) == (1, 1)


def test_labels(loopback: Any) -> None:
    loopback.label = True
    form = TargetForm(answers="label", classes=3)
    images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    with opened(loopback.url, form) as target:
        assert target(images).tolist() == [[1, 0, 0], [0, 1, 0]]
        loopback.before = lambda number: (200, {}, b'{"predictions": [7]}')
        with pytest.raises(ContractError, match=r"lie in \[0, 3\)"):
            target(rows(1))
        assert len(target.journal) == 2


def test_a_journal_belongs_to_one_address_and_its_headers(loopback: Any, tmp_path: Path) -> None:
    journal = tmp_path / "queries.jsonl"
    url, headers = f"{loopback.url}?model=good&key=hidden", {"X-Model": "quiet"}
    with opened(url, journal=journal, headers=headers) as target:
        target(rows(2))
    kept = journal.read_bytes()
    with opened(url, journal=journal, headers={"x-model": "quiet"}) as target:
        target(rows(2))
        assert (target.answered, target.journal.replayed) == (0, 2)
    for other, more, differs in (
        (f"{loopback.url}?model=half&key=hidden", headers, "address"),
        (loopback.url, headers, "address"),
        (
            loopback.url.replace("http://", "http://me:pass@") + "?model=good&key=hidden",
            headers,
            "add",
        ),
        (url, {"X-Model": "loud"}, "headers"),
        (url, {"X-Other": "quiet"}, "headers"),
        (url, {}, "headers"),
    ):
        with pytest.raises(UsageError, match=rf"another target.*{differs}.*--fresh"):
            HttpTarget(other, FORM, HttpSettings(headers=more), journal=journal)
    assert journal.read_bytes() == kept
    for secret in (b"hidden", b"quiet", b"good", hashlib.sha256(b"quiet").hexdigest().encode()):
        assert secret not in kept
    # Salted: the same address and headers have other hashes in another journal.
    with opened(url, journal=tmp_path / "other.jsonl", headers=headers):
        heads = [
            json.loads(path.read_text().splitlines()[0])
            for path in (journal, tmp_path / "other.jsonl")
        ]
    assert heads[0]["address"] != heads[1]["address"]
    assert heads[0]["headers"] != heads[1]["headers"]


def test_another_number_of_classes_isnt_kept(loopback: Any, tmp_path: Path) -> None:
    journal = tmp_path / "queries.jsonl"
    more = {1: (200, {}, b'{"predictions": [[0, 1, 2]]}')}
    loopback.before = more.get
    with opened(loopback.url, journal=journal, batch=1) as target:
        target(rows(1))
        with pytest.raises(ContractError, match=r"3 classes, but 2 are in the first answer"):
            target(rows(1, seed=1))
    loopback.before = lambda number: None
    with opened(loopback.url, journal=journal) as target:
        target(rows(1))
        assert target(rows(1, seed=1)).shape == (1, 2)
        assert (target.answered, len(target.journal)) == (1, 2)
    loopback.before = lambda number: (200, {}, b'{"predictions": [[0, 1, 2]]}')
    # Also the first answer of a process comes after those in the file.
    with opened(loopback.url, journal=journal) as target, pytest.raises(ContractError, match="3"):
        target(rows(1, seed=2))
    with pytest.raises(StoreError, match=r"2 classes, but 3 are declared.*--fresh"):
        HttpTarget(loopback.url, TargetForm(classes=3), journal=journal)


@pytest.mark.parametrize("text", ["my own queries\n", "{}", '{"a": 1}\n{"b": 2}\n', "x"])
def test_a_file_that_is_no_journal_is_left_alone(loopback: Any, tmp_path: Path, text: str) -> None:
    journal = tmp_path / "queries.jsonl"
    journal.write_text(text)
    with pytest.raises(StoreError, match="isn't a lazybench journal"):
        HttpTarget(loopback.url, FORM, journal=journal)
    with pytest.raises(StoreError, match="isn't a lazybench journal"):
        set_aside(journal)
    assert journal.read_text() == text
    journal.unlink()
    journal.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="isn't a lazybench journal"):
        HttpTarget(loopback.url, FORM, journal=journal)
    assert not (tmp_path / "elsewhere").exists()
    journal.unlink()
    # A journal whose first line was torn by a kill is begun again.
    with opened(loopback.url, journal=journal):
        head = journal.read_bytes()
    journal.write_bytes(head[:20])
    with opened(loopback.url, journal=journal) as target:
        target(rows(1))
    assert len(journal.read_bytes().splitlines()) == 2
    set_aside(journal)
    assert not journal.exists()


@pytest.mark.parametrize("answer", ['"cat"', "[]", "7", "null", "[null]", "[1, 1e999]"])
def test_a_journal_of_other_answers_says_how_to_go_on(
    loopback: Any, tmp_path: Path, answer: str
) -> None:
    journal = tmp_path / "queries.jsonl"
    with opened(loopback.url, journal=journal):
        append_line(journal, {"image": "0" * 32, "answer": json.loads(answer)})
    with pytest.raises(StoreError, match="--fresh"):
        HttpTarget(loopback.url, FORM, journal=journal)


def test_a_full_disk_is_no_fault_of_the_target(loopback: Any, monkeypatch: Any) -> None:
    def full(self: Any, image: str, answer: Any) -> None:
        raise StoreError("can't write 9 bytes to queries.jsonl: No space left on device")

    monkeypatch.setattr(Journal, "keep", full)
    with opened(loopback.url) as target, pytest.raises(StoreError, match="No space left"):
        Oracle(target, None)(rows(1))


def test_only_what_is_given_is_sent(
    loopback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\nlogin alice\npassword other-site\n")
    (tmp_path / ".netrc").chmod(0o600)
    for name, value in {
        "HOME": str(tmp_path),
        "NETRC": str(tmp_path / ".netrc"),
        "NO_PROXY": "",
        "no_proxy": "",
        "http_proxy": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    result = {"Set-Cookie": "session=1; Path=/", "Content-Type": "application/json"}
    loopback.before = lambda number: (200, result, b'{"predictions": [[0, 1]]}')
    with opened(loopback.url) as target:
        for seed in range(2):
            target(rows(1, seed))
            assert not {"Authorization", "Cookie"} & set(loopback.headers)
    with opened(loopback.url, headers={"authorization": "Bearer mine"}) as target:
        target(rows(1))
    assert loopback.headers["authorization"] == "Bearer mine"
    mine = loopback.url.replace("http://", "http://me:p%40ss@")
    with opened(mine, headers={"authorization": "Bearer mine"}) as target:
        target(rows(1))
    names = [name for name in loopback.headers if name.lower() == "authorization"]
    assert [loopback.headers[name] for name in names] == ["Bearer mine"]
    with opened(mine) as target:
        target(rows(1))
    assert loopback.headers["Authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()


def test_a_proxy_is_used_where_it_is_given(loopback: Any) -> None:
    asked = f"http://{loopback.url.split('/')[2]}"
    proxy = asked.replace("http://", "http://me:hush@")
    with opened("http://model.invalid/predict?a=b", proxy=proxy) as target:
        assert target(rows(2)).shape == (2, 2)
    assert loopback.path == "http://model.invalid/predict?a=b"
    assert loopback.headers["Host"] == "model.invalid"
    result = base64.b64encode(b"me:hush").decode()
    assert loopback.headers["Proxy-Authorization"] == f"Basic {result}"
    for wrong in ("socks5://proxy:1", "proxy:hush@x", "https://proxy:1", ""):
        with pytest.raises(UsageError, match="a proxy is given by") as raised:
            HttpTarget(loopback.url, FORM, HttpSettings(proxy=wrong))
        assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Key": "hush\r\nX-More: 1"},
        {"X-Key": "hush \u2026"},
        {"X Key": "hush"},
        {"": "hush"},
        {"Content-Length": "3"},
        {"X-Key": "hush", "x-key": "hush"},
    ],
)
def test_headers_that_http_cant_carry(headers: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="header") as raised:
        HttpSettings(headers=headers)
    assert "hush" not in str(raised.value)


def test_one_number_for_two_classes(loopback: Any, tmp_path: Path) -> None:
    loopback.before = lambda number: (200, {}, b'{"predictions": [0.25, [0.75]]}')
    journal = tmp_path / "queries.jsonl"
    for _ in range(2):
        with opened(loopback.url, TargetForm(answers="binary"), journal=journal) as target:
            result = target(rows(2)).softmax(1)
        torch.testing.assert_close(result, torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    assert len(loopback.requests) == 1
    with opened(loopback.url, TargetForm(answers="binary_logits")) as target:
        torch.testing.assert_close(target(rows(2)), torch.tensor([[0.0, 0.25], [0.0, 0.75]]))
    with opened(loopback.url) as target, pytest.raises(ContractError, match="list of finite"):
        target(rows(2))
    loopback.before = lambda number: (200, {}, b'{"predictions": [[0.25], [0.75]]}')
    with opened(loopback.url) as target, pytest.raises(ContractError, match="--answers binary"):
        target(rows(2))


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "no model is loaded for hush-token-1"}',
        b"no model is loaded for hush-token-1",
        b'[["no model is loaded for hush-token-1"], [0, 1]]',
    ],
)
def test_what_a_target_says_in_place_of_answers_is_quoted_without_secrets(
    loopback: Any, body: bytes
) -> None:
    loopback.before = lambda number: (200, {}, body)
    with (
        opened(loopback.url, headers={"X-Key": "hush-token-1"}) as target,
        pytest.raises(ContractError, match="no model is loaded for …") as said,
    ):
        target(rows(2))
    assert "hush" not in str(said.value)


@pytest.mark.parametrize("secret", ['pa"ss\\word1', "clé-secrète", "abc/defgh", "a bcd bcdef"])
@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: text,
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1].replace("/", "\\/"),
    ],
)
def test_a_secret_is_hidden_however_it_is_spelled(loopback: Any, secret: str, spelled: Any) -> None:
    loopback.before = lambda number: (200, {}, b'{"error": "%b"}' % spelled(secret).encode())
    with (
        opened(loopback.url, headers={"X-Key": secret}) as target,
        pytest.raises(ContractError) as said,
    ):
        target(rows(2))
    assert '"error": "…"' in str(said.value)


def test_secrets_of_an_address_are_hidden(loopback: Any) -> None:
    address = loopback.url.replace("//", "//user:hunter%2F22@") + "?api_key=SECRET%2BKEY"
    shown = ("hunter%2F22", "hunter/22", "dXNlcjpodW50ZXIvMjI=", "SECRET%2BKEY", "SECRET+KEY")
    body = " ".join(shown).encode()
    loopback.before = lambda number: (200, {}, body)
    with opened(address) as target, pytest.raises(ContractError, match=r": … … … … …$"):
        target(rows(2))


def test_headers_are_sent_and_secrets_are_shown_nowhere(loopback: Any, tmp_path: Path) -> None:
    journal = tmp_path / "queries.jsonl"
    with opened(
        f"{loopback.url}?key=hidden", journal=journal, headers={"X-Key": "secret"}
    ) as target:
        target(rows(1))
        assert "hidden" not in target.name
    assert loopback.headers["X-Key"] == "secret"
    assert b"hidden" not in journal.read_bytes()
    assert b"secret" not in journal.read_bytes()
    assert shown("https://me:pass@host:8443/a?b=c") == "https://host:8443/a"


@pytest.mark.parametrize("url", ["ftp://host/", "http://", "http://host:port/", "host"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError, match="no http address"):
        HttpTarget(url, FORM)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"rate": 0.0}, {"timeout_s": float("inf")}, {"encoding": "jpeg"}]
)
def test_settings_that_arent_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        HttpSettings(**wrong)
