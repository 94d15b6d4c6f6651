from __future__ import annotations

import numpy as np

from lazybench import registry
from lazybench.data.pool import open_labelled
from lazybench.envs.longtail.trial_classes import trial_classes


def test_the_classes_of_test_images_are_their_labels() -> None:
    spec = registry.ENVS.resolve("glyphs-lt-100").spec
    labels = open_labelled("glyphs").test.labels
    found = trial_classes(spec, "", len(labels))
    assert found is not None
    assert (found.members[:, 0] == labels).all()
    # Neighbours in the tail share a stratum.
    assert found.strata is not None
    by_class = found.strata[np.unique(labels, return_index=True)[1]]
    assert by_class.tolist() == np.repeat(np.arange(30), 2).tolist()


def test_other_test_sets_have_no_classes() -> None:
    assert trial_classes(registry.ENVS.resolve("glyphs-lt-100").spec, "", 40) is None
