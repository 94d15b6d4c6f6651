"""The counter-based random numbers: frozen values, uniformity, independence, refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lazybench import seeding
from lazybench.errors import UsageError

_WORD = st.integers(-(2**63), 2**64 - 1)
FROZEN_KEYS = [2284979390344520844, 12188373288974116770, 129155603995451163]
FROZEN_UNIFORM = [0.12386898095480658, 0.6607330399485014, 0.007001539322027184]
FROZEN_INTEGERS = [123, 660, 7]
FROZEN_NORMAL = [-0.03382714195416118, -1.4296015150080494, 0.11710401070653755]
FROZEN_ORDER = [5, 1, 0, 4, 2, 3]


def test_values_are_frozen() -> None:
    """A change of any of these moves every published trial."""
    keys = seeding.mix("glyphs", 7, np.arange(3))
    assert seeding.mix(0) == 258863698125685209
    assert seeding.mix("glyphs") == 3329622809906739998
    assert keys.tolist() == FROZEN_KEYS
    assert seeding.uniform(keys).tolist() == FROZEN_UNIFORM
    assert seeding.integers(keys, 1000).tolist() == FROZEN_INTEGERS
    np.testing.assert_allclose(seeding.normal(keys), FROZEN_NORMAL, rtol=1e-13)
    assert seeding.permutation(keys[0], 6).tolist() == FROZEN_ORDER


@given(st.lists(_WORD, min_size=1, max_size=4), st.integers(0, 3))
def test_a_part_in_an_array_equals_the_scalar(parts: list[int], place: int) -> None:
    place %= len(parts)
    word = np.array([parts[place] % 2**64], dtype=np.uint64)
    with_array = seeding.mix(*parts[:place], word, *parts[place + 1 :])
    assert with_array.shape == (1,)
    assert with_array[0] == seeding.mix(*parts)


def test_negative_integers_count_modulo_the_word() -> None:
    assert seeding.mix(-1) == seeding.mix(2**64 - 1) == seeding.mix(np.array([-1]))[0]


def test_order_type_and_number_of_parts_matter() -> None:
    keys = [
        seeding.mix(*parts)
        for parts in [(1, 2), (2, 1), (1,), (1, 0), (0, 1), ("1", 2), ("1", "2"), ("12",)]
    ]
    assert len({int(key) for key in keys}) == len(keys)


def test_arrays_broadcast_in_any_memory_order() -> None:
    rows, columns = np.arange(5)[:, None], np.arange(7)
    keys = seeding.mix("x", rows, columns)
    assert keys.shape == (5, 7)
    assert keys[3, 4] == seeding.mix("x", 3, 4)
    table = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(seeding.mix(table.T), seeding.mix(table).T)
    assert seeding.mix(np.zeros((0, 3), dtype=np.int64), np.arange(3)).shape == (0, 3)


def test_the_argument_is_left_alone() -> None:
    words = np.arange(10, dtype=np.uint64)
    seeding.mix(words)
    seeding.normal(words)
    seeding.integers(words, 3)
    np.testing.assert_array_equal(words, np.arange(10))


def test_blocks_do_not_show() -> None:
    many = seeding.mix("block", np.arange(40_000))
    assert many[39_999] == seeding.mix("block", 39_999)
    assert len(np.unique(many)) == len(many)


@pytest.mark.parametrize("stride", [1, 2**32, 0x9E3779B97F4A7C15])
def test_neighbouring_counters_give_uniform_independent_numbers(stride: int) -> None:
    counters = np.arange(50_000, dtype=np.uint64) * np.uint64(stride)
    drawn = seeding.uniform(seeding.mix("uniform", counters))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-4
    for lag in (1, 2, 16):
        assert abs(np.corrcoef(drawn[lag:], drawn[:-lag])[0, 1]) < 5 / np.sqrt(len(drawn))


def test_each_input_bit_flips_half_of_the_output() -> None:
    words = seeding.mix("avalanche", np.arange(500))
    flips = np.uint64(1) << np.arange(64, dtype=np.uint64)
    changed = seeding.mix(words[:, None]) ^ seeding.mix(words[:, None] ^ flips)
    bits = np.unpackbits(changed[..., None].view(np.uint8), axis=-1)
    share = bits.mean(axis=0)
    assert abs(bits.mean() - 0.5) < 0.002
    assert np.abs(share - 0.5).max() < 6 * 0.5 / np.sqrt(500)


def test_normal_numbers_are_standard_normal() -> None:
    keys = seeding.mix("normal", np.arange(50_000).reshape(500, 100))
    drawn = seeding.normal(keys)
    assert drawn.shape == (500, 100)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(drawn[1:].ravel(), drawn[:-1].ravel())[0, 1]) < 0.03
    # Both halves come from one key: radius and sign must not hang together.
    assert abs(np.corrcoef(np.sign(drawn).ravel(), np.abs(drawn).ravel())[0, 1]) < 0.03
    assert np.isfinite(seeding.normal(np.array([0, 2**64 - 1], dtype=np.uint64))).all()


def test_integers_are_uniform_below_the_bound() -> None:
    keys = seeding.mix("integers", np.arange(70_000))
    drawn = seeding.integers(keys, 7)
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-4
    ends = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert seeding.integers(ends, 2**32).tolist() == [0, 2**32 - 1]
    assert seeding.integers(ends, 1).tolist() == [0, 0]
    bounds = np.arange(1, 5)
    assert (seeding.integers(keys[:, None], bounds) < bounds).all()


@given(_WORD, st.integers(1, 2**32))
def test_integers_equal_the_exact_product(word: int, bound: int) -> None:
    key = np.array(word % 2**64, dtype=np.uint64)
    assert int(seeding.integers(key, bound)) == (word % 2**64) * bound >> 64


def test_permutations_are_uniform() -> None:
    orders = seeding.permutation(seeding.mix("order", np.arange(6_000)), 3)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(3), (6_000, 1)))
    counts = np.bincount(orders @ np.array([9, 3, 1]))
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-4
    assert (counts > 0).sum() == 6
    assert seeding.permutation(seeding.mix(1), 0).shape == (0,)


def test_scalars_warn_of_no_overflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        key = seeding.mix("a", 2**63, -5)
        assert seeding.normal(key).shape == seeding.uniform(key).shape == ()
        assert seeding.integers(key, 9).shape == ()


@pytest.mark.parametrize("parts", [(), (1.5,), (True,), (None,), (np.array([0.5]),), (b"x",)])
def test_other_parts_are_refused(parts: tuple[object, ...]) -> None:
    with pytest.raises(UsageError, match=r"allowed|at least one"):
        seeding.mix(*parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [0, -1, 2**32 + 1, np.array([3, 0])])
def test_bounds_outside_are_refused(bound: int) -> None:
    with pytest.raises(UsageError, match="allowed 1 to 2"):
        seeding.integers(seeding.mix(1), bound)


def test_negative_size_is_refused() -> None:
    with pytest.raises(UsageError, match="size -1"):
        seeding.permutation(seeding.mix(1), -1)
