"""Glyphs for long-tailed streams: 60 characters, tested on faces that training never shows.

An image is the character in one of its 12 faces under a jitter of its own, so the images of a head
class are all different, however many it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lazybench import counter
from lazybench.data.cache import prepared
from lazybench.data.labelled import Labelled, Part
from lazybench.envs.datasets.glyphs import FROZEN_SHA256, SOURCE, Frozen, read_frozen
from lazybench.envs.datasets.jitter import JITTER_VERSION, SIDE_PX, Jitter, deform, strength_of

VERSION = "longtail1"
CLASSES = 60
FACES = 12
TEST_FACES = 3
EACH: Mapping[str, int] = {"train": 210, "test": 30}
"""Images of a class: 10 for the dev set beside a head of 200, and 10 for each held-out face."""
SHA256: Mapping[str, str] = {
    "medium": "dca25b9e93f12a0aaef30ab282df09b95715b7a557f9bd0eac6236b7a22047b8",
    "hard": "c3e2191002cfbe38815776501b274d5b42852188e3e4c6ff82e4d6f63fca6cbc",
}


def labelled_glyphs(jitter: Jitter = "medium") -> Labelled:
    """Return the long-tailed glyphs, built at the first call and mapped from the cache later on.

    `Choice:` the classes are drawn once among all characters that have 12 faces, of all scripts;
    each has 3 faces of its own choice held out for the test, so that no font is new altogether.

    Args:
        jitter: `medium` (data set `glyphs`) or `hard` (`glyphshard`).

    Raises:
        UsageError: an unknown jitter.
        DataUnavailable: the frozen file is missing or damaged.
    """
    strength = strength_of(jitter)
    frozen = read_frozen()
    rows = classes(frozen)
    key = hashlib.sha256(f"{FROZEN_SHA256}\n{JITTER_VERSION}\n{VERSION}\n{jitter}".encode())
    arrays = prepared(
        f"{strength.name}-lt", key.hexdigest()[:16], lambda: build(frozen, rows, jitter)
    )
    digest = bytes(arrays["sha256"]).hex()
    prep = f"{JITTER_VERSION}-{jitter}-{VERSION}"
    return Labelled(
        name=strength.name,
        fingerprint=key.hexdigest(),
        prep=prep if digest == SHA256[jitter] else f"{prep}+{digest[:8]}",
        source=f"{SOURCE}; {CLASSES} of them, tested on {TEST_FACES} held-out faces each",
        classes=tuple(frozen.names[row] for row in rows),
        **{
            name: Part(arrays[name], np.arange(many * CLASSES), np.full(CLASSES, many))
            for name, many in EACH.items()
        },
    )


def classes(frozen: Frozen) -> NDArray[np.int64]:
    """Return the rows of the 60 classes, in the order of their labels."""
    whole = np.flatnonzero(frozen.count == FACES)
    order = counter.permutation(counter.mix("glyphs", VERSION, "classes"), len(whole))
    return np.asarray(whole[order[:CLASSES]])


def build(frozen: Frozen, rows: NDArray[np.int64], jitter: Jitter) -> dict[str, NDArray[np.uint8]]:
    """Return `train` and `test`, `[classes * each, 1, 28, 28]` uint8, class after class.

    `sha256` `[32]` uint8 is the digest over both.
    """
    built: dict[str, NDArray[np.uint8]] = {}
    digest = hashlib.sha256()
    for part, each in EACH.items():
        images = np.empty((len(rows), each, SIDE_PX, SIDE_PX), np.uint8)
        # Class by class, so that a class's images stay in the processor's cache.
        for place, row in enumerate(rows):
            images[place] = _class_images(frozen, int(row), part, jitter)
        built[part] = images.reshape(-1, 1, SIDE_PX, SIDE_PX)
        digest.update(built[part].data)
    built["sha256"] = np.frombuffer(digest.digest(), np.uint8)
    return built


def _class_images(frozen: Frozen, row: int, part: str, jitter: Jitter) -> NDArray[np.uint8]:
    strength, point = strength_of(jitter), int(frozen.points[row])
    numbers = np.arange(EACH[part])
    # The faces held out are the character's, whatever the jitter.
    faces = counter.permutation(counter.mix("glyphs", VERSION, "faces", point), FACES)
    shown = faces[:TEST_FACES] if part == "test" else faces[TEST_FACES:]
    bitmaps = frozen.bitmaps[frozen.start[row] + shown[numbers % len(shown)]]
    keys = counter.mix(strength.name, JITTER_VERSION, VERSION, part, point, numbers)
    return deform(bitmaps, keys, strength)
