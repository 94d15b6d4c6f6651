"""A classifier on a stream: augmented images, its state, its SGD step and running averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agent import Observation
from lazybench.agents.fewshot.weights import HEAD
from lazybench.agents.longtail.losses import effective_number, head_of, row_losses, weighted_mean
from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.errors import Diverged, UsageError
from lazybench.nets import Net, ResNetCifar, Stats, backbone
from lazybench.nets.net import scaled
from lazybench.nets.params import Params, finite, leaves
from lazybench.seeding import Rng
from lazybench.tasks import LongTailTask, TaskShape


def augmented(x: Tensor, rng: Rng, *, pad: int = 4, flip: bool = True) -> Tensor:
    """Return images padded by reflection and cropped back at random, half of them mirrored.

    All rows at once, by one gather each of rows and columns. What is drawn depends on `rng` and the
    number of images alone, not on the device.

    Args:
        x: images `[n, channels, h, w]`, of any dtype.
        rng: gives each image's shift and side.
        pad: pixels on each side, less than the images have.
        flip: whether to mirror.
    """
    count, height, width = len(x), x.shape[2], x.shape[3]
    if not count or not (pad or flip):
        return x
    generator = rng.torch()
    shift = torch.randint(2 * pad + 1, (2, count, 1), generator=generator) - pad
    down, across = _reflected(height, shift[0]), _reflected(width, shift[1])
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        across = torch.where(mirrored, across.flip(1), across)
    rows = torch.arange(count)[:, None] * height + down
    pixels = (rows[:, :, None] * width + across[:, None, :]).flatten().to(x.device)
    # Channels last while they are picked: each pick then takes whole pixels.
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return flat.index_select(0, pixels).view(count, height, width, -1).permute(0, 3, 1, 2)


def shrunk(x: Tensor, side: int) -> Tensor:
    """Return images averaged down to `side` pixels, in [0, 1] if they were uint8.

    0, or images that are no larger, leaves them as they are; so do vectors.
    """
    if x.dim() == 2:
        return x
    height, width = x.shape[2:]
    if not side or (height <= side and width <= side):
        return x
    if height % side or width % side:
        return F.adaptive_avg_pool2d(scaled(x), (side, side))
    # Slices added up, channels last: four times as fast as pooling here.
    high, wide, channels = height // side, width // side, x.shape[1]
    cells = x.permute(0, 2, 3, 1).reshape(len(x), side, high, width * channels)
    cells = cells.to(torch.float32) if x.dtype == torch.uint8 else cells
    strips = _added(cells.unbind(2)).view(len(x), side, side, wide, channels)
    whole = high * wide * (255 if x.dtype == torch.uint8 else 1)
    return (_added(strips.unbind(3)) / whole).permute(0, 3, 1, 2)


def _added(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


def _reflected(size: int, shift: Tensor) -> Tensor:
    """Source position of each pixel, `[n, size]`: 0 to size - 1 moved, reflected at both ends."""
    at = torch.arange(size)[None] + shift
    last = size - 1
    return last - (last - at.abs()).abs()


def sgd_step(
    config: LongTailConfig, theta: Params, momentum: Params, gradient: Params, lr: float
) -> tuple[Params, Params]:
    """Return new parameters and momentum; the arguments are left as they are.

    The same numbers as `torch.optim.SGD`'s, bit for bit, from a momentum of zeros on.

    Args:
        config: gives momentum, nesterov and weight decay.
        theta: parameters.
        momentum: of those of `gradient`, and maybe others.
        gradient: of parameters to move, all of `theta` or some; the others stay.
        lr: step size.

    Reference: Sutskever et al. 2013, eqs. (3) and (4), in torch's form.
    """
    names = list(gradient)
    if not names:
        return theta, momentum
    values = [theta[name] for name in names]
    with torch.no_grad():
        steps = [gradient[name] for name in names]
        if config.weight_decay:
            steps = list(torch._foreach_add(steps, values, alpha=config.weight_decay))
        kept = dict(momentum)
        if config.momentum:
            moved = torch._foreach_mul([momentum[name] for name in names], config.momentum)
            torch._foreach_add_(moved, steps)
            kept |= dict(zip(names, moved, strict=True))
            nesterov = config.nesterov
            steps = list(
                torch._foreach_add(steps, moved, alpha=config.momentum) if nesterov else moved
            )
        new = torch._foreach_add(values, steps, alpha=-lr)
        return {**theta, **dict(zip(names, new, strict=True))}, kept


State = dict[str, Any]

RUNNING_MOMENTUM = 0.1
"""Share of a batch's statistics in the running averages, torch's default."""


class Mixed(NamedTuple):
    """The second labels of a mixed mini-batch.

    Attributes:
        share: of the first labels, in [0, 1].
        y: second labels, `[n]`.
        weights: of each row's loss for them; None weighs all alike.
    """

    share: float
    y: Tensor
    weights: Tensor | None


def mixup_draw(alpha: float, rows: int, rng: Rng) -> tuple[float, Tensor]:
    """Return a share drawn from Beta(alpha, alpha), and the order of rows to mix with, `[rows]`.

    One share for a mini-batch, as in the authors' code.

    Reference: Zhang et al. 2018, eq. (1) and section 3.
    """
    generator = rng.torch()
    share = torch._sample_dirichlet(torch.full((2,), alpha, dtype=torch.float64), generator)
    return float(share[0]), torch.randperm(rows, generator=generator)


class Learner(NamedTuple):
    """A network on a stream, in the second stage or before.

    Attributes:
        config: settings.
        task: the stream.
        net: the network; of its head only the names are used.
        late: whether the second stage has begun.
        lr: step size of this update.
    """

    config: LongTailConfig
    task: LongTailTask
    net: Net
    late: bool
    lr: float

    def row_losses(self, theta: Params, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each row of a prepared batch, `[n]`, with the batch's statistics."""
        return self._losses(theta, self.net.features(theta, x), y)

    def logits(self, theta: Params, x: Tensor) -> Tensor:
        """Return logits `[n, classes]` of a prepared batch, with the batch's statistics."""
        return head_of(self.config).answers(theta, self.net.features(theta, x))

    def class_weights(self, theta: Params, y: Tensor) -> Tensor | None:
        """Return the class weight of each row, `[n]`, in the precision of `theta`.

        None if classes weigh alike.
        """
        config = self.config
        if config.class_weights == "none" or (config.weighted == "late" and not self.late):
            return None
        weights = effective_number(config.counts(self.task), config.beta)
        return weights.to(theta["head.weight"])[y]

    def step(
        self,
        state: State,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        mixed: Mixed | None = None,
    ) -> tuple[State, float]:
        """Return the state after one step on the weighted loss, and that loss.

        Running averages take the batch's statistics in, once. A frozen body keeps those of the
        first stage. `Choice:` without a first stage, as where its weights come from another
        training, there are none yet, and a frozen body takes the batch's statistics, too.

        Args:
            state: not changed.
            x: prepared images.
            y: their labels.
            weights: of each row's loss; None weighs all alike.
            mixed: second labels of mixed images; None where they aren't mixed.

        Raises:
            Diverged: a parameter isn't finite afterwards.
        """
        config, theta = self.config, state["theta"]
        running = state["running"]
        frozen = self.late and config.late_trains != "all"
        if frozen:
            with torch.no_grad():
                if config.is_late(0, self.task):
                    features, found = train_features(self.net, theta, x)
                    running = averaged(running, found)
                else:
                    features = self.net.features(theta, x, running)
            point = leaves({name: theta[name] for name in theta if name.startswith(HEAD)})
        else:
            point = leaves(theta)
            features, found = train_features(self.net, point, x)
            running = averaged(running, found)
        loss = weighted_mean(self._losses(point, features, y), weights, config.reduction)
        if mixed is not None:
            rows = self._losses(point, features, mixed.y)
            other = weighted_mean(rows, mixed.weights, config.reduction)
            loss = mixed.share * loss + (1 - mixed.share) * other
        slopes = torch.autograd.grad(loss, list(point.values()))
        gradient = dict(zip(point, slopes, strict=True))
        new, momentum = sgd_step(config, theta, state["momentum"], gradient, self.lr)
        if not finite(new):
            raise Diverged(f"a parameter isn't finite after mini-batch {state['step'] + 1}")
        after = {"theta": new, "momentum": momentum, "running": running, "step": state["step"] + 1}
        return {**state, **after}, float(loss.detach())

    def _losses(self, theta: Params, features: Tensor, y: Tensor) -> Tensor:
        logits = head_of(self.config).logits(theta, features)
        return row_losses(self.config, self.config.counts(self.task))(logits, y)


