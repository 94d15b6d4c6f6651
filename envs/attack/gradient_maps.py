"""Gradient-map regression: the tasks that attackers train on, on white-box networks.

A task is a white box and a set of training images; its targets are the directions in which that
network gives each image up. Observation and action are those of a few-shot regression: `support_x`
and `support_y` `[R, S, channels, height, width]` float32, `query_x`, `query_y`.

Reference: Du et al., "Query-efficient meta attack to deep neural networks", ICLR 2020, section 3.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench import seeding
from lazybench.arguments import check_one_of, check_whole
from lazybench.data.cache import prepared
from lazybench.data.pool import Split
from lazybench.envs.fewshot.episodes import Block
from lazybench.envs.fewshot.trial_sampler import TrialSampler
from lazybench.envs.single_step import Backend, SingleStepVectorEnv
from lazybench.envs.targets.nets import (
    Trained,
    Whiteboxes,
    is_trained,
    load_net,
    split_name,
    target_data,
    untrained,
    whiteboxes,
)
from lazybench.envs.trial_classes import choose
from lazybench.errors import UsageError
from lazybench.nets.params import Params
from lazybench.nets.whitebox import Classifier
from lazybench.tasks import TaskShape, margin

VERSION = "1"
SHOTS, QUERIES = 64, 16
IMAGES = 3_000
"""Training images whose maps tasks are drawn from; a third as many others serve validation."""

_TINY = 1e-23
_BATCH = 250
_NETS = 256


def gradient_maps(net: Classifier, params: Params, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient map of each image, `[n, *instance]`, of standard deviation 1.

    It is the gradient of 0.5 * max(0, log p_y - log max p_other) by the image, over its standard
    deviation over all pixels (of divisor n); all zero for an image that the net gets wrong. Steps
    along it make the net surer. The difference of log-probabilities is that of logits, so a
    saturated softmax costs no digits.

    Args:
        net: a white box.
        params: its weights.
        x: `[n, *instance]` images in [0, 1].
        y: `[n]` their classes.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        inside = -margin(net(params, leaf), y)
        (maps,) = torch.autograd.grad(0.5 * inside.clamp(min=0).sum(), leaf)
    flat = maps.flatten(1)
    return (flat / (flat.std(1, correction=0, keepdim=True) + _TINY)).view_as(maps)


class GradientMaps(SingleStepVectorEnv):
    """Blocks of gradient-map tasks; reward is the negative mean squared error on the query images.

    On train, trial i is a task of white box i modulo their number, so that meta-batches of that
    size hold each once (the paper's meta-batch); query maps are shown. On val the white box is
    another network, the images are others, and the query maps are hidden.
    """

    trials: MapTrials

    def __init__(  # noqa: PLR0913 - Gymnasium hands settings over by name
        self,
        num_envs: int = 1,
        *,
        target: str,
        split: Split = "train",
        shots: int | None = None,
        queries: int | None = None,
        whiteboxes: Sequence[str] | None = None,
        maps: int = IMAGES,
        backend: Backend = "numpy",
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        """Open the white boxes; their maps are computed at the first opening and cached.

        Args:
            num_envs: tasks of a block, R.
            target: name of the target, which none of the white boxes is.
            split: `train` or `val`.
            shots: support images of a task, S; None for 64.
            queries: query images of a task; None for 16.
            whiteboxes: names of at least two networks on the target's data, the last of them for
                validation; None for the target's own.
            maps: training images of which each white box has maps; validation has a third as many.
            backend: `numpy`, or `torch` for observations as tensors.
            device: where torch observations live.
            render_mode: None or `rgb_array`.

        Raises:
            UsageError: a setting that isn't allowed, or a target without white boxes.
            DataUnavailable: a white box isn't trained, or its data aren't installed.
        """
        boxes = _boxes(target, whiteboxes)
        trials = MapTrials(boxes, split, shots=shots, queries=queries, maps=maps)
        super().__init__(num_envs, trials, backend=backend, device=device, render_mode=render_mode)

    def whiteboxes(self) -> list[tuple[Classifier, Params]]:
        """Return the architectures and weights of the white boxes of train."""
        return [(net, held.params) for net, held in map(load_net, self.trials.boxes.train)]

    def examples(self) -> Tensor:
        """Return the first training image of each class, `[classes, *instance]` float32."""
        x, y = target_data(split_name(self.trials.boxes.val)[0]).images("train")
        _, first = np.unique(y, return_index=True)
        return torch.from_numpy(x[first].astype(np.float32)).div_(255.0)


class MapTrials(TrialSampler):
    """The tasks of one target and split."""

    def __init__(
        self,
        boxes: Whiteboxes,
        split: Split,
        *,
        shots: int | None,
        queries: int | None,
        maps: int,
    ) -> None:
        """Open what `boxes` names; see `GradientMaps`.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: a white box isn't trained, or its data aren't installed.
        """
        check_one_of("split", split, ("train", "val"))
        check_whole("maps", maps, least=3)
        self.boxes, self.split = boxes, split
        pools = _pools(boxes, split, maps)
        self._many = len(pools.maps)
        self.sampler = MapSampler(pools, shots, queries)
        self.data = pools.data
        self._key = seeding.mix("gradient maps", VERSION, split)

    @property
    def train_classes(self) -> int:
        """0: the tasks have no classes."""
        return 0

    def keys(self, trials: NDArray[np.int64], stream: int) -> NDArray[np.uint64]:
        """Return one key for each trial; its last byte is the white box's place."""
        keys = super().keys(trials, stream)
        places = (trials % self._many).astype(np.uint64)
        return np.asarray(keys & ~np.uint64(_NETS - 1) | places, np.uint64)


class Pools(NamedTuple):
    """Images and their maps.

    Attributes:
        x: `[N, *instance]` uint8 images, the same for every white box.
        maps: `[N, *instance]` float32 of each white box.
        data: name, fingerprint, preparation and source.
    """

    x: NDArray[np.uint8]
    maps: Sequence[NDArray[np.float32]]
    data: dict[str, str]


class MapSampler:
    """Draws tasks from pools of images and maps."""

    def __init__(self, pools: Pools, shots: int | None, queries: int | None) -> None:
        """Fix the number of images of a task.

        Raises:
            UsageError: no shot, no query, or more of both than there are images.
        """
        self.task = maps_shape(tuple(pools.x.shape[1:]), shots, queries)
        if self.task.shot + self.task.query > len(pools.x):
            raise UsageError(
                f"{self.task.shot} shots and {self.task.query} queries are more than the "
                f"{len(pools.x)} images with maps; set fewer, or more maps"
            )
        self._pools = pools

    def draw(self, keys: NDArray[np.uint64]) -> Block:
        """Return one task for each key."""
        picks = self._picks(keys)
        x = torch.from_numpy(self._pools.x[picks].astype(np.float32)).div_(255.0)
        y = torch.from_numpy(self._maps(keys, picks))
        shot = self.task.shot
        return Block(x[:, :shot], y[:, :shot], x[:, shot:], y[:, shot:])

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[Any]:
        """Return the query maps of the same tasks, float32 `[R, query, *instance]`."""
        return self._maps(keys, self._picks(keys)[:, self.task.shot :])

    def _picks(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return distinct images for each task, int64 `[R, shot + query]`."""
        words = seeding.mix(
            np.asarray(keys)[:, None], np.arange(self.task.shot + self.task.query)[None]
        )
        return choose(words, np.full(len(keys), len(self._pools.x)))

    def _maps(self, keys: NDArray[np.uint64], picks: NDArray[np.int64]) -> NDArray[np.float32]:
        places = (keys & np.uint64(_NETS - 1)).astype(np.int64)
        found = np.empty((*picks.shape, *self._pools.x.shape[1:]), np.float32)
        for place in np.unique(places):
            rows = places == place
            found[rows] = self._pools.maps[place][picks[rows]]
        return found


def maps_shape(
    instance: tuple[int, ...], shots: int | None = None, queries: int | None = None
) -> TaskShape:
    """Return the shape of the tasks for images of one shape; None for 64 shots, 16 queries.

    Raises:
        UsageError: no shot or no query.
    """
    shots = SHOTS if shots is None else shots
    queries = QUERIES if queries is None else queries
    for name, value in (("shots", shots), ("queries", queries)):
        check_whole(name, value, least=1)
    return TaskShape(
        way=1,
        shot=shots,
        query=queries,
        instance=instance,
        dtype="float32",
        target="array",
        target_shape=instance,
    )


def _boxes(target: str, given: Sequence[str] | None) -> Whiteboxes:
    if given is None:
        return whiteboxes(target)
    data, net = split_name(target)
    strange = [name for name in given if split_name(name)[0] != data or name == target]
    if isinstance(given, str) or len(set(given)) < max(2, len(given)) or strange:
        raise UsageError(
            f"whiteboxes must be at least two different networks on {data} other than {net}, the "
            f"last for validation; got {given if isinstance(given, str) else ', '.join(given)}"
        )
    return Whiteboxes(tuple(given[:-1]), given[-1])


def _pools(boxes: Whiteboxes, split: Split, maps: int) -> Pools:
    """The images of a split with the maps of its white boxes.

    `Choice:` a random choice of the training images, the same for every white box; those of val
    are none of train's.
    """
    names = boxes.train if split == "train" else (boxes.val,)
    opened = target_data(split_name(names[0])[0])
    missing = [name for name in (*boxes.train, boxes.val) if not is_trained(name, opened)]
    if missing:
        raise untrained(missing)
    x, y = opened.images("train")
    many = maps if split == "train" else maps // 3
    if maps + maps // 3 > len(x):
        raise UsageError(
            f"{opened.name} has {len(x)} training images, got maps={maps}; allowed are up to "
            f"{len(x) * 3 // 4}, since a third as many others serve validation"
        )
    order = seeding.permutation(seeding.mix("gradient maps", VERSION, opened.name), len(x))
    rows = order[:many] if split == "train" else order[maps : maps + many]
    x, y = x[rows], y[rows]
    chosen = hashlib.sha256(f"{opened.fingerprint}\n{maps}\n{VERSION}".encode())
    found = []
    for name in names:
        net, held = load_net(name, opened)
        found.append(_kept(net, held, x, y, split, chosen.hexdigest()))
    data = {
        "name": opened.name,
        "fingerprint": opened.fingerprint,
        "prep": f"{opened.prep}-maps{VERSION}",
        "source": f"{opened.source}; gradient maps of {', '.join(names)}",
    }
    return Pools(x, found, data)


def _kept(
    net: Classifier,
    held: Trained,
    x: NDArray[np.uint8],
    y: NDArray[np.int64],
    split: Split,
    chosen: str,
) -> NDArray[np.float32]:
    """Maps from the cache, computed at the first use."""

    def build() -> Mapping[str, NDArray[np.float32]]:
        maps = np.empty(x.shape, np.float32)
        for first in range(0, len(x), _BATCH):
            some = slice(first, first + _BATCH)
            images = torch.from_numpy(x[some].astype(np.float32)).div_(255.0)
            labels = torch.from_numpy(y[some])
            maps[some] = gradient_maps(net, held.params, images, labels).numpy()
        return {"maps": maps}

    key = hashlib.sha256(f"{held.sha256}\n{chosen}".encode()).hexdigest()
    version = f"{VERSION}-{split}-{len(x)}"
    return prepared(f"maps-{held.name}", version, build, key=key)["maps"]
