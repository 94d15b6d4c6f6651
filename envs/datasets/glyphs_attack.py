"""Ten glyphs as a problem for one classifier: characters of the test scripts, fresh jitter.

Few-shot learners never train on these scripts; a classifier is trained on images of these very
characters and tested on others of them, which neither it nor a few-shot task has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lazybench.data.cache import prepared
from lazybench.data.pool import Split
from lazybench.envs.datasets.glyphs import FROZEN_SHA256, SOURCE, Frozen, instances, read_frozen
from lazybench.envs.datasets.jitter import JITTER_VERSION
from lazybench.errors import DataUnavailable

VERSION = "attack1"
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
EACH: Mapping[Split, int] = {"train": 400, "test": 120}
"""Images of a class."""
# Instances 0 to 19 are the few-shot pool's; these begin far behind them and never meet.
_FIRST: Mapping[Split, int] = {"train": 1_000, "test": 100_000}
SHA256 = "24650f756792ebfea82093eccc65481a413e29a642b8bc1047872737ad806cc7"


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
        f"{FROZEN_SHA256}\n{JITTER_VERSION}\n{VERSION}\n{CHARACTERS}\n{EACH}\n{_FIRST}".encode()
    ).hexdigest()
    arrays = prepared("glyphs-attack", key[:16], lambda: build(read_frozen()))
    digest = bytes(arrays["sha256"]).hex()
    prep = f"{JITTER_VERSION}-medium-{VERSION}"
    return TenGlyphs(
        name="glyphs",
        fingerprint=key,
        prep=prep if digest == SHA256 else f"{prep}+{digest[:8]}",
        source=f"{SOURCE}; {len(CHARACTERS)} characters of the test scripts, fresh jitter",
        x={split: arrays[split] for split in EACH},
    )


def build(frozen: Frozen) -> dict[str, NDArray[np.uint8]]:
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
    for split, each in EACH.items():
        # Class by class, so that a class's images stay in the processor's cache.
        images = np.stack(
            [instances(frozen, row[None], _FIRST[split], each, "medium")[0] for row in rows],
            axis=1,
        )
        built[split] = np.ascontiguousarray(images.reshape(-1, 1, *images.shape[2:]))
        digest.update(built[split].data)
    built["sha256"] = np.frombuffer(digest.digest(), np.uint8)
    return built
