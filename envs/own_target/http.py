"""Targets behind HTTP: requests, replies, connections, retries and the journal of answers.

Requests are those of the usual model servers (TensorFlow Serving, KServe and others): POST
`{"instances": [image, …]}`, answered by `{"predictions": [answer, …]}`, or by the list alone. An
image is a nested list in the declared layout and bounds, or `{"b64": "…"}` with a PNG file; an
answer is a list of scores or probabilities, a label, or one number where the model has two classes.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl, unquote, unquote_to_bytes, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from torch import Tensor
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url
from urllib3.util.wait import wait_for_read

from lazybench._version import __version__
from lazybench.arguments import check_one_of, check_whole
from lazybench.envs.own_target.form import TargetForm
from lazybench.envs.own_target.journal import Answer, Journal, digest
from lazybench.errors import ContractError, StoreError, UsageError

Encoding = Literal["array", "png"]

_SHOWN_CHARS = 200
_MOST = 3e38
"""Largest accepted number: beyond it, float32 is infinite."""


def request_body(images: NDArray[np.uint8], form: TargetForm, encoding: Encoding) -> bytes:
    """Return the body of a request about images `[R, C, H, W]`.

    Raises:
        UsageError: images that don't fit into a PNG.
    """
    if encoding == "png":
        instances = [{"b64": base64.b64encode(_png(image)).decode()} for image in images]
        return json.dumps({"instances": instances}).encode()
    low, high = form.bounds
    values = form.laid_out(images)
    if (low, high) != (0.0, 255.0):
        values = values / 255.0 * (high - low) + low
    return json.dumps({"instances": values.tolist()}).encode()


def read_answers(
    content: bytes, images: int, form: TargetForm, name: str, quoted: Callable[[str], str]
) -> list[Answer]:
    """Return the checked answers of a reply.

    Args:
        content: the reply.
        images: how many were sent.
        form: what the target answers.
        name: of the target, for messages.
        quoted: returns a text of the target as a message may show it.

    Raises:
        ContractError: an answer that differs from the declared form.
    """
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError) as error:
        text = quoted(content.decode("utf-8", "replace")) or "nothing"
        raise ContractError(f"{name} answered no JSON ({error}): {text}") from None
    if isinstance(payload, dict):
        payload = payload.get("predictions")
    if not isinstance(payload, list) or len(payload) != images:
        text = quoted(content.decode("utf-8", "replace"))
        got = f" {len(payload)} entries" if isinstance(payload, list) else f": {text}"
        raise ContractError(
            f'{name} must answer {images} instances with {{"predictions": [{images} answers]}}, '
            f"got{got}"
        )
    for answer in payload:
        check_answer(answer, form, name, quoted)
    # An answer of the wrong form isn't kept, so that a repaired target is queried again.
    form.scores(stacked(payload, form), images)
    return payload


def check_answer(
    answer: Any, form: TargetForm, name: str, quoted: Callable[[str], str] | None = None
) -> None:
    """Check that an answer in a reply or journal is of the declared kind.

    Args:
        answer: what was read.
        form: what the target answers.
        name: of the target or the journal, for the message.
        quoted: returns a text of the target as a message may show it; None shortens it only.

    Raises:
        ContractError: it is something else.
    """
    if form.answers == "label":
        wanted, fine = "an integer", isinstance(answer, int) and abs(answer) < 1 << 63
        fine = fine and _is_number(answer)
    elif form.single:
        wanted, fine = "a finite number", _is_number(_only(answer))
    else:
        wanted = "a list of finite numbers"
        fine = isinstance(answer, list) and bool(answer) and all(map(_is_number, answer))
    if not fine:
        raise ContractError(
            f"{name}: an answer of kind '{form.answers}' is {wanted}, got "
            f"{(quoted or _one_line)(json.dumps(answer))}"
        )


def stacked(answers: list[Any], form: TargetForm) -> NDArray[Any]:
    """Return answers as one array, `[R]` labels or single numbers, or `[R, classes]`.

    Raises:
        ContractError: lists of several lengths.
    """
    if form.answers == "label":
        return np.asarray(answers, dtype=np.int64)
    if form.single:
        return np.asarray([_only(answer) for answer in answers], dtype=np.float64)
    lengths = sorted({len(answer) for answer in answers})
    if len(lengths) > 1:
        raise ContractError(f"the target's answers must have one length, got {lengths}")
    return np.asarray(answers, dtype=np.float64).reshape(len(answers), *lengths)


def shown(url: str) -> str:
    """Return an address without user, password and query, which may be secrets.

    Raises:
        UsageError: no http address.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise UsageError(f"'{url}' is no http address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"'{url}' is no http address, such as http://localhost:8501/predict")
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _only(answer: Any) -> Any:
    """The number in a list of one; anything else unchanged."""
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Also where an integer has so many digits that it is no float.
    return abs(value) < _MOST


def _png(image: NDArray[np.uint8]) -> bytes:
    if len(image) not in (1, 3):
        raise UsageError(f"a PNG has 1 or 3 channels, got {len(image)}; give --encoding array")
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


_CHUNK_BYTES = 1 << 16
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING = ("content-length", "transfer-encoding", "expect", "trailer", "upgrade")
_REDIRECTS = (301, 302, 303, 307, 308)


class Reply(NamedTuple):
    """An HTTP reply.

    Attributes:
        status: HTTP's code.
        reason: the text behind it.
        headers: by name, in any case.
        content: the body.
    """

    status: int
    reason: str
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def moved(self) -> str | None:
        """The address of a redirect; None for any other reply."""
        return self.headers.get("Location") if self.status in _REDIRECTS else None


class NoReply(Exception):
    """No complete reply arrived in time.

    Attributes:
        again: whether another attempt may help.
        sent: whether the whole request was sent, so that the target may have answered it.
    """

    def __init__(self, why: str, *, again: bool = True, sent: bool) -> None:
        """Keep the reason, a part of a sentence."""
        super().__init__(why)
        self.again, self.sent = again, sent


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Check that headers are valid, and return them. Messages never show a value.

    Raises:
        UsageError: a name that is invalid, repeated or frames the message; or a value with control
            characters or characters outside of Latin-1.
    """
    seen: set[str] = set()
    for name, value in headers.items():
        low = name.lower()
        if not _NAME.fullmatch(name):
            raise UsageError("a header's name has letters, digits and signs such as -, no spaces")
        if low in seen:
            raise UsageError(f"header '{name}' is given twice; give it once")
        if low in _FRAMING:
            raise UsageError(f"header '{name}' says how a request is sent and can't be given")
        latin = all(ord(c) < 256 for c in value)
        if not latin or any((ord(c) < 32 and c != "\t") or ord(c) == 127 for c in value):
            raise UsageError(
                f"the value of header '{name}' has control characters or signs outside of "
                "Latin-1; HTTP can't carry them"
            )
        seen.add(low)
    return dict(headers)


class Poster:
    """Client of one address, usable from several threads; connections are reused.

    Only a given proxy is used, no passwords of `~/.netrc` and no cookies: given headers arrive
    unchanged.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, timeout_s: float, proxy: str | None = None
    ) -> None:
        """Prepare; no connection is opened yet.

        Args:
            url: http or https; a user and password in it are sent as basic authorization, unless
                a header says otherwise.
            headers: sent along.
            timeout_s: seconds from the first attempt to connect to the last byte of the reply.
            proxy: http address of a proxy to go through; None for none.

        Raises:
            UsageError: an address or proxy that can't be used.
        """
        try:
            parts = parse_url(url)
            self._path = parts.request_uri
        except HTTPError as error:
            raise UsageError(f"the address can't be read: {type(error).__name__}") from None
        self._context = _verifying() if parts.scheme == "https" else None
        port = parts.port or (443 if self._context else 80)
        self._at, self._via = (parts.host or "", port), None
        self._timeout_s = timeout_s
        plain = {
            "Content-Type": "application/json",
            "Accept": "*/*",
            "User-Agent": f"lazybench/{__version__}",
        }
        if parts.auth:
            plain["Authorization"] = _basic(parts.auth)
        if proxy is not None:
            self._via, secret = _proxy(proxy)
            if self._context is None:
                # A proxy needs the whole address; for TLS it only forwards bytes.
                self._path = parts._replace(auth=None, fragment=None).url
                plain |= secret
                secret = {}
            self._proxy_headers = secret
        given = {name.lower() for name in headers}
        self._headers = {n: v for n, v in plain.items() if n.lower() not in given} | dict(headers)
        self._idle: list[_Line] = []
        self._lock = threading.Lock()

    def post(self, body: bytes, most_bytes: int) -> Reply:
        """Return the whole reply to a request.

        Raises:
            NoReply: none came within the time, or the connection failed.
            ContractError: the reply has more than `most_bytes`.
        """
        with self._lock:
            line = self._idle.pop() if self._idle else None
        line = line or self._line()
        exchange = _Exchange(line, self._path, self._headers, body, most_bytes)
        threading.Thread(target=exchange.run, name="lazybench http", daemon=True).start()
        if not exchange.ended.wait(self._timeout_s):
            line.cut()
            if exchange.ended.is_set():
                # The reply arrived just now, so its thread doesn't close the connection.
                line.leave()
            raise NoReply(f"no answer within {self._timeout_s:g} s", sent=exchange.sent)
        if (error := exchange.error) is not None:
            if isinstance(error, ssl.SSLCertVerificationError):
                raise NoReply(
                    f"its certificate isn't trusted ({error.verify_message})",
                    again=False,
                    sent=False,
                ) from error
            if isinstance(error, TimeoutError):
                why = f"no answer within {self._timeout_s:g} s"
                raise NoReply(why, sent=exchange.sent) from error
            if isinstance(error, OSError | http.client.HTTPException | ValueError):
                why = f"no connection ({type(error).__name__})"
                raise NoReply(why, sent=exchange.sent) from error
            raise error
        with self._lock:
            self._idle.append(line)
        assert exchange.reply is not None
        return exchange.reply

    def _line(self) -> _Line:
        """A connection to the target, or to the proxy on the way to it."""
        if self._via is None:
            return _Line(*self._at, self._context, self._timeout_s)
        line = _Line(*self._via, self._context, self._timeout_s, name=self._at[0])
        if self._context is not None:
            line.set_tunnel(*self._at, headers=self._proxy_headers)
        return line

    def close(self) -> None:
        """End all unused connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.leave()


class _Line(http.client.HTTPConnection):
    """A connection that another thread can end, whatever it waits for."""

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        timeout_s: float,
        *,
        name: str | None = None,
    ) -> None:
        self.default_port = http.client.HTTPS_PORT if context else http.client.HTTP_PORT
        super().__init__(host, port, timeout=timeout_s)
        self._tls, self._name = context, (name or host).strip("[]")
        self._guard = threading.Lock()
        self._end: socket.socket | None = None
        self.was_cut = False

    def connect(self) -> None:
        """Connect, and keep a second handle, with which TLS's handshake can be ended too."""
        super().connect()
        with self._guard:
            if self._end is not None:
                self._end.close()
            self._end = self.sock.dup()
            if self.was_cut:
                raise ConnectionAbortedError
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)

    def dropped(self) -> bool:
        """Return whether the server ended the connection, or sent something unexpected."""
        return self.sock is not None and bool(wait_for_read(self.sock, timeout=0.0))

    def cut(self) -> None:
        """Shut the connection down, even while another thread uses it; it can't connect again."""
        with self._guard:
            self.was_cut = True
            # While a proxy connects, there is neither a second handle nor TLS yet.
            end = self._end or self.sock
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Close the connection; only for the thread that uses it."""
        with contextlib.suppress(OSError):
            self.close()
        with self._guard:
            if self._end is not None:
                self._end.close()
                self._end = None


class _Exchange:
    """One request and its reply.

    Attributes:
        ended: set once there is a reply or an error.
        sent: whether the whole request was sent.
        reply: what came back.
        error: why nothing did.
    """

    def __init__(
        self, line: _Line, path: str, headers: dict[str, str], body: bytes, most_bytes: int
    ) -> None:
        self._line, self._path, self._headers = line, path, headers
        self._body, self._most_bytes = body, most_bytes
        self.ended = threading.Event()
        self.sent = False
        self.reply: Reply | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Send the request and read the reply."""
        try:
            self.reply = self._exchanged()
        # Whatever it is, the thread that waits for it raises it.
        except BaseException as error:
            self.error = error
        self.ended.set()
        if self.error is not None or self._line.was_cut:
            self._line.leave()

    def _exchanged(self) -> Reply:
        line = self._line
        if line.dropped():
            line.close()
        line.request("POST", self._path, body=self._body, headers=self._headers)
        self.sent = True
        with line.getresponse() as response:
            held = bytearray()
            while chunk := response.read1(_CHUNK_BYTES):
                held += chunk
                if len(held) > self._most_bytes:
                    raise ContractError(
                        f"the target answered more than {self._most_bytes >> 20} MiB; send "
                        "fewer images at once with --batch"
                    )
            if response.length:
                raise http.client.IncompleteRead(bytes(held[:0]), response.length)
            return Reply(response.status, response.reason, response.headers, bytes(held))


