"""Training of the networks that are attacked, and of those that attackers learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lazybench import seeding
from lazybench.envs.targets.nets import (
    ADVERSARIAL,
    Labelled,
    Trained,
    embedded,
    load_net,
    place,
    split_name,
    target_data,
    write_nets,
)
from lazybench.errors import Diverged, UsageError
from lazybench.nets.params import Params, detached, finite
from lazybench.nets.whitebox import MOMENTS, Classifier, classifier
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runtime.locks import alone, why_closed
from lazybench.seeding import Rng

_BATCH = 500
"""Images of a forward pass without gradients."""
_MEASURED = 2_000
"""Training images that the moments of batch norms are measured on."""
_SHIFT_PX = 4


@dataclass(frozen=True)
class Recipe:
    """Settings of a network's training: stochastic gradient descent on the cross-entropy.

    Attributes:
        epochs: passes over the training images, may be a fraction.
        lr: learning rate, at the beginning.
        decay: `linear` to 0, or `steps`: a tenth after 60 % of the way; `none`.
        batch: images of a step.
        momentum: Nesterov's.
        weight_decay: of all weights.
        augment: flips and shifts of up to 4 pixels.
        eps: largest difference of a pixel in adversarial training; 0 trains on the images as they
            are.
        attack_steps: steps of the attack on each batch.
    """

    epochs: float
    lr: float = 0.05
    decay: Literal["none", "linear", "steps"] = "linear"
    batch: int = 100
    momentum: float = 0.9
    weight_decay: float = 1e-6
    augment: bool = False
    eps: float = 0.0
    attack_steps: int = 7

    def lr_at(self, done: float) -> float:
        """Return the learning rate when a share `done` of the training is behind."""
        if self.decay == "linear":
            return self.lr * (1 - done)
        return self.lr * (0.1 if self.decay == "steps" and done >= 0.6 else 1.0)

    def eps_at(self, done: float) -> float:
        """Return the radius of adversarial images when a share `done` of the training is behind.

        `Choice:` it grows over the first half: at the full radius from the start, small networks
        often learn nothing.
        """
        return self.eps * min(1.0, 2 * done)


RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "glyphs": {"smoke": Recipe(0.5), "small": Recipe(10), "paper": Recipe(50, 0.01, "none")},
    "mnist": {"smoke": Recipe(0.05), "small": Recipe(3), "paper": Recipe(50, 0.01, "none")},
    "cifar10": {
        "smoke": Recipe(0.05, augment=True),
        "small": Recipe(12, augment=True),
        "paper": Recipe(250, 0.01, "steps", augment=True),
    },
}
"""By data set and budget. `paper` has the epochs and rates that the meta-attack's authors trained
with. `Choice:` `small` is a few epochs at five times the rate, which falls to 0."""


RATES: Mapping[str, float] = {"cifar10-lenet5": 0.01}
"""Learning rates of single networks at the `small` budget.

