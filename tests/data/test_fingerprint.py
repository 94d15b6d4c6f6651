"""The fingerprint sees content and split, and nothing of packaging."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lazybench.data.fingerprint import content_fingerprint, instance_hash

CLASSES = st.lists(
    st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4), min_size=2, max_size=5
)


@given(CLASSES, st.randoms(use_true_random=False))
def test_order_of_classes_and_instances_does_not_matter(classes, random) -> None:
    before = content_fingerprint({"train": classes, "test": []})
    shuffled = [random.sample(one, len(one)) for one in classes]
    random.shuffle(shuffled)
    assert content_fingerprint({"test": [], "train": shuffled}) == before


def test_grouping_and_split_matter() -> None:
    a, b, c, d = (bytes([n]) * 32 for n in range(4))
    prints = {
        content_fingerprint({"train": [[a, b], [c, d]], "test": []}),
        content_fingerprint({"train": [[a, c], [b, d]], "test": []}),
        content_fingerprint({"train": [[a, b]], "test": [[c, d]]}),
        content_fingerprint({"train": [[c, d]], "test": [[a, b]]}),
        content_fingerprint({"train": [[a, b], [c, d], [c, d]], "test": []}),
    }
    assert len(prints) == 5
    assert all(len(one) == 64 for one in prints)


def test_instance_hash_sees_values_shape_and_type_only() -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    same = instance_hash(pixels)
    assert instance_hash(np.asfortranarray(pixels)) == same
    assert instance_hash(pixels.astype(">u2")) == same
    assert instance_hash(pixels[::-1][::-1]) == same
    assert instance_hash(pixels.reshape(4, 3)) != same
    assert instance_hash(pixels.astype(np.int16)) != same
    assert instance_hash(pixels + np.uint16(1)) != same


def test_fingerprint_is_frozen() -> None:
    image = instance_hash(np.eye(3, dtype=np.uint8))
    got = content_fingerprint({"train": [[image]], "val": [], "test": []})
    assert got == "532f7f65bb3cd64de4350c943ffa1424babc2a98c521faf3fd3904496634755c"