def _basic(auth: str) -> str:
    """Return user and password of an address as basic authorization."""
    return f"Basic {base64.b64encode(unquote_to_bytes(auth)).decode()}"


def _proxy(url: str) -> tuple[tuple[str, int], dict[str, str]]:
    """Return host and port of a proxy, and the headers that it wants.

    Raises:
        UsageError: no http address.
    """
    try:
        parts = parse_url(url)
    except HTTPError:
        parts = parse_url("")
    if parts.scheme != "http" or not parts.host:
        # The message leaves out the text, which may contain a password.
        raise UsageError("a proxy is given by its http address, such as http://proxy:3128")
    secret = {"Proxy-Authorization": _basic(parts.auth)} if parts.auth else {}
    return (parts.host, parts.port or 80), secret


def _verifying() -> ssl.SSLContext:
    """Trust the authorities of the system, of Mozilla's list and of `REQUESTS_CA_BUNDLE`."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        try:
            folder = os.path.isdir(bundle)
            context.load_verify_locations(**{"capath" if folder else "cafile": bundle})
        except OSError as error:
            raise UsageError(
                f"REQUESTS_CA_BUNDLE names {bundle}, which can't be read as certificates: {error}"
            ) from error
    return context


_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_SHORTEST_SECRET = 4
"""Characters; shorter words of a header are too common to hide."""
_LONGEST_PAUSE_S = 60.0
_LONGEST_WAIT_S = 3600.0
"""Of a server's `Retry-After`; for a longer one the run ends, and can be resumed later."""
_WHOLE = (("batch", 1, 1 << 20), ("concurrency", 1, 1024), ("retries", 0, 1 << 20))
_RANGES = (("timeout_s", 1e-3, 86_400.0), ("pause_s", 1e-3, 86_400.0), ("rate", 1e-4, 1e9))

