"""Metrics against values worked out by hand, and calibration against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lazybench.envs.longtail.metrics import calibration_error, metrics

# Four classes, two images each: recalls 1, 1/2, 1/2, 0.
LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3])
GIVEN = np.array([0, 0, 1, 0, 2, -1, 0, 1])
TRAIN = np.array([101, 100, 20, 19])


def test_by_hand() -> None:
    result = metrics(LABELS, GIVEN, TRAIN)
    assert result["accuracy"] == 0.5
    assert result["top1_error_pct"] == 50.0
    # 100 and 20 both belong to the middle band.
    bands = (result["many_accuracy"], result["medium_accuracy"], result["few_accuracy"])
    assert bands == (1.0, 0.5, 0.0)
    assert result["head_tail_gap"] == 1.0
    np.testing.assert_array_equal(result["recalls"], [1, 0.5, 0.5, 0])
    # No image of the last class is right: half of one out of two counts.
    assert result["geometric_mean"] == pytest.approx((1 * 0.5 * 0.5 * 0.25) ** 0.25)
    assert result["zero_recall_count"] == 1
    assert not {"ece", "nll"} & set(result)


def test_an_empty_band_is_no_number() -> None:
    result = metrics(LABELS, GIVEN, np.full(4, 50))
    assert math.isnan(result["many_accuracy"])
    assert math.isnan(result["few_accuracy"])
    assert math.isnan(result["head_tail_gap"])
    assert result["medium_accuracy"] == result["accuracy"]


def test_accuracy_is_balanced_where_the_test_set_is_not() -> None:
    labels, given = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    assert metrics(labels, given, np.array([5, 5]))["accuracy"] == 0.5


def test_likelihood_and_calibration() -> None:
    probs = np.full((8, 4), 0.1, np.float32)
    probs[np.arange(8), np.maximum(GIVEN, 0)] = 0.7
    result = metrics(LABELS, GIVEN, TRAIN, probs)
    right = GIVEN == LABELS
    assert result["nll"] == pytest.approx(-np.log(np.where(right, 0.7, 0.1)).mean(), rel=1e-5)
    # The row without an answer has 0.7 on class 0, which counts as its confidence.
    assert result["ece"] == pytest.approx(abs(right.mean() - 0.7), rel=1e-5)


def test_certain_and_wrong_is_finite() -> None:
    probs = np.eye(4, dtype=np.float32)[GIVEN]
    assert metrics(LABELS, GIVEN, TRAIN, probs)["nll"] < 28


def test_calibration_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.random(500), [0.0, 1.0]])
    right = rng.random(502) < confidence**2
    expected = 0.0
    for b in range(15):
        last = b == 14
        inside = (confidence >= b / 15) & ((confidence < (b + 1) / 15) | last)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(right, confidence) == pytest.approx(expected, rel=1e-12)


def test_a_probability_of_0_counts_as_1e_12() -> None:
    probs = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    result = metrics(np.array([0, 1]), np.array([0, 0]), np.array([5, 5]), probs)
    assert result["nll"] == pytest.approx(-math.log(1e-12) / 2)
