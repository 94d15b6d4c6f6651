"""Per-trial scores and predictions, stored compactly, so that a record is one small file."""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lazybench.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Dtype = Literal["|u1", "|i1", "<i2", "<i4", "<i8", "<f4", "<f8"]
_MAX_BYTES = 1 << 28


def _raw(text: str, size: int) -> bytes:
    """The `size` bytes packed in `text`; never inflates more than one byte beyond them."""
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"packed data must be base64 of a zlib stream: {error}") from error
    if len(raw) != size or not inflate.eof or inflate.unused_data:
        raise ValueError(f"packed data must hold exactly {size} bytes, as dtype and shape say")
    return raw


class Packed(BaseModel):
    """One array: base64 of the zlib stream of its little-endian bytes, with dtype and shape."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Dtype
    shape: tuple[int, ...]
    data: str

    @property
    def size_bytes(self) -> int:
        """Bytes of the unpacked array."""
        return int(self.dtype[2:]) * math.prod(self.shape)

    @model_validator(mode="after")
    def _holds_what_it_says(self) -> Self:
        if len(self.shape) > 4 or min(self.shape, default=0) < 0 or self.size_bytes > _MAX_BYTES:
            raise ValueError(f"a packed array may have at most 4 axes and {_MAX_BYTES} bytes")
        _raw(self.data, self.size_bytes)
        return self

    @classmethod
    def of(cls, array: ArrayLike, dtype: Dtype | None = None) -> Packed:
        """`array` packed; without `dtype`, whole numbers take the smallest dtype that holds them.

        Args:
            array: numbers of any shape with at most 4 axes; real ones become float32.
            dtype: the stored dtype.

        Raises:
            UsageError: `array` holds no numbers, or rows of several lengths.
        """
        import numpy as np

        try:
            values = np.asarray(array)
        except ValueError as error:
            raise UsageError(
                f"a per-trial array must have rows of one length ({error}); fill them up first"
            ) from error
        if dtype is None:
            dtype = _smallest(values)
        try:
            raw = np.ascontiguousarray(values, dtype=dtype).tobytes()
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"a per-trial array must hold numbers, got dtype {values.dtype}; convert it first"
            ) from error
        text = base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
        return cls(dtype=dtype, shape=values.shape, data=text)

    def unpack(self) -> NDArray[Any]:
        """The array: read-only, `shape`, `dtype`."""
        import numpy as np

        raw = _raw(self.data, self.size_bytes)
        return np.frombuffer(raw, dtype=self.dtype).reshape(self.shape)

    def digest(self) -> str:
        """64 hex digits over dtype, shape and content, the same for every build of zlib."""
        head = f"{self.dtype}{list(self.shape)}".encode("ascii")
        return hashlib.sha256(head + _raw(self.data, self.size_bytes)).hexdigest()


def _smallest(values: NDArray[Any]) -> Dtype:
    if values.dtype.kind == "f":
        return "<f4"
    if values.size == 0:
        return "|u1"
    low, high = int(values.min()), int(values.max())
    small: tuple[tuple[Dtype, int, int], ...] = (
        ("|u1", 0, 1 << 8),
        ("|i1", -(1 << 7), 1 << 7),
        ("<i2", -(1 << 15), 1 << 15),
        ("<i4", -(1 << 31), 1 << 31),
    )
    return next((dtype for dtype, least, end in small if least <= low and high < end), "<i8")


class Trials(BaseModel):
    """Results of the official trials, in trial order.

    Attributes:
        scores: [n] float32, the environment's own score of each trial, in its unit.
        predictions: [n, q] labels or values.
        lengths: always None; a field of the file format.
        columns: further numbers by name, each [n] (queries, distance, …).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: Packed | None = None
    predictions: Packed | None = None
    lengths: None = None
    columns: dict[str, Packed] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _same_trials(self) -> Self:
        if self.scores is None:
            if self.predictions or self.columns:
                raise ValueError("trials without scores can't hold predictions or columns")
            return self
        if len(self.scores.shape) != 1:
            raise ValueError(f"scores must have one axis, got shape {list(self.scores.shape)}")
        rows = {name: column.shape[:1] for name, column in self.columns.items()}
        if self.predictions is not None:
            rows["predictions"] = self.predictions.shape[:1]
        for name, shape in rows.items():
            if shape != self.scores.shape:
                raise ValueError(f"{name} must have {self.scores.shape[0]} rows, one a trial")
        return self

    @classmethod
    def of(
        cls,
        scores: ArrayLike,
        predictions: ArrayLike | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
    ) -> Trials:
        """Trials packed from arrays.

        Args:
            scores: [n] numbers.
            predictions: [n, …] numbers.
            columns: [n] arrays by name.

        Raises:
            UsageError: an array holds no numbers.
            pydantic.ValidationError: the arrays differ in the number of trials.
        """
        return cls(
            scores=Packed.of(scores, "<f4"),
            predictions=None if predictions is None else Packed.of(predictions),
            columns={name: Packed.of(column) for name, column in (columns or {}).items()},
        )

    @property
    def n(self) -> int:
        """Number of trials."""
        return 0 if self.scores is None else self.scores.shape[0]

    def scores_array(self) -> NDArray[Any]:
        """[n] float32 scores in trial order; empty if none are stored."""
        import numpy as np

        return np.empty(0, np.float32) if self.scores is None else self.scores.unpack()

    def predictions_list(self) -> list[NDArray[Any]]:
        """The predictions of each trial, in trial order; an empty list if none are stored."""
        return [] if self.predictions is None else list(self.predictions.unpack())

    def digests(self) -> dict[str, Any]:
        """The sha256 of each part by name, which are equal for equal runs."""
        named = {"scores": self.scores, "predictions": self.predictions, "lengths": self.lengths}
        return {name: packed and packed.digest() for name, packed in named.items()} | {
            "columns": {name: packed.digest() for name, packed in self.columns.items()}
        }
