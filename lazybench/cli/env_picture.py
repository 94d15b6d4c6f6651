"""Images of environments: a trial, the class sizes of a stream, or attacked images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lazybench.boards.plots import as_bytes, new_figure, panels
from lazybench.envs.attack.env import AttackVectorEnv
from lazybench.envs.own_target.attack import ATTACKS
from lazybench.errors import UsageError
from lazybench.runner.evaluate import Evaluation, evaluate_blocks, open_env
from lazybench.runner.request import make
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTACKED = 4
"""Number of attacked images."""

# More training images make a class many-shot, and fewer make it few-shot, as in the metrics.
_MANY, _FEW = 100, 20
_BANDS = (("many", "#0b62a8"), ("medium", "#00795a"), ("few", "#c4500a"))


def env_picture(spec: EnvSpec, *, trial: int = 0, attacker: str | None = None) -> bytes:
    """Return a PNG of an environment.

    Few-shot: the support and query images of a trial. Long-tailed: training images per class.
    Attack: some images, their adversarial images, and the differences.

    Args:
        spec: the environment.
        trial: number of the trial; for an attack, of the first of four images.
        attacker: agent that attacks; None for the default, the first of
            `lazybench.envs.own_target.attack.ATTACKS`.

    Raises:
        UsageError: a trial that doesn't exist, or an agent that can't attack here.
        DataUnavailable: the data isn't installed or is damaged.
        LazybenchError: matplotlib isn't installed.
    """
    if attacker is not None and spec.family != "attack":
        raise UsageError(f"--agent goes with attacks, and {spec.id} is {spec.family}; leave it out")
    painters = {"fewshot": _trial, "longtail": _classes, "attack": _attack}
    return as_bytes(painters[spec.family](spec, trial, attacker), "png")


def _trial(spec: EnvSpec, trial: int, attacker: str | None) -> Figure:
    env = open_env(spec, 1, "test", render_mode="rgb_array")
    observation, _ = env.reset(options={"trials": np.array([trial])})
    (sheet,) = env.render()
    env.close()
    if env.task.target == "array":
        return _points(spec, trial, {name: row[0] for name, row in observation.items()})
    height, width = sheet.shape[:2]
    inches = 9.0 if width > height else 6.5
    figure, axes = new_figure(inches, inches * height / width + 0.5)
    _image(axes, sheet)
    images = "1 image" if env.task.shot == 1 else f"{env.task.shot} images"
    rows = f"support, {images} of each of {env.task.way} classes; below, the queries"
    axes.set_title(f"{spec.id}, trial {trial}: {rows}", loc="left", fontsize=9)
    return figure


def _points(spec: EnvSpec, trial: int, task: dict[str, Any]) -> Figure:
    """The points of a regression; the answers to the queries stay hidden."""
    x, y, queries = (np.ravel(task[name]) for name in ("support_x", "support_y", "query_x"))
    figure, axes = new_figure(7, 3.8)
    axes.plot(x, y, "o", color=_BANDS[0][1], markersize=8, label=f"support, {len(x)} points")
    label = f"queries, {len(queries)} places whose answers are hidden"
    bottom = axes.get_xaxis_transform()
    axes.plot(
        *(queries, np.full(len(queries), 0.03)),
        *("^",),
        color=_BANDS[2][1],
        markersize=7,
        transform=bottom,
        label=label,
    )
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.margins(y=0.2)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2)
    axes.set_title(f"{spec.id}, trial {trial}", loc="left", fontsize=10)
    return figure


def _classes(spec: EnvSpec, trial: int, attacker: str | None) -> Figure:
    if trial:
        raise UsageError(f"{spec.id} is one stream, without numbered trials; leave --trial out")
    env = open_env(spec, 1, "train")
    counts = np.array(env.task.class_counts)
    env.close()
    figure, axes = new_figure(7.5, 3.4)
    bands = np.where(counts > _MANY, 0, np.where(counts >= _FEW, 1, 2))
    for band, (name, colour) in enumerate(_BANDS):
        places = np.flatnonzero(bands == band)
        if len(places):
            label = f"{name}: {len(places)} classes, {counts[places].sum():,} images"
            axes.bar(places, counts[places], width=0.9, color=colour, label=label)
    axes.set_xlabel("class")
    axes.set_ylabel("training images")
    axes.set_title(
        f"{spec.id}: {counts.sum():,} training images, the largest class {counts.max()}, the "
        f"smallest {counts.min()}",
        loc="left",
        fontsize=9,
    )
    axes.legend(fontsize=8, frameon=False)
    return figure


def _attack(spec: EnvSpec, trial: int, attacker: str | None) -> Figure:
    env = open_env(spec, ATTACKED, "test", render_mode="rgb_array")
    name = attacker or ATTACKS[env.task.access][0]
    agent = make(name, spec, "small", {})
    if agent.spec.trains:
        raise UsageError(
            f"agent '{name}' must be trained first; choose one without training, such as "
            f"{' or '.join(ATTACKS[env.task.access])}"
        )
    policy = agent.instance.policy(agent.instance.init(env, Rng(0).at("init")))
    (result,) = evaluate_blocks(
        env, policy, spec.metric, trial + ATTACKED, start=trial, columns=spec.columns
    )
    sheets = env.render()
    taken_for = [-1] * len(sheets)
    if isinstance(env, AttackVectorEnv):
        taken_for = env.box.best_class.tolist()
    observation, _ = env.reset(options={"trials": np.arange(trial, trial + ATTACKED)})
    norm, budget = env.task.norm, env.task.query_budget
    env.close()
    figure, places = panels(9, 1.0 + 3.25 * len(sheets), rows=len(sheets))
    for row, (axes, sheet) in enumerate(zip(places, sheets, strict=True)):
        _image(axes, sheet)
        _label_tiles(axes, sheet, ("clean", f"nearest adversarial ({norm.upper()})", "difference"))
        label, goal = (int(observation[name][row]) for name in ("label", "goal"))
        wanted = "" if goal < 0 else f", wanted {goal}"
        taken = "" if taken_for[row] < 0 else f", taken for {taken_for[row]}"
        verdict = _verdict(result, row, budget)
        title = f"image {trial + row}: {verdict}\nclass {label}{wanted}{taken}"
        axes.set_title(title, loc="left", fontsize=11)
    figure.suptitle(f"{spec.id}, {name}", fontsize=12)
    return figure


def _verdict(result: Evaluation, row: int, budget: int) -> str:
    columns = {name: values[row] for name, values in result.columns.items()}
    distance = f"L2 distance {columns['best_l2']:.2f}"
    if result.scores[row]:
        first = int(columns["success_query"])
        return f"success at query {first:,} of {budget:,}; {distance}"
    spent = f"robust after {int(columns['queries']):,} queries"
    return spent if columns["best_l2"] < 0 else f"{spent}; nearest: {distance}"


def _label_tiles(axes: Axes, sheet: Any, names: tuple[str, ...]) -> None:
    """Write what each of the tiles of a row shows below it."""
    width = sheet.shape[1] / len(names)
    for place, name in enumerate(names):
        axes.annotate(
            name,
            *((width * (place + 0.5), sheet.shape[0]), (0, -4)),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=10,
            annotation_clip=False,
        )


def _image(axes: Axes, picture: Any) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
