"""Ids of streams: the listed ones, any imbalance, imported images, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lazybench.data.importing.importer import ImportRequest, import_data
from lazybench.envs import CATALOGUE
from lazybench.envs.longtail.env import LongTailEnv
from lazybench.errors import UnknownName
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
