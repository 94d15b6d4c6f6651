"""Random streams that are a pure function of a seed and a path of names and numbers.

No stream has a position that must be saved: the randomness of meta-iteration 117 is
`rng.at("update", 117)`, whatever ran before it and wherever it runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lazybench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Rng:
    """A named random stream.

    Attributes:
        seed: the run's seed, any integer.
        path: names and numbers that lead from the seed to this stream.
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def at(self, *path: str | int) -> Rng:
        """Return the stream below this one; equal paths give equal streams."""
        return Rng(self.seed, (*self.path, *path))

    @property
    def integer(self) -> int:
        """Return a 63-bit integer that depends only on seed and path."""
        # numpy's integers have another text, and must give the same stream as the same int.
        path = [part if isinstance(part, str) else index(part) for part in (self.seed, *self.path)]
        text = repr(tuple(path)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

    def torch(self, device: str | torch.device = "cpu") -> torch.Generator:
        """Return a fresh torch generator, placed at the start of this stream."""
        import torch

        return torch.Generator(device=device).manual_seed(self.integer)

    def numpy(self) -> np.random.Generator:
        """Return a fresh counter-based numpy generator, placed at the start of this stream."""
        import numpy as np

        return np.random.Generator(np.random.Philox(key=self.integer))

    def __getattr__(self, name: str) -> NoReturn:
        """Say which generator draws numbers: a stream itself draws none.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"Rng has no '{name}': it names a random stream and draws no numbers itself. "
            f"Use rng.numpy(), a numpy.random.Generator, or rng.torch(), a torch.Generator; "
            "rng.at('name', 3) is a stream below this one"
        )


_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF
_LARGEST_BOUND = 1 << 32
_BLOCK = 1 << 14

Part = int | str | NDArray[Any]


def mix(*parts: Part) -> NDArray[np.uint64]:
    """Return uint64 keys that depend on every part in order, `[*broadcast shape of the arrays]`.

    Integers count modulo 2^64 (so -1 is allowed); strings enter by blake2b of their UTF-8 bytes;
    integer arrays broadcast against each other. Without an array the result has shape `[]`. A part
    of the same value gives the same key whether it is an `int` or an entry of an array.

    Args:
        *parts: integers, strings and integer arrays; with the arrays last, the scalars
            before them cost nothing.

    Raises:
        UsageError: no part, or one that is neither integer, string nor integer array.
    """
    if not parts:
        raise UsageError("counter.mix: got no part; pass at least one integer, string or array")
    scalar = _GOLDEN
    keys: NDArray[np.uint64] | None = None
    for part in parts:
        if isinstance(part, np.ndarray) and part.ndim:
            word = _scramble_array(_as_uint64(part) + np.uint64(_GOLDEN))
            head = np.uint64(scalar) if keys is None else keys
            keys = _scramble_array(np.atleast_1d(np.bitwise_xor(head, word)))
        else:
            number = _scramble((_as_word(part) + _GOLDEN) & _MASK)
            if keys is None:
                scalar = _scramble(scalar ^ number)
            else:
                keys = _scramble_array(keys ^ np.uint64(number))
    return np.array(scalar, dtype=np.uint64) if keys is None else keys


def uniform(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1), one for each key, with 53 random bits."""
    shifted = np.right_shift(np.asarray(keys, dtype=np.uint64), np.uint64(11))
    return np.asarray(shifted * 2.0**-53, dtype=np.float64)


def normal(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return standard normal numbers, one for each key (Box-Muller, the cosine half).

    The same key gives the same bits on one platform; between platforms `log` and `cos` may differ
    in the last place, so round before you compare.
    """
    flat = np.atleast_1d(np.asarray(keys, dtype=np.uint64))
    radius = 1.0 - uniform(flat)
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    # A second, independent uniform from the same key: one more round under another constant.
    angle = uniform(_scramble_array(flat ^ np.uint64(_GOLDEN)))
    angle *= 2.0 * np.pi
    np.cos(angle, out=angle)
    radius *= angle
    return radius.reshape(np.shape(keys))


def integers(keys: NDArray[np.uint64], bound: int | NDArray[Any]) -> NDArray[np.int64]:
    """Return int64 in [0, bound), one for each key; the bias is below bound / 2^64.

    Args:
        keys: uint64 of any shape.
        bound: 1 to 2^32, or an integer array of such that broadcasts with the keys.

    Raises:
        UsageError: a bound outside 1 to 2^32.
    """
    bounds = np.asarray(bound)
    if bounds.size and (int(bounds.min()) < 1 or int(bounds.max()) > _LARGEST_BOUND):
        raise UsageError(
            f"counter.integers: got bound {bounds.min()}..{bounds.max()}; allowed 1 to 2^32"
        )
    wide = np.atleast_1d(bounds.astype(np.uint64))
    words = np.atleast_1d(np.asarray(keys, dtype=np.uint64))
    # The high word of the 96-bit product, from its two halves; neither sum can overflow.
    high = np.right_shift(words, np.uint64(32)) * wide
    low = np.bitwise_and(words, np.uint64(0xFFFFFFFF)) * wide
    low >>= np.uint64(32)
    high += low
    high >>= np.uint64(32)
    shape = np.broadcast_shapes(np.shape(keys), bounds.shape)
    return high.astype(np.int64).reshape(shape)


def permutation(keys: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    """Return a random order of 0..size-1 for each key, int64 `[*keys.shape, size]`.

    Raises:
        UsageError: a negative size.
    """
    if size < 0:
        raise UsageError(f"counter.permutation: got size {size}; allowed 0 or more")
    each = mix(np.asarray(keys, dtype=np.uint64)[..., None], np.arange(size))
    return np.argsort(each, axis=-1, kind="stable").astype(np.int64)


def _as_word(part: Part) -> int:
    """Return a scalar part as an integer in [0, 2^64)."""
    if isinstance(part, str):
        digest = hashlib.blake2b(part.encode("utf-8"), digest_size=8).digest()
        return int.from_bytes(digest, "little")
    if isinstance(part, np.ndarray | np.generic) and np.issubdtype(part.dtype, np.integer):
        return int(part) & _MASK
    if isinstance(part, int) and not isinstance(part, bool):
        return part & _MASK
    raise UsageError(
        f"counter.mix: got a part of type {type(part).__name__}; "
        "allowed are integers, strings and integer arrays"
    )


def _as_uint64(part: NDArray[Any]) -> NDArray[np.uint64]:
    """Return an integer array as uint64, negative numbers modulo 2^64."""
    if not np.issubdtype(part.dtype, np.integer):
        raise UsageError(f"counter.mix: got an array of {part.dtype}; allowed are integer arrays")
    return part.astype(np.uint64)


def _scramble(word: int) -> int:
    """Return splitmix64's finaliser of one word; equal to `_scramble_array` on that word."""
    word = ((word ^ (word >> 30)) * _FIRST) & _MASK
    word = ((word ^ (word >> 27)) * _SECOND) & _MASK
    return word ^ (word >> 31)


def _scramble_array(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's finaliser of each word, in place (the caller must own `words`)."""
    flat = words.reshape(-1)
    spare = np.empty(min(flat.size, _BLOCK), dtype=np.uint64)
    # Block by block: eight passes over a block stay in the cache, over the whole they don't.
    for begin in range(0, flat.size, _BLOCK):
        block = flat[begin : begin + _BLOCK]
        shifted = spare[: block.size]
        np.right_shift(block, np.uint64(30), out=shifted)
        block ^= shifted
        block *= np.uint64(_FIRST)
        np.right_shift(block, np.uint64(27), out=shifted)
        block ^= shifted
        block *= np.uint64(_SECOND)
        np.right_shift(block, np.uint64(31), out=shifted)
        block ^= shifted
    return flat.reshape(words.shape)
