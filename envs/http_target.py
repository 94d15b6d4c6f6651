"""A target behind HTTP: asked side by side, in time, at a rate, again where it fails, never twice.

`http_wire` tells what a request and a reply look like.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lazybench.checks import check_one_of, check_whole
from lazybench.envs.http_exchange import NoReply, Poster, Reply, checked_headers
from lazybench.envs.http_journal import Answer, Journal, digest
from lazybench.envs.http_wire import (
    Encoding,
    check_answer,
    read_answers,
    request_body,
    shown,
    stacked,
)
from lazybench.envs.target_form import TargetForm
from lazybench.errors import ContractError, StoreError, UsageError

_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_PAUSE_S = 60.0
_WHOLE = (("batch", 1, 1 << 20), ("concurrency", 1, 1024), ("retries", 0, 1 << 20))
_RANGES = (("timeout_s", 1e-3, 86_400.0), ("pause_s", 1e-3, 86_400.0), ("rate", 1e-4, 1e9))
_TOLD = 200

MOST_REPLY_BYTES = 64 << 20
"""A reply to a batch of images: some thousand classes in decimals are a megabyte."""


@dataclass(frozen=True)
class HttpSettings:
    """How a target is asked.

    Attributes:
        encoding: `array` or `png`.
        batch: images of a request, at most.
        concurrency: requests side by side.
        timeout_s: seconds that a request may take.
        retries: how often a request is sent again that failed or was refused for now.
        pause_s: seconds before the first of these; each later pause is twice as long.
        rate: images a second, at most; None for no limit.
        repeats: whether an image that was answered is asked again.
        headers: sent along; they appear in no file.
        proxy: http address of a proxy to go through; those of the environment aren't used.
    """

    encoding: Encoding = "array"
    batch: int = 16
    concurrency: int = 4
    timeout_s: float = 30.0
    retries: int = 5
    pause_s: float = 0.5
    rate: float | None = None
    repeats: bool = False
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    proxy: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Look at the settings.

        Raises:
            UsageError: one that isn't allowed.
        """
        check_one_of("encoding", self.encoding, get_args(Encoding))
        for name, least, most in _WHOLE:
            check_whole(name, getattr(self, name), least=least, most=most)
        for name, least_s, most_s in _RANGES:
            value = getattr(self, name)
            if value is not None and not least_s <= value <= most_s:
                raise UsageError(
                    f"{name} must be a number above 0, from {least_s:g} to {most_s:g}, got "
                    f"{value!r}"
                )
        checked_headers(self.headers)


