"""A target behind HTTP: asked side by side, in time, at a rate, again where it fails, never twice.

`http_wire` tells what a request and a reply look like.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import requests
from numpy.typing import NDArray
from torch import Tensor
from urllib3.exceptions import HTTPError, ReadTimeoutError

from lazybench.envs.checks import check_one_of, check_whole
from lazybench.envs.http_journal import Journal, digest
from lazybench.envs.http_wire import Encoding, read_answers, request_body, shown, stacked
from lazybench.envs.target_form import TargetForm
from lazybench.errors import ContractError, UsageError

_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)
_LONGEST_PAUSE_S = 60.0
_TOLD = 200
_CHUNK_BYTES = 1 << 16

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

    def __post_init__(self) -> None:
        """Look at the settings.

        Raises:
            UsageError: one that isn't allowed.
        """
        check_one_of("encoding", self.encoding, get_args(Encoding))
        for name, least in (("batch", 1), ("concurrency", 1), ("retries", 0)):
            check_whole(name, getattr(self, name), least=least)
        for name in ("timeout_s", "pause_s", "rate"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{name} must be a number above 0, got {value!r}")


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
        self.journal = Journal(journal, about, repeats=self._settings.repeats)
        self.asked = 0
        self.gone: str | None = None
        self._closing = threading.Event()
        self._pace = Pace(self._settings.rate, self._closing)
        self._pool = ThreadPoolExecutor(self._settings.concurrency)
        self._own = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def __call__(self, rows: Tensor) -> Tensor:
        """Return scores `[R, classes]`, from the journal where they stand there.

        Raises:
            ContractError: the target couldn't be reached, refused a request or answered something
                else than was declared.
            StoreError: the journal can't be written.
        """
        images = (rows.detach().cpu().numpy() * 255).round().astype(np.uint8)
        claims = self.journal.claim([digest(image) for image in images])
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
        for session in self._sessions:
            session.close()

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
            for name, answer in zip(names, answers, strict=True):
                self.journal.keep(name, answer)
        except BaseException:
            failed.set()
            raise

    def _posted(self, body: bytes, images: int) -> bytes:
        """The answer to a request, which is sent again where it fails for now."""
        settings, why = self._settings, ""
        pause_s = settings.pause_s
        for turn in range(settings.retries + 1):
            self._pace.wait(images)
            try:
                reply, content = self._asked(body)
            except _BROKEN as error:
                why, asked_s = _reason(error, settings.timeout_s), None
            except requests.RequestException as error:
                raise ContractError(f"{self.name} can't be asked: {error}") from None
            else:
                if reply.status_code == 200:
                    return content
                why = _one_line(f"HTTP {reply.status_code} {reply.reason}")
                if reply.is_redirect:
                    there = _one_line(reply.headers["Location"])
                    raise ContractError(
                        f"{self.name} sends requests elsewhere ({why}), to '{there}', which isn't "
                        "followed: headers may be secrets; give that address as the target"
                    )
                if reply.status_code not in _AGAIN:
                    told = _one_line(content.decode("utf-8", "replace")) or "no text"
                    raise ContractError(f"{self.name} refused a request: {why}: {told}")
                asked_s = _retry_after(reply)
            if turn < settings.retries and self._closing.wait(
                min(asked_s if asked_s is not None else pause_s, _LONGEST_PAUSE_S)
            ):
                break
            pause_s *= 2
        self.gone = (
            f"{self.name} gave no answer in {settings.retries + 1} tries, last: {why}; "
            "what was answered is kept, the same command goes on"
        )
        raise ContractError(self.gone)

    def _asked(self, body: bytes) -> tuple[requests.Response, bytes]:
        """The reply to a request, and what it holds, read within the time and size allowed.

        Raises:
            ContractError: a reply of too many bytes.
            requests.RequestException: no whole reply in time.
        """
        limit_s = self._settings.timeout_s
        end_s = time.monotonic() + limit_s
        with self._session().post(
            self._url, data=body, timeout=limit_s, allow_redirects=False, stream=True
        ) as reply:
            # `timeout` is from byte to byte; a reply that drips would take as long as it likes.
            held = bytearray()
            try:
                while chunk := reply.raw.read1(_CHUNK_BYTES, decode_content=False):
                    held += chunk
                    if len(held) > MOST_REPLY_BYTES:
                        raise ContractError(
                            f"{self.name} answered more than {MOST_REPLY_BYTES >> 20} MiB; ask "
                            "about fewer images at once with --batch"
                        )
                    if time.monotonic() > end_s:
                        raise requests.Timeout
            except ReadTimeoutError as error:
                raise requests.Timeout from error
            except HTTPError as error:
                raise requests.ConnectionError(str(error)) from error
            return reply, bytes(held)

    def _session(self) -> requests.Session:
        """This thread's connections."""
        if not hasattr(self._own, "session"):
            session = requests.Session()
            # Not packed: a packed reply could unpack to any size.
            plain = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            session.headers.update(plain | self._settings.headers)
            self._own.session = session
            with self._lock:
                self._sessions.append(session)
        found: requests.Session = self._own.session
        return found


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


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer within {timeout_s:g} s"
    return f"no connection ({type(error).__name__})"


def _one_line(text: str) -> str:
    """What a server says, without signs that steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_TOLD]


def _retry_after(reply: requests.Response) -> float | None:
    """Seconds that a target asks to wait; dates aren't read."""
    told = reply.headers.get("Retry-After", "")
    return float(told[:9]) if told.isascii() and told.isdigit() else None
