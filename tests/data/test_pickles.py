"""Pickles give data or one message; nothing in them ever runs."""

from __future__ import annotations

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.data.pickles import load_pickle, text_keys
from lazybench.errors import DataUnavailable

VALUE: dict[Any, Any] = {
    b"data": np.arange(24, dtype=np.uint8).reshape(2, 12),
    "fine_labels": [0, 1, 300, 2**40, -5],
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "text": np.array(["Ж", "b"]),
    "ragged": np.array([np.zeros(3, np.uint8), np.ones(2, np.uint8)], dtype=object),
    "many": [np.full((3, 1), 7, np.uint8)] * 2,
    "scalar": np.int64(7),
    "empty": np.zeros((0, 5), np.float32),
    "plain": (None, True, 1.5, "Ж", b"", b"\xff", {1, 2}, frozenset((3,)), bytearray(b"ab")),
    "order": collections.OrderedDict(a=1),
}


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.made = (function, args)

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", range(6))
def test_data_come_back_from_every_protocol(protocol: int) -> None:
    found = load_pickle(pickle.dumps(VALUE, protocol))
    assert list(found) == list(VALUE)
    for name in ("turned", "big", "text", "empty", b"data"):
        np.testing.assert_array_equal(found[name], VALUE[name])
        # Numpy turns foreign byte order into the machine's as it reads.
        assert found[name].dtype.newbyteorder("=") == VALUE[name].dtype.newbyteorder("=")
    for name in ("fine_labels", "scalar", "plain", "order"):
        assert found[name] == VALUE[name]
    for name in ("ragged", "many"):
        for got, wanted in zip(found[name], VALUE[name], strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_python_2_and_numpy_1_spellings() -> None:
    # What Python 2.7 and numpy 1.16 write for {'data': array([[1, 255]], uint8)}, protocol 2.
    text = (
        b"\x80\x02}q\x01U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01"
        b"\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\xfftbs."
    )
    np.testing.assert_array_equal(load_pickle(text)["data"], [[1, 255]])
    keyed = text_keys({b"data": 1, "labels": 2}, "here", ("data",))
    assert keyed == {"data": 1, "labels": 2}
    with pytest.raises(DataUnavailable, match="here lacks fine_labels; it holds data, labels"):
        text_keys(keyed, "here", ("fine_labels",))
    with pytest.raises(DataUnavailable, match="here holds a list"):
        text_keys([], "here", ())


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Call(os.system, "touch ran"), "system"),
        (Call(eval, "open('ran', 'w')"), "eval"),
        (Call(getattr, [], "append"), "getattr"),
        (Call(open, "ran", "w"), "open"),
        (Call(np.load, "ran"), "numpy.load"),
        (Call(collections.Counter, "aab"), "collections.Counter"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_everything_else_is_refused_by_name_and_never_runs(
    call: Call, name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "set.pkl"
    path.write_bytes(pickle.dumps({"image_data": [call]}, protocol))
    with pytest.raises(DataUnavailable, match=f"{name}, which isn't data") as caught:
        load_pickle(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["set.pkl"]


def array_of(shape: tuple[int, ...], dtype: bytes = b"u1", content: bytes = b"U\x01x") -> bytes:
    sizes = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", size) for size in shape) + b"t"
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + sizes + b"cnumpy\ndtype\nU" + bytes([len(dtype)]) + dtype + b"K\x00K\x01\x87R\x89"
        + content + b"tb."
    )  # fmt: skip


@pytest.mark.parametrize(
    "harmful",
    [
        array_of((2**40,)),
        array_of((2**40, 2**40)),
        array_of((-1,)),
        array_of((1,), b"O8"),
        array_of((1,), b"V8"),
        array_of((1,), b"u1,u1"),
        b"\x80\x02cnumpy\nndarray\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85R.",
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x08" + struct.pack("<q", 2**40) + b"\x85R.",
        b"\x80\x02c__builtin__\nlist\nK\x05\x85R.",
        # Room for two thousand million objects, of which there is one.
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"Np2000000000\n.",
        # Keys whose hash would take longer than anyone waits, or more stack than Python has.
        b"\x80\x02})" + b"2\x86" * 64 + b"Ns.",
        b"\x80\x02})"
        + b"q\x010]q\x000h\x00(h\x01h\x01e0c__builtin__\ntuple\nh\x00\x85R" * 64
        + b"Ns.",
        b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.",
        b"\x80\x02}()" + b"2\x86" * 64 + b"Nu.",
        b"\x80\x02()" + b"2\x86" * 64 + b"Nd.",
        b"\x80\x04\x8f()" + b"2\x86" * 64 + b"\x90.",
        b"\x80\x04()" + b"2\x86" * 64 + b"\x91.",
        b"\x80\x02c__builtin__\nset\n])" + b"2\x86" * 64 + b"a\x85R.",
        b"\x80\x02c__builtin__\ndict\n]])" + b"2\x86" * 64 + b"aNaa\x85R.",
        # Names that would take as long to write.
        b"\x80\x02cnumpy\ndtype\n)" + b"2\x86" * 64 + b"\x85R.",
        b"\x80\x02c_codecs\nencode\nU\x01x)" + b"2\x86" * 64 + b"\x86R.",
        # Setting attributes on a function of the reader itself.
        b"\x80\x02c_codecs\nencode\n}U\x05_make}sb.",
        b"\x80\x02c_codecs\nencode\nN}U\x05_makeK\x01s\x86b.",
    ],
)
def test_what_asks_for_more_than_it_brings_is_refused(harmful: bytes) -> None:
    with pytest.raises(DataUnavailable, match=r"set\.pkl is(n't a whole pickle| refused)"):
        load_pickle(harmful, "set.pkl")


def test_a_cut_pickle_says_so_and_a_changed_one_never_surprises() -> None:
    whole = pickle.dumps(VALUE, 2)
    for end in range(0, len(whole), 17):
        with pytest.raises(DataUnavailable, match=r"isn't a whole pickle|is refused"):
            load_pickle(whole[:end], "set.pkl")
    for at in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[at] ^= 0x15
        try:
            load_pickle(bytes(changed))
        except DataUnavailable:
            continue


def test_files_that_are_too_long_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "set.pkl"
    with pytest.raises(DataUnavailable, match="can't be read"):
        load_pickle(path)
    path.write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(DataUnavailable, match="at most 5 are allowed"):
        load_pickle(path, most_bytes=5)
    assert load_pickle(path) == [1, 2, 3]
