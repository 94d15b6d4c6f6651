"""Streams are a function of seed and path: frozen values, independence, no position."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from lazybench.seeding import Rng


def test_frozen_values() -> None:
    """Every record's key rests on these: they may never change."""
    rng = Rng(0).at("update", 117)
    assert rng.integer == 8927392806350581478
    assert torch.randint(1 << 30, (3,), generator=rng.torch()).tolist() == [
        383361982,
        284143931,
        1007719214,
    ]
    assert rng.numpy().integers(1 << 30, size=3).tolist() == [219201873, 551455212, 708549757]


def test_paths_may_be_walked_in_one_go_or_step_by_step() -> None:
    assert Rng(3).at("a", 1, "b") == Rng(3).at("a").at(1).at("b")
    assert Rng(3).at("a", 1, "b").integer == Rng(3, ("a", 1, "b")).integer
    assert Rng(3).at() == Rng(3)


def test_each_seed_and_path_has_a_stream_of_its_own() -> None:
    streams = [
        Rng(0),
        Rng(1),
        Rng(-1),
        Rng(10**30),
        Rng(0).at(0),
        Rng(0).at("0"),
        Rng(0).at(0, 0),
        Rng(0).at(1),
        Rng(0).at("a", "b"),
        Rng(0).at("b", "a"),
        Rng(0).at("ab"),
        Rng(0).at("a, b"),
        Rng(0).at("a', 'b"),
        Rng(1).at(0),
    ]
    integers = [stream.integer for stream in streams]
    assert len(set(integers)) == len(streams)
    assert all(0 <= integer < 1 << 63 for integer in integers)


def test_numbers_of_numpy_lead_to_the_same_stream() -> None:
    assert Rng(0).at("trial", int(np.int64(7))) == Rng(0).at("trial", 7)
    assert Rng(0).at("trial", np.int64(7)).integer == Rng(0).at("trial", 7).integer  # type: ignore[arg-type]
    assert Rng(np.int64(3)).at("a").integer == Rng(3).at("a").integer  # type: ignore[arg-type]


def test_neighbours_are_uncorrelated() -> None:
    rows = np.stack([Rng(0).at("update", step).numpy().standard_normal(512) for step in range(40)])
    correlations = np.atleast_2d(np.corrcoef(rows))[np.triu_indices(40, 1)]
    # 780 correlations of 512 normals: sd .044, so the largest stays below about 4 sd.
    assert np.abs(correlations).max() < 0.2
    bits = np.array([[Rng(s).integer >> b & 1 for b in range(63)] for s in range(400)])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.125


def test_every_generator_starts_at_the_beginning() -> None:
    rng = Rng(5).at("x")
    first = torch.rand(4, generator=rng.torch())
    assert torch.equal(first, torch.rand(4, generator=rng.torch()))
    assert rng.numpy().random() == rng.numpy().random()


def test_the_global_generators_stay_where_they_are() -> None:
    before_torch, before_numpy = torch.get_rng_state(), repr(np.random.get_state())
    torch.rand(3, generator=Rng(1).torch())
    Rng(1).numpy().random(3)
    assert torch.equal(torch.get_rng_state(), before_torch)
    assert repr(np.random.get_state()) == before_numpy


def test_a_method_of_numpy_on_a_stream_names_the_generator_that_has_it() -> None:
    rng = Rng(3).at("update", 1)
    with pytest.raises(AttributeError, match=r"no 'normal'.*rng\.numpy\(\)"):
        rng.normal(size=3)
    assert copy.deepcopy(rng) == pickle.loads(pickle.dumps(rng)) == rng
