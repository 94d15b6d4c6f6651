"""Bring your own data: what is imported, what stays equal however it is packed, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lazybench
from lazybench.data import catalogue, importing
from lazybench.data.imported import QUERIES, imported_root, metas
from lazybench.data.importing import Imported, ImportRequest, check_name, forget, import_data
from lazybench.data.pool import SPLITS
from lazybench.errors import (
    DataUnavailable,
    DuplicateName,
    LazybenchError,
    OutputUnavailable,
    UnknownName,
    UsageError,
)
from lazybench.registry import DATASETS, ENVS, open_data

CLASSES, EACH = 15, 17
LABELS = [f"c{at:02d}" for at in range(CLASSES)]
PIXELS = np.random.default_rng(0).integers(0, 256, (CLASSES, EACH, 6, 5, 3), np.uint8)
FEATURES = np.random.default_rng(1).normal(size=(CLASSES, EACH, 4)).astype(np.float32)
Y = np.repeat(LABELS, EACH)

Bring = Callable[..., Imported]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def bring() -> Bring:
    """A function from a path and options to what was imported as `mine`."""

    def run(path: Path, name: str = "mine", **options: Any) -> Imported:
        return import_data(ImportRequest(path, name, **options))

    return run


def save(path: Path, x: Any = FEATURES, y: Any = Y, **more: Any) -> Path:
    np.savez(path, x=x.reshape(-1, *x.shape[2:]) if len(x) == CLASSES else x, y=y, **more)
    return path


def folder(path: Path, where: Callable[[int], str] = LABELS.__getitem__, kind: str = "png") -> Path:
    for at in range(CLASSES):
        place = path / where(at)
        place.mkdir(parents=True)
        for number, pixels in enumerate(PIXELS[at]):
            Image.fromarray(pixels).save(place / f"{number}.{kind}")
    return path


def super_of(at: int) -> str:
    return f"s{at % 5}/{LABELS[at]}"


def test_features_become_environments(tmp_path: Path, bring: Bring) -> None:
    done = bring(save(tmp_path / "f.npz"), licence="CC0")
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
            truth = FEATURES[LABELS.index(name)]
            np.testing.assert_array_equal(np.unique(mine, axis=0), np.unique(truth, axis=0))
    env = lazybench.make_env("mine-2way-2shot", split="train", queries=4)
    assert (env.task.instance, env.task.dtype) == ((4,), "float32")
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)


def test_it_is_listed_like_any_other(tmp_path: Path, bring: Bring) -> None:
    names = {spec.id for spec in ENVS.specs()}
    assert "mine" not in {spec.id for spec in DATASETS.specs()}
    bring(save(tmp_path / "f.npz"), fractions=(0.34, 0.33, 0.33), licence="CC0")
    (spec,) = (spec for spec in DATASETS.specs() if spec.id == "mine")
    assert (spec.origin, spec.licence, spec.embedded) == ("imported", "CC0", False)
    assert {spec.id for spec in ENVS.specs()} - names == {
        "mine-5way-1shot", "mine-5way-1shot-noniid",
    }  # fmt: skip
    assert ENVS.resolve("mine-3way-2shot").spec.data == "mine"
    (status,) = (each for each in catalogue.status() if each.name == "mine")
    assert (status.installed, status.path) == (True, imported_root() / "mine")
    assert status.source.startswith("imported: ")
    import gymnasium

    env: Any = gymnasium.make("lazybench/mine-5way-1shot-v1").unwrapped
    assert env.data["fingerprint"] == open_data("mine").fingerprint


def test_where_no_listed_way_fits_the_most_is_listed(tmp_path: Path, bring: Bring) -> None:
    bring(save(tmp_path / "f.npz"))
    found = [spec.id for spec in ENVS.specs() if spec.data == "mine"]
    assert found == ["mine-2way-1shot", "mine-2way-1shot-noniid"]


TRIALS = """
import hashlib, lazybench
env = lazybench.make_env("mine-2way-1shot")
digest = hashlib.sha256()
for trial in range(5):
    for part in env.reset(seed=trial)[0].values():
        digest.update(part.tobytes())
