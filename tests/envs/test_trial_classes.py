from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import lazybench
from lazybench import registry
from lazybench.data.pool import open_labelled
from lazybench.envs.trial_classes import TEST_SPLITS, few_shot_classes, long_tail_classes
from lazybench.errors import DataUnavailable


@pytest.mark.parametrize(
    "name",
    ["glyphs-5way-1shot", "glyphs-20way-5shot-noniid", "glyphs-5way-1shot-dirichlet"],
)
def test_the_classes_of_trials_are_those_whose_images_they_show(name: str) -> None:
    spec = registry.ENVS.resolve(name).spec
    owner = owners()
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


def owners() -> dict[bytes, set[int]]:
    """The test classes of the glyphs' images."""
    pool = registry.open_data("glyphs").pool("test")
    owner: dict[bytes, set[int]] = {}
    for c in range(pool.classes):
        for image in pool.x[pool.start[c] : pool.start[c] + pool.count[c]]:
            owner.setdefault(image.tobytes(), set()).add(c)
    return owner


@pytest.mark.parametrize("concentration", [2, 0])
def test_classes_weigh_by_their_queries(concentration: int) -> None:
    """A policy that is right about one label has that label's weight as its score."""
    spec = registry.ENVS.resolve("glyphs-5way-1shot-dirichlet").spec
    spec = replace(spec, kwargs={**spec.kwargs, "concentration": concentration})
    env = lazybench.make_env(spec.id, num_envs=7, concentration=concentration)
    found = few_shot_classes(spec, env.data["fingerprint"], 7)
    assert found is not None
    assert found.weights is not None
    for label in range(5):
        env.reset(options={"trials": np.arange(7)})
        _, reward, *_ = env.step(np.full((7, env.task.query_rows), label))
        assert reward == pytest.approx(found.weights[:, label])


def test_uneven_tasks_have_the_classes_that_they_show() -> None:
    spec = registry.ENVS.resolve("glyphs-anyway").spec
    owner = owners()
    env = lazybench.make_env(spec.id, num_envs=6)
    shown, _ = env.reset(options={"trials": np.arange(6)})
    found = few_shot_classes(spec, env.data["fingerprint"], 6)
    assert found is not None
    for trial in range(6):
        labels = np.asarray(shown["support_y"][trial])
        way = int(labels.max()) + 1
        assert found.strata is not None
        assert found.strata[trial] == way
        assert (found.members[trial, way:] == -1).all()
        for label in range(way):
            image = np.asarray(shown["support_x"][trial][labels == label][0])
            assert found.members[trial, label] in owner[image.tobytes()]


def test_a_claimed_concentration_is_checked() -> None:
    spec = registry.ENVS.resolve("glyphs-5way-1shot-dirichlet").spec
    fingerprint = registry.open_data("glyphs").fingerprint
    for wrong in (-1, 10**9):
        claimed = replace(spec, kwargs={**spec.kwargs, "concentration": wrong})
        assert few_shot_classes(claimed, fingerprint, 3) is None


def test_unknown_data_have_no_classes() -> None:
    spec = registry.ENVS.resolve("glyphs-5way-1shot").spec
    assert few_shot_classes(spec, "0" * 64, 10) is None


@pytest.mark.parametrize("data", ["glyphs", "glyphshard"])
def test_known_numbers_of_classes_are_those_of_embedded_data(data: str) -> None:
    opened = registry.open_data(data)
    pool = opened.pool("test")
    assert TEST_SPLITS[opened.fingerprint] == (pool.classes, pool.count.min())


@pytest.mark.data
@pytest.mark.parametrize("data", ["omniglot", "omniglot-alphabet", "cifarfs", "fc100"])
def test_known_numbers_of_classes_are_those_of_installed_data(data: str) -> None:
    try:
        opened = registry.open_data(data)
    except DataUnavailable as error:
        pytest.skip(str(error))
    pool = opened.pool("test")
    assert TEST_SPLITS[opened.fingerprint] == (pool.classes, pool.count.min())


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
