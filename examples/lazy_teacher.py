"""The lazy teacher on a problem of your own: where to start the regression of each sine wave from.

    python examples/lazy_teacher.py lazy_teacher.png

The tasks are sine waves, each with a few points to learn from and a few to validate on; the
task model is a small network; theta is its initialisation. Student, teacher and meta-gradient are
the functions that every lazy agent of the suite is made of. The picture shows learning with the
lazy teacher and with the greedy one (Reptile), what gamma was chosen, and one unseen wave.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from lazybench.boards.plots import as_bytes, panels
from lazybench.learning import (
    GAMMAS,
    LossFn,
    Teacher,
    annealed,
    greedy,
    lazy,
    outer_sgd,
    reptile_gradient,
    sgd,
    student,
)
from lazybench.nets.params import Params

META_ITERATIONS, TASKS, STEPS, POINTS = 120, 5, 10, 10
RULE = sgd(0.02)


def forward(params: Params, x: Tensor) -> Tensor:
    """The task model: two hidden layers of 40 units."""
    for layer in ("1", "2"):
        x = torch.tanh(x @ params[f"w{layer}"] + params[f"b{layer}"])
    return x @ params["w3"] + params["b3"]


def first(generator: torch.Generator) -> Params:
    """A random initialisation."""
    sizes = ((1, 40), (40, 40), (40, 1))
    params = {}
    for layer, (inputs, outputs) in enumerate(sizes, 1):
        params[f"w{layer}"] = torch.randn(inputs, outputs, generator=generator) / inputs**0.5
        params[f"b{layer}"] = torch.zeros(outputs)
    return params


def wave(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A task: points to learn from, and as many to validate on."""
    size, phase = torch.rand(2, generator=generator) * torch.tensor([4.9, torch.pi])
    x = torch.rand(2, POINTS, 1, generator=generator) * 10 - 5
    y = (0.1 + size) * torch.sin(x - phase)
    return x[0], y[0], x[1], y[1]


def mse(x: Tensor, y: Tensor) -> LossFn:
    """The loss of a task model on some points."""
    return lambda params: (forward(params, x) - y).square().mean()


def train(teacher: Teacher, beta: float) -> tuple[Params, list[float], Counter[float]]:
    """Theta after meta-training, its error on unseen tasks along the way, and the chosen gammas."""
    theta, outer, chosen = first(torch.Generator().manual_seed(0)), outer_sgd(beta), Counter()
    state, errors = outer.init(theta), [unseen_error(theta)]
    draw = torch.Generator().manual_seed(1)
    for step in range(META_ITERATIONS):
        total = {name: torch.zeros_like(value) for name, value in theta.items()}
        for _ in range(TASKS):
            x, y, val_x, val_y = wave(draw)
            trail = student(theta, [mse(x, y)] * STEPS, rule=RULE)  # k steps, no graph
            valid = mse(val_x, val_y)
            leap = teacher(theta, trail, lambda params, loss=valid: (-float(loss(params)),))
            chosen[leap.gamma] += 1
            gradient = reptile_gradient(theta, leap).params
            total = {name: total[name] + gradient[name] / TASKS for name in total}
        factor = annealed("linear", step, META_ITERATIONS)
        theta, state = outer.update(theta, state, total, factor)
        if (step + 1) % 20 == 0:
            errors.append(unseen_error(theta))
    return theta, errors, chosen


def unseen_error(theta: Params, tasks: int = 20) -> float:
    """Mean squared error on waves that training never sees, after k steps from theta."""
    draw = torch.Generator().manual_seed(2)
    total = 0.0
    for _ in range(tasks):
        x, y, val_x, val_y = wave(draw)
        adapted = student(theta, [mse(x, y)] * STEPS, rule=RULE).end
        total += float(mse(val_x, val_y)(adapted)) / tasks
    return total


def main(path: str) -> None:
    """Train with both teachers and draw what happened."""
    # The greedy control steps as far as the lazy one does at most: a quarter of its beta.
    found = {
        "lazy, beta 4": train(lazy(gammas=GAMMAS), beta=4.0),
        "greedy (Reptile), beta 1": train(greedy(), beta=1.0),
    }
    figure, (learning, gammas, one) = panels(12, 3.6, columns=3)
    for (name, (_, errors, _)), style in zip(found.items(), ("o-", "s--"), strict=True):
        learning.plot([20 * i for i in range(len(errors))], errors, style, label=name)
    learning.set(xlabel="meta-iterations", ylabel="error on unseen waves (MSE)", ylim=(0, None))
    learning.legend(frameon=False, fontsize=8)
    chosen = found["lazy, beta 4"][2]
    gammas.bar([f"{gamma:g}" for gamma in GAMMAS], [chosen[gamma] for gamma in GAMMAS])
    gammas.set(xlabel="gamma chosen by the lazy teacher", ylabel="tasks")
    unseen = torch.Generator().manual_seed(3)
    x, y, _, _ = max((wave(unseen) for _ in range(6)), key=lambda task: float(task[1].abs().max()))
    line = torch.linspace(-5, 5, 200)[:, None]
    for (theta, _, _), style in zip(found.values(), ("-", "--"), strict=True):
        adapted = student(theta, [mse(x, y)] * STEPS, rule=RULE).end
        one.plot(line, forward(adapted, line).detach(), style)
    one.plot(x, y, "ko", markersize=4)
    one.set(xlabel=f"an unseen wave after {STEPS} steps")
    Path(path).write_bytes(as_bytes(figure, "png"))
    for name, (_, errors, _) in found.items():
        sys.stdout.write(f"{name}: {errors[0]:.2f} -> {errors[-1]:.2f}\n")


if __name__ == "__main__":
    main(sys.argv[1])
