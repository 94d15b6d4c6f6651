"""Each augmented image is one of the crops that padding, cutting and mirroring can give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lazybench.agents.longtail.learner import augmented, shrunk
from lazybench.seeding import Rng


def images(rows, channels=3, height=12, width=11):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (rows, channels, height, width), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("pad", "channels"), [(2, 3), (4, 1)])
def test_every_image_is_a_crop_of_its_padded_self(pad, channels, flip):
    x = images(200, channels)
    got = augmented(x, Rng(5), pad=pad, flip=flip)
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    padded = F.pad(x.double(), (pad,) * 4, mode="reflect").to(torch.uint8)
    seen = set()
    for index in range(len(x)):
        fits = []
        for top in range(2 * pad + 1):
            for left in range(2 * pad + 1):
                crop = padded[index, :, top : top + 12, left : left + 11]
                for mirrored in (False, True):
                    if torch.equal(crop.flip(2) if mirrored else crop, got[index]):
                        fits.append((top, left, mirrored))
        assert len(fits) == 1
        seen.add(fits[0])
    for axis in (0, 1):
        assert {fit[axis] for fit in seen} == set(range(2 * pad + 1))
    assert {fit[2] for fit in seen} == ({True, False} if flip else {False})


def test_it_is_a_function_of_its_stream():
    x = images(20)
    one, two, other = (augmented(x, Rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(augmented(x, Rng(1), pad=0, flip=False), x)
    assert len(augmented(x[:0], Rng(1))) == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "side"), [(32, 16), (48, 16), (28, 16), (16, 16), (12, 16)])
def test_averaging_down_is_area_interpolation(size, side, channels):
    x = images(3, channels, size, size)
    got = shrunk(x, side)
    if size <= side:
        assert got is x
        return
    expected = F.interpolate(x.double() / 255, (side, side), mode="area")
    torch.testing.assert_close(got, expected.float(), rtol=1e-6, atol=1e-6)
    assert torch.equal(shrunk(x, 0), x)
    exact = shrunk(x.double() / 255, side)
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12)