MOST_REPLY_BYTES = 64 << 20
"""A reply to a batch of images: some thousand classes in decimals are a megabyte."""


@dataclass(frozen=True)
class HttpSettings:
    """Settings of the requests to a target.

    Attributes:
        encoding: `array` or `png`.
        batch: images of a request, at most.
        concurrency: requests in flight at the same time.
        timeout_s: seconds that a request may take.
        retries: how often a failed or temporarily refused request is sent again.
        pause_s: seconds before the first retry; each later pause is twice as long.
        rate: images a second, at most; None for no limit.
        repeats: whether an answered image is queried again.
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
        """Check the settings.

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
    journal, once it has arrived; images without an answer are queried again.

    Attributes:
        journal: the answers.
        answered: images that the target answered.
        unanswered: images that were sent without an answer of use: refused or failed requests,
            time-outs, and replies of the wrong form. The target may charge them, too.
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
        """Read the journal; nothing is queried yet.

        Args:
            url: where requests are posted to, http or https.
            form: how the target takes images and what it answers.
            settings: settings of the requests.
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
        self._secrets = _secrets(url, self._settings)
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
        self.answered = self.unanswered = 0
        self.gone: str | None = None
        self._closing = threading.Event()
        self._pace = Pace(self._settings.rate, self._closing)
        self._pool = ThreadPoolExecutor(self._settings.concurrency)
        self._lock = threading.Lock()

    def __call__(self, rows: Tensor) -> Tensor:
        """Return scores `[R, classes]`, from the journal where it holds them.

        Raises:
            ContractError: the target couldn't be reached, refused a request or gave an answer of
                another form than declared.
            StoreError: the journal can't be written.
        """
        return self._scores(rows, "")

    def probe(self, number: int, rows: Tensor) -> Tensor:
        """Return scores `[R, classes]` of a repeated query.

        Args:
            number: of the repetition; a resumed run takes its answer from the journal.
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
            self.answered += len(missing)
            self.journal.replayed += len(claims) - len(missing)
        found = [self.journal.find(claim) for claim in claims]
        return self._form.scores(stacked(found, self._form), len(rows))

    def close(self) -> None:
        """End the connections; replies to pending requests are still stored."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._poster.close()

    def _fetch(self, images: NDArray[np.uint8], missing: dict[tuple[str, int], int]) -> None:
        places, names = list(missing.values()), [image for image, _ in missing]
        settings = self._settings
        # A request is sent at once, so it has at most a second's images.
        size = min(settings.batch, max(1, int(settings.rate or settings.batch)))
        parts = [slice(first, first + size) for first in range(0, len(places), size)]
        failed = threading.Event()
        futures = [
            self._pool.submit(self._batch, images[places[part]], names[part], failed)
            for part in parts
        ]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # After an error, the remaining images needn't be sent.
            for future in futures:
                future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()

    def _batch(self, images: NDArray[np.uint8], names: list[str], failed: threading.Event) -> None:
        """Query some images, unless another request failed; keep answers as they arrive."""
        if failed.is_set():
            return
        try:
            body = request_body(images, self._form, self._settings.encoding)
            reply = self._posted(body, len(images))
            answers = read_answers(reply, len(images), self._form, self.name, self._quoted)
            with self._lock:
                # Checked before any of them is stored: the same command couldn't resume from a mix.
                for answer in answers:
                    self._fits(answer, f"{self.name} answered", "earlier answers are kept")
                self.unanswered -= len(images)
            for name, answer in zip(names, answers, strict=True):
                self.journal.keep(name, answer)
        except BaseException:
            failed.set()
            raise

    def _fits(self, answer: Answer, what: str, then: str) -> None:
        """Check that an answer has as many classes as earlier ones, or as were declared.

        Raises:
            ContractError: it has another number of classes.
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

    def _quoted(self, text: str) -> str:
        """A server's text as one line, without what may be secret in our headers and address."""
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return _one_line(text)

    def _posted(self, body: bytes, images: int) -> bytes:
        """The answer to a request, retried after temporary failures.

        Its images count as unanswered until the reply was read.
        """
        settings, why = self._settings, ""
        pause_s = settings.pause_s
        for turn in range(settings.retries + 1):
            self._pace.wait(images)
            with self._lock:
                self.unanswered += images
            try:
                reply = self._poster.post(body, MOST_REPLY_BYTES)
            except NoReply as error:
                if not error.sent:
                    with self._lock:
                        self.unanswered -= images
                why, wait_s = str(error), None
                if not error.again:
                    break
            else:
                if reply.status == 200:
                    return reply.content
                why = self._quoted(f"HTTP {reply.status} {reply.reason}")
                if reply.moved is not None:
                    raise ContractError(
                        f"{self.name} sends requests elsewhere ({why}), to "
                        f"'{self._quoted(reply.moved)}', which isn't followed: headers may be "
                        "secrets; give that address as --target"
                    )
                if reply.status not in _AGAIN:
                    text = self._quoted(reply.content.decode("utf-8", "replace")) or "no text"
                    raise ContractError(f"{self.name} refused a request: {why}: {text}")
                wait_s = _retry_after(reply)
            if wait_s is not None and wait_s > _LONGEST_WAIT_S:
                why += f"; it asks to wait {wait_s:g} s"
                break
            pause = min(pause_s, _LONGEST_PAUSE_S) if wait_s is None else wait_s
            if turn < settings.retries and self._closing.wait(pause):
                break
            pause_s *= 2
        self.gone = (
            f"{self.name} gave no answer in {turn + 1} tries, last: {why}; "
            "earlier answers are kept, and the same command resumes"
        )
        raise ContractError(self.gone)


