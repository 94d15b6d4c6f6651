"""One student step, forward to update, on one thread: the plain way against lazybench's network.

Both take the same images (strokes on an empty ground: max-pooling's branches cost more on noise),
in turns within one process, so that other load falls on both alike. Run from the root of a
checkout: `python benchmarks/student_step.py`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazybench.learning import sgd
from lazybench.nets import Conv4
from lazybench.nets.params import detached
from lazybench.runtime.threads import keep_freed_memory
from lazybench.tasks import TaskShape

WAY, EDGE_PX, LR = 5, 28, 0.01


class Plain(nn.Sequential):
    """conv4 as it is usually written: biases, NCHW, batch statistics, ReLU before the pool."""

    def __init__(self, filters: int = 64) -> None:
        """Stack four modules and a linear layer for 28x28 images."""
        layers: list[nn.Module] = []
        for inputs in (1, filters, filters, filters):
            layers += [
                nn.Conv2d(inputs, filters, 3, padding=1),
                nn.BatchNorm2d(filters, eps=1e-3, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        super().__init__(*layers, nn.Flatten(), nn.Linear(filters, WAY))


def plain_step(
    model: nn.Module, params: Mapping[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Parameters after one step of gradient descent, out of place."""
    loss = F.cross_entropy(torch.func.functional_call(model, dict(params), (x,)), y)
    grads = torch.autograd.grad(loss, list(params.values()))
    moved = zip(params.items(), grads, strict=True)
    return {name: (value - LR * grad).detach().requires_grad_() for (name, value), grad in moved}


def strokes(rows: int, seed: int = 0) -> Tensor:
    """`[rows, 1, 28, 28]` uint8 images of three straight strokes each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(rows, 1, EDGE_PX, EDGE_PX, dtype=torch.uint8)
    for image in images[:, 0]:
        for start, end in (torch.rand(3, 2, 2, generator=generator) * 22 + 2).unbind():
            line = torch.lerp(start, end, torch.linspace(0, 1, 60)[:, None]).long()
            for drow, dcol in ((0, 0), (0, 1), (1, 0), (1, 1)):
                image[line[:, 0] + drow, line[:, 1] + dcol] = 255
    return images


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float],
    limit_s: float = 35.0,
) -> dict[str, list[float]]:
    """Seconds of each way by `clock`, one entry a round, after a round that doesn't count.

    No round starts once `limit_s` of wall time has passed, but one is always measured.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end_s = time.perf_counter() + limit_s
    for turn in range(rounds + 1):
        if turn > 1 and time.perf_counter() > end_s:
            break
        for name, way in ways.items():
            start_s = clock()
            way()
            if turn:
                taken[name].append(clock() - start_s)
    return taken


def table(taken: Mapping[str, list[float]], baseline: str) -> str:
    """Best and median in ms, and how many times faster than the baseline."""
    lines = [f"{'':<24}{'best_ms':>10}{'median_ms':>11}{'x best':>9}{'x median':>10}"]
    base = taken[baseline]
    for name, times in taken.items():
        best_s, median_s = min(times), statistics.median(times)
        lines.append(
            f"{name:<24}{best_s * 1e3:>10.2f}{median_s * 1e3:>11.2f}{min(base) / best_s:>9.2f}"
            f"{statistics.median(base) / median_s:>10.2f}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write a table of the step and of the bare convolutions that any way has to do."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--batch", type=int, default=10, help="images in a step")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    raw, y = strokes(args.batch), torch.arange(args.batch) % WAY
    scaled = raw.float() / 255

    model = Plain()
    plain = {name: value.detach().requires_grad_() for name, value in model.named_parameters()}
    net, rule = Conv4(TaskShape(WAY, 5, 1, (1, EDGE_PX, EDGE_PX), "uint8")), sgd(LR)
    x = net.prepare(raw)
    theta = net.init(torch.Generator().manual_seed(0))

    def step(x: Tensor, phi: dict[str, Tensor]) -> None:
        values = list(phi.values())
        grads = torch.autograd.grad(F.cross_entropy(net(phi, x), y), values)
        with torch.no_grad():
            rule.step_(values, grads, {})

    phi, layered = (detached(theta, requires_grad=True) for _ in range(2))
    parts = []
    for layer, edge in ((2, 14), (3, 7), (4, 3)):
        inputs = torch.randn(args.batch, 64, edge, edge)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        parts.append((inputs, theta[f"conv{layer}.weight"], torch.randn_like(inputs)))

    def convolutions() -> None:
        for inputs, weight, grad in parts:
            F.conv2d(inputs, weight, padding=1)
            torch.ops.aten.convolution_backward(
                grad,
                inputs,
                weight,
                None,
                [1, 1],
                [1, 1],
                [1, 1],
                False,
                [0, 0],
                1,
                [True, True, False],
            )

    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_step(model, plain, scaled, y),
        "channels last, layers": lambda: step(scaled, layered),
        "lazybench": lambda: step(x, phi),
        "convolutions 2-4 alone": convolutions,
    }
    sys.stdout.write(f"one step, {args.batch} images, one thread, CPU time\n")
    sys.stdout.write(table(interleaved(ways, args.rounds, time.thread_time), "plain"))


if __name__ == "__main__":
    main()
