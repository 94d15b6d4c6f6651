"""Accuracy of long-tailed runs under other test distributions, from the answers that records keep.

A test set with another share of each class gives the mean of the class recalls weighted by these
shares, so that no run is needed for it.

Reference: Y. Hong et al., "Disentangling label distribution for long-tailed visual recognition",
    CVPR 2021 (LADE: forward and backward test distributions); Y. Zhang et al., "Self-supervised
    aggregation of diverse experts for test-agnostic long-tailed recognition", NeurIPS 2022 (SADE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lazybench.boards.group import Group, factor, trial_classes
from lazybench.records.schema import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATIOS = (2, 5, 10, 25, 50)
"""Images of the largest class over those of the smallest."""
DISTRIBUTIONS: tuple[tuple[str, float], ...] = (
    *((f"forward_{ratio}", float(ratio)) for ratio in reversed(RATIOS)),
    ("balanced", 1.0),
    *((f"backward_{ratio}", 1.0 / ratio) for ratio in RATIOS),
)
"""Name of each test distribution, and images of the first class over those of the last."""


@dataclass(frozen=True)
class ClassShift:
    """Results of one row under other test distributions, in the board's unit, means over seeds.

    Attributes:
        worst_recall: recall of each seed's worst class.
        harmonic_recall: harmonic mean of the recalls.
        accuracy: expected accuracy by the names of `DISTRIBUTIONS`.
    """

    worst_recall: float
    harmonic_recall: float
    accuracy: dict[str, float]


def class_shares(ratio: float, classes: int) -> NDArray[Any]:
    """Return the share of each class in a test set, float64 `[classes]`, with sum 1.

    Proportional to ratio^(-c / (C - 1)), c = 0 for the class with most training images. A ratio
    above 1 is a forward long tail, one below 1 a backward one.

    Choice: the shares aren't rounded to whole images of a test set of some size, as in SADE's code.

    Reference: Zhang et al. 2022, section 5.1 and appendix.
    """
    import numpy as np

    shares = float(ratio) ** (-np.arange(classes) / max(1, classes - 1))
    return np.asarray(shares / shares.sum())


def by_class(record: Record, by_trial: NDArray[Any]) -> NDArray[Any] | None:
    """Return the mean over the trials of each class, most training images first.

    None for other families than long tails, and where the classes of the trials aren't known.

    Args:
        record: its environment says which class each trial has.
        by_trial: `[n]` one number for each trial.
    """
    import numpy as np

    design = trial_classes(record) if record.env.family == "longtail" else None
    if design is None:
        return None
    labels = design.members[:, 0]
    return np.bincount(labels, by_trial) / np.bincount(labels)


def recalls(group: Group) -> list[NDArray[Any]] | None:
    """Return the class recalls of each scored seed, `[classes]` in [0, 1], or None if unknown."""
    scores = group.trial_scores()
    if scores is None:
        return None
    by_seed = [by_class(record, each) for record, each in zip(group.scored, scores, strict=True)]
    known = [each for each in by_seed if each is not None]
    return known if len(known) == len(by_seed) else None


def shifted(recall: NDArray[Any]) -> dict[str, float]:
    """Return the expected accuracy of a model on each of `DISTRIBUTIONS`, in the recalls' unit."""
    return {name: float(class_shares(ratio, len(recall)) @ recall) for name, ratio in DISTRIBUTIONS}


def harmonic_recall(recall: NDArray[Any], images: int) -> float:
    """Return the harmonic mean of recalls.

    Choice: a recall of 0 counts as half an image, as in the geometric mean of the recalls; one such
    class would make the mean 0.

    Args:
        recall: `[classes]` in [0, 1].
        images: test images of a class.
    """
    import numpy as np

    return float(1 / (1 / np.maximum(recall, 0.5 / images)).mean())


def class_shift(group: Group) -> ClassShift | None:
    """Return the results of a row under other test distributions; None where they aren't known."""
    by_seed = recalls(group)
    if by_seed is None:
        return None
    scale = factor(group.records[0])
    images = group.scored[0].trials.n // len(by_seed[0])
    accuracies = [shifted(each) for each in by_seed]
    return ClassShift(
        worst_recall=scale * _mean([float(each.min()) for each in by_seed]),
        harmonic_recall=scale * _mean([harmonic_recall(each, images) for each in by_seed]),
        accuracy={
            name: scale * _mean([each[name] for each in accuracies]) for name, _ in DISTRIBUTIONS
        },
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