def current(config: LongTailConfig, state: State) -> Learner:
    """Return the network on the stream, ready for the state's next update."""
    task, step = LongTailTask(**state["task"]), state["step"]
    return Learner(
        config, task, net_of(config, task), config.is_late(step, task), config.rate(step, task)
    )


def net_of(config: LongTailConfig, task: LongTailTask) -> Net:
    """Return the network for a stream's images at the size that the settings name.

    Raises:
        UsageError: a network that can't take these images.
    """
    return backbone(config.backbone, _shape(config, task), second_order=config.second_order)


def begin(config: LongTailConfig, task: LongTailTask, rng: Rng) -> State:
    """Return the state before any update.

    Raises:
        UsageError: a network that can't take these images, or a reflection wider than them; or
            vectors with settings of images.
    """
    for name in ("pad", "flip", "side"):
        value = getattr(config, name)
        if value and len(task.instance) == 1:
            raise UsageError(
                f"{name} is for images, and instances of this stream are vectors "
                f"{list(task.instance)}; got {name}={value}; use --set {name}={type(value)(0)}"
            )
    if config.pad and config.pad >= min(task.instance[1:]):
        raise UsageError(
            f"pad must be smaller than the images, {list(task.instance[1:])} pixels, got "
            f"{config.pad}; use --set pad=4"
        )
    net = net_of(config, task)
    theta = head_of(config).init(net, rng.at("theta"))
    rows = torch.zeros((2, *_shape(config, task).instance), dtype=getattr(torch, task.dtype))
    layers = net.statistics(theta, net.prepare(rows))
    return {
        "theta": theta,
        "momentum": {name: torch.zeros_like(value) for name, value in theta.items()},
        "running": tuple((torch.zeros_like(mean), torch.ones_like(var)) for mean, var in layers),
        "step": 0,
        "task": task.fields(),
    }


