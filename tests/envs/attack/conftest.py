"""A scripted target in a file of its own, and images for it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

SOURCE = '''
import sys
import time

import torch


def brightness(rows):
    """Class 0 up to a mean brightness of .6, class 1 beyond, class 2 from .8 on."""
    mean = rows.flatten(1).mean(1)
    return torch.stack([0 * mean, 50 * (mean - 0.6), 100 * (mean - 0.7)], 1)


class Tiny(torch.nn.Module):
    """The same as a network."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.0, 50.0, 100.0]))
        self.bias = torch.nn.Parameter(torch.tensor([0.0, -30.0, -70.0]))

    def forward(self, rows):
        return rows.flatten(1).mean(1, keepdim=True) * self.weight + self.bias


def make():
    return brightness


def net():
    return Tiny()


def purifier():
    """Descends on the image before it looks at it, and forgets that nobody wants its graph."""

    def predict(rows):
        with torch.enable_grad():
            cleaner = rows.detach().requires_grad_()
            (slope,) = torch.autograd.grad((cleaner**2).sum(), cleaner)
            return Tiny()(cleaner - 1e-4 * slope)

    return predict


def chatty():
    print("loading")

    def predict(rows):
        print("asked", flush=True)
        # As a purifier does: gradients are the target's own business.
        with torch.enable_grad():
            cleaner = rows.detach().requires_grad_()
            (slope,) = torch.autograd.grad((cleaner**2).sum(), cleaner)
        return brightness(rows - 0 * slope)

    return predict


def failing():
    raise RuntimeError("no weights here")


def raising():
    def predict(rows):
        if rows.flatten(1).mean(1).max() > 0.95:
            raise RuntimeError("too bright")
        return brightness(rows)

    return predict


def moody():
    def predict(rows):
        mean = float(rows.flatten(1).mean(1).max())
        if mean > 0.95:
            raise RuntimeError("too bright")
        if mean > 0.85:
            time.sleep(300)
        if mean > 0.75:
            sys.exit(7)
        return brightness(rows)

    return predict


def number():
    return 3
'''


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`file`, a module of factories; `images`, an npz file; `x` and `y` as they are in it.

    Of 12 images of brightness .50, .51, … the label is 0, but for images 1 and 4, which the target
    gets wrong.
    """
    folder = tmp_path_factory.mktemp("target")
    file, images = folder / "scripted.py", folder / "images.npz"
    file.write_text(SOURCE)
    x = np.full((12, 1, 2, 2), 0.5, np.float32) + np.arange(12)[:, None, None, None] / 200
    x = x.astype(np.float32)
    y = np.zeros(12, np.int64)
    y[[1, 4]] = 2
    np.savez(images, x=x, y=y)
    return SimpleNamespace(file=str(file), images=str(images), x=x, y=y)
