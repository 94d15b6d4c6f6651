from __future__ import annotations

import numpy as np
import pytest

import lazybench
from lazybench import registry
from lazybench.data.pool import open_labelled
from lazybench.envs.trial_classes import TEST_CLASSES, few_shot_classes, long_tail_classes
from lazybench.errors import DataUnavailable


@pytest.mark.parametrize("name", ["glyphs-5way-1shot", "glyphs-20way-5shot-noniid"])
def test_the_classes_of_trials_are_those_whose_images_they_show(name: str) -> None:
    spec = registry.ENVS.resolve(name).spec
    pool = registry.open_data("glyphs").pool("test")
    owner: dict[bytes, set[int]] = {}
    for c in range(pool.classes):
        for image in pool.x[pool.start[c] : pool.start[c] + pool.count[c]]:
            owner.setdefault(image.tobytes(), set()).add(c)
    env = lazybench.make_env(name, num_envs=6)
    shown, _ = env.reset(options={"trials": np.arange(6)})
    way, shot = spec.kwargs["way"], spec.kwargs["shot"]
    found = few_shot_classes(spec, env.data["fingerprint"], 6)
    assert found is not None
    assert found.members.shape == (6, way)
    for trial in range(6):
        for label in range(way):
            image = shown["support_x"][trial, label * shot]
            assert found.members[trial, label] in owner[np.asarray(image).tobytes()]
    # Fewer trials are the first of more.
    fewer = few_shot_classes(spec, env.data["fingerprint"], 2)
    assert fewer is not None
    assert (fewer.members == found.members[:2]).all()


def test_unknown_data_have_no_classes() -> None:
    spec = registry.ENVS.resolve("glyphs-5way-1shot").spec
    assert few_shot_classes(spec, "0" * 64, 10) is None


@pytest.mark.parametrize("data", ["glyphs", "glyphshard"])
def test_known_numbers_of_classes_are_those_of_embedded_data(data: str) -> None:
    opened = registry.open_data(data)
    assert TEST_CLASSES[opened.fingerprint] == opened.pool("test").classes


@pytest.mark.data
@pytest.mark.parametrize("data", ["omniglot", "omniglot-alphabet", "cifarfs", "fc100"])
def test_known_numbers_of_classes_are_those_of_installed_data(data: str) -> None:
    try:
        opened = registry.open_data(data)
    except DataUnavailable as error:
        pytest.skip(str(error))
    assert TEST_CLASSES[opened.fingerprint] == opened.pool("test").classes


def test_the_classes_of_test_images_are_their_labels() -> None:
    spec = registry.ENVS.resolve("glyphs-lt-100").spec
    labels = open_labelled("glyphs").test.labels
    found = long_tail_classes(spec, "", len(labels))
    assert found is not None
    assert (found.members[:, 0] == labels).all()
    # Neighbours in the tail share a stratum.
    assert found.strata is not None
    by_class = found.strata[np.unique(labels, return_index=True)[1]]
    assert by_class.tolist() == np.repeat(np.arange(30), 2).tolist()


def test_other_test_sets_have_no_classes() -> None:
    assert long_tail_classes(registry.ENVS.resolve("glyphs-lt-100").spec, "", 40) is None
