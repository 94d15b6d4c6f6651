"""A model behind HTTP on this machine, which remembers what it was asked and can misbehave."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

Reply = tuple[int, dict[str, str], bytes]


class Loopback:
    """A server whose model classifies by mean brightness: class 0 up to .6, then class 1.

    Attributes:
        url: where it is asked.
        requests: images of each request, as they came: lists, or `{"b64": …}`.
        answered: images that were answered, as nested tuples.
        headers: of the last request.
        path: what the last request requested.
        most: requests that were under way at once, at most.
        before: called with the number of the request before it is answered; what it returns, if
            anything, is sent in place of the answer.
        high: value of a full pixel.
        label: whether to answer with labels.
        slow_s: seconds that an answer takes.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answered: list[Any] = []
        self.headers: dict[str, str] = {}
        self.path = ""
        self.most = self._under_way = 0
        self.before: Callable[[int], Reply | None] = lambda number: None
        self.high, self.label, self.slow_s = 1.0, False, 0.0
        self._lock = threading.Lock()
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                loopback._post(self)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/models/m:predict"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers["Content-Length"]))
        instances = json.loads(content)["instances"]
        with self._lock:
            self.headers, self.path = dict(handler.headers), handler.path
            number = len(self.requests)
            self.requests.append(instances)
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            time.sleep(self.slow_s)
            status, headers, body = self.before(number) or (200, {}, self._answers(instances))
            with self._lock:
                if status == 200:
                    self.answered += [json.dumps(each) for each in instances]
                # Before the client can have its answer, and so before it can send the next request.
                self._under_way -= 1
            handler.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)
        except OSError:
            # The client went away.
            return

    def _answers(self, instances: Any) -> bytes:
        result: list[Any] = []
        for image in instances:
            if isinstance(image, dict):
                held = Image.open(io.BytesIO(base64.b64decode(image["b64"])))
                mean = float(np.asarray(held).mean() / 255)
            else:
                mean = float(np.mean(image)) / self.high
            result.append(int(mean > 0.6) if self.label else [0.0, 50 * (mean - 0.6)])
        return json.dumps({"predictions": result}).encode()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A server on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Loopback()
    yield server
    server.close()
