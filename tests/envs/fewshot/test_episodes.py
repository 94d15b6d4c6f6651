"""Episodes: distinct classes, disjoint sets, balanced labels, uniform draws, all from a key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazybench import seeding
from lazybench.data.pool import Pool
from lazybench.envs.fewshot.episodes import (
    ClassSampler,
    DirichletSampler,
    FunctionSampler,
    UnevenSampler,
    choose,
    choose_of_few,
    class_groups,
)
from lazybench.errors import UsageError
from lazybench.tasks import PADDING

Draw = Callable[[int, int, np.ndarray], np.ndarray]


def marked_pool(counts: list[int]) -> Pool:
    """`counts[c]` instances of class c: vectors (class, number)."""
    count = np.array(counts)
    start = np.cumsum(count) - count
    x = np.stack(
        [np.arange(len(count)).repeat(count), np.concatenate([np.arange(n) for n in counts])],
        axis=1,
    ).astype(np.float32)
    x.flags.writeable = False
    names = tuple(map(str, range(len(counts))))
    return Pool(x=x, start=start, count=count, names=names, groups=names)


def by_shuffling(seed: int, amount: int, sizes: np.ndarray) -> np.ndarray:
    rows = np.arange(len(sizes))[:, None]
    return choose(seeding.mix(seed, rows, np.arange(amount)), sizes)


def by_sorting(seed: int, amount: int, sizes: np.ndarray) -> np.ndarray:
    rows = np.arange(len(sizes))[:, None]
    return choose_of_few(seeding.mix(seed, rows, np.arange(int(sizes.max()))), amount, sizes)


BOTH = pytest.mark.parametrize("draw", [by_shuffling, by_sorting])


@BOTH
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    part=st.floats(0, 1),
)
def test_choices_are_distinct_in_range_and_of_the_row_alone(
    draw: Draw, seed: int, sizes: list[int], part: float
) -> None:
    amount = max(1, round(part * min(sizes)))
    got = draw(seed, amount, np.array(sizes))
    assert got.shape == (len(sizes), amount)
    assert got.dtype == np.int64
    for row, size in zip(got, sizes, strict=True):
        assert len(set(row.tolist())) == amount
        assert 0 <= row.min() <= row.max() < size
    # Neighbours of another size change nothing.
    np.testing.assert_array_equal(draw(seed, amount, np.array(sizes[:1])), got[:1])


@BOTH
def test_choices_are_uniform_at_each_place(draw: Draw) -> None:
    rows, size, amount = 6000, 6, 3
    got = draw(5, amount, np.full(rows, size))
    for column in got.T:
        chi2 = np.square(np.bincount(column, minlength=size) - rows / size).sum() / (rows / size)
        assert chi2 < 25, "0.9999 quantile of chi-square with 5 degrees of freedom"
    pairs = np.bincount(got[:, 0] * size + got[:, 1], minlength=size * size).reshape(size, size)
    assert (np.diag(pairs) == 0).all()
    off = pairs[~np.eye(size, dtype=bool)]
    assert np.square(off - rows / 30).sum() / (rows / 30) < 65, "29 degrees of freedom"


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(4, 80), min_size=2, max_size=9),
    way=st.integers(2, 9),
    shot=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_an_episode_is_what_it_says(counts: list[int], way: int, shot: int, seed: int) -> None:
    way, query = min(way, len(counts)), min(counts) - shot
    sampler = ClassSampler(marked_pool(counts), way=way, shot=shot, query=query, where="here")
    keys = seeding.mix(seed, np.arange(3))
    block = sampler.draw(keys)
    for support_x, support_y, query_x, query_y in zip(*(p.numpy() for p in block), strict=True):
        assert np.bincount(support_y, minlength=way).tolist() == [shot] * way
        assert np.bincount(query_y, minlength=way).tolist() == [query] * way
        classes = []
        for label in range(way):
            rows = np.concatenate([support_x[support_y == label], query_x[query_y == label]])
            assert len(set(rows[:, 0])) == 1, "a label is one class"
            assert len(set(rows[:, 1])) == shot + query, "support and query share no instance"
            assert rows[:, 1].max() < counts[int(rows[0, 0])]
            classes.append(rows[0, 0])
        assert len(set(classes)) == way, "classes are distinct"
    np.testing.assert_array_equal(sampler.answers(keys), block.query_y.numpy())
    # The same episode alone.
    alone = sampler.draw(keys[1:2])
    for part, whole in zip(alone, block, strict=True):
        np.testing.assert_array_equal(part.numpy(), whole.numpy()[1:2])


@pytest.mark.parametrize("grouped", [False, True])
def test_class_labels_name_the_class_in_the_pool(grouped: bool) -> None:
    counts = [9, 5, 70, 6, 9, 8, 7]
    samplers = [
        ClassSampler(marked_pool(counts), way=3, shot=2, query=3, where="here") for _ in "ab"
    ]
    samplers[1].labels = "class"
    if grouped:
        for sampler in samplers:
            sampler.groups = class_groups(7, 3, "key", ordered=False)
    keys = seeding.mix("class labels", np.arange(40))
    plain, named = (sampler.draw(keys) for sampler in samplers)
    for part in ("support", "query"):
        x, y = getattr(named, f"{part}_x").numpy(), getattr(named, f"{part}_y").numpy()
        np.testing.assert_array_equal(x, getattr(plain, f"{part}_x").numpy())
        np.testing.assert_array_equal(y, x[..., 0])
        assert y.dtype == np.int64
    np.testing.assert_array_equal(samplers[1].answers(keys), named.query_y.numpy())
    np.testing.assert_array_equal(samplers[0].answers(keys), plain.query_y.numpy())


def test_classes_and_their_labels_are_uniform() -> None:
    classes, way, tasks = 8, 4, 3000
    sampler = ClassSampler(marked_pool([5] * classes), way=way, shot=1, query=1, where="here")
    block = sampler.draw(seeding.mix("uniform", np.arange(tasks)))
    drawn = block.support_x.numpy()[:, :, 0].astype(int)
    for label in range(way):
        seen = np.bincount(drawn[:, label], minlength=classes)
        expected = tasks / classes
        assert np.square(seen - expected).sum() / expected < 30, "7 degrees of freedom"
    shots = np.bincount(block.support_x.numpy()[..., 1].astype(int).ravel(), minlength=5)
    expected = tasks * way / 5
    assert np.square(shots - expected).sum() / expected < 24, "4 degrees of freedom"


def test_position_of_a_query_row_reveals_nothing() -> None:
    way, query, tasks = 4, 3, 3000
    sampler = ClassSampler(marked_pool([6] * 6), way=way, shot=1, query=query, where="here")
    labels = sampler.answers(seeding.mix("position", np.arange(tasks)))
    for place in range(way * query):
        seen = np.bincount(labels[:, place], minlength=way)
        expected = tasks / way
        assert np.square(seen - expected).sum() / expected < 22, "3 degrees of freedom"
    # Neither does the neighbour, beyond there being one fewer of its label left.
    same = (labels[:, 1:] == labels[:, :-1]).mean()
    assert abs(same - (query - 1) / (way * query - 1)) < 0.012


@pytest.mark.parametrize("ordered", [False, True])
def test_groups_part_the_classes(ordered: bool) -> None:
    groups = class_groups(11, 3, "key", ordered=ordered)
    assert sorted(np.concatenate(groups).tolist()) == list(range(11))
    assert sorted(len(group) for group in groups) == [3, 4, 4]
    flat = np.concatenate(groups).tolist()
    assert (flat == list(range(11))) is ordered
    again = class_groups(11, 3, "key", ordered=ordered)
    assert all(np.array_equal(a, b) for a, b in zip(groups, again, strict=True))


def test_grouped_labels_are_uniform_inside_their_group() -> None:
    sampler = ClassSampler(marked_pool([4] * 7), way=2, shot=1, query=1, where="here")
    sampler.groups = class_groups(7, 2, "key", ordered=True)
    drawn = sampler.draw(seeding.mix("groups", np.arange(2000))).support_x.numpy()[:, :, 0]
    for label, group in enumerate(sampler.groups):
        seen = np.bincount(drawn[:, label].astype(int), minlength=7)
        assert seen[np.setdiff1d(np.arange(7), group)].sum() == 0
        expected = 2000 / len(group)
        assert np.square(seen[group] - expected).sum() / expected < 22


@pytest.mark.parametrize(
    ("way", "shot", "query", "message"),
    [
        (1, 1, 1, r"way must lie in \[2, 4\] for tiny test, got 1; set fewer ways"),
        (5, 1, 1, r"way must lie in \[2, 4\] for tiny test, got 5; set fewer ways"),
        (2, 3, 3, r"shots \+ queries must be at most 5, .* in tiny test, .*; got 3 \+ 3"),
        (2, 0, 3, r"each at least 1; got 0 \+ 3"),
        (2, 1, 0, r"each at least 1; got 1 \+ 0"),
    ],
)
def test_tasks_that_the_pool_cannot_serve(way: int, shot: int, query: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ClassSampler(marked_pool([9, 5, 9, 9]), way=way, shot=shot, query=query, where="tiny test")


def test_a_function_needs_points() -> None:
    with pytest.raises(UsageError, match="at least 1, got 0 and 5"):
        FunctionSampler(None, shot=0, query=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("most", "digest"),
    [(9, "782d99a00360c5d4"), (90, "1c06e5c6e7590493")],
)
def test_draws_are_the_same_in_every_version(most: int, digest: str) -> None:
    """Trials of published records are these draws, so that another one needs another version."""
    sampler = ClassSampler(marked_pool([6, most, 7, 8]), way=3, shot=2, query=3, where="here")
    block = sampler.draw(seeding.mix("pinned", np.arange(5)))
    result = hashlib.sha256()
    for part in block:
        result.update(np.ascontiguousarray(part.numpy().astype("<i8")).tobytes())
    assert result.hexdigest()[:16] == digest


def test_classes_of_a_task_draw_their_instances_apart() -> None:
    tasks, each = 3000, 5
    sampler = ClassSampler(marked_pool([each] * 6), way=3, shot=1, query=1, where="here")
    drawn = sampler.draw(seeding.mix("apart", np.arange(tasks))).support_x.numpy()[..., 1]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = (drawn[:, one] == drawn[:, other]).mean()
        assert abs(same - 1 / each) < 4 * (0.2 * 0.8 / tasks) ** 0.5


def test_groups_of_another_key_are_others() -> None:
    one, other = (
        np.concatenate(class_groups(20, 4, key, ordered=False)).tolist() for key in ("a", "b")
    )
    assert one != other


def spread(pool: Pool, concentration: int, query: int = 3) -> DirichletSampler:
    return DirichletSampler(
        pool, way=5, shot=1, query=query, where="here", concentration=concentration
    )


@pytest.mark.parametrize("count", [20, 90])  # Drawn by sorting, and by shuffling.
def test_dirichlet_episodes_are_disjoint_and_answered_again(count: int) -> None:
    sampler = spread(marked_pool([count] * 8), 2)
    keys = seeding.mix(7, np.arange(40))
    block = sampler.draw(keys)
    assert block.query_x.shape == (40, 15, 2)
    np.testing.assert_array_equal(block.query_y.numpy(), sampler.answers(keys))
    for row in range(40):
        held = [tuple(x) for x in [*block.support_x[row].tolist(), *block.query_x[row].tolist()]]
        assert len(set(held)) == 20
        class_of = {y: x[0] for x, y in zip(held[:5], block.support_y[row].tolist(), strict=True)}
        assert [x[0] for x in held[5:]] == [class_of[y] for y in block.query_y[row].tolist()]
    counts = np.stack([np.bincount(y, minlength=5) for y in block.query_y.numpy()])
    np.testing.assert_array_equal(counts, sampler.counts(keys))
    # A trial is a function of its key alone.
    alone = sampler.draw(keys[3:4])
    assert all(bool((part[0] == whole[3]).all()) for part, whole in zip(alone, block, strict=True))


def test_shares_are_dirichlet() -> None:
    """Mean, variance and covariance of the shares, and that rounding moves none by a row."""
    sampler = spread(marked_pool([6000] * 5), 2, query=1000)
    shares = sampler.counts(seeding.mix(3, np.arange(20_000))) / 5000
    np.testing.assert_allclose(shares.sum(1), 1)
    # Dirichlet(2, 2, 2, 2, 2): variance (1/5)(4/5)/11, covariance -(1/5)(1/5)/11.
    expected = (np.eye(5) / 5 - 1 / 25) / 11
    np.testing.assert_allclose(shares.mean(0), 0.2, atol=0.004)
    np.testing.assert_allclose(np.cov(shares.T), expected, atol=0.0005)


def test_concentration_0_is_balanced() -> None:
    sampler = spread(marked_pool([20] * 8), 0)
    answers = sampler.answers(seeding.mix(1, np.arange(9)))
    assert all(np.bincount(row).tolist() == [3] * 5 for row in answers)


def test_dirichlet_needs_a_class_that_can_take_all_queries() -> None:
    with pytest.raises(UsageError, match="all 20 queries of a task may be of one class"):
        spread(marked_pool([20] * 8), 2, query=4)


def as_they_come(count: int = 20, classes: int = 30) -> UnevenSampler:
    return UnevenSampler(marked_pool([count] * classes), way=20, shot=15, query=5, where="here")


@pytest.mark.parametrize("count", [20, 90])  # Drawn by sorting, and by shuffling.
def test_uneven_episodes_are_what_their_sizes_say(count: int) -> None:
    sampler = as_they_come(count)
    keys = seeding.mix(5, np.arange(60))
    block = sampler.draw(keys)
    ways, shots = sampler.sizes(keys)
    np.testing.assert_array_equal(block.query_y.numpy(), sampler.answers(keys))
    for row in range(60):
        way, rows = int(ways[row]), int(shots[row].sum())
        y, x = block.support_y[row].tolist(), block.support_x[row].tolist()
        # Real rows first, class by class; the others are zero and marked.
        assert y == [*np.arange(20).repeat(shots[row]).tolist(), *[PADDING] * (300 - rows)]
        assert all(each == [0, 0] for each in x[rows:])
        query_y = block.query_y[row].tolist()
        assert sorted(query_y[: way * 5]) == sorted(list(range(way)) * 5)
        assert query_y[way * 5 :] == [PADDING] * (100 - way * 5)
        assert not block.query_x[row, way * 5 :].any()
        query = block.query_x[row, : way * 5].tolist()
        held = [tuple(each) for each in [*x[:rows], *query]]
        assert len(set(held)) == rows + way * 5
        class_of = dict(zip(y[:rows], (each[0] for each in x), strict=False))
        assert len(set(class_of.values())) == way
        assert [each[0] for each in query] == [class_of[label] for label in query_y[: way * 5]]
    alone = sampler.draw(keys[8:9])
    assert all(bool((part[0] == whole[8]).all()) for part, whole in zip(alone, block, strict=True))


def test_uneven_sizes_are_uniform() -> None:
    ways, shots = as_they_come().sizes(seeding.mix(9, np.arange(19_000)))
    counts = np.bincount(ways, minlength=21)
    assert counts[:2].tolist() == [0, 0]
    assert abs(counts[2:] - 1000).max() < 150  # Standard deviation 31.
    assert ((shots > 0).sum(1) == ways).all()
    of_all = np.bincount(shots[shots > 0])[1:] / (shots > 0).sum()
    np.testing.assert_allclose(of_all, 1 / 15, atol=0.003)


def test_uneven_labels_of_the_split() -> None:
    sampler = as_they_come()
    keys = seeding.mix(2, np.arange(5))
    sampler.labels = "class"
    block = sampler.draw(keys)
    for part in ("support", "query"):
        y, x = getattr(block, f"{part}_y"), getattr(block, f"{part}_x")
        real = y != PADDING
        assert (x[real][:, 0] == y[real]).all()
    np.testing.assert_array_equal(block.query_y.numpy(), sampler.answers(keys))
