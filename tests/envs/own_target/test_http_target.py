"""A target behind HTTP: what is sent, sent again, kept, and never asked twice."""

from __future__ import annotations

import base64
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

from lazybench.envs.http_target import HttpSettings, HttpTarget
from lazybench.envs.http_wire import shown
from lazybench.envs.target_form import TargetForm
from lazybench.errors import ContractError, UsageError

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
        told = target(images)
    torch.testing.assert_close(told, scores_of(images), rtol=0, atol=1e-5)
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
        assert (target.asked, len(target.journal), target.gone) == (3, 3, None)
    assert len(loopback.requests) == 3
    assert len(loopback.answered) == 3


def test_a_late_answer_is_asked_for_again(loopback: Any) -> None:
    def late(number: int) -> None:
        if number == 0:
            time.sleep(1.5)

    loopback.before = late
    with opened(loopback.url, timeout_s=0.5) as target:
        target(rows(1))
    assert len(loopback.requests) == 2


def test_who_stays_away_is_given_up_and_what_was_answered_is_kept(
    loopback: Any, tmp_path: Path
) -> None:
    loopback.before = lambda number: (502, {}, b"") if number >= 2 else None
    journal = tmp_path / "queries.jsonl"
    with opened(loopback.url, journal=journal, batch=1, concurrency=1, retries=2) as target:
        with pytest.raises(ContractError, match=r"3 tries.*HTTP 502"):
            target(rows(6))
        assert "the same command goes on" in (target.gone or "")
    assert len(loopback.requests) == 2 + 3
    loopback.before = lambda number: None
    with opened(loopback.url, journal=journal, batch=1) as target:
        torch.testing.assert_close(target(rows(6)), scores_of(rows(6)), rtol=0, atol=1e-5)
        assert (target.asked, target.journal.replayed) == (4, 2)
    assert len(loopback.answered) == len(set(loopback.answered)) == 6


def test_a_refusal_isnt_repeated(loopback: Any) -> None:
    loopback.before = lambda number: (401, {}, b"who are you?")
    with opened(loopback.url) as target, pytest.raises(ContractError, match=r"401.*who are you"):
        target(rows(1))
    assert len(loopback.requests) == 1


def test_an_address_without_anybody_behind_it(loopback: Any) -> None:
    loopback.close()
    with opened(loopback.url, retries=1) as target:
        with pytest.raises(ContractError, match="no connection"):
            target(rows(1))
        assert target.gone is not None


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


def test_requests_go_side_by_side_and_not_more(loopback: Any) -> None:
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
        assert (target.asked, target.journal.replayed) == (1, 1)


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