def _secrets(url: str, settings: HttpSettings) -> tuple[str, ...]:
    """What may be secret in headers and addresses, as a server could repeat it, longest first."""
    values = [part for value in settings.headers.values() for part in (value, *value.split())]
    for address in filter(None, (url, settings.proxy)):
        parts = urlsplit(address)
        login = parts.netloc.rpartition("@")[0]
        raw = [part.partition("=")[2] for part in parts.query.split("&")]
        values += [login, *login.split(":"), *raw, *(value for _, value in parse_qsl(parts.query))]
        values += [_basic(login).rpartition(" ")[2]] if login else []
    values += [unquote(value) for value in values]
    spelled = {json.dumps(each, ensure_ascii=a)[1:-1] for each in values for a in (False, True)}
    spelled |= {*values, *(each.replace("/", "\\/") for each in spelled)}
    # A short one may be a part of a longer one, which must be replaced first.
    return tuple(sorted((each for each in spelled if len(each) >= _SHORTEST_SECRET), key=len))[::-1]


class Pace:
    """Limiter of the images sent a second."""

    def __init__(self, rate: float | None, closing: threading.Event) -> None:
        """Start without a pause.

        Args:
            rate: images a second; None for no limit.
            closing: event that ends all waiting.
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
    """Text of a server on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SHOWN_CHARS]


def _retry_after(reply: Reply) -> float | None:
    """Seconds of the reply's Retry-After header; dates aren't read."""
    seconds = reply.headers.get("Retry-After", "")
    return float(seconds[:9]) if seconds.isascii() and seconds.isdigit() else None