digest = digest.hexdigest()
"""


def test_trials_are_the_same_in_another_process(tmp_path: Path, bring: Bring) -> None:
    bring(save(tmp_path / "f.npz"))
    here: dict[str, Any] = {}
    exec(TRIALS, here)
    there = subprocess.run(
        [sys.executable, "-c", f"{TRIALS}print(digest)"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert there.stdout.strip() == here["digest"]


def test_however_it_is_packed_the_trials_are_the_same(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, bring: Bring
) -> None:
    shuffled = np.random.default_rng(3).permutation(CLASSES * EACH)
    x = PIXELS.reshape(-1, 6, 5, 3)
    save(tmp_path / "hwc.npz", x)
    save(tmp_path / "chw.npz", x[shuffled].transpose(0, 3, 1, 2), Y[shuffled])
    paths = [folder(tmp_path / "png"), folder(tmp_path / "bmp", kind="bmp")]
    prints, seen = set(), set()
    for path in [tmp_path / "hwc.npz", tmp_path / "chw.npz", *paths]:
        monkeypatch.setenv("LAZYBENCH_DATA", str(root / path.name))
        prints.add(bring(path).meta.fingerprint)
        seen.add((imported_root() / "mine" / "test.npy").read_bytes())
    assert len(prints) == len(seen) == 1
    other = PIXELS.copy()
    other[0, 0, 0, 0, 0] ^= 1
    changed = bring(save(tmp_path / "o.npz", other), replace=True)
    assert changed.meta.fingerprint not in prints


def test_wider_features_are_the_same_content(tmp_path: Path, bring: Bring) -> None:
    half = FEATURES.astype(np.float16)
    one = bring(save(tmp_path / "16.npz", half)).meta
    two = bring(save(tmp_path / "64.npz", half.astype(np.float64)), replace=True).meta
    assert one.fingerprint == two.fingerprint
    assert open_data("mine").pool("train").x.dtype == np.float32


def test_jpeg_counts_by_its_bytes(tmp_path: Path, bring: Bring) -> None:
    path = folder(tmp_path / "j", kind="jpg")
    one = bring(path).meta.fingerprint
    assert one == bring(path, replace=True).meta.fingerprint
    victim = path / "c00" / "0.jpg"
    victim.write_bytes(victim.read_bytes() + b"\0")
    assert one != bring(path, replace=True).meta.fingerprint


def test_super_categories_are_kept_apart(tmp_path: Path, bring: Bring) -> None:
    done = bring(folder(tmp_path / "p", super_of))
    groups = [set(split.groups) for split in done.meta.splits.values()]
    assert set().union(*groups) == {f"s{at}" for at in range(5)}
    assert sum(map(len, groups)) == 5
    assert done.meta.splits["test"].classes[0].startswith("s")
    assert "super-categories are disjoint" in done.meta.source
    group = np.repeat([f"s{at % 5}" for at in range(CLASSES)], EACH)
    of = {name: split for split in SPLITS for name in done.meta.splits[split].classes}
    y = np.repeat([super_of(at) for at in range(CLASSES)], EACH)
    packed = bring(save(tmp_path / "p.npz", PIXELS, y, group=group), replace=True).meta
    assert packed.fingerprint == done.meta.fingerprint
    assert {n: s for s in SPLITS for n in packed.splits[s].classes} == of


def split_of(at: int) -> str:
    return ("train", "val", "test")[at % 3]


def test_a_split_given_by_folders_keys_or_files(tmp_path: Path, bring: Bring) -> None:
    folders = bring(folder(tmp_path / "p", lambda at: f"{split_of(at)}/{LABELS[at]}")).meta
    assert folders.splits["val"].classes == tuple(LABELS[1::3])
    assert "split given by the folders" in folders.source
    split = np.repeat([split_of(at) for at in range(CLASSES)], EACH)
    keyed = bring(save(tmp_path / "k.npz", PIXELS, split=split), replace=True).meta
    files = tmp_path / "three"
    files.mkdir()
    for name in SPLITS:
        mine = split == name
        np.savez(files / f"{name}.npz", x=PIXELS.reshape(-1, 6, 5, 3)[mine], y=Y[mine])
    three = bring(files, replace=True).meta
    assert folders.fingerprint == keyed.fingerprint == three.fingerprint
    listed = tmp_path / "l.json"
    listed.write_text(json.dumps({s: LABELS[at::3] for at, s in enumerate(SPLITS)}))
    by_list = bring(save(tmp_path / "l.npz", PIXELS), replace=True, split_file=listed).meta
    assert by_list.fingerprint == three.fingerprint
    remade = bring(files, replace=True, split_seed=4).meta
    assert "split re-made" in remade.source
    assert remade.fingerprint != three.fingerprint


def test_what_a_list_leaves_out_makes_a_subset(tmp_path: Path, bring: Bring) -> None:
    listed = tmp_path / "l.json"
    listed.write_text(json.dumps({s: LABELS[2 * at : 2 * at + 2] for at, s in enumerate(SPLITS)}))
    meta = bring(save(tmp_path / "f.npz"), split_file=listed).meta
    assert meta.source.endswith("split listed in l.json; a subset: 9 of 15 classes left out")


def test_images_are_resized_and_made_grey(tmp_path: Path, bring: Bring) -> None:
    path = folder(tmp_path / "p")
    Image.fromarray(PIXELS[0, 0]).resize((9, 9)).save(path / "c00" / "0.png")
    with pytest.raises(UsageError, match=r"2 sizes, such as 5x6 and 9x9 \(c00/0.png\).*--size 84"):
        bring(path)
    meta = bring(path, size=8, grey=True).meta
    assert (meta.shape, meta.prep) == ((1, 8, 8), "grey-8-lanczos-1")
    pool = open_data("mine").pool("train")
    name = pool.names[0]
    image = Image.fromarray(PIXELS[LABELS.index(name), 3]).convert("L")
    expected = np.asarray(image.resize((8, 8), Image.Resampling.LANCZOS))
    assert any((each[0] == expected).all() for each in pool.x[: pool.count[0]])
    packed = bring(save(tmp_path / "p.npz", PIXELS), size=8, grey=True, replace=True).meta
    assert packed.splits["val"].sha256 == meta.splits["val"].sha256 or "c00" in str(meta.splits)


def test_grey_sources_have_one_channel(tmp_path: Path, bring: Bring) -> None:
    path = tmp_path / "g"
    for at, label in enumerate(LABELS):
        (path / label).mkdir(parents=True)
        for number in range(EACH):
            Image.fromarray(PIXELS[at, number, :, :, 0]).save(path / label / f"{number}.png")
    grey = bring(path).meta
    assert (grey.shape, grey.prep) == ((1, 6, 5), "as-is-1")
    packed = bring(save(tmp_path / "g.npz", PIXELS[..., 0]), replace=True).meta
    assert packed.fingerprint == grey.fingerprint
    for mode in ("P", "RGBA"):
        Image.fromarray(PIXELS[0, 0]).convert(mode).save(path / "c00" / "0.png")
        assert bring(path, replace=True).meta.shape == (3, 6, 5)


def test_features_are_standardised_over_train(tmp_path: Path, bring: Bring) -> None:
    x = FEATURES * [1e7, 1e-3, 1, 0] + [0, 5, 0, 7]
    with pytest.raises(UsageError, match=r"feature 0 reaches .*e\+07.*--standardise"):
        bring(save(tmp_path / "f.npz", x))
    done = bring(save(tmp_path / "f.npz", x), standardise=True)
    assert done.meta.prep == "standardised-1"
    assert done.notes == ("1 of 4 features are constant: they tell nothing",)
    train = np.asarray(open_data("mine").pool("train").x, np.float64)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(axis=0), [1, 1, 1, 0], rtol=1e-5)
    assert np.abs(open_data("mine").pool("test").x[:, 3]).max() == 0


def test_classes_of_too_few_instances(tmp_path: Path, bring: Bring) -> None:
    keep = np.r_[3:40, 50 : CLASSES * EACH]
    path = save(tmp_path / "f.npz", FEATURES.reshape(-1, 4)[keep], Y[keep])
    message = r"2 of 15 classes have too few instances \('c02' 7, 'c00' 14\): .*1 shot takes 16"
    with pytest.raises(UsageError, match=message):
        bring(path)
    done = bring(path, skip_small=True)
    assert done.meta.source.endswith("a subset: 2 of 15 classes left out")
    assert sum(len(split.classes) for split in done.meta.splits.values()) == 13


def test_queries_are_those_of_the_environments() -> None:
    assert lazybench.make_env("glyphs-5way-1shot").task.query == QUERIES


def test_twins_in_two_splits_are_told(tmp_path: Path, bring: Bring) -> None:
    x = FEATURES.copy()
    x[:] = x[:1]
    assert bring(save(tmp_path / "f.npz", x)).notes == (
        "17 instances are in more than one split, equal to the bit",
    )


def test_a_second_import_needs_replace(tmp_path: Path, bring: Bring) -> None:
    path = save(tmp_path / "f.npz")
    one = bring(path).meta
    with pytest.raises(DuplicateName, match=r"'mine' is imported already, in .*--replace"):
        bring(path)
    two = bring(path, replace=True, split_seed=1).meta
    assert open_data("mine").fingerprint == two.fingerprint != one.fingerprint
    assert sorted(each.name for each in imported_root().iterdir()) == [".mine.lock", "mine"]


def test_an_import_that_fails_leaves_all_as_it_was(tmp_path: Path, bring: Bring) -> None:
    path = folder(tmp_path / "p")
    before = bring(path).meta
    data = (path / "c07" / "5.png").read_bytes()
    (path / "c07" / "5.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataUnavailable, match=r"c07/5\.png isn't a whole PNG"):
        bring(path, replace=True)
    assert open_data("mine").fingerprint == before.fingerprint
    assert sorted(each.name for each in imported_root().iterdir()) == [".mine.lock", "mine"]


def test_a_full_disk_is_told(tmp_path: Path, bring: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lazybench.data.write_imported.sync", full)
    with pytest.raises(OutputUnavailable, match=r"mine can't be written \(No space left"):
        bring(save(tmp_path / "f.npz"))
    assert [each.name for each in imported_root().iterdir()] == [".mine.lock"]


def test_a_warm_opening_is_quick(tmp_path: Path, bring: Bring) -> None:
    bring(
        save(tmp_path / "f.npz", np.zeros((CLASSES, 400, 512), np.float32), np.repeat(LABELS, 400))
    )
    before = time.process_time()
    open_data("mine")
    assert time.process_time() - before < 0.3


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", UsageError, "--name takes"),
        ("Birds", UsageError, "got 'Birds'"),
        ("../up", UsageError, "--name takes"),
        ("a/b", UsageError, "--name takes"),
        ("a\n", UsageError, "--name takes"),
        ("-a", UsageError, "--name takes"),
        ("a--b", UsageError, "--name takes"),
        ("a" * 41, UsageError, "at most 40"),
        ("a-5way", UsageError, "no end that environment ids read"),
        ("a-5way-1shot", UsageError, "no end"),
        ("a-noniid", UsageError, "no end"),
        ("a-lt-100", UsageError, "no end"),
        ("a-targeted-label", UsageError, "no end"),
        ("a-fewshot", UsageError, "no end"),
        ("glyphs", DuplicateName, "'glyphs' is a data set of lazybench already"),
        ("tiered", DuplicateName, "an alias of other data"),
        ("mini", DuplicateName, "an alias"),
        ("maml", DuplicateName, "an agent"),
    ],
)
def test_names_that_are_refused(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_name(name)


def test_names_that_are_fine() -> None:
    for name in ("birds", "clip-v2", "x1", "my-5ways", "imagenet-1k"):
        check_name(name)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": FEATURES, "z": Y}, {}, "holds 'z'; keys are x, y, group, split"),
        ({"x": FEATURES}, {}, "has no 'y'"),
        ({"x": FEATURES, "y": Y[1:]}, {}, "254 entries for 255 instances"),
        ({"x": FEATURES, "y": Y[:, None]}, {}, r"y in .* must be integers or text \[M\]"),
        ({"x": FEATURES, "y": np.zeros(255)}, {}, "got float64"),
        ({"x": FEATURES, "y": np.zeros(255, int)}, {}, "1 classes can't make three splits"),
        ({"x": FEATURES, "y": np.r_[:255]}, {}, "255 of 255 classes have too few"),
        ({"x": FEATURES[:0], "y": Y}, {}, "without instances"),
        ({"x": np.float32(1), "y": Y}, {}, "without instances"),
        ({"x": PIXELS / 255, "y": Y}, {}, r"float64 \[255, 6, 5, 3\]; give x.*astype\('uint8'\)"),
        ({"x": PIXELS[..., :2], "y": Y}, {}, "1 or 3 channels"),
        ({"x": FEATURES.astype(complex), "y": Y}, {}, "x in .* is complex128"),
        ({"x": FEATURES, "y": Y, "split": Y}, {}, "split in .* must be train, val or test"),
        ({"x": FEATURES, "y": Y, "group": np.r_[:255]}, {}, "class 'c00' is in two groups"),
        ({"x": FEATURES, "y": np.where(Y == "c01", "a\nb", Y)}, {}, "printable characters"),
        ({"x": FEATURES, "y": np.where(Y == "c01", "", Y)}, {}, "printable characters"),
        ({"x": FEATURES, "y": Y}, {"size": 8}, "--size and --grey go with images"),
        ({"x": PIXELS, "y": Y}, {"standardise": True}, "--standardise goes with features"),
        ({"x": PIXELS, "y": Y}, {"size": 0}, r"--size takes pixels in \[1, 1024\]"),
        ({"x": FEATURES, "y": Y}, {"split_seed": 1, "split_file": Path("x")}, "not both"),
        ({"x": FEATURES, "y": Y}, {"split_file": Path("x"), "fractions": (0.6, 0.2, 0.2)}, "--fr"),
    ],
)
def test_arrays_that_are_refused(
    tmp_path: Path, bring: Bring, arrays: Any, options: Any, message: str
) -> None:
    x = arrays["x"]
    arrays["x"] = x.reshape(-1, *x.shape[2:]) if x.ndim > 2 else x
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(UsageError, match=message) as caught:
        bring(tmp_path / "f.npz", **options)
    assert "\n" not in str(caught.value)
    assert metas() == ([], {})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_features_that_are_not_finite(tmp_path: Path, bring: Bring, value: float) -> None:
    x = FEATURES.astype(np.float64)
    x[2, 1, 3] = value
    with pytest.raises(UsageError, match=r"row 35 \(class 'c02'\) holds .* in column 3, 1 rows"):
        bring(save(tmp_path / "f.npz", x))


def test_files_that_are_no_arrays(tmp_path: Path, bring: Bring) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, x=FEATURES, y=np.array([object()] * 3))
    whole = save(tmp_path / "w.npz").read_bytes()
    for content in (path.read_bytes(), b"", b"text", whole[:-200], b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(DataUnavailable, match="can't be read as an npz of plain arrays"):
            bring(path)
    with path.open("wb") as file:
        np.save(file, FEATURES)
    with pytest.raises(DataUnavailable, match="can't be read as an npz"):
        bring(path)


def test_sources_that_are_refused(tmp_path: Path, bring: Bring) -> None:
    def refused(path: Path, message: str, error: type[LazybenchError] = UsageError) -> None:
        with pytest.raises(error, match=message) as caught:
            bring(path)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "no", "no such file or folder")
    refused(tmp_path / "a\0b", "can't be looked at|no such file")
    (tmp_path / "t.txt").write_text("")
    refused(tmp_path / "t.txt", "no folder and no .npz")
    empty = tmp_path / "empty"
    (empty / "cat").mkdir(parents=True)
    (empty / "cat" / "a.txt").write_text("")
    refused(empty, r"holds no images .* among 1 files")
    path = folder(tmp_path / "p")
    (path / "top.png").write_bytes((path / "c00" / "0.png").read_bytes())
    refused(path, "top.png lies in no class folder")
    (path / "top.png").unlink()
    (path / "c00" / "deep").mkdir()
    (path / "c00" / "0.png").rename(path / "c00" / "deep" / "0.png")
    refused(path, "mixes depths")
    (path / "c00" / "deep" / "0.png").rename(path / "c00" / "0.png")
    (path / "c00" / "0.png").write_text("no image")
    refused(path, r"c00/0\.png isn't an image", DataUnavailable)
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(path / "c00" / "0.png")
    refused(path, r"c00/0\.png is 5x6 in Pillow's mode I;16")
    refused(folder(tmp_path / "s", lambda at: f"{('train', 'test')[at % 2]}/{at}"), "exactly the f")
    refused(folder(tmp_path / "d", lambda at: f"a/b/c/{at}"), "lies too deep")
    one = tmp_path / "one"
    one.mkdir()
    save(one / "train.npz")
    refused(one, r"holds train.npz; a folder of npz files has exactly")
    save(one / "val.npz")
    save(one / "test.npz", PIXELS)
    refused(one, "instances of one shape")
    save(one / "test.npz")
    refused(one, "class 'c00' is in both train and val by train.npz.*--split-seed 0")


def test_other_files_are_left_out_and_told(tmp_path: Path, bring: Bring) -> None:
    path = folder(tmp_path / "p")
    (path / "c00" / ".DS_Store").write_text("")
    (path / "readme.txt").write_text("")
    assert bring(path).notes == ("left out 1 files that are no images",)


def test_damage_is_seen(tmp_path: Path, bring: Bring) -> None:
    bring(save(tmp_path / "f.npz"))
    assert catalogue.verify("mine").verified is True
    array = imported_root() / "mine" / "test.npy"
    data = bytearray(array.read_bytes())
    data[-1] ^= 1
    array.write_bytes(data)
    found = catalogue.verify("mine")
    assert found.verified is False
    assert "test.npy is damaged (its content doesn't match its sha256)" in found.detail
    array.write_bytes(data[:-1])
    with pytest.raises(DataUnavailable, match=r"test\.npy is damaged .*import the data again"):
        lazybench.make_env("mine-2way-1shot")
    (status,) = (each for each in catalogue.status() if each.name == "mine")
    assert not status.installed


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2, "name": "mine"}', "{}", "null"])
def test_damaged_facts_leave_the_others_alone(tmp_path: Path, bring: Bring, text: str) -> None:
    bring(save(tmp_path / "f.npz"))
    bring(tmp_path / "f.npz", "other")
    (imported_root() / "mine" / "meta.json").write_text(text)
    assert "other" in {spec.id for spec in DATASETS.specs()}
    assert "isn't whole" in DATASETS.broken["mine (imported)"]
    with pytest.raises(UnknownName, match=r"mine \(imported\)"):
        ENVS.resolve("mine-2way-1shot")
    bring(tmp_path / "f.npz", replace=True)
    assert "mine" in {spec.id for spec in DATASETS.specs()}
    assert DATASETS.broken == {}


def test_a_name_that_the_package_takes_later(
    tmp_path: Path, bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "check_name", lambda name: None)
    bring(save(tmp_path / "f.npz"), "glyphs")
    assert open_data("glyphs").source != "imported"
    assert "registered twice" in DATASETS.broken["glyphs (imported)"]
    assert all(spec.origin != "imported" for spec in ENVS.specs())


def test_forgetting(tmp_path: Path, bring: Bring) -> None:
    bring(save(tmp_path / "f.npz"))
    forget("mine")
    assert "mine" not in {spec.id for spec in DATASETS.specs()}
    for name in ("mine", "glyphs", "..", "../data", ""):
        with pytest.raises(UnknownName, match="nothing is imported as"):
            forget(name)
