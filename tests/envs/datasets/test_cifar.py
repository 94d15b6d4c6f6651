"""CIFAR-FS and FC100: equal from folder and archive, whole or refused, split by published lists."""

from __future__ import annotations

import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.data.folders import data_root
from lazybench.data.pool import SPLITS
from lazybench.envs.datasets import cifar
from lazybench.envs.datasets.cifar import Cifar100, check, open_cifar100
from lazybench.envs.datasets.image_set import ImageSet, Named, few_shot_roster, open_images
from lazybench.envs.fewshot.episodes import ClassSampler
from lazybench.errors import DataUnavailable, UsageError

NAMES = ("apple", "bear", "cup", "dolphin")
ROSTER = {
    "train": (Named("bear", "animals"), Named("dolphin", "animals")),
    "val": (Named("apple", "food"),),
    "test": (Named("cup", "things"),),
}
TRAIN, TEST = (0, 1, 2, 3, 3, 2, 1, 0), (3, 2, 1, 0)


def write(root: Path, *, train: tuple[int, ...] = TRAIN, protocol: int = 2) -> Path:
    """The folder of a tiny CIFAR-100; red of an image's first pixel is its class."""
    folder = root / "cifar-100-python"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    for name, labels in (("train", train), ("test", TEST)):
        data = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        data[:, 0] = labels
        values = {b"data": data, b"fine_labels": list(labels), b"filenames": [b"x"] * len(labels)}
        (folder / name).write_bytes(pickle.dumps(values, protocol))
    meta = {b"fine_label_names": [name.encode() for name in NAMES]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol))
    return folder


def opened(root: Path, **changes: Any) -> ImageSet:
    # Mypy knows no literal keys in a plain dict.
    facts: dict[str, Any] = {"roster": ROSTER, "each": 3} | changes
    return open_images("cifarfs", "1", Cifar100(root, "cifarfs", **facts))


def test_pools_join_train_and_test_class_by_class(root: Path) -> None:
    write(root)
    data = opened(root)
    train = data.pool("train")
    assert train.x.shape == (6, 3, 32, 32)
    assert train.x.dtype == np.uint8
    assert train.x[:, 0, 0, 0].tolist() == [1, 1, 1, 3, 3, 3]
    assert (train.names, train.groups) == (("bear", "dolphin"), ("animals", "animals"))
    assert (train.start.tolist(), train.count.tolist()) == ([0, 3], [3, 3])
    assert data.pool("test").names == ("cup",)
    rows = np.random.default_rng(1).integers(0, 256, (len(TRAIN), 3072), dtype=np.uint8)
    np.testing.assert_array_equal(train.x[0].reshape(-1)[1:], rows[1, 1:])
    assert "the images differ from the known ones" in data.source
    with pytest.raises(UsageError, match="isn't one of train, val, test"):
        data.pool("dev")  # type: ignore[arg-type]


def test_every_packaging_gives_the_same_data(root: Path) -> None:
    folder = write(root)
    first = opened(root)
    assert data_root() == root
    with tarfile.open(root / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-100-python")
    shutil.rmtree(folder)
    packed = opened(root)
    assert packed.fingerprint == first.fingerprint
    for split in SPLITS:
        np.testing.assert_array_equal(packed.pool(split).x, first.pool(split).x)
    (root / "cifar100").mkdir()
    shutil.move(write(root, protocol=5), root / "cifar100")
    (root / "cifar-100-python.tar.gz").unlink()
    assert opened(root).fingerprint == first.fingerprint
    assert opened(root).reread() == first.fingerprint


def test_what_is_known_of_the_files_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(root)
    known = opened(root).fingerprint
    monkeypatch.setattr(cifar, "FINGERPRINTS", {"cifarfs": known})
    sources = Cifar100(root, "cifarfs", ROSTER, 3)
    assert sources.about(known, {}).endswith("; the known images, repacked")
    sums = {path.name: cifar.md5(path) for path in folder.iterdir()}
    monkeypatch.setattr(cifar, "PUBLISHED", sums)
    assert sources.about(known, {}).endswith("; the authors' files")


def test_samplers_gather_from_the_mapped_file(root: Path) -> None:
    write(root)
    pool = opened(root).pool("train")
    assert isinstance(pool.x, np.memmap)
    sampler = ClassSampler(pool, way=2, shot=1, query=1, where="here")
    assert sampler._x.data_ptr() == pool.x.ctypes.data


def test_warm_opening_reads_no_pickle(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root)
    first = opened(root)

    def fail(*_: object) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(cifar, "read_cifar", fail)
    assert opened(root).fingerprint == first.fingerprint


def test_damage_names_file_and_remedy(root: Path) -> None:
    for harm, message in (
        (lambda: None, "not found"),
        (lambda: write(root, train=TRAIN[:-1]), "2 images of apple, not 3"),
        (lambda: write(root, train=(*TRAIN[:-1], 4)), "2 images of apple, not 3"),
        (lambda: cut(write(root) / "train"), "train isn't a whole pickle"),
        (lambda: swap(write(root)), "train in .* lacks data, fine_labels"),
        (lambda: (write(root) / "meta").unlink(), "not found"),
    ):
        harm()
        with pytest.raises(DataUnavailable, match=message) as caught:
            opened(root)
        for part in (str(root), "lazybench data get cifarfs", "LAZYBENCH_DATA", "meta"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataUnavailable, match="fc100: not found"):
        check("fc100")
    with pytest.raises(UsageError, match="isn't one of cifarfs, fc100"):
        open_cifar100("cifar")  # type: ignore[arg-type]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def swap(folder: Path) -> None:
    shutil.copy(folder / "meta", folder / "train")


def test_another_roster_is_another_entry(root: Path) -> None:
    write(root)
    first = opened(root)
    swapped = opened(root, roster=ROSTER | {"val": ROSTER["test"], "test": ROSTER["val"]})
    assert swapped.fingerprint != first.fingerprint
    assert swapped.pool("val").names == ("cup",)
    with pytest.raises(DataUnavailable, match="other classes than CIFAR-100's 3"):
        opened(root, roster=ROSTER | {"test": ()})


def test_published_lists() -> None:
    fs, fc = few_shot_roster("cifarfs"), few_shot_roster("fc100")
    assert [len(fs[split]) for split in SPLITS] == [64, 16, 20]
    assert [len(fc[split]) for split in SPLITS] == [60, 20, 20]
    everything = {each for split in SPLITS for each in fs[split]}
    assert everything == {each for split in SPLITS for each in fc[split]}
    assert len({each.name for each in everything}) == 100
    groups = [{each.group for each in fc[split]} for split in SPLITS]
    assert [len(each) for each in groups] == [12, 4, 4]
    assert len(set.union(*groups)) == 20


@pytest.mark.data
@pytest.mark.parametrize("protocol", ["cifarfs", "fc100"])
def test_the_real_one(protocol: cifar.Protocol) -> None:
    try:
        data = open_cifar100(protocol)
    except DataUnavailable as error:
        pytest.skip(str(error))
    assert data.fingerprint == cifar.FINGERPRINTS[protocol]
    x = np.concatenate([data.pool(split).x for split in SPLITS])
    assert x.shape == (60_000, 3, 32, 32)
    # Published for the 50,000 training images.
    np.testing.assert_allclose(x.mean((0, 2, 3)) / 255, [0.5071, 0.4865, 0.4409], atol=1e-3)
