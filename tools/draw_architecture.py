"""Draw the life of a run and the life of a query, and print them as the lists of the page.

    python tools/draw_architecture.py docs/architecture.png
    python tools/draw_architecture.py docs/architecture.png --page docs/architecture.md

Each box is a step: what happens, and the file and function that do it. The page holds the same
steps as two lists; `--page` writes them again between its marks. A test checks that each file and
function is there.
"""

from __future__ import annotations

import argparse
import itertools
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Step(NamedTuple):
    """A step of a walk.

    Attributes:
        title: what happens, in two or three words.
        file: where, from the root of the checkout.
        names: functions, classes or methods of that file that do it.
        about: one sentence.
    """

    title: str
    file: str
    names: tuple[str, ...]
    about: str


RUN = (
    Step(
        "command",
        "lazybench/cli/run.py",
        ("run_command",),
        "Options become one request for each seed.",
    ),
    Step(
        "request",
        "lazybench/runner/request.py",
        ("RunRequest", "make"),
        "Names, budget, seed and settings are checked; settings come from the agent's preset.",
    ),
    Step(
        "resolve",
        "lazybench/runner/resolve.py",
        ("resolve",),
        "The key is a hash of all that can change the score: agent, environment, data, settings.",
    ),
    Step(
        "look up, lock",
        "lazybench/runner/run.py",
        ("run",),
        "A record with this key ends the run at once; else the run's folder is locked.",
    ),
    Step(
        "train",
        "lazybench/runner/train.py",
        ("fit",),
        "The agent updates its state on batches of the train split; validation keeps the best.",
    ),
    Step(
        "checkpoint",
        "lazybench/runner/checkpoint.py",
        ("save", "load"),
        "State and counters are saved; Ctrl-C saves too, and the same command continues.",
    ),
    Step(
        "evaluate",
        "lazybench/runner/evaluate.py",
        ("evaluate_blocks", "answer_rows"),
        "The policy answers the official test trials; the environment scores the answers.",
    ),
    Step(
        "record",
        "lazybench/runner/record.py",
        ("run_record",),
        "Scores and answers of each trial, costs, code and machine become one record.",
    ),
    Step(
        "store",
        "lazybench/records/store.py",
        ("Store.publish",),
        "The record is checked and written once, under its key; nothing is overwritten.",
    ),
    Step(
        "boards",
        "lazybench/boards/write.py",
        ("write",),
        "Boards are built from the records alone: groups, ranks, columns, then each format.",
    ),
)
QUERY = (
    Step(
        "attacker",
        "agents/attack/lockstep.py",
        ("Lockstep",),
        "The policy proposes images (rows), each with the number of the attacked image (owner).",
    ),
    Step(
        "ask the policy",
        "lazybench/runner/evaluate.py",
        ("answer_rows",),
        "The runner passes the observation to the policy and its action to the environment.",
    ),
    Step(
        "step",
        "envs/attack/env.py",
        ("AttackVectorEnv.step",),
        "The Gymnasium environment takes the action of a block of images.",
    ),
    Step(
        "read the action",
        "envs/attack/batch.py",
        ("AttackBlock.step", "as_queries"),
        "Shapes, types and owners are checked; a wrong action raises before anything is charged.",
    ),
    Step(
        "query",
        "envs/attack/blackbox.py",
        ("BlackBox.query",),
        "Rows are copied and clipped to [0, 1]; the attacker never holds the target itself.",
    ),
    Step(
        "charge",
        "envs/attack/ledger.py",
        ("Ledger.charge",),
        "Each row is counted before it is sent; rows beyond the budget are refused.",
    ),
    Step(
        "target",
        "envs/attack/oracle.py",
        ("Oracle",),
        "The target network computes scores, inside an object that attackers can't open.",
    ),
    Step(
        "note successes",
        "envs/attack/ledger.py",
        ("Ledger.record",),
        "Adversarial rows inside the ball are noted with the position of the query.",
    ),
    Step(
        "reply",
        "lazybench/tasks.py",
        ("Replies",),
        "The attacker receives scores or labels, as the protocol allows, and the queries left.",
    ),
    Step(
        "verdict",
        "envs/attack/blackbox.py",
        ("BlackBox.verdict",),
        "When an image ends, its best row is sent to the target again, and only that counts.",
    ),
)
WALKS = (("The life of a run", RUN), ("The life of a query", QUERY))

