"""Long-tailed glyphs: 60 characters, fresh images for all, test faces that training never shows."""

from __future__ import annotations

import numpy as np
import pytest

from lazybench import seeding
from lazybench.data.pool import open_labelled
from lazybench.envs.datasets import glyphs
from lazybench.envs.datasets.glyphs import (
    FACES,
    LONGTAIL_CLASSES,
    LONGTAIL_EACH,
    TEST_FACES,
    longtail_classes,
    read_frozen,
)


@pytest.mark.parametrize("name", ["glyphs", "glyphshard"])
def test_images_are_the_published_ones(name: str) -> None:
    data = open_labelled(name)
    # A plus would mean that this platform's arithmetic gives other pixels.
    assert data.prep.endswith("-longtail1")
    assert data.name == name
    assert len(set(data.classes)) == LONGTAIL_CLASSES == len(data.train.count)
    assert set(data.train.count) == {LONGTAIL_EACH["train"]}
    assert set(data.test.count) == {LONGTAIL_EACH["test"]}
    assert data.train.x.shape == (LONGTAIL_CLASSES * LONGTAIL_EACH["train"], 1, 28, 28)
    assert not data.train.x.flags.writeable


def test_every_image_is_its_own() -> None:
    data = open_labelled("glyphs")
    held = [image.tobytes() for part in (data.train, data.test) for image in part.x]
    assert len(set(held)) == len(held)


def test_test_faces_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bitmaps that carry their row, left as they are, show which faces each part takes."""
    frozen = read_frozen()
    marked = np.zeros((len(frozen.bitmaps), 28, 28), np.int64)
    marked[:, 0, 0] = np.arange(len(marked))
    object.__setattr__(frozen, "bitmaps", marked)
    monkeypatch.setattr(glyphs, "deform", lambda bitmaps, keys, strength: bitmaps)
    new = set()
    for row in longtail_classes(frozen)[:5]:
        faces = {}
        for part in LONGTAIL_EACH:
            got = glyphs._class_images(frozen, int(row), part, "medium")[:, 0, 0]
            faces[part], uses = np.unique(got - frozen.start[row], return_counts=True)
            assert uses.max() - uses.min() <= 1
        assert len(faces["test"]) == TEST_FACES
        assert sorted([*faces["train"], *faces["test"]]) == list(range(FACES))
        new.add(tuple(faces["test"]))
    assert len(new) > 1, "each character holds out faces of its own"


def test_classes_are_drawn_among_whole_characters() -> None:
    frozen = read_frozen()
    rows = longtail_classes(frozen)
    assert (frozen.count[rows] == FACES).all()
    assert len({frozen.scripts[row] for row in rows}) > 5
    keys = seeding.mix("glyphs", "longtail1", "classes")
    whole = np.flatnonzero(frozen.count == FACES)
    np.testing.assert_array_equal(
        rows, whole[seeding.permutation(keys, len(whole))[:LONGTAIL_CLASSES]]
    )
