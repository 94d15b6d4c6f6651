"""Draw the lazy idea in one picture, with the package's own student and teacher.

    python tools/draw_lazy_idea.py docs/lazy_idea.png

Left, a task with two parameters: its training loss (grey) and its validation loss (blue) have their
valleys at different places. The student takes k plain steps down the training loss; the lazy
teacher compares points on the line back to theta by the validation loss and leaps to the best.
Right, what has to be kept in memory for the meta-gradient.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazybench.learning import Leap, Trail, lazy, sgd, student
from lazybench.nets.params import Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 14
GAMMAS = tuple(round(0.05 * i, 2) for i in range(20))
START = (-2.4, 1.15)
TRAIN_VALLEY, VALID_VALLEY = (2.0, 0.55), (-0.35, 0.72)
BLUE, ORANGE, GREEN, GREY = "#0b62a8", "#c4500a", "#00795a", "0.55"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="PNG or SVG file to write")
    path = parser.parse_args(argv).picture
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trails, leap = _adapt()
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_task(left, trails, leap)
    _draw_memory(right, leap.gamma)
    figure.savefig(path, dpi=130)


def _train(params: Params) -> torch.Tensor:
    x, y = params["w"] - torch.tensor(TRAIN_VALLEY)
    return 0.22 * x**2 + 0.9 * (y + 0.28 * torch.sin(1.6 * x)) ** 2


def _valid(params: Params) -> torch.Tensor:
    x, y = params["w"] - torch.tensor(VALID_VALLEY)
    return 0.5 * x**2 + 0.9 * y**2


def _adapt() -> tuple[list[Trail], Leap]:
    """The trails after each step, and the leap from the whole one."""
    theta = {"w": torch.tensor(START, requires_grad=True)}
    trails = [student(theta, [_train] * k, rule=sgd(0.28)) for k in range(STEPS + 1)]
    teacher = lazy(gammas=GAMMAS)
    return trails, teacher(theta, trails[-1], lambda params: (-float(_valid(params)),))


def _draw_task(axes: Axes, trails: Sequence[Trail], leap: Leap) -> None:
    x, y = np.meshgrid(np.linspace(-3, 3, 240), np.linspace(-0.9, 1.9, 160))
    for loss, colour, levels in ((_train, "0.75", 12), (_valid, BLUE, 7)):
        w = torch.tensor(np.stack([x.ravel(), y.ravel()]), dtype=torch.float32)
        z = np.array([float(loss({"w": point})) for point in w.T]).reshape(x.shape)
        steps = np.linspace(0, 1, levels) ** 2 * (z.max() if colour != BLUE else 1.6)
        axes.contour(x, y, z, steps, colors=colour, linewidths=0.8, alpha=0.55)
    path = np.array([trail.end["w"].detach().numpy() for trail in trails])
    axes.plot(*path.T, "o-", color=ORANGE, markersize=4, linewidth=1.4)
    candidates = np.array([g * path[0] + (1 - g) * path[-1] for g in GAMMAS])
    axes.plot(*candidates.T, "o", color="white", markeredgecolor=BLUE, markersize=5, zorder=3)
    best = leap.params["w"].detach().numpy()
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": BLUE, "linewidth": 2.2}
    axes.annotate("", best, path[0], arrowprops=arrow, zorder=4)
    axes.plot(*best, "*", color=BLUE, markersize=15, zorder=5)
    plain = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    for text, place, colour in (
        ("θ, the meta-model", (-2.65, 1.3), "black"),
        (f"student: k = {STEPS} plain steps,\nno graph kept", (-2.8, 0.12), ORANGE),
        ("φₖ", path[-1] + (0.08, -0.12), ORANGE),
        ("training loss", (1.65, 0.5), "0.4"),
        ("validation loss", (0.12, 1.12), BLUE),
        (
            "teacher: the best of these points on the\nvalidation loss; one leap,",
            (-1.9, 1.62),
            BLUE,
        ),
        (
            rf"$\gamma\theta + (1-\gamma)\,\varphi_k$ with $\gamma$ = {leap.gamma:g}",
            (-1.9, 1.48),
            BLUE,
        ),
    ):
        axes.text(*place, text, color=colour, fontsize=9, bbox=plain)
    axes.set_title("1. A long walk, then one leap", loc="left", fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_memory(axes: Axes, gamma: float) -> None:
    axes.set(xlim=(0, 10), ylim=(-0.4, 7.4))
    axes.set_axis_off()
    axes.set_title("2. What the meta-gradient has to remember", loc="left", fontsize=11)
    names = ["θ", "φ₁", "φ₂", "…", "φₖ"]
    at = [0.7 + 1.6 * i for i in range(5)]
    axes.text(0.2, 6.6, "MAML: every step stays on the graph", fontsize=10)
    _chain(axes, at, names, 5.7, kept=True)
    axes.text(0.2, 4.7, "memory grows with k; a second derivative for each step", fontsize=9)
    axes.text(0.2, 3.6, "Lazy: the leap alone does", fontsize=10)
    _chain(axes, at, names, 2.7, kept=False)
    bend: dict[str, Any] = {
        "arrowstyle": "-|>",
        "color": BLUE,
        "linewidth": 2.2,
        "connectionstyle": "arc3,rad=.22",
    }
    axes.annotate("", (9.0, 2.55), (0.75, 2.3), arrowprops=bend)
    axes.plot(9.25, 2.7, "*", color=BLUE, markersize=15)
    axes.text(9.25, 3.1, "leap", fontsize=9, color=BLUE, ha="center")
    slope = rf"its slope in θ is $\gamma$ = {gamma:g}, nothing else"
    axes.text(4.9, 0.62, slope, fontsize=9, color=BLUE, ha="center")
    axes.text(0.2, -0.2, "memory is flat in k; candidates are scored without a graph", fontsize=9)


def _chain(
    axes: Axes, at: Sequence[float], names: Sequence[str], height: float, *, kept: bool
) -> None:
    colour = GREEN if kept else GREY
    for place, name in zip(at, names, strict=True):
        edge = "none" if name == "…" else ("black" if name == "θ" else colour)
        axes.text(
            place,
            height,
            name,
            ha="center",
            va="center",
            fontsize=11,
            bbox={"boxstyle": "round,pad=.35", "facecolor": "white", "edgecolor": edge},
            zorder=3,
        )
    for a, b in itertools.pairwise(at):
        arrow: dict[str, Any] = {
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 2.2 if kept else 1,
            "linestyle": "-" if kept else ":",
        }
        axes.annotate("", (b - 0.4, height), (a + 0.4, height), arrowprops=arrow)


if __name__ == "__main__":
    main()
