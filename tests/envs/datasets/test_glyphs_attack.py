"""Ten glyphs: the published pixels, no image twice, none of the few-shot pool's."""

from __future__ import annotations

import numpy as np
import pytest

from lazybench.envs.datasets.glyphs import (
    ATTACK_EACH,
    ATTACK_SHA256,
    CHARACTERS,
    attack_build,
    open_glyphs,
    open_ten,
    read_frozen,
)
from lazybench.errors import DataUnavailable


def test_the_pixels_are_the_published_ones() -> None:
    ten = open_ten()
    assert bytes(attack_build(read_frozen())["sha256"]).hex() == ATTACK_SHA256
    assert "+" not in ten.prep
    for part, each in ATTACK_EACH.items():
        assert ten.x[part].shape == (10 * each, 1, 28, 28)
        assert np.bincount(ten.labels(part)).tolist() == [each] * 10


def test_characters_are_of_the_test_scripts_and_images_all_their_own() -> None:
    test = open_glyphs().pool("test")
    assert set(CHARACTERS) <= set(zip(test.groups, test.names, strict=True))
    ten = open_ten()
    images = np.concatenate([ten.x["train"], ten.x["test"]]).reshape(-1, 784)
    assert len(np.unique(images, axis=0)) == len(images)
    rows = [test.names.index(name) for _, name in CHARACTERS]
    pool = np.concatenate([test.x[test.start[row] :][: test.count[row]] for row in rows])
    both = np.concatenate([images, pool.reshape(-1, 784)])
    assert len(np.unique(both, axis=0)) == len(images) + len(np.unique(pool, axis=0))


def test_an_image_shows_its_label() -> None:
    """Mean images of train are nearest to those of test, class by class."""
    ten = open_ten()
    means = [
        np.stack([ten.x[part][ten.labels(part) == k].mean(0).ravel() for k in range(10)])
        for part in ("train", "test")
    ]
    apart = ((means[0][:, None] - means[1][None]) ** 2).sum(2)
    assert apart.argmin(1).tolist() == list(range(10))


def test_a_character_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lazybench.envs.datasets.glyphs.CHARACTERS", (("LATIN", "U+0000 NOTHING"),))
    with pytest.raises(DataUnavailable, match="no bitmaps of U\\+0000 NOTHING"):
        attack_build(read_frozen())