def fresh_head(config: LongTailConfig, state: State, rng: Rng) -> State:
    """Return the state with a head that has learned nothing, and none of its momentum."""
    drawn = head_of(config).init(net_of(config, LongTailTask(**state["task"])), rng)
    head = {n: v.to(state["theta"][n]) for n, v in drawn.items() if n.startswith(HEAD)}
    still = {name: torch.zeros_like(value) for name, value in head.items()}
    theta, momentum = {**state["theta"], **head}, {**state["momentum"], **still}
    return {**state, "theta": theta, "momentum": momentum}


def labelled(batch: Observation) -> tuple[Tensor, Tensor]:
    """Return a mini-batch's images and labels, without rows that only fill it up."""
    x, y, mask = batch["x"], batch["y"], batch["mask"]
    return (x, y) if bool(mask.all()) else (x[mask], y[mask])


def prepared(config: LongTailConfig, net: Net, x: Tensor, rng: Rng) -> Tensor:
    """Return training images augmented, shrunk and prepared for the network; vectors as they are.

    Vectors have neither edges to crop nor sides to mirror.
    """
    if x.dim() == 2:
        return net.prepare(x)
    x = augmented(x, rng, pad=config.pad, flip=config.flip)
    return net.prepare(shrunk(x, config.side))


def averaged(running: Stats, found: Stats) -> Stats:
    """Return running averages with a batch's statistics taken in."""
    if not running:
        return running
    old = [part for pair in running for part in pair]
    new = torch._foreach_lerp(old, [part for pair in found for part in pair], RUNNING_MOMENTUM)
    return tuple(zip(new[::2], new[1::2], strict=True))


def train_features(net: Net, theta: Params, x: Tensor) -> tuple[Tensor, Stats]:
    """Return features with the batch's statistics, and these.

    Networks without `train_features` pass once more for them, and give biased variances.
    """
    if isinstance(net, ResNetCifar):
        return net.train_features(theta, x)
    with torch.no_grad():
        found = net.statistics(theta, x)
    return net.features(theta, x), found


def _shape(config: LongTailConfig, task: LongTailTask) -> TaskShape:
    """Task shape for the network: resized images or vectors, classes as ways."""
    if len(task.instance) == 1:
        return TaskShape(task.classes, 1, 1, task.instance, task.dtype)
    channels, height, width = task.instance
    shrinks = config.side and (height > config.side or width > config.side)
    sides = (config.side, config.side) if shrinks else (height, width)
    return TaskShape(task.classes, 1, 1, (channels, *sides), "uint8")
