"""Glyphs for long-tailed streams: 60 characters, tested on faces that training never shows.

An image is the character in one of its 12 faces under a jitter of its own, so the images of a head
class are all different, however many it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.data.cache import prepared
from lazybench.data.labelled import Labelled, Part
from lazybench.data.pool import Split
from lazybench.envs.datasets.glyphs import FROZEN_SHA256, SOURCE, Frozen, instances, read_frozen
from lazybench.envs.datasets.jitter import JITTER_VERSION, SIDE_PX, Jitter, deform, strength_of
from lazybench.errors import DataUnavailable

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
    order = seeding.permutation(seeding.mix("glyphs", VERSION, "classes"), len(whole))
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
    faces = seeding.permutation(seeding.mix("glyphs", VERSION, "faces", point), FACES)
    shown = faces[:TEST_FACES] if part == "test" else faces[TEST_FACES:]
    bitmaps = frozen.bitmaps[frozen.start[row] + shown[numbers % len(shown)]]
    keys = seeding.mix(strength.name, JITTER_VERSION, VERSION, part, point, numbers)
    return deform(bitmaps, keys, strength)


GLYPHS_ATTACK_VERSION = "attack1"
CHARACTERS: tuple[tuple[str, str], ...] = (
    ("ARABIC", "U+0634 ARABIC LETTER SHEEN"),
    ("CANADIAN SYLLABICS", "U+14D9 CANADIAN SYLLABICS Y-CREE LOO"),
    ("CANADIAN SYLLABICS", "U+1528 CANADIAN SYLLABICS YI"),
    ("COPTIC", "U+03EB COPTIC SMALL LETTER GANGIA"),
    ("GEORGIAN", "U+10B7 GEORGIAN CAPITAL LETTER QAR"),
    ("GEORGIAN", "U+10D0 GEORGIAN LETTER AN"),
    ("GEORGIAN", "U+10D3 GEORGIAN LETTER DON"),
    ("LAO", "U+0E95 LAO LETTER TO"),
    ("LAO", "U+0EC0 LAO VOWEL SIGN E"),
    ("OLD ITALIC", "U+1030D OLD ITALIC LETTER EN"),
)
"""Script and character of each class, in the order of the labels.

`Choice:` those that lie far apart as mean images, several scripts among them.
"""
GLYPHS_ATTACK_EACH: Mapping[Split, int] = {"train": 400, "test": 120}
"""Images of a class."""
# Instances 0 to 19 are the few-shot pool's; these begin far behind them and never meet.
_FIRST: Mapping[Split, int] = {"train": 1_000, "test": 100_000}
GLYPHS_ATTACK_SHA256 = "24650f756792ebfea82093eccc65481a413e29a642b8bc1047872737ad806cc7"


@dataclass(frozen=True)
class TenGlyphs:
    """The opened images.

    Attributes:
        name: `glyphs`.
        fingerprint: sha256 over the frozen file, the jitter, the characters and their instances.
        prep: version of jitter and choice; it ends in `+<8 hex>` where this platform's arithmetic
            gave other pixels than the published ones.
        source: where the images come from.
        x: `[N, 1, 28, 28]` uint8 by split; image i shows character i mod 10.
    """

    name: str
    fingerprint: str
    prep: str
    source: str
    x: Mapping[Split, NDArray[np.uint8]] = field(repr=False)

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Return the class of each image, int64 `[N]`."""
        return np.arange(len(self.x[split])) % len(CHARACTERS)


def open_ten() -> TenGlyphs:
    """Return the ten glyphs, built at the first call and mapped from the cache later on.

    Raises:
        DataUnavailable: the frozen file is missing or damaged.
    """
    key = hashlib.sha256(
        f"{FROZEN_SHA256}\n{JITTER_VERSION}\n{GLYPHS_ATTACK_VERSION}\n{CHARACTERS}\n{GLYPHS_ATTACK_EACH}\n{_FIRST}".encode()
    ).hexdigest()
    arrays = prepared("glyphs-attack", key[:16], lambda: glyphs_attack_build(read_frozen()))
    digest = bytes(arrays["sha256"]).hex()
    prep = f"{JITTER_VERSION}-medium-{GLYPHS_ATTACK_VERSION}"
    return TenGlyphs(
        name="glyphs",
        fingerprint=key,
        prep=prep if digest == GLYPHS_ATTACK_SHA256 else f"{prep}+{digest[:8]}",
        source=f"{SOURCE}; {len(CHARACTERS)} characters of the test scripts, fresh jitter",
        x={split: arrays[split] for split in GLYPHS_ATTACK_EACH},
    )


def glyphs_attack_build(frozen: Frozen) -> dict[str, NDArray[np.uint8]]:
    """Return `train` and `test`, `[N, 1, 28, 28]` uint8, and `sha256` `[32]` over both.

    Raises:
        DataUnavailable: a character isn't among the frozen bitmaps.
    """
    characters = zip(frozen.scripts, frozen.names, strict=True)
    known = {character: row for row, character in enumerate(characters)}
    lacking = [name for script, name in CHARACTERS if (script, name) not in known]
    if lacking:
        raise DataUnavailable(f"glyphs: no bitmaps of {', '.join(lacking)}; reinstall lazybench")
    rows = np.array([known[each] for each in CHARACTERS])
    built: dict[str, NDArray[np.uint8]] = {}
    digest = hashlib.sha256()
    for split, each in GLYPHS_ATTACK_EACH.items():
        # Class by class, so that a class's images stay in the processor's cache.
        images = np.stack(
            [instances(frozen, row[None], _FIRST[split], each, "medium")[0] for row in rows],
            axis=1,
        )
        built[split] = np.ascontiguousarray(images.reshape(-1, 1, *images.shape[2:]))
        digest.update(built[split].data)
    built["sha256"] = np.frombuffer(digest.digest(), np.uint8)
    return built