COLOURS = {"lazybench": "#0b62a8", "envs": "#00795a", "agents": "#c4500a"}
_ACROSS = 5
_WIDE, _HIGH = 2.5, 1.62


def main(argv: Sequence[str] | None = None) -> None:
    """Write the picture and, if asked to, the lists of the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, help="PNG or SVG file to write")
    parser.add_argument("--page", type=Path, help="page whose lists are written again")
    given = parser.parse_args(argv)
    if given.page is not None:
        text = given.page.read_text("utf-8")
        given.page.write_text(with_walks(text), "utf-8")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 10), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, steps) in zip(figure.subplots(2, 1), WALKS, strict=True):
        _draw(axes, title, steps)
    figure.savefig(given.picture, dpi=110)


def with_walks(page: str) -> str:
    """Return the page with both lists between their marks, as the tables here have them."""
    for title, steps in WALKS:
        mark = title.rpartition(" ")[2]
        begin, end = f"<!-- walk: {mark} -->\n", "<!-- end of walk -->"
        found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if found.search(page) is None:
            raise SystemExit(f"the page has no '{begin.strip()}' with '{end}' after it")
        before, after = found.split(page, maxsplit=1)
        page = before + begin + _list(steps) + end + after
    return page


def _list(steps: Sequence[Step]) -> str:
    lines = [
        f"{number}. **{step.title}**: {step.about} "
        f"({', '.join(f'`{name}`' for name in step.names)} in `{step.file}`)"
        for number, step in enumerate(steps, 1)
    ]
    return "\n".join(lines) + "\n"


def _draw(axes: Axes, title: str, steps: Sequence[Step]) -> None:
    rows = -(-len(steps) // _ACROSS)
    axes.set(xlim=(-0.1, _ACROSS * _WIDE), ylim=(-rows * _HIGH + 0.1, 0.45))
    axes.set_axis_off()
    axes.text(0, 0.22, title, fontsize=15, weight="bold")
    if steps is RUN:
        for number, (top, colour) in enumerate(COLOURS.items()):
            axes.text(6.2 + 2.1 * number, 0.22, f"■ {top}/", color=colour, fontsize=12)
    places = [_place(number) for number in range(len(steps))]
    for number, (step, (x, y)) in enumerate(zip(steps, places, strict=True), 1):
        _box(axes, number, step, x, y)
    for one, other in itertools.pairwise(places):
        _arrow(axes, one, other)


def _place(number: int) -> tuple[float, float]:
    """Upper left corner of a box; every second row runs from right to left."""
    row, column = divmod(number, _ACROSS)
    return (column if row % 2 == 0 else _ACROSS - 1 - column) * _WIDE, -row * _HIGH


def _box(axes: Axes, number: int, step: Step, x: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = COLOURS[step.file.partition("/")[0]]
    wide, high = _WIDE - 0.35, _HIGH - 0.32
    style = "round,pad=0,rounding_size=0.07"
    axes.add_patch(
        FancyBboxPatch(
            (x, y - high), wide, high, boxstyle=style, facecolor="white", edgecolor=colour, lw=1.6
        )
    )
    file = step.file.removeprefix("lazybench/")
    names = ", ".join(step.names)
    left = x + 0.09
    axes.text(left, y - 0.2, f"{number}. {step.title}", fontsize=11.5, weight="bold", color=colour)
    axes.text(left, y - 0.38, file, fontsize=8.6, family="monospace")
    axes.text(left, y - 0.53, names, fontsize=8.2, family="monospace", color="0.35")
    about = textwrap.fill(step.about, 30)
    axes.text(left, y - 0.63, about, fontsize=9.2, va="top", linespacing=1.2)


def _arrow(axes: Axes, one: tuple[float, float], other: tuple[float, float]) -> None:
    wide, high = _WIDE - 0.35, _HIGH - 0.32
    (x, y), (to_x, to_y) = one, other
    if y != to_y:
        start, end = (x + wide / 2, y - high), (to_x + wide / 2, to_y)
    elif to_x > x:
        start, end = (x + wide, y - high / 2), (to_x, to_y - high / 2)
    else:
        start, end = (x, y - high / 2), (to_x + wide, to_y - high / 2)
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": "0.3", "linewidth": 1.6}
    axes.annotate("", end, start, arrowprops=arrow)


if __name__ == "__main__":
    main()
