"""Bring your own data: what is imported, and what stays equal however it is packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lazybench
from lazybench.data.importing.catalogue import imported_root
from lazybench.data.importing.importer import Imported
from lazybench.data.pool import SPLITS
from lazybench.data.splits import QUERIES
from lazybench.errors import UsageError
from lazybench.registry import open_data

Bring = Callable[..., Imported]


def super_of(at: int) -> str:
    return f"s{at % 5}/c{at:02d}"


def test_features_become_environments(tmp_path: Path, own: Any, bring: Bring) -> None:
    done = bring(own.save(tmp_path / "f.npz"), licence="CC0")
    assert done.meta.about == "imported: 10/2/3 classes of 4 features"
    assert done.notes == ()
    opened = open_data("mine")
    for split in SPLITS:
        pool = opened.pool(split)
        assert isinstance(pool.x, np.memmap)
        assert (pool.x.dtype, pool.shape) == (np.float32, (4,))
        assert not pool.x.flags.writeable
        for name, start, count in zip(pool.names, pool.start, pool.count, strict=True):
            mine = pool.x[start : start + count]
            truth = own.features[own.labels.index(name)]
            np.testing.assert_array_equal(np.unique(mine, axis=0), np.unique(truth, axis=0))
    env = lazybench.make_env("mine-2way-2shot", split="train", queries=4)
    assert (env.task.instance, env.task.dtype) == ((4,), "float32")
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)


def test_however_it_is_packed_the_trials_are_the_same(
    tmp_path: Path, own: Any, bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffled = np.random.default_rng(3).permutation(own.classes * own.each)
    x = own.pixels.reshape(-1, 6, 5, 3)
    own.save(tmp_path / "hwc.npz", x)
    own.save(tmp_path / "chw.npz", x[shuffled].transpose(0, 3, 1, 2), own.y[shuffled])
    paths = [own.folder(tmp_path / "png"), own.folder(tmp_path / "bmp", kind="bmp")]
    prints, seen = set(), set()
    for path in [tmp_path / "hwc.npz", tmp_path / "chw.npz", *paths]:
        monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data" / path.name))
        prints.add(bring(path).meta.fingerprint)
        seen.add((imported_root() / "mine" / "test.npy").read_bytes())
    assert len(prints) == len(seen) == 1
    other = own.pixels.copy()
    other[0, 0, 0, 0, 0] ^= 1
    changed = bring(own.save(tmp_path / "o.npz", other), replace=True)
    assert changed.meta.fingerprint not in prints


def test_wider_features_are_the_same_content(tmp_path: Path, own: Any, bring: Bring) -> None:
    half = own.features.astype(np.float16)
    one = bring(own.save(tmp_path / "16.npz", half)).meta
    two = bring(own.save(tmp_path / "64.npz", half.astype(np.float64)), replace=True).meta
    assert one.fingerprint == two.fingerprint
    assert open_data("mine").pool("train").x.dtype == np.float32


def test_jpeg_counts_by_its_bytes(tmp_path: Path, own: Any, bring: Bring) -> None:
    path = own.folder(tmp_path / "j", kind="jpg")
    one = bring(path).meta.fingerprint
    assert one == bring(path, replace=True).meta.fingerprint
    victim = path / "c00" / "0.jpg"
    victim.write_bytes(victim.read_bytes() + b"\0")
    assert one != bring(path, replace=True).meta.fingerprint


def test_super_categories_are_kept_apart(tmp_path: Path, own: Any, bring: Bring) -> None:
    done = bring(own.folder(tmp_path / "p", super_of))
    groups = [set(split.groups) for split in done.meta.splits.values()]
    assert set().union(*groups) == {f"s{at}" for at in range(5)}
    assert sum(map(len, groups)) == 5
    assert done.meta.splits["test"].classes[0].startswith("s")
    assert "super-categories are disjoint" in done.meta.source
    group = np.repeat([f"s{at % 5}" for at in range(own.classes)], own.each)
    of = {name: split for split in SPLITS for name in done.meta.splits[split].classes}
    y = np.repeat([super_of(at) for at in range(own.classes)], own.each)
    packed = bring(own.save(tmp_path / "p.npz", own.pixels, y, group=group), replace=True).meta
    assert packed.fingerprint == done.meta.fingerprint
    assert {n: s for s in SPLITS for n in packed.splits[s].classes} == of


def split_of(at: int) -> str:
    return ("train", "val", "test")[at % 3]


def test_a_split_given_by_folders_keys_or_files(tmp_path: Path, own: Any, bring: Bring) -> None:
    folders = bring(own.folder(tmp_path / "p", lambda at: f"{split_of(at)}/{own.labels[at]}")).meta
    assert folders.splits["val"].classes == tuple(own.labels[1::3])
    assert "split given by the folders" in folders.source
    split = np.repeat([split_of(at) for at in range(own.classes)], own.each)
    keyed = bring(own.save(tmp_path / "k.npz", own.pixels, split=split), replace=True).meta
    files = tmp_path / "three"
    files.mkdir()
    for name in SPLITS:
        mine = split == name
        np.savez(files / f"{name}.npz", x=own.pixels.reshape(-1, 6, 5, 3)[mine], y=own.y[mine])
    (files / "c00").mkdir()
    three_done = bring(files, replace=True)
    assert three_done.notes == ("left out 1 other files and folders, such as c00",)
    three = three_done.meta
    assert folders.fingerprint == keyed.fingerprint == three.fingerprint
    listed = tmp_path / "l.json"
    listed.write_text(json.dumps({s: own.labels[at::3] for at, s in enumerate(SPLITS)}))
    by_list = bring(own.save(tmp_path / "l.npz", own.pixels), replace=True, split_file=listed).meta
    assert by_list.fingerprint == three.fingerprint
    remade = bring(files, replace=True, split_seed=4).meta
    assert "split re-made" in remade.source
    assert remade.fingerprint != three.fingerprint


def test_what_a_list_leaves_out_makes_a_subset(tmp_path: Path, own: Any, bring: Bring) -> None:
    listed = tmp_path / "l.json"
    listed.write_text(
        json.dumps({s: own.labels[2 * at : 2 * at + 2] for at, s in enumerate(SPLITS)})
    )
    done = bring(own.save(tmp_path / "f.npz"), split_file=listed)
    ending = "split listed in l.json; a subset: 9 of 15 classes left out"
    assert done.meta.source.endswith(ending)
    assert done.notes == ("left out 9 classes that no split names, such as 'c06'",)


def test_other_names_of_classes_are_other_tasks(tmp_path: Path, own: Any, bring: Bring) -> None:
    """Names number the classes: trials, and the head of a long tail, follow the numbers."""
    split = np.repeat(["train", "val", "test"], [8, 6, 6])
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (20 * 20, 1, 8, 8), dtype=np.uint8)
    found = []
    for order in (range(20), reversed(range(20))):
        names = [f"c{number:02d}" for number in order]
        y = np.repeat(names, 20)
        done = lazybench.import_data(x, y, split=np.repeat(split, 20), name="renamed", replace=True)
        found.append((done.meta.fingerprint, done.meta.prep))
    assert found[0][0] == found[1][0], "the same content"
    assert found[0][1] != found[1][1]


def test_images_are_resized_and_made_grey(tmp_path: Path, own: Any, bring: Bring) -> None:
    path = own.folder(tmp_path / "p")
    Image.fromarray(own.pixels[0, 0]).resize((9, 9)).save(path / "c00" / "0.png")
    with pytest.raises(UsageError, match=r"2 sizes, such as 5x6 and 9x9 \(c00/0.png\).*--size 84"):
        bring(path)
    meta = bring(path, size=8, grey=True).meta
    assert (meta.shape, meta.prep.startswith("grey-8-lanczos-1-")) == ((1, 8, 8), True)
    pool = open_data("mine").pool("train")
    name = pool.names[0]
    image = Image.fromarray(own.pixels[own.labels.index(name), 3]).convert("L")
    expected = np.asarray(image.resize((8, 8), Image.Resampling.LANCZOS))
    assert any((each[0] == expected).all() for each in pool.x[: pool.count[0]])
    packed = bring(own.save(tmp_path / "p.npz", own.pixels), size=8, grey=True, replace=True).meta
    equal = {each for each in SPLITS if packed.splits[each].sha256 == meta.splits[each].sha256}
    assert equal == {each for each in SPLITS if "c00" not in meta.splits[each].classes}


def test_grey_sources_have_one_channel(tmp_path: Path, own: Any, bring: Bring) -> None:
    path = tmp_path / "g"
    for at, label in enumerate(own.labels):
        (path / label).mkdir(parents=True)
        for number in range(own.each):
            Image.fromarray(own.pixels[at, number, :, :, 0]).save(path / label / f"{number}.png")
    grey = bring(path).meta
    assert (grey.shape, grey.prep.rpartition("-")[0]) == ((1, 6, 5), "as-is-1")
    packed = bring(own.save(tmp_path / "g.npz", own.pixels[..., 0]), replace=True).meta
    assert packed.fingerprint == grey.fingerprint
    for mode in ("P", "RGBA"):
        Image.fromarray(own.pixels[0, 0]).convert(mode).save(path / "c00" / "0.png")
        assert bring(path, replace=True).meta.shape == (3, 6, 5)


def test_features_are_standardised_over_train(tmp_path: Path, own: Any, bring: Bring) -> None:
    x = own.features * [1e7, 1e-3, 1, 0] + [0, 5, 0, 7]
    with pytest.raises(UsageError, match=r"feature 0 reaches .*e\+07.*--standardise"):
        bring(own.save(tmp_path / "f.npz", x))
    done = bring(own.save(tmp_path / "f.npz", x), standardise=True)
    assert done.meta.prep.rpartition("-")[0] == "standardised-1"
    assert done.notes == ("1 of 4 features are constant: they are no help",)
    train = np.asarray(open_data("mine").pool("train").x, np.float64)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(axis=0), [1, 1, 1, 0], rtol=1e-5)
    assert np.abs(open_data("mine").pool("test").x[:, 3]).max() == 0


def test_queries_are_those_of_the_environments() -> None:
    assert lazybench.make_env("glyphs-5way-1shot").task.query == QUERIES


def test_twins_in_two_splits_are_reported(tmp_path: Path, own: Any, bring: Bring) -> None:
    x = own.features.copy()
    x[:] = x[:1]
    notes = bring(own.save(tmp_path / "f.npz", x)).notes
    assert notes[-1] == "17 instances are in more than one split, equal to the bit"
    assert [note.partition(",")[0] for note in notes[:-1]] == [
        f"17 instances of {split} are in more than one class" for split in SPLITS
    ]


def test_twins_in_one_split_are_said(tmp_path: Path, own: Any, bring: Bring) -> None:
    listed = tmp_path / "l.json"
    listed.write_text(json.dumps({s: own.labels[at::3] for at, s in enumerate(SPLITS)}))
    x = own.pixels.copy()
    x[3, 5] = x[3, 7] = x[3, 2]
    x[4, 0] = x[7, 1]
    assert bring(own.folder(tmp_path / "p", images=x), split_file=listed).notes == (
        "2 instances of train repeat one of their class, equal to the bit, as in 'c03': a query "
        "may be in the support",
        "1 instances of val are in more than one class, equal to the bit, as in 'c04' and 'c07'",
    )


def test_other_files_are_left_out_and_reported(tmp_path: Path, own: Any, bring: Bring) -> None:
    path = own.folder(tmp_path / "p")
    (path / "c00" / ".DS_Store").write_text("")
    (path / "readme.txt").write_text("")
    assert bring(path).notes == ("left out 1 files that are no images, such as readme.txt",)
