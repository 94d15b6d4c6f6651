"""The embedded glyphs: integrity, determinism, split, separation of classes, jitter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lazybench.data.folders import CACHE_VARIABLE
from lazybench.data.pool import SPLITS, DataSet, PooledData, Split
from lazybench.envs.datasets import glyphs
from lazybench.envs.datasets.glyphs import (
    STRENGTHS,
    Frozen,
    deform,
    instances,
    open_glyphs,
    read_frozen,
)
from lazybench.errors import DataUnavailable, UsageError

CLASSES: dict[Split, int] = {"train": 1129, "val": 151, "test": 425}


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    return read_frozen()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def medium(cache: Path) -> Iterator[PooledData]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(cache))
        yield open_glyphs()


def _damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_the_packaged_file_is_the_published_one() -> None:
    content = glyphs.FROZEN.read_bytes()
    assert hashlib.sha256(content).hexdigest() == glyphs.FROZEN_SHA256
    assert len(content) < 2_000_000


def test_one_flipped_bit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "glyphs.npz"
    path.write_bytes(_damaged(glyphs.FROZEN.read_bytes()))
    monkeypatch.setattr(glyphs, "FROZEN", path)
    with pytest.raises(DataUnavailable, match=r"glyphs\.npz.*expected [0-9a-f]{64}; reinstall"):
        open_glyphs()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"gone\.npz.*reinstall lazybench"):
        read_frozen(tmp_path / "gone.npz")


def test_the_pool_has_the_published_pixels(medium: PooledData) -> None:
    assert isinstance(medium, DataSet)
    assert medium.name == "glyphs"
    assert medium.prep == "jitter1-medium"
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(np.ascontiguousarray(medium.pool(split).x).data)
    assert digest.hexdigest() == glyphs.POOL_SHA256["medium"]


def test_hard_has_the_published_pixels(frozen: Frozen) -> None:
    assert bytes(glyphs.build(frozen, "hard")["sha256"]).hex() == glyphs.POOL_SHA256["hard"]


def test_pools_have_the_promised_form(medium: PooledData, frozen: Frozen) -> None:
    for split, classes in CLASSES.items():
        pool = medium.pool(split)
        assert pool.classes == classes
        assert pool.x.shape == (classes * 20, 1, 28, 28)
        assert pool.x.dtype == np.uint8
        assert not pool.x.flags.writeable
        np.testing.assert_array_equal(pool.start, np.arange(classes) * 20)
        assert (pool.count == 20).all()
        assert len(set(pool.names)) == len(pool.groups) == classes
    assert "U+0041 LATIN CAPITAL LETTER A" in medium.pool("train").names
    assert int(frozen.count.min()) >= 4


def test_splits_share_neither_script_nor_character(medium: PooledData) -> None:
    pools = [medium.pool(split) for split in SPLITS]
    for kind in ("names", "groups"):
        held = [set(getattr(pool, kind)) for pool in pools]
        assert len(set.union(*held)) == sum(map(len, held))


def test_no_test_class_looks_like_one_of_another_split(frozen: Frozen) -> None:
    arrays = np.load(glyphs.FROZEN)
    faces = arrays["faces"].astype(np.int64)
    owner = np.repeat(np.arange(len(frozen.count)), frozen.count)
    flat = frozen.bitmaps.reshape(len(faces), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    by_face = np.zeros((len(frozen.count), faces.max() + 1, flat.shape[1]), dtype=np.float32)
    by_face[owner, faces] = flat
    present = np.zeros(by_face.shape[:2], dtype=np.float32)
    present[owner, faces] = 1
    sampled = frozen.rows("test")[::5]
    others = np.concatenate([frozen.rows("train"), frozen.rows("val")])
    total = np.zeros((len(sampled), len(others)), dtype=np.float32)
    best = np.zeros_like(total)
    for a in range(by_face.shape[1]):
        total += by_face[sampled, a] @ by_face[others, a].T
        for b in range(by_face.shape[1]):
            np.maximum(best, by_face[sampled, a] @ by_face[others, b].T, out=best)
    shared = present[sampled] @ present[others].T
    alike = np.where(shared > 0, total / np.maximum(shared, 1), best)
    assert float(alike.max()) <= 0.8001
    assert float(alike.max()) > 0.7


def test_instances_of_a_class_differ(medium: PooledData) -> None:
    images = medium.pool("val").x.reshape(CLASSES["val"], 20, -1)
    assert all(len(np.unique(of_class, axis=0)) == 20 for of_class in images)


def test_an_instance_depends_on_nothing_but_itself(medium: PooledData, frozen: Frozen) -> None:
    row = frozen.rows("test")[[7]]
    alone = instances(frozen, row, 13, 1, "medium")[0, 0]
    np.testing.assert_array_equal(alone, medium.pool("test").x[7 * 20 + 13, 0])


def test_every_face_is_used_before_one_comes_again(frozen: Frozen) -> None:
    still = STRENGTHS["medium"].__class__("glyphs", 0, 0, 0, 0, 0, 0, 20)
    rows = frozen.rows("val")[:10]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "STRENGTHS", {"medium": still})
        images = instances(frozen, rows, 0, 12, "medium")
    for row, of_class in zip(rows, images, strict=True):
        held = frozen.bitmaps[frozen.start[row] :][: frozen.count[row]]
        first = of_class[: len(held)]
        assert sorted(map(bytes, first)) == sorted(map(bytes, held))


def test_jitter_moves_the_glyph_but_keeps_it_inside(medium: PooledData, frozen: Frozen) -> None:
    hard = instances(frozen, frozen.rows("test")[::4], 0, 20, "hard")
    for images in (medium.pool("test").x[:, 0], hard.reshape(-1, 28, 28)):
        ink = images.astype(np.float64)
        inner = ink[:, 1:-1, 1:-1].sum()
        assert inner / ink.sum() > 0.99
        assert ink.sum(axis=(1, 2)).min() > 255 * 5
        columns = (ink.sum(axis=1) * np.arange(28)).sum(axis=1) / ink.sum(axis=(1, 2))
        assert abs(columns.mean() - 13.5) < 0.5
        assert columns.std() > 1


def test_stroke_weight_goes_both_ways_and_keeps_the_range() -> None:
    bitmaps = np.zeros((200, 28, 28), dtype=np.uint8)
    bitmaps[:, 8:20, 12:16] = 255
    only_stroke = STRENGTHS["hard"].__class__("glyphshard", 0, 0, 0, 0, 0, 0.5, 20)
    keys = np.arange(200, dtype=np.uint64)
    ink = deform(bitmaps, keys, only_stroke).reshape(200, -1).astype(np.int64).sum(axis=1)
    assert ink.min() < bitmaps[0].sum() * 0.8
    assert ink.max() > bitmaps[0].sum() * 1.2
    assert abs(np.median(ink) / bitmaps[0].sum() - 1) < 0.1


def test_a_second_opening_builds_nothing(
    medium: PooledData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("built again")

    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    monkeypatch.setattr(glyphs, "build", refuse)
    again = open_glyphs()
    assert again.fingerprint == medium.fingerprint
    np.testing.assert_array_equal(again.pool("val").x, medium.pool("val").x)


def test_other_pixels_get_another_prep(
    medium: PooledData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    monkeypatch.setattr(glyphs, "POOL_SHA256", {"medium": "0" * 64})
    other = open_glyphs()
    assert other.prep == f"jitter1-medium+{hashed(medium)[:8]}"
    assert other.fingerprint == medium.fingerprint


def hashed(data: PooledData) -> str:
    pixels = b"".join(np.ascontiguousarray(data.pool(split).x).tobytes() for split in SPLITS)
    return hashlib.sha256(pixels).hexdigest()


def test_unknown_names_are_refused(medium: PooledData) -> None:
    with pytest.raises(UsageError, match="allowed are medium, hard"):
        open_glyphs("hrad")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="isn't one of train, val, test"):
        medium.pool("dev")  # type: ignore[arg-type]
