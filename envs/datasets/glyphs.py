"""The embedded glyphs: few-shot images that need no download, no font and no network.

A class is a Unicode character, its super-category the script it belongs to, an instance one of 4 to
12 font faces under a random affine and elastic jitter. The bitmaps are frozen in the package; the
jitter is a pure function of the data set's name and version, the character and the instance. It is
drawn from counter-based keys and computed in float64 numpy, so that it is the same on every
machine, then rounded to uint8.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.data.cache import prepared
from lazybench.data.pool import SPLITS, Labelled, Part, Pool, PooledData, Split
from lazybench.errors import DataUnavailable, UsageError, nearest

Jitter = Literal["medium", "hard"]

JITTER_VERSION = "jitter1"
SIDE_PX = 28
FROZEN_BOX_PX = 20

_GRID = 5
_NODES = np.arange(2 * _GRID**2).reshape(2, _GRID, _GRID)


@dataclass(frozen=True)
class Strength:
    """How far one instance may stray from its frozen bitmap; every range is symmetric about 0.

    Attributes:
        name: id of the data set that uses it.
        rotation_deg: largest rotation.
        log_scale: largest logarithm of the scale, drawn for each axis.
        shear: largest shear.
        shift_px: largest shift, for each axis.
        elastic_px: standard deviation of the displacement at the nodes of a 5x5 grid.
        stroke: largest share of a 3x3 dilation (or erosion) that is blended in.
        box_px: longest side of the unjittered glyph; the frozen one has 20.
    """

    name: str
    rotation_deg: float
    log_scale: float
    shear: float
    shift_px: float
    elastic_px: float
    stroke: float
    box_px: int


STRENGTHS: Mapping[str, Strength] = {
    "medium": Strength("glyphs", 15, 0.15, 0.15, 2.5, 1.0, 0.0, 20),
    "hard": Strength("glyphshard", 20, 0.20, 0.25, 3.0, 1.75, 0.5, 18),
}


def strength_of(jitter: str) -> Strength:
    """Return the ranges of a jitter.

    Raises:
        UsageError: an unknown jitter.
    """
    if jitter not in STRENGTHS:
        raise UsageError(
            f"glyphs: got jitter '{jitter}'; allowed are {', '.join(STRENGTHS)}."
            f"{nearest(jitter, STRENGTHS)}"
        )
    return STRENGTHS[jitter]


def deform(
    bitmaps: NDArray[np.uint8], keys: NDArray[np.uint64], strength: Strength
) -> NDArray[np.uint8]:
    """Return each bitmap under the deformation that its key draws, `[N, 28, 28]` uint8.

    Only additions, multiplications and gathers touch the pixels, all in float64 and in a fixed
    order: no matrix product, whose order of summation is the library's own business.

    Args:
        bitmaps: `[N, 28, 28]` uint8.
        keys: `[N]` uint64.
        strength: ranges to draw from.
    """
    drawn = 2.0 * seeding.uniform(seeding.mix(keys[:, None], np.arange(7))) - 1.0
    angle = drawn[:, 0] * (strength.rotation_deg * np.pi / 180)
    zoom = FROZEN_BOX_PX / strength.box_px
    wide = zoom * np.exp(drawn[:, 1] * strength.log_scale)
    high = zoom * np.exp(drawn[:, 2] * strength.log_scale)
    shear = drawn[:, 3] * strength.shear
    shift_x, shift_y = drawn[:, 4] * strength.shift_px, drawn[:, 5] * strength.shift_px
    cosine, sine = np.cos(angle), np.sin(angle)
    nodes = seeding.mix(keys[:, None, None, None], "elastic", _NODES)
    waves = _upsample(seeding.normal(nodes) * strength.elastic_px)
    centre = (SIDE_PX - 1) / 2
    along = np.arange(SIDE_PX) - centre
    x, y = along[None, None, :], along[None, :, None]

    def plane(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(a[:, None, None] * x + (b[:, None, None] * y + c[:, None, None]))

    source_x = plane(cosine * wide, shear - sine * high, shift_x + centre)
    source_y = plane(sine * wide, cosine * high, shift_y + centre)
    source_x += waves[:, 0]
    source_y += waves[:, 1]
    images = _sample(bitmaps, source_x, source_y)
    if strength.stroke:
        images = _reweigh(images, drawn[:, 6] * strength.stroke)
    return np.rint(images).astype(np.uint8)


def _cubic() -> NDArray[np.float64]:
    """Return the weights `[5, 28]` of each grid node at each pixel: Keys' cubic, nodes at the ends.

    Beyond the ends the outermost node repeats, so that the weights of a pixel sum to 1.

    Reference: Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    place = np.arange(SIDE_PX) * ((_GRID - 1) / (SIDE_PX - 1))
    first = np.minimum(place.astype(np.int64), _GRID - 2)
    weights = np.zeros((_GRID, SIDE_PX))
    for offset in (-1, 0, 1, 2):
        away = np.abs(place - (first + offset))
        near = (1.5 * away - 2.5) * away * away + 1.0
        far = ((2.5 - 0.5 * away) * away - 4.0) * away + 2.0
        node = np.clip(first + offset, 0, _GRID - 1)
        weights[node, np.arange(SIDE_PX)] += np.where(away <= 1, near, far)
    return weights