`Choice:` LeNet5 on CIFAR-10 dies at .05: its loss stays at that of a guess."""

ADVERSARIAL_EPS: Mapping[str, float] = {"glyphs": 0.3, "mnist": 0.3, "cifar10": 8 / 255}
"""Radius in the maximum norm of adversarial training, by data set: the default `eps` of attacks."""

_BETTER_THAN_A_GUESS = 1.5
"""Smallest accuracy of a trained network, relative to that of a guess."""


def recipe_of(name: str, budget: str) -> Recipe:
    """Return how a named network is trained at a budget.

    Raises:
        UsageError: no such network or budget.
    """
    data = split_name(name)[0]
    recipes = RECIPES[data]
    if budget not in recipes:
        raise UsageError(f"budget must be one of {', '.join(recipes)}, got '{budget}'")
    recipe = recipes[budget]
    if name in ADVERSARIAL:
        recipe = replace(recipe, eps=ADVERSARIAL_EPS[data])
    return replace(recipe, lr=RATES[name]) if budget == "small" and name in RATES else recipe


def train_net(
    name: str,
    *,
    budget: str = "small",
    seed: int = 0,
    recipe: Recipe | None = None,
    watch: Callback = SILENT,
) -> Trained:
    """Return a named network, trained from its first weights; nothing is kept.

    The same seed gives the same weights on the same machine and number of threads.

    Args:
        name: one of `targets.names()`.
        budget: `smoke`, `small` or `paper`.
        seed: of the first weights and the order of the images.
        recipe: instead of the budget's.
        watch: called with the progress.

    Raises:
        UsageError: no such network or budget.
        DataUnavailable: its data aren't installed.
        Diverged: the loss or a weight isn't finite, or nothing was learned.
    """
    data, architecture = split_name(name)
    recipe = recipe or recipe_of(name, budget)
    opened = target_data(data)
    net = classifier(architecture, opened.instance, opened.classes)
    rng = Rng(seed, ("target", name))
    params = fit(net, opened.images("train"), recipe, rng, watch=watch, name=name)
    right = accuracy(net, params, opened.images("test"))
    if budget != "smoke" and right * opened.classes < _BETTER_THAN_A_GUESS:
        raise Diverged(
            f"{name} is right on {100 * right:.1f} % of the test images, as a guess would be; "
            "attacks on it and gradients of it would mean nothing: train it with another --seed"
        )
    return Trained(
        name=name,
        params=params,
        accuracy=right,
        fingerprint=opened.fingerprint,
        budget=budget,
        seed=seed,
        epochs=recipe.epochs,
    )


def keep_net(
    name: str,
    *,
    budget: str = "small",
    seed: int = 0,
    replace: bool = False,
    watch: Callback = SILENT,
) -> tuple[Trained, bool]:
    """Return a network from the cache folder, and whether it was trained just now.

    Processes that want the same network wait for the one that trains it. The arguments are those of
    `train_net`.

    Args:
        name: one of `targets.names()`.
        budget: `smoke`, `small` or `paper`.
        seed: of the first weights and the order of the images.
        replace: train it again where it exists already.
        watch: called with the progress.

    Raises:
        UsageError: no such network or budget, or one that comes with the package.
        DataUnavailable: its data aren't installed.
        Diverged: the loss or a weight isn't finite, or nothing was learned.
        StoreError: the disk is full.
        OutputUnavailable: the cache folder can't be written.
    """
    data = split_name(name)[0]
    if embedded(name):
        if replace:
            raise UsageError(
                f"{name} comes with the package, the same on every machine; train another into a "
                "file with --out FILE"
            )
        return load_net(name)[1], False
    path = place(name, target_data(data).fingerprint)

    def closed(error: Exception) -> str:
        return (
            f"{path.parent} can't be written or locked ({why_closed(error)}); set LAZYBENCH_CACHE "
            "to a folder that can"
        )

    with alone(path.with_suffix(".lock"), "", closed, -1):
        if path.is_file() and not replace:
            return load_net(name)[1], False
        held = train_net(name, budget=budget, seed=seed, watch=watch)
        write_nets(path, {name: held})
        return held, True


def fit(
    net: Classifier,
    images: Labelled,
    recipe: Recipe,
    rng: Rng,
    *,
    watch: Callback = SILENT,
    name: str = "",
) -> Params:
    """Return the parameters after training.

    Args:
        net: architecture.
        images: uint8 images and their classes.
        recipe: how.
        rng: where all randomness comes from.
        watch: called with the progress.
        name: what the watch calls it.

    Raises:
        Diverged: the loss or a weight isn't finite.
    """
    x, y = images
    steps = max(1, math.ceil(recipe.epochs * len(x) / recipe.batch))
    drawn = net.init(rng.at("init").torch())
    params = detached(drawn, requires_grad=True)
    trained = [value for key, value in params.items() if not key.startswith(MOMENTS)]
    optimiser = torch.optim.SGD(
        trained,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    watch.stage(f"train {name or net.name}", steps)
    for step, rows in zip(range(steps), _batches(len(x), recipe.batch, rng), strict=False):
        generator = rng.at("step", step).torch()
        batch = _pixels(x[rows])
        if recipe.augment:
            batch = augmented(batch, generator)
        label = torch.from_numpy(y[rows])
        if recipe.eps:
            batch = adversarial(
                partial(net.train_pass, params, generator=generator),
                batch,
                label,
                recipe.eps_at(step / steps),
                recipe.attack_steps,
                generator,
            )
        loss = F.cross_entropy(net.train_pass(params, batch, generator), label)
        loss_now = float(loss.detach())
        if not math.isfinite(loss_now):
            raise Diverged(f"training {name or net.name}: loss {loss_now} at step {step}")
        optimiser.param_groups[0]["lr"] = recipe.lr_at(step / steps)
        for value, slope in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            value.grad = slope
        optimiser.step()
        watch.advance(1, {"loss": loss_now})
    watch.finished()
    first = next(_batches(len(x), min(_MEASURED, len(x)), rng.at("moments")))
    measured = (_pixels(x[rows]) for rows in np.array_split(first, math.ceil(len(first) / _BATCH)))
    params = net.frozen(detached(params), measured)
    if not finite(params):
        raise Diverged(f"training {name or net.name}: weights that aren't finite; lower the rate")
    return params


def accuracy(net: Classifier, params: Params, images: Labelled) -> float:
    """Return the share of images, in [0, 1], whose top class is their own."""
    return float(correct(net, params, images).mean())


def correct(net: Classifier, params: Params, images: Labelled) -> NDArray[np.bool_]:
    """Return for each image whether its top class is its own, `[N]`."""
    x, y = images
    found = np.empty(len(x), np.bool_)
    with torch.inference_mode():
        for first in range(0, len(x), _BATCH):
            some = slice(first, first + _BATCH)
            found[some] = net(params, _pixels(x[some])).argmax(1).numpy() == y[some]
    return found


def adversarial(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    label: Tensor,
    eps: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return images of larger loss, `[n, …]` in [0, 1], at most `eps` away in each pixel.

    `Choice:` steps of 2.5 eps / steps, so that the ball's far side is in reach.

    Args:
        forward: from images to logits.
        x: `[n, …]` images in [0, 1].
        label: `[n]` true classes.
        eps: largest difference of a pixel.
        steps: steps along the sign of the gradient.
        generator: of the random starts.

    Reference: Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards Deep Learning Models Resistant to
        Adversarial Attacks", ICLR 2018, projected gradient descent from a random start.
    """
    low, high = (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1)
    rows = low + (high - low) * torch.rand(x.shape, generator=generator)
    for _ in range(steps):
        rows.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(forward(rows), label), rows)
        rows = (rows.detach() + 2.5 * eps / steps * slope.sign()).clamp(low, high)
    return rows.detach()


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images `[n, channels, h, w]`, half of them flipped, each shifted by up to 4 pixels.

    What is shifted in is black.
    """
    n, _, height, width = x.shape
    flip = torch.rand(n, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    x = F.pad(x, (_SHIFT_PX,) * 4)
    down, right = torch.randint(2 * _SHIFT_PX + 1, (2, n, 1), generator=generator)
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = (right + torch.arange(width))[:, None, None, :]
    places = torch.arange(n)[:, None, None, None]
    channels = torch.arange(x.shape[1])[None, :, None, None]
    return x[places, channels, rows, columns]


def _pixels(x: NDArray[np.uint8]) -> Tensor:
    """Return images as float32 in [0, 1]."""
    return torch.from_numpy(x.astype(np.float32)).div_(255.0)


def _batches(size: int, batch: int, rng: Rng) -> Iterator[NDArray[np.int64]]:
    """Rows of batches without end, each pass in a new order; the rest of a pass is left out."""
    batch = min(batch, size)
    epoch = 0
    while True:
        order = seeding.permutation(seeding.mix(rng.at("order", epoch).integer), size)
        yield from (order[first : first + batch] for first in range(0, size - batch + 1, batch))
        epoch += 1
