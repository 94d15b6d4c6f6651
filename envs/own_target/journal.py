"""Journal of a target's answers, written as they arrive, so that no query is repeated."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench.errors import OutputUnavailable, StoreError, UsageError
from lazybench.files import append_line, first_free, open_file, read_lines

Answer = list[float] | int
FORMAT = "lazybench queries 2"
_COST = {"n": 1 << 14, "r": 8, "p": 1}
"""Parameters of scrypt: about 50 ms a guess for an attacker who guesses short secrets."""


def digest(image: NDArray[np.uint8]) -> str:
    """Return 32 hex digits over an image's shape and bytes."""
    head = f"{image.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]


def set_aside(path: Path) -> Path | None:
    """Rename a journal, since its answers may have cost money; return it, None if there is none.

    Raises:
        StoreError: a file of that name isn't a journal.
        OutputUnavailable: it can't be renamed.
    """
    _need_own(path)
    if not os.path.lexists(path):
        return None
    try:
        return path.rename(first_free(path.parent, path.stem, path.suffix))
    except OSError as error:
        raise OutputUnavailable(
            f"{path} can't be renamed ({error.strerror}); choose another --out"
        ) from error


def _need_own(path: Path) -> None:
    """Check that a file is a journal or missing, before it is cut, appended to or removed.

    Raises:
        StoreError: it is something else.
        OutputUnavailable: it can't be read.
    """
    if not os.path.lexists(path):
        return
    begin = b""
    if path.is_file() and not path.is_symlink():
        try:
            with open_file(path, None) as file:
                begin = file.read(1 << 16)
        except OSError as error:
            raise OutputUnavailable(
                f"{path} can't be read ({error.strerror}); choose another --out"
            ) from error
        line, whole, _ = begin.partition(b"\n")
        # A first line that was cut by a kill has no format yet.
        torn = not whole and b'{"a'.startswith(line[:3])
        if torn or b'"format":"lazybench queries' in line:
            return
    raise StoreError(
        f"{path} exists and isn't a lazybench journal; choose another folder with --out"
    )


class Journal:
    """Answers by image, in a file with a line about the target and a line for each answer.

    An image is queried once; later queries of it are answered from the file. `Choice:` with
    `repeats`, for targets with random answers, the n-th query of an image gets its n-th answer.

    Attributes:
        replayed: answers that came from the file.
    """

    def __init__(
        self,
        path: Path | None,
        about: Mapping[str, Any],
        hidden: Mapping[str, str] | None = None,
        *,
        repeats: bool = False,
    ) -> None:
        """Read the earlier answers.

        Args:
            path: the file; None keeps answers in memory alone.
            about: the target and its settings; answers of another one are refused.
            hidden: further settings that may be secret: the file holds salted hashes of them.
            repeats: whether the same image is queried again.

        Raises:
            UsageError: the file's answers are of another target.
            StoreError: the file isn't a journal, is damaged or can't be read.
        """
        self.replayed = 0
        self._path, self._repeats = path, repeats
        self._lock = threading.Lock()
        self._answers: dict[str, list[Answer]] = defaultdict(list)
        self._used: Counter[str] = Counter()
        if path is not None:
            _need_own(path)
        lines = [] if path is None else read_lines(path)
        first = lines[0] if lines else {}
        salt = str(first.get("salt", "")) or secrets.token_hex(16)
        head = {"format": FORMAT, **about, "repeats": repeats, "salt": salt}
        if path is not None:
            head |= {name: _hashed(value, salt) for name, value in (hidden or {}).items()}
        if path is not None and not lines:
            append_line(path, head)
        if lines and first != head:
            differs = [name for name in head if name != "salt" and first.get(name) != head[name]]
            raise UsageError(
                f"{path} holds answers of another target, or of other settings "
                f"({', '.join(differs) or 'format'}); choose another --out, or start over "
                "with --fresh"
            )
        for number, line in enumerate(lines[1:], 2):
            if "image" not in line or "answer" not in line:
                raise StoreError(
                    f"{path}:{number}: the line lacks an image or its answer; start over with "
                    "--fresh, or choose another --out"
                )
            self._answers[line["image"]].append(line["answer"])

    def __len__(self) -> int:
        """Return how many answers there are."""
        return sum(map(len, self._answers.values()))

    def answers(self) -> Iterator[Answer]:
        """Return all answers."""
        return itertools.chain.from_iterable(self._answers.values())

    def claim(self, images: Sequence[str]) -> list[tuple[str, int]]:
        """Return the number of the answer that each image of a call takes, in order.

        Args:
            images: digests.
        """
        with self._lock:
            if not self._repeats:
                return [(image, 0) for image in images]
            claimed = []
            for image in images:
                claimed.append((image, self._used[image]))
                self._used[image] += 1
            return claimed

    def find(self, claim: tuple[str, int]) -> Answer | None:
        """Return the answer of a claim, or None if there is none yet."""
        image, number = claim
        known = self._answers.get(image, ())
        return known[number] if number < len(known) else None

    def keep(self, image: str, answer: Answer) -> None:
        """Keep an answer, on the disk before this returns.

        Raises:
            StoreError: the disk is full.
            OutputUnavailable: the file can't be written.
        """
        with self._lock:
            if self._path is not None:
                append_line(self._path, {"image": image, "answer": answer})
            self._answers[image].append(answer)


def _hashed(value: str, salt: str) -> str:
    """Return 64 hex digits of a text that may be a secret, different in each journal."""
    text = value.encode(errors="backslashreplace")
    return hashlib.scrypt(text, salt=salt.encode(errors="replace"), dklen=32, **_COST).hex()
