"""One POST to an address and its reply, whole within one deadline, with no header that isn't given.

`http.client` waits from byte to byte: a status line, a header, a trailer or a chunk size that drips
would take for ever, and so would `100 Continue` again and again. Here each exchange runs in its own
thread, which the caller leaves at the deadline; its connection is then shut down.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url
from urllib3.util.wait import wait_for_read

from lazybench._version import __version__
from lazybench.errors import ContractError, UsageError

_CHUNK_BYTES = 1 << 16
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING = ("content-length", "transfer-encoding", "expect", "trailer", "upgrade")
_REDIRECTS = (301, 302, 303, 307, 308)


class Reply(NamedTuple):
    """What came back.

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
        """Where a redirect leads to; None for any other reply."""
        return self.headers.get("Location") if self.status in _REDIRECTS else None


class NoReply(Exception):
    """No whole reply came in time; `again` says whether another try may help."""

    def __init__(self, why: str, *, again: bool = True) -> None:
        """Keep the reason, a part of a sentence."""
        super().__init__(why)
        self.again = again


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as they are, once HTTP can carry them. No message shows a value.

    Raises:
        UsageError: a name that is no name, is given twice or frames the message; or a value with
            control characters or outside of Latin-1.
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
    """Posts to one address; several threads may. Connections are kept and used again.

    No proxy but one that is given, passwords of `~/.netrc` or cookies are used: a header that is
    given is the one that arrives.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, timeout_s: float, proxy: str | None = None
    ) -> None:
        """Connect to nobody yet.

        Args:
            url: http or https; a user and password in it are sent as basic authorization, unless
                a header says otherwise.
            headers: sent along.
            timeout_s: seconds from the first attempt to connect to the last byte of the reply.
            proxy: http address of a proxy to go through; None for none.

        Raises:
            UsageError: an address that can't be asked, or a proxy that can't be used.
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
                # A proxy is asked for the whole address; to TLS it only carries bytes.
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
                # It came in this very moment, so that its thread doesn't close the connection.
                line.leave()
            raise NoReply(f"no answer within {self._timeout_s:g} s")
        if (error := exchange.error) is not None:
            if isinstance(error, ssl.SSLCertVerificationError):
                raise NoReply(
                    f"its certificate isn't trusted ({error.verify_message})", again=False
                ) from error
            if isinstance(error, TimeoutError):
                raise NoReply(f"no answer within {self._timeout_s:g} s") from error
            if isinstance(error, OSError | http.client.HTTPException | ValueError):
                raise NoReply(f"no connection ({type(error).__name__})") from error
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
        """End the connections that nobody uses at the moment."""
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
        """Return whether the server ended the connection, or says something unasked."""
        return self.sock is not None and bool(wait_for_read(self.sock, timeout=0.0))

    def cut(self) -> None:
        """Shut the connection down under whoever uses it; it connects to nobody any more."""
        with self._guard:
            self.was_cut = True
            # While a proxy is asked to connect, there is no second handle yet, nor any TLS.
            end = self._end or self.sock
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Close it for good; for whoever uses it alone."""
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
        reply: what came back.
        error: why nothing did.
    """

    def __init__(
        self, line: _Line, path: str, headers: dict[str, str], body: bytes, most_bytes: int
    ) -> None:
        self._line, self._path, self._headers = line, path, headers
        self._body, self._most_bytes = body, most_bytes
        self.ended = threading.Event()
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
        with line.getresponse() as response:
            held = bytearray()
            while chunk := response.read1(_CHUNK_BYTES):
                held += chunk
                if len(held) > self._most_bytes:
                    raise ContractError(
                        f"the target answered more than {self._most_bytes >> 20} MiB; ask about "
                        "fewer images at once with --batch"
                    )
            if response.length:
                raise http.client.IncompleteRead(bytes(held[:0]), response.length)
            return Reply(response.status, response.reason, response.headers, bytes(held))


def _basic(auth: str) -> str:
    """Return user and password, as they stand in an address, as basic authorization."""
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
        # Not the text itself, which may hold a password.
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
