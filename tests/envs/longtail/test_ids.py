"""Ids of streams: the listed ones, any imbalance, imported images, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lazybench.data.importing.importer import ImportRequest, import_data
from lazybench.envs import CATALOGUE
from lazybench.envs.longtail.env import LongTailEnv
from lazybench.errors import UnknownName, UsageError
from lazybench.registry import ENVS

STREAMS = [spec for spec in CATALOGUE if spec.family == "longtail"]


def test_the_listed_ones() -> None:
    assert {spec.id for spec in STREAMS} == {
        *(f"cifar{n}-lt-{imbalance}" for n in (10, 100) for imbalance in (200, 100, 50, 20, 10)),
        *(f"glyphs-lt-{imbalance}" for imbalance in (100, 50, 20)),
    }
    for spec in STREAMS:
        assert spec.kwargs == {"data": spec.data, "imbalance": int(spec.id.rpartition("-")[2])}
        assert (spec.vector_target, spec.metric, spec.unit) == (None, "accuracy", "fraction")


@pytest.mark.parametrize("name", ["glyphs-lt-20", "glyphshard-lt-7"])
def test_trials_are_images(name: str) -> None:
    spec = ENVS.resolve(name).spec
    assert spec.id == name
    env = LongTailEnv(**spec.kwargs, split="test")
    assert set(spec.trials.values()) == {len(env._labelled.test.rows)}
    assert set(spec.val_trials.values()) == {env.task.classes * env.task.dev_per_class}


@pytest.mark.parametrize("name", ["glyphs-lt-0", "glyphs-lt-", "sinusoid-lt-10", "glyphs-lt-1.5"])
def test_other_names_are_refused_here(name: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown environment '{name}'"):
        ENVS.resolve(name)


def test_whole_sets_make_no_few_shot_tasks() -> None:
    with pytest.raises(UnknownName, match="cifarfs-5way-1shot"):
        ENVS.resolve("cifar100-5way-1shot")


def test_imported_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12 * 40, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=x, y=np.repeat(np.arange(12), 40))
    import_data(ImportRequest(tmp_path / "mine.npz", "mine"))
    spec = ENVS.resolve("mine-lt-10").spec
    assert (spec.origin, spec.data) == ("imported", "mine")
    env = LongTailEnv(**spec.kwargs, split="test")
    classes = env.task.classes
    assert 2 <= classes < 12
    # A fifth of 40 images is held out, 10 are the dev set.
    assert env.task.class_counts[0] == 40 - 8 - 10
    assert env.task.instance == (3, 16, 16)
    assert spec.trials["small"] == len(env._labelled.test.rows) == 8 * classes
    assert spec.val_trials["small"] == 10 * classes
    assert "its train classes, one image in 5 held out for the test" in env.data["source"]
    assert not set(env._labelled.train.rows) & set(env._labelled.test.rows)


def test_imported_images_with_their_own_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class keeps all that is neither test nor dev set; the test set stays balanced."""
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))
    each = np.arange(16, 52, 3)
    y = np.repeat(np.arange(len(each)), each)
    x = np.random.default_rng(0).integers(0, 256, (len(y), 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    import_data(ImportRequest(tmp_path / "mine.npz", "mine"))
    spec = ENVS.resolve("mine-lt-natural").spec
    assert (spec.origin, spec.kwargs) == ("imported", {"data": "mine", "imbalance": "natural"})
    env = LongTailEnv(**spec.kwargs, split="test")
    whole = [int(each[int(name)]) for name in env._labelled.classes]
    held_out = min(whole) // 5
    assert env.task.class_counts == tuple(count - held_out - 10 for count in whole)
    assert env._labelled.test.count.tolist() == [held_out] * len(whole)
    assert env.protocol["head"] == max(env.task.class_counts)
    assert spec.trials["small"] == held_out * len(whole)
    train = LongTailEnv(**spec.kwargs, split="train", batch=7)
    shown = [train.reset(options={"trials": [i]})[0] for i in range(env.task.train_steps(1, 7))]
    labels = np.concatenate([batch["y"] for batch in shown])[: env.task.images]
    assert np.bincount(labels).tolist() == list(env.task.class_counts)


def test_equal_counts_are_no_natural_tail() -> None:
    spec = ENVS.resolve("glyphs-lt-natural").spec
    with pytest.raises(
        UsageError,
        match=r"glyphs has no tail of its own: each of its 60 classes .*"
        "use an imbalance, as in glyphs-lt-100",
    ):
        LongTailEnv(**spec.kwargs)


def test_a_natural_tail_has_its_own_head() -> None:
    with pytest.raises(UsageError, match="imbalance=natural keeps the images of each class"):
        LongTailEnv(data="glyphs", imbalance="natural", head=20)