class HttpTarget:
    """A target behind an address; called with images `[R, C, H, W]`, it returns scores.

    Images are rounded to 8 bits before they are sent. An answer is charged, that is, kept in the
    journal, once it has arrived; what was asked in vain is asked again.

    Attributes:
        journal: the answers.
        asked: images that answers arrived for.
        gone: why the target can't be reached any more; None while it can.
    """

    def __init__(
        self,
        url: str,
        form: TargetForm,
        settings: HttpSettings | None = None,
        *,
        journal: Path | None = None,
    ) -> None:
        """Ask nothing yet.

        Args:
            url: where requests are posted to, http or https.
            form: how the target takes images and what it answers.
            settings: how it is asked.
            journal: file of answers; None keeps them in memory.

        Raises:
            UsageError: no http address; or the journal's answers are another target's.
            StoreError: the journal is damaged.
        """
        self._url, self._form, self._settings = url, form, settings or HttpSettings()
        self.name = shown(url)
        about = {
            "url": self.name,
            "layout": form.layout,
            "bounds": list(form.bounds),
            "answers": form.answers,
            "encoding": self._settings.encoding,
        }
        headers = sorted((name.lower(), value) for name, value in self._settings.headers.items())
        secrets = {"address": url, "headers": json.dumps(headers) if headers else ""}
        self._poster = Poster(
            url,
            self._settings.headers,
            timeout_s=self._settings.timeout_s,
            proxy=self._settings.proxy,
        )
        self.journal = Journal(journal, about, secrets, repeats=self._settings.repeats)
        self._classes = form.classes
        try:
            for answer in self.journal.answers():
                check_answer(answer, form, str(journal))
                self._fits(answer, f"{journal} holds an answer", "it can't be gone on from")
        except ContractError as error:
            raise StoreError(
                f"{error}; begin again with --fresh, or choose another --out"
            ) from error
        self.asked = 0
        self.gone: str | None = None
        self._closing = threading.Event()
        self._pace = Pace(self._settings.rate, self._closing)
        self._pool = ThreadPoolExecutor(self._settings.concurrency)
        self._lock = threading.Lock()

    def __call__(self, rows: Tensor) -> Tensor:
        """Return scores `[R, classes]`, from the journal where they stand there.

        Raises:
            ContractError: the target couldn't be reached, refused a request or answered something
                else than was declared.
            StoreError: the journal can't be written.
        """
        return self._scores(rows, "")

    def probe(self, number: int, rows: Tensor) -> Tensor:
        """Return scores `[R, classes]` as the target gives them when it is asked again.

        Args:
            number: which time; a run that goes on takes the answer of that time from the journal.
            rows: images `[R, C, H, W]`.

        Raises:
            ContractError, StoreError: as for a call.
        """
        return self._scores(rows, f" probe {number}")

    def _scores(self, rows: Tensor, mark: str) -> Tensor:
        images = (rows.detach().cpu().numpy() * 255).round().astype(np.uint8)
        claims = self.journal.claim([f"{digest(image)}{mark}" for image in images])
        missing: dict[tuple[str, int], int] = {}
        for place, claim in enumerate(claims):
            if self.journal.find(claim) is None:
                missing.setdefault(claim, place)
        self._fetch(images, missing)
        with self._lock:
            self.asked += len(missing)
            self.journal.replayed += len(claims) - len(missing)
        found = [self.journal.find(claim) for claim in claims]
        return self._form.scores(stacked(found, self._form), len(rows))

    def close(self) -> None:
        """End the connections; requests under way are still answered and kept."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._poster.close()

    def _fetch(self, images: NDArray[np.uint8], missing: dict[tuple[str, int], int]) -> None:
        places, names = list(missing.values()), [image for image, _ in missing]
        size = self._settings.batch
        parts = [slice(first, first + size) for first in range(0, len(places), size)]
        failed = threading.Event()
        futures = [
            self._pool.submit(self._batch, images[places[part]], names[part], failed)
            for part in parts
        ]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # What hasn't been sent yet needn't be, where something went wrong.
            for future in futures:
                future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()

    def _batch(self, images: NDArray[np.uint8], names: list[str], failed: threading.Event) -> None:
        """Ask about some images, unless a request beside it failed; keep answers as they come."""
        if failed.is_set():
            return
        try:
            body = request_body(images, self._form, self._settings.encoding)
            reply = self._posted(body, len(images))
            answers = read_answers(reply, len(images), self._form, self.name)
            with self._lock:
                # Before any of them is kept: the same command could never go on from a mix.
                for answer in answers:
                    self._fits(answer, f"{self.name} answered", "what was answered before is kept")
            for name, answer in zip(names, answers, strict=True):
                self.journal.keep(name, answer)
        except BaseException:
            failed.set()
            raise

    def _fits(self, answer: Answer, what: str, then: str) -> None:
        """Look whether an answer has as many classes as those before it, or as were declared.

        Raises:
            ContractError: it has another number of them.
        """
        if not isinstance(answer, list) or self._form.single:
            return
        if self._classes is None:
            self._classes = len(answer)
        if len(answer) != self._classes:
            declared = "declared with --classes" if self._form.classes else "in the first answer"
            raise ContractError(
                f"{what} with {len(answer)} classes, but {self._classes} are {declared}; {then}"
            )

    def _posted(self, body: bytes, images: int) -> bytes:
        """The answer to a request, which is sent again where it fails for now."""
        settings, why = self._settings, ""
        pause_s = settings.pause_s
        for turn in range(settings.retries + 1):
            self._pace.wait(images)
            try:
                reply = self._poster.post(body, MOST_REPLY_BYTES)
            except NoReply as error:
                why, asked_s = str(error), None
                if not error.again:
                    break
            else:
                if reply.status == 200:
                    return reply.content
                why = _one_line(f"HTTP {reply.status} {reply.reason}")
                if reply.moved is not None:
                    raise ContractError(
                        f"{self.name} sends requests elsewhere ({why}), to "
                        f"'{_one_line(reply.moved)}', which isn't followed: headers may be "
                        "secrets; give that address as --target"
                    )
                if reply.status not in _AGAIN:
                    told = _one_line(reply.content.decode("utf-8", "replace")) or "no text"
                    raise ContractError(f"{self.name} refused a request: {why}: {told}")
                asked_s = _retry_after(reply)
            if turn < settings.retries and self._closing.wait(
                min(asked_s if asked_s is not None else pause_s, _LONGEST_PAUSE_S)
            ):
                break
            pause_s *= 2
        self.gone = (
            f"{self.name} gave no answer in {turn + 1} tries, last: {why}; "
            "what was answered is kept, the same command goes on"
        )
        raise ContractError(self.gone)


class Pace:
    """Lets through at most so many images a second."""

    def __init__(self, rate: float | None, closing: threading.Event) -> None:
        """Let the first one through at once.

        Args:
            rate: images a second; None for no limit.
            closing: ends all waiting.
        """
        self._rate, self._closing = rate, closing
        self._next_s = 0.0
        self._lock = threading.Lock()

    def wait(self, images: int) -> None:
        """Return when a request of so many images may be sent.

        Raises:
            ContractError: the target was closed meanwhile.
        """
        pause_s = 0.0
        if self._rate is not None:
            with self._lock:
                now_s = time.monotonic()
                begin_s = max(now_s, self._next_s)
                self._next_s = begin_s + images / self._rate
            pause_s = begin_s - now_s
        if self._closing.wait(pause_s) if pause_s > 0 else self._closing.is_set():
            raise ContractError("the target was closed; open another")


def _one_line(text: str) -> str:
    """What a server says, without signs that steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_TOLD]


def _retry_after(reply: Reply) -> float | None:
    """Seconds that a target asks to wait; dates aren't read."""
    told = reply.headers.get("Retry-After", "")
    return float(told[:9]) if told.isascii() and told.isdigit() else None
