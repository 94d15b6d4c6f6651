"""Arrays of users' files: what is read, and that damage is told of rather than met later."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lazybench.data.importing.arrays import read_arrays
from lazybench.errors import DataUnavailable


def test_arrays_come_back_by_name_and_a_single_one_where_it_is_allowed(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=np.arange(3), y=np.ones((2, 2)))
    held = read_arrays(tmp_path / "two.npz")
    assert set(held) == {"x", "y"}
    assert held["x"].tolist() == [0, 1, 2]
    np.save(tmp_path / "one.npy", np.arange(4))
    assert read_arrays(tmp_path / "one.npy", single=True)[""].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataUnavailable, match="a single array"):
        read_arrays(tmp_path / "one.npy")


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataUnavailable, match="Object arrays cannot be loaded"):
        read_arrays(tmp_path / "objects.npz")


def test_every_flipped_byte_gives_the_arrays_or_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.arange(40, dtype=np.int16))
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            held = read_arrays(path)
        except DataUnavailable:
            refused += 1
        else:
            # A flip in what zip doesn't guard: dates, attributes, the name of the member.
            assert all(value.tolist() == list(range(40)) for value in held.values())
    assert refused > len(whole) / 2


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.npz"
    np.savez(path, x=np.zeros(2))
    with zipfile.ZipFile(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("x.npy", file.read("x.npy"))
    with pytest.raises(DataUnavailable, match="it holds 'x' more than once"):
        read_arrays(path)