_WEIGHTS = _cubic()


def _upsample(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the displacement of every pixel, `[N, 2, 28, 28]`, from its nodes `[N, 2, 5, 5]`."""
    across = np.zeros((*nodes.shape[:-1], SIDE_PX))
    for node in range(_GRID):
        across += nodes[..., node, None] * _WEIGHTS[node]
    field = np.zeros((*nodes.shape[:2], SIDE_PX, SIDE_PX))
    for node in range(_GRID):
        field += across[..., node, None, :] * _WEIGHTS[node][:, None]
    return field


def _sample(
    bitmaps: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return `bitmaps` `[N, 28, 28]` read bilinearly at columns x and rows y; zero outside."""
    padded_px = SIDE_PX + 2
    padded = np.zeros((len(bitmaps), padded_px, padded_px))
    padded[:, 1:-1, 1:-1] = bitmaps
    table = padded.reshape(-1)
    x = np.clip(x + 1.0, 0.0, SIDE_PX + 1.0)
    y = np.clip(y + 1.0, 0.0, SIDE_PX + 1.0)
    column = np.minimum(x.astype(np.int64), SIDE_PX)
    row = np.minimum(y.astype(np.int64), SIDE_PX)
    x -= column
    y -= row
    corner = row * padded_px + column
    corner += (np.arange(len(bitmaps)) * padded_px**2)[:, None, None]

    def blend(offset: int) -> NDArray[np.float64]:
        left = table.take(corner + offset)
        right = table.take(corner + (offset + 1))
        right -= left
        right *= x
        right += left
        return right

    top, bottom = blend(0), blend(padded_px)
    bottom -= top
    bottom *= y
    bottom += top
    return bottom


def _reweigh(images: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return images with bolder strokes (share > 0, towards the 3x3 maximum) or finer ones."""
    # Padding by the edge's own value leaves the outside out of the maximum and of the minimum.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    sign = np.where(share < 0, -1.0, 1.0)[:, None, None]
    padded *= sign
    rows = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    grown = np.maximum(np.maximum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
    grown *= sign
    grown -= images
    grown *= np.abs(share)[:, None, None]
    grown += images
    return grown


FROZEN = Path(__file__).resolve().parents[1] / "assets" / "glyphs.npz"
FROZEN_SHA256 = "0fecb3b078fbb15b24ffe172a7cc8654798fc641af1f69a26d422b3d2c375914"
POOL_SHA256: Mapping[str, str] = {
    "medium": "7a1a61e3057dec68d4d1e1cf7969cb051f1806c2fdde4c3dbb1ca4a82c7fae02",
    "hard": "635c66a4a13f58c14c5ad81cfca17f40020784105f38e2f28ebbb5666d61279a",
}
SOURCE = "embedded bitmaps of Unicode characters, rendered from the DejaVu 2.35 fonts"
INSTANCES = 20

_CLASSES_AT_ONCE = 4
_THREADS = 4


@dataclass(frozen=True)
class Frozen:
    """The content of the frozen file.

    Attributes:
        bitmaps: `[B, 28, 28]` uint8, class after class, strokes bright on 0.
        start: `[C]` int64, row of each class's first bitmap.
        count: `[C]` int64, number of bitmaps (faces) of each class.
        points: `[C]` int64 code points.
        names: `C` names such as `U+0041 LATIN CAPITAL LETTER A`.
        scripts: `C` super-categories.
        splits: `C` splits.
    """

    bitmaps: NDArray[np.uint8]
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    points: NDArray[np.int64]
    names: tuple[str, ...]
    scripts: tuple[str, ...]
    splits: tuple[str, ...]

    def rows(self, split: Split) -> NDArray[np.int64]:
        """Return the classes of `split`, in the file's order."""
        return np.flatnonzero(np.array(self.splits) == split)


def open_glyphs(jitter: Jitter = "medium") -> PooledData:
    """Return the embedded glyphs; the first call builds the pool, later ones map it from the cache.

    A split has 20 instances of each class, `[classes * 20, 1, 28, 28]` uint8. The preparation is
    the version of the jitter; it ends in `+<8 hex>` where this platform's arithmetic gave other
    pixels than the published ones, so that such scores never share a board.

    Args:
        jitter: `medium` (data set `glyphs`) or `hard` (data set `glyphshard`: smaller glyphs,
            stronger deformation, random stroke weight).

    Raises:
        UsageError: an unknown jitter.
        DataUnavailable: the frozen file is missing or damaged.
    """
    strength = strength_of(jitter)
    frozen = read_frozen()
    arrays = prepared(strength.name, version(jitter), lambda: build(frozen, jitter))
    digest = bytes(arrays["sha256"]).hex()
    expected = POOL_SHA256[jitter]
    prep = f"{JITTER_VERSION}-{jitter}"
    pools: dict[Split, Pool] = {}
    for split in SPLITS:
        rows = frozen.rows(split)
        pools[split] = Pool(
            x=arrays[split],
            start=np.arange(len(rows), dtype=np.int64) * INSTANCES,
            count=np.full(len(rows), INSTANCES, dtype=np.int64),
            names=tuple(frozen.names[row] for row in rows),
            groups=tuple(frozen.scripts[row] for row in rows),
        )
    return PooledData(
        name=strength.name,
        fingerprint=_sha256(FROZEN_SHA256, JITTER_VERSION, jitter),
        prep=prep if digest == expected else f"{prep}+{digest[:8]}",
        source=SOURCE,
        pools=pools,
    )


def version(jitter: Jitter) -> str:
    """Return the version under which the built pool is cached; it changes with the content."""
    return _sha256(FROZEN_SHA256, JITTER_VERSION, jitter, str(INSTANCES))[:16]


def read_frozen(path: Path | None = None) -> Frozen:
    """Return the frozen bitmaps after their sha256 was checked.

    Args:
        path: the file; the packaged one if None.

    Raises:
        DataUnavailable: the file is missing, unreadable or has another sha256.
    """
    path = FROZEN if path is None else path
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataUnavailable(
            f"glyphs: can't read {path} ({error.strerror}); reinstall lazybench"
        ) from error
    got = hashlib.sha256(packed).hexdigest()
    if got != FROZEN_SHA256:
        raise DataUnavailable(
            f"glyphs: {path} is damaged: sha256 {got}, expected {FROZEN_SHA256}; "
            "reinstall lazybench"
        )
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return thaw({name: arrays[name] for name in arrays.files})


def thaw(held: Mapping[str, NDArray[Any]]) -> Frozen:
    """Return the frozen file's arrays in the form that the pools are built from."""
    count = held["count"].astype(np.int64)
    points = held["points"].astype(np.int64)
    names = zip(points, _lines(held["names"]), strict=True)
    return Frozen(
        bitmaps=held["bitmaps"],
        start=np.cumsum(count) - count,
        count=count,
        points=points,
        names=tuple(f"U+{point:04X} {name}" for point, name in names),
        scripts=_lines(held["scripts"]),
        splits=_lines(held["splits"]),
    )


def build(frozen: Frozen, jitter: Jitter) -> dict[str, NDArray[Any]]:
    """Return the pools of one jitter, built on every core that this process may use.

    Keys `train`, `val`, `test` hold `[classes * 20, 1, 28, 28]` uint8; `sha256` `[32]` uint8 is the
    digest over the three in that order. The result doesn't depend on the number of threads.
    """
    pools: dict[str, NDArray[Any]] = {}
    digest = hashlib.sha256()
    for split in SPLITS:
        rows = frozen.rows(split)
        images = np.empty((len(rows) * INSTANCES, 1, SIDE_PX, SIDE_PX), dtype=np.uint8)
        _fill(images, frozen, rows, jitter)
        digest.update(images.data)
        pools[split] = images
    pools["sha256"] = np.frombuffer(digest.digest(), dtype=np.uint8)
    return pools


def instances(
    frozen: Frozen, rows: NDArray[np.int64], first: int, count: int, jitter: Jitter
) -> NDArray[np.uint8]:
    """Return instances `first` to `first + count - 1` of each class, `[C, count, 28, 28]` uint8.

    Instances have no end: past the 20 of a pool they are fresh ones. Faces come in a random order
    of the class and start again when all were used; the jitter is the instance's own.
    """
    strength = STRENGTHS[jitter]
    numbers = np.arange(first, first + count)
    keys = seeding.mix(strength.name, JITTER_VERSION, frozen.points[rows][:, None], numbers)
    faces = np.empty((len(rows), count), dtype=np.int64)
    orders = seeding.mix(strength.name, JITTER_VERSION, "faces", frozen.points[rows])
    held = frozen.count[rows]
    for size in np.unique(held):
        among = np.flatnonzero(held == size)
        order = seeding.permutation(orders[among], int(size))
        faces[among] = frozen.start[rows[among], None] + order[:, numbers % size]
    bitmaps = frozen.bitmaps[faces.reshape(-1)]
    return deform(bitmaps, keys.reshape(-1), strength).reshape(len(rows), count, SIDE_PX, SIDE_PX)


def _fill(
    images: NDArray[np.uint8], frozen: Frozen, rows: NDArray[np.int64], jitter: Jitter
) -> None:
    """Fill `[C * 20, 1, 28, 28]` in place, a few classes at a time so that they stay cached."""
    by_class = images.reshape(len(rows), INSTANCES, SIDE_PX, SIDE_PX)

    def some(begin: int) -> None:
        chunk = slice(begin, begin + _CLASSES_AT_ONCE)
        by_class[chunk] = instances(frozen, rows[chunk], 0, INSTANCES, jitter)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        list(threads.map(some, range(0, len(rows), _CLASSES_AT_ONCE)))


def _lines(text: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return the lines of an array of UTF-8 bytes."""
    return tuple(text.tobytes().decode("utf-8").split("\n"))


def _sha256(*parts: str) -> str:
    """Return the sha256 of the parts, one a line, as 64 hex digits."""
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()


LONGTAIL_VERSION = "longtail1"
LONGTAIL_CLASSES = 60
FACES = 12
TEST_FACES = 3
LONGTAIL_EACH: Mapping[str, int] = {"train": 210, "test": 30}
"""Images of a class: 10 for the dev set and a head of 200; 10 for each held-out face in test."""
LONGTAIL_SHA256: Mapping[str, str] = {
    "medium": "dca25b9e93f12a0aaef30ab282df09b95715b7a557f9bd0eac6236b7a22047b8",
    "hard": "c3e2191002cfbe38815776501b274d5b42852188e3e4c6ff82e4d6f63fca6cbc",
}


def labelled(jitter: Jitter = "medium") -> Labelled:
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
    rows = longtail_classes(frozen)
    key = hashlib.sha256(
        f"{FROZEN_SHA256}\n{JITTER_VERSION}\n{LONGTAIL_VERSION}\n{jitter}".encode()
    )
    arrays = prepared(
        f"{strength.name}-lt", key.hexdigest()[:16], lambda: longtail_build(frozen, rows, jitter)
    )
    digest = bytes(arrays["sha256"]).hex()
    prep = f"{JITTER_VERSION}-{jitter}-{LONGTAIL_VERSION}"
    parts = {
        name: Part(
            arrays[name], np.arange(many * LONGTAIL_CLASSES), np.full(LONGTAIL_CLASSES, many)
        )
        for name, many in LONGTAIL_EACH.items()
    }
    return Labelled(
        name=strength.name,
        fingerprint=key.hexdigest(),
        prep=prep if digest == LONGTAIL_SHA256[jitter] else f"{prep}+{digest[:8]}",
        source=f"{SOURCE}; {LONGTAIL_CLASSES} of them, tested on {TEST_FACES} held-out faces each",
        classes=tuple(frozen.names[row] for row in rows),
        train=parts["train"],
        test=parts["test"],
    )


def longtail_classes(frozen: Frozen) -> NDArray[np.int64]:
    """Return the rows of the 60 classes, in the order of their labels."""
    whole = np.flatnonzero(frozen.count == FACES)
    order = seeding.permutation(seeding.mix("glyphs", LONGTAIL_VERSION, "classes"), len(whole))
    return np.asarray(whole[order[:LONGTAIL_CLASSES]])


def longtail_build(
    frozen: Frozen, rows: NDArray[np.int64], jitter: Jitter
) -> dict[str, NDArray[np.uint8]]:
    """Return `train` and `test`, `[classes * each, 1, 28, 28]` uint8, class after class.

    `sha256` `[32]` uint8 is the digest over both.
    """
    built: dict[str, NDArray[np.uint8]] = {}
    digest = hashlib.sha256()
    for part, each in LONGTAIL_EACH.items():
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
    numbers = np.arange(LONGTAIL_EACH[part])
    # The faces held out are the character's, whatever the jitter.
    faces = seeding.permutation(seeding.mix("glyphs", LONGTAIL_VERSION, "faces", point), FACES)
    shown = faces[:TEST_FACES] if part == "test" else faces[TEST_FACES:]
    bitmaps = frozen.bitmaps[frozen.start[row] + shown[numbers % len(shown)]]
    keys = seeding.mix(strength.name, JITTER_VERSION, LONGTAIL_VERSION, part, point, numbers)
    return deform(bitmaps, keys, strength)


ATTACK_VERSION = "attack1"
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

`Choice:` characters whose mean images are far from each other, of several scripts.
"""
ATTACK_EACH: Mapping[Split, int] = {"train": 400, "test": 120}
"""Images of a class."""
# Instances 0 to 19 are the few-shot pool's; these begin far behind them and never meet.
_ATTACK_FIRST: Mapping[Split, int] = {"train": 1_000, "test": 100_000}
ATTACK_SHA256 = "24650f756792ebfea82093eccc65481a413e29a642b8bc1047872737ad806cc7"


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
        f"{FROZEN_SHA256}\n{JITTER_VERSION}\n{ATTACK_VERSION}\n{CHARACTERS}\n{ATTACK_EACH}\n{_ATTACK_FIRST}".encode()
    ).hexdigest()
    arrays = prepared("glyphs-attack", key[:16], lambda: attack_build(read_frozen()))
    digest = bytes(arrays["sha256"]).hex()
    prep = f"{JITTER_VERSION}-medium-{ATTACK_VERSION}"
    return TenGlyphs(
        name="glyphs",
        fingerprint=key,
        prep=prep if digest == ATTACK_SHA256 else f"{prep}+{digest[:8]}",
        source=f"{SOURCE}; {len(CHARACTERS)} characters of the test scripts, fresh jitter",
        x={split: arrays[split] for split in ATTACK_EACH},
    )


def attack_build(frozen: Frozen) -> dict[str, NDArray[np.uint8]]:
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
    for split, each in ATTACK_EACH.items():
        # Class by class, so that a class's images stay in the processor's cache.
        images = np.stack(
            [instances(frozen, row[None], _ATTACK_FIRST[split], each, "medium")[0] for row in rows],
            axis=1,
        )
        built[split] = np.ascontiguousarray(images.reshape(-1, 1, *images.shape[2:]))
        digest.update(built[split].data)
    built["sha256"] = np.frombuffer(digest.digest(), np.uint8)
    return built
