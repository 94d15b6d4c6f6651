"""The maintainer's renderer: the parts that need no font."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def tool(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tools/render_glyphs.py")


def test_the_archive_is_sorted_and_repeats_byte_for_byte(tool: ModuleType) -> None:
    arrays = {"b": np.arange(5), "a": np.zeros((2, 3), dtype=np.uint8)}
    packed = tool.archive(arrays)
    assert packed == tool.archive(dict(reversed(arrays.items())))
    with np.load(io.BytesIO(packed)) as read:
        assert read.files == ["a", "b"]
        np.testing.assert_array_equal(read["b"], arrays["b"])


def test_a_glyph_is_cropped_scaled_and_centred(tool: ModuleType) -> None:
    image = np.zeros((90, 120), dtype=np.uint8)
    image[10:50, 70:90] = 255
    fitted = tool.fit(image)
    ys, xs = np.nonzero(fitted)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (4, 23, 9, 18)
    assert fitted[4:24, 9:19].min() == 255
    assert tool.fit(np.zeros((5, 5))) is None


def test_twins_are_dropped_even_where_no_face_is_shared(tool: ModuleType) -> None:
    shapes = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)
    bitmaps = np.zeros((3, 2, 28, 28), dtype=np.uint8)
    present = np.array([[True, False], [True, False], [False, True]])
    bitmaps[0, 0], bitmaps[1, 0], bitmaps[2, 1] = shapes[0], shapes[1], shapes[0]
    alike = tool.correlations(bitmaps, present)
    assert alike[0, 2] == pytest.approx(1, abs=1e-5)
    assert abs(alike[0, 1]) < 0.2
    assert tool.distinct(alike).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("character", "writing", "split"),
    [
        ("A", "LATIN", "train"),
        ("λ", "GREEK", "val"),
        ("ა", "GEORGIAN", "test"),
        ("ᐁ", "CANADIAN SYLLABICS", "test"),
        ("7", "DIGITS", "val"),
        ("∑", "MATH", "train"),
        ("→", "ARROWS", "train"),
        ("Ⅷ", "SYMBOLS", "train"),
        ("♞", "CHESS", "val"),
    ],
)
def test_scripts_and_splits(tool: ModuleType, character: str, writing: str, split: str) -> None:
    assert tool.script_of(ord(character)) == writing
    assert tool.split_of(writing) == split


def test_degenerate_families_are_no_candidates(tool: ModuleType) -> None:
    assert not any(tool.is_candidate(ord(c)) for c in "⠓─🁣𝌆䷀🂡é")
    assert all(tool.is_candidate(ord(c)) for c in "Aא♞→")
