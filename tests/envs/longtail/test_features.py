"""Long-tailed streams of features: the images' own parts, vectors that agents learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lazybench
from lazybench.check.env_checker import check_env
from lazybench.data.importing.embed import EmbedRequest, embed_data
from lazybench.data.importing.importer import ImportRequest, import_data
from lazybench.data.pool import open_labelled
from lazybench.envs import SIZES
from lazybench.envs.longtail.env import LongTailEnv
from lazybench.envs.trial_classes import long_tail_classes
from lazybench.errors import UnknownName, UsageError
from lazybench.registry import ENVS
from lazybench.runner.callbacks import SILENT
from lazybench.runner.evaluate import evaluate_blocks, open_env
from lazybench.runner.request import make
from lazybench.runner.signals import Signals
from lazybench.runner.train import Training, fit

ENV = "glyphs@cells-lt-20"


@pytest.fixture(scope="module")
def data(
    tmp_path_factory: pytest.TempPathFactory, write_averages: Callable[..., str]
) -> Iterator[Path]:
    """A data folder with the long-tailed parts of glyphs, in 49 averages."""
    root = tmp_path_factory.mktemp("features")
    backbone = write_averages(root, "cells", 7, "none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAZYBENCH_DATA", str(root / "data"))
        embed_data(EmbedRequest("glyphs", backbone, splits=()))
        yield root


def averages(images: Any) -> Any:
    """The 49 averages of images `[n, 1, 28, 28]`, in numpy."""
    cells = images.astype(np.float64).reshape(-1, 7, 4, 7, 4) / 255
    return cells.mean((2, 4)).reshape(-1, 49)


def test_the_parts_are_those_of_the_images(data: Path) -> None:
    images, features = open_labelled("glyphs"), open_labelled("glyphs@cells")
    assert features.classes == images.classes
    assert (images.weights, features.weights) == ("", "none")
    for part in ("train", "test"):
        had, got = getattr(images, part), getattr(features, part)
        assert got.x.dtype == np.float32
        np.testing.assert_array_equal(got.labels, had.labels)
        np.testing.assert_allclose(got.x[got.rows], averages(had.x[had.rows]), atol=1e-6)


def test_an_id_names_the_stream(data: Path) -> None:
    spec = ENVS.resolve("glyphs@cells-lt-7").spec
    assert (spec.id, spec.origin, spec.data) == ("glyphs@cells-lt-7", "imported", "glyphs@cells")
    assert set(spec.trials.values()) == {SIZES["glyphs"][1]}
    env = lazybench.make_env("glyphs@cells-lt-7", split="train", batch=8, dev_batch=60)
    assert (env.task.instance, env.task.dtype) == ((49,), "float32")
    assert env.data["weights"] == "none"
    batch, _ = env.reset(seed=3)
    assert batch["x"].shape == (8, 49)
    assert batch["dev_x"].dtype == np.float32
    assert env.observation_space.contains(batch)
    design = long_tail_classes(spec, "", spec.trials["small"])
    assert design is not None
    np.testing.assert_array_equal(design.members[:, 0], open_labelled("glyphs").test.labels)


def test_a_picture_has_a_row_for_each_vector(data: Path) -> None:
    env = lazybench.make_env(ENV, split="train", batch=5, render_mode="rgb_array")
    batch, _ = env.reset(seed=0)
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((5, 49, 3), np.uint8)
    assert picture.reshape(-1, 3).argmax() // 3 == batch["x"].argmax()


def test_it_keeps_the_contract(data: Path) -> None:
    assert [finding for finding in check_env(ENV) if not finding.ok] == []


@pytest.mark.parametrize(
    ("name", "epochs"), [("cross_entropy", 4), ("balanced_softmax", 4), ("lazy_two_component", 1)]
)
def test_agents_learn_features(data: Path, name: str, epochs: int) -> None:
    spec = ENVS.resolve(ENV).spec
    agent = make(name, spec, "smoke", {"epochs": epochs}).instance
    state = fit(Training(agent, spec, "smoke", 0, "cpu", None), SILENT, Signals()).state
    trials = spec.trials["smoke"]
    policy = agent.policy(state)
    (found,) = evaluate_blocks(open_env(spec, 1, "test"), policy, spec.metric, trials)
    scores = np.asarray(found.scores, np.float64)
    error = scores.std(ddof=1) / np.sqrt(len(scores))
    assert scores.mean() - 1 / 60 > 3 * error


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"flip": True}, "flip is for images, .* vectors .49.; got flip=True; use --set flip=Fal"),
        ({"pad": 2}, "pad is for images"),
        ({"side": 16}, "side is for images"),
        ({"backbone": "resnet8"}, "resnet8"),
    ],
)
def test_settings_of_images_are_refused(data: Path, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        lazybench.run("cross_entropy", ENV, budget="smoke", settings=settings, runs=data / "runs")


def test_features_of_an_import_hold_out_the_images_that_it_holds_out(data: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12 * 40, 28, 28), dtype=np.uint8)
    np.savez(data / "mine.npz", x=x, y=np.repeat(np.arange(12), 40))
    import_data(ImportRequest(data / "mine.npz", "mine"))
    embed_data(EmbedRequest("mine", f"{data / 'net.py'}:cells"))
    images, features = open_labelled("mine"), open_labelled("mine@cells")
    np.testing.assert_array_equal(features.test.rows, images.test.rows)
    np.testing.assert_array_equal(features.train.rows, images.train.rows)
    spec = ENVS.resolve("mine@cells-lt-3").spec
    env = LongTailEnv(**spec.kwargs, split="test")
    assert spec.trials["small"] == len(env._labelled.test.rows)
    assert env.data["source"].endswith("one image in 5 held out for the test")


def test_features_without_a_long_tail_have_no_stream(data: Path) -> None:
    np.savez(data / "f.npz", x=np.eye(240, dtype=np.float32), y=np.repeat(np.arange(12), 20))
    import_data(ImportRequest(data / "f.npz", "vectors"))
    for name in ("vectors-lt-2", "omniglot@cells-lt-2"):
        with pytest.raises(UnknownName):
            ENVS.resolve(name)
