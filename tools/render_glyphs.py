"""Render the embedded glyphs: one class a Unicode character, one bitmap a DejaVu face.

A maintainer's tool; nobody needs it at run time, because its output is frozen in the package. It
needs the fonts that matplotlib ships and fontTools. FreeType versions render differently, so a new
file means a new sha256 and a new revision of every environment built on it.

    python tools/render_glyphs.py envs/assets/glyphs.npz --sheet sheet.png
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("render_glyphs")

SIDE_PX = 28
BOX_PX = 20
RENDER_PX = 72
LEAST_FACES = 4
LARGEST_CORRELATION = 0.80
FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, slanted in (("Sans", "Oblique"), ("Serif", "Italic"), ("SansMono", "Oblique"))
    for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}")
)
CATEGORIES = {"Lu", "Ll", "Lo", "Lt", "Lm", "Nd", "Nl", "No", "Sm", "Sc", "So", "Po", "Ps", "Pd"}
# Families whose members differ by the place of a few dots or lines: jitter makes them one class.
DEGENERATE = ("BRAILLE", "BOX DRAWINGS", "DOMINO", "TETRAGRAM", "HEXAGRAM", "PLAYING CARD")
FAMILIES = ("CANADIAN SYLLABICS", "OLD ITALIC", "APL", "CHESS")
# First words of letter names that aren't scripts; their handful of members are symbols to the eye.
STRAYS = {"EXTENDED", "CARON", "TURNED", "ROMAN"}
TEST = {
    "CANADIAN SYLLABICS",
    "GEORGIAN",
    "LAO",
    "ARABIC",
    "OLD ITALIC",
    "ARABIC-INDIC",
    "LISU",
    "COPTIC",
}
VAL = {"ARMENIAN", "HEBREW", "APL", "CHESS", "DIGITS", "GREEK", "MODIFIER"}


@dataclass(frozen=True)
class Rendered:
    """Bitmaps of candidates before the near twins are dropped.

    Attributes:
        points: `C` code points, ascending.
        bitmaps: `[C, faces, 28, 28]` uint8, strokes bright on 0.
        present: `[C, faces]` bool, whether the face has the character.
    """

    points: tuple[int, ...]
    bitmaps: NDArray[np.uint8]
    present: NDArray[np.bool_]


def script_of(point: int) -> str:
    """Return the super-category of a code point: its script, or a family of symbols."""
    name, category = unicodedata.name(chr(point)), unicodedata.category(chr(point))
    for family in FAMILIES:
        if name.startswith(family) or family in name[:20]:
            return family
    first = name.split()[0]
    if category[0] == "L":
        return "SYMBOLS" if first in STRAYS else first
    if category in ("Nd", "Nl"):
        return {"DIGIT": "DIGITS"}.get(first, "SYMBOLS" if first in STRAYS else first)
    if "ARROW" in name or "HARPOON" in name:
        return "ARROWS"
    if category == "Sm" or point in range(0x2200, 0x2300):
        return "MATH"
    if point in range(0x25A0, 0x2600):
        return "SHAPES"
    if point in range(0x2600, 0x2800) or point >= 0x1F000:
        return "PICTOGRAMS"
    return "SYMBOLS"


def split_of(script: str) -> str:
    """Return the split that a script belongs to."""
    return "test" if script in TEST else "val" if script in VAL else "train"


def is_candidate(point: int) -> bool:
    """Return whether a character is printable, whole (no decomposition) and not degenerate."""
    name = unicodedata.name(chr(point), "")
    return (
        name != ""
        and unicodedata.category(chr(point)) in CATEGORIES
        and not unicodedata.decomposition(chr(point))
        and "COMBINING" not in name
        and not any(family in name[:20] for family in DEGENERATE)
    )


def shrink(rows: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return `rows` `[m, w]` area-averaged (or stretched) along the first axis to `[count, w]`."""
    edges = np.linspace(0, len(rows), count + 1)
    ink = np.vstack([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
    whole = np.minimum(edges.astype(int), len(rows) - 1)
    at_edge = ink[whole] + (edges - whole)[:, None] * rows[whole]
    averaged: NDArray[np.float64] = np.diff(at_edge, axis=0) * (count / len(rows))
    return averaged


def fit(image: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return the inked part of an image, longest side 20 px, centred on 28x28; None if blank."""
    inked = np.asarray(image) > 8
    if not inked.any():
        return None
    ys, xs = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    crop = np.asarray(image, dtype=np.float64)[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    scale = BOX_PX / max(crop.shape)
    height, width = (max(1, round(side * scale)) for side in crop.shape)
    small = shrink(shrink(crop, height).T, width).T
    top, left = (SIDE_PX - height) // 2, (SIDE_PX - width) // 2
    canvas = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = np.clip(np.rint(small), 0, 255)
    return canvas


def render() -> Rendered:
    """Return every candidate that at least four faces draw."""
    import matplotlib
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
    from matplotlib import ft2font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # The character map says what a face has; pixels can't tell a box from a missing-glyph box.
    maps = [set(TTFont(folder / face, lazy=True).getBestCmap()) for face in FACES]
    held = Counter(point for points in maps for point in points)
    points = sorted(p for p, n in held.items() if n >= LEAST_FACES and is_candidate(p))
    bitmaps = np.zeros((len(points), len(FACES), SIDE_PX, SIDE_PX), dtype=np.uint8)
    present = np.zeros((len(points), len(FACES)), dtype=np.bool_)
    flags = ft2font.LoadFlags.NO_HINTING | ft2font.LoadFlags.NO_AUTOHINT
    for number, face in enumerate(FACES):
        font = ft2font.FT2Font(str(folder / face))
        font.set_size(RENDER_PX, 72)
        for row, point in enumerate(points):
            if point not in maps[number]:
                continue
            font.set_text(chr(point), 0.0, flags=flags)
            font.draw_glyphs_to_bitmap(antialiased=True)
            bitmap = fit(font.get_image())
            if bitmap is not None:
                bitmaps[row, number], present[row, number] = bitmap, True
    enough = present.sum(axis=1) >= LEAST_FACES
    kept = tuple(point for point, keep in zip(points, enough, strict=True) if keep)
    return Rendered(kept, bitmaps[enough], present[enough])


def correlations(bitmaps: NDArray[np.uint8], present: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return how alike two characters look, `[C, C]`, diagonal 0.

    It is the mean pixel correlation over the faces that draw both; for two characters that share
    no face, the best correlation over all pairs of their faces.
    """
    flat = bitmaps.reshape(*bitmaps.shape[:2], -1).astype(np.float32)
    flat -= flat.mean(axis=-1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=-1, keepdims=True) + 1e-6
    flat *= present[..., None]
    both = present.astype(np.float32)
    shared = both @ both.T
    total = np.zeros_like(shared)
    best = np.zeros_like(shared)
    for a in range(bitmaps.shape[1]):
        total += flat[:, a] @ flat[:, a].T
        for b in range(a):
            across = flat[:, a] @ flat[:, b].T
            np.maximum(best, np.maximum(across, across.T), out=best)
    alike = np.where(shared > 0, total / np.maximum(shared, 1), best)
    np.fill_diagonal(alike, 0)
    return np.asarray(alike, dtype=np.float32)


def distinct(alike: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the rows to keep, in order: a later character too like a kept one is dropped."""
    keep = np.ones(len(alike), dtype=np.bool_)
    for row in range(len(alike)):
        if keep[row]:
            keep[row + 1 :] &= alike[row, row + 1 :] <= LARGEST_CORRELATION
    return np.flatnonzero(keep)


def freeze(rendered: Rendered, keep: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Return the arrays of the frozen file; text is UTF-8, one line a class.

    `bitmaps` `[B, 28, 28]` uint8 class after class, `count` `[C]` uint8 bitmaps of each class,
    `faces` `[B]` uint8 position in `face_names`, `points` `[C]` uint32.
    """
    points = [rendered.points[row] for row in keep]
    present = rendered.present[keep]
    scripts = [script_of(point) for point in points]

    def text(lines: Sequence[str]) -> NDArray[np.uint8]:
        return np.frombuffer("\n".join(lines).encode("utf-8"), dtype=np.uint8)

    return {
        "bitmaps": rendered.bitmaps[keep][present],
        "count": present.sum(axis=1).astype(np.uint8),
        "faces": np.nonzero(present)[1].astype(np.uint8),
        "points": np.array(points, dtype=np.uint32),
        "face_names": text([face.removesuffix(".ttf") for face in FACES]),
        "names": text([unicodedata.name(chr(point)) for point in points]),
        "scripts": text(scripts),
        "splits": text([split_of(script) for script in scripts]),
    }


def archive(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return an npz file whose bytes depend on the arrays (and the zlib in use) alone."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        for name in sorted(arrays):
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(arrays[name]), version=(1, 0))
            target.writestr(member, content.getvalue())
    return packed.getvalue()


def draw_sheet(arrays: dict[str, NDArray[Any]], path: Path, first: int) -> None:
    """Write a PNG: frozen, medium and hard side by side; a row a class, 12 classes a split."""
    from PIL import Image

    from lazybench.data.pool import SPLITS
    from lazybench.envs.datasets.glyphs import Jitter, instances, thaw

    frozen = thaw(arrays)
    rows = np.concatenate([_spread(frozen.rows(split), 12, first) for split in SPLITS])
    within = np.minimum(np.arange(len(FACES)), frozen.count[rows, None] - 1)
    blocks = [frozen.bitmaps[frozen.start[rows, None] + within]]
    jitters: tuple[Jitter, ...] = ("medium", "hard")
    blocks += [instances(frozen, rows, 0, 20, jitter) for jitter in jitters]
    gap = np.full((len(rows), 1, SIDE_PX, SIDE_PX), 255, dtype=np.uint8)
    tiles = np.concatenate([blocks[0], gap, blocks[1], gap, blocks[2]], axis=1)
    framed = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=90)
    height, width = framed.shape[0] * (SIDE_PX + 1), framed.shape[1] * (SIDE_PX + 1)
    Image.fromarray(framed.transpose(0, 2, 1, 3).reshape(height, width)).save(path)


def _spread(rows: NDArray[np.int64], count: int, first: int) -> NDArray[np.int64]:
    """Return `count` rows at even distances, the first at position `first`."""
    return np.roll(rows, -first)[np.arange(count) * len(rows) // count]


def main() -> None:
    """Write the frozen file and say what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path, help="npz to write")
    parser.add_argument("--sheet", type=Path, help="PNG for contact sheets: frozen, medium, hard")
    parser.add_argument("--first", type=int, default=0, help="class that the sheet starts with")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rendered = render()
    log.info("%d candidates, %d bitmaps", len(rendered.points), rendered.present.sum())
    keep = distinct(correlations(rendered.bitmaps, rendered.present))
    arrays = freeze(rendered, keep.tolist())
    packed = archive(arrays)
    options.file.write_bytes(packed)
    log.info("%d classes, %d bitmaps, %d bytes", len(keep), len(arrays["faces"]), len(packed))
    log.info("sha256 %s", hashlib.sha256(packed).hexdigest())
    scripts = Counter(script_of(rendered.points[row]) for row in keep)
    for split in ("train", "val", "test"):
        held = {name: n for name, n in scripts.most_common() if split_of(name) == split}
        log.info("%s %d: %s", split, sum(held.values()), held)
    if options.sheet:
        draw_sheet(arrays, options.sheet, options.first)


if __name__ == "__main__":
    main()
