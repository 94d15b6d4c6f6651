"""The table and the picture of `cost.py`, drawn from its cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Cell = Mapping[str, Any]
Cells = Mapping[str, Cell]

FLAT = 1.1
"""Lazy's peak of tensors at the largest k may be so many times its peak at k=1."""

STYLES = {
    "maml": ("#d55e00", "o", "-"),
    "maml_replayed": ("#e69f00", "P", "-."),
    "imaml": ("#009e73", "^", "-"),
    "fomaml": ("#000000", "s", "-"),
    "lazy_maml": ("#0072b2", "D", "--"),
    "lazy_reptile": ("#cc79a7", "v", ":"),
}
"""Colour (told apart by the colour-blind, too), marker and line of each agent."""


def median_norm(cell: Cell) -> float:
    """The median norm of the meta-gradient over a cell's tasks; one that isn't finite counts so."""
    return statistics.median(math.inf if norm is None else norm for norm in cell["gradient_norms"])


def tensors_mib(cell: Cell) -> float:
    """The most MiB of tensors that lived at once; NaN where counting them passed a limit."""
    count = cell.get("tensor_bytes")
    return math.nan if count is None else count / 2**20


Quantity = Callable[[Cell], float]
QUANTITIES: Mapping[str, tuple[str, str, Quantity]] = {
    "tensors": ("Peak of live tensors, MiB", "{:.1f}", tensors_mib),
    "memory": ("Peak resident size, MiB", "{:.0f}", lambda cell: cell["peak_bytes"] / 2**20),
    "time": ("Seconds a meta-iteration (CPU)", "{:.2f}", lambda cell: cell["cpu_s"]),
    "norm": ("Norm of the meta-gradient", "{:.3g}", median_norm),
}

INTRODUCTION = """\
# Memory and time against inner steps

This page repeats Figure 3 (left) of the lazy paper: the memory of a meta-iteration against the
number of inner steps k. It adds first-order MAML, iMAML, MAML's exact gradient without a graph of
the inner loop (`maml_replayed`: `--set inner=replayed`), time, and the norm of the meta-gradient.
`python benchmarks/cost.py` writes the page, the picture and `cost.json`, and measures only what
`cost.json` doesn't have yet.

Each cell is one meta-iteration on one task from initial weights, on one CPU thread in float32. All
agents take the same k steps of plain gradient descent on the whole support set at the same rate.
The query set has one image of each class.

- *Live tensors*: the most bytes that all tensors together take during a meta-iteration, without the
  weights and the task. It is exact, the same on every machine, and what a GPU would report.
- *Resident size*: the growth of the process's peak memory in the first meta-iteration. The C
  library returns freed blocks at once. The size includes 15 to 30 MiB of library pages and gaps in
  the heap, which vary by several MiB between runs, so it says little about a cell of 17 MiB. It is
  limited to 14 GiB.
- *Seconds*: CPU time, the median without the first meta-iteration if there were more.
- *Norm*: the median over the measured tasks, at the initial weights. Random pixels have nothing to
  learn, so there only the trend matters.
- `oom` and `timeout`: the cell exceeded a limit, at the value shown.
"""


def page(cells: Cells, shapes: Mapping[str, Any], picture: str) -> str:
    """The page in Markdown."""
    parts = [
        INTRODUCTION,
        f"![Peak memory, seconds and norm of the meta-gradient against k]({picture})\n",
    ]
    for name, shape in shapes.items():
        agents, steps = _held(cells, name)
        if not steps:
            continue
        parts.append(f"## {shape.title}\n")
        for title, form, read in QUANTITIES.values():
            rows = [
                [agent, *(_entry(cells.get(f"{name}/{agent}/{k}"), form, read) for k in steps)]
                for agent in agents
            ]
            parts.append(_table([title, *(f"k={k}" for k in steps)], rows))
        parts.append("\n".join(f"- {line}" for line in checks(cells, name)) + "\n")
    return "\n".join(parts)


def checks(cells: Cells, shape: str) -> list[str]:
    """One sentence on each claim that these cells can bear out or refute."""
    agents, steps = _held(cells, shape)
    lines = []
    for agent in agents:
        ends = [cells.get(f"{shape}/{agent}/{k}") for k in (steps[0], steps[-1])]
        if any(cell is None or cell["outcome"] != "ok" for cell in ends) or len(steps) < 2:
            continue
        first, last = (tensors_mib(cell) for cell in ends if cell is not None)
        small, large = (cell["peak_bytes"] for cell in ends if cell is not None)
        line = f"{agent}: live tensors at k={steps[-1]} are {last / first:.2f} times those at "
        line += f"k={steps[0]}"
        if agent.startswith("lazy"):
            line += f" ({'within' if last <= FLAT * first else 'NOT within'} {FLAT:g})"
        lines.append(f"{line}, the resident size is {large / small:.2f} times.")
    both = [
        (cells[f"{shape}/lazy_maml/{k}"], cells[f"{shape}/fomaml/{k}"])
        for k in steps
        if all(
            cells.get(f"{shape}/{agent}/{k}", {}).get("outcome") == "ok"
            for agent in ("lazy_maml", "fomaml")
        )
    ]
    if both:
        memory = [tensors_mib(lazy) / tensors_mib(plain) for lazy, plain in both]
        time = [lazy["cpu_s"] / plain["cpu_s"] for lazy, plain in both]
        lines.append(
            f"lazy_maml against fomaml: {min(memory):.2f} to {max(memory):.2f} times the tensors, "
            f"{min(time):.2f} to {max(time):.2f} times the time."
        )
    return lines


def draw(cells: Cells, shapes: Mapping[str, Any], path: Path) -> None:
    """Save the picture: a row a shape, a panel a quantity, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    held = [name for name in shapes if _held(cells, name)[1]]
    if not held:
        return
    figure = pyplot.figure(figsize=(16, 4.4 * len(held) + 0.4), layout="constrained")
    rows = figure.subfigures(len(held), 1, squeeze=False)[:, 0]
    for row, name in zip(rows, held, strict=True):
        row.suptitle(shapes[name].title, weight="bold")
        agents, steps = _held(cells, name)
        for panel, quantity in zip(row.subplots(1, len(QUANTITIES)), QUANTITIES, strict=True):
            title, _, read = QUANTITIES[quantity]
            for agent in agents:
                found = {k: cells.get(f"{name}/{agent}/{k}") for k in steps}
                _line(panel, agent, found, read)
                if quantity == "memory":
                    _crosses(panel, agent, found)
            panel.set(xscale="log", xlabel="inner steps k", title=title)
            panel.set_xticks(steps, [str(k) for k in steps])
            if any(len(line.get_xdata()) for line in panel.get_lines()):
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            panel.minorticks_off()
            panel.grid(True, which="major", color="#dddddd", linewidth=0.8)
            panel.spines[["top", "right"]].set_visible(False)
    handles, labels = rows[0].axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _line(panel: Any, agent: str, found: Mapping[int, Cell | None], read: Quantity) -> None:
    """One agent's quantity against k."""
    colour, marker, line = STYLES[agent]
    done = {k: read(cell) for k, cell in found.items() if cell and cell["outcome"] == "ok"}
    done = {k: value for k, value in done.items() if 0 < value < math.inf}
    # Agents that cost the same lie on each other: hollow markers and broken lines show both.
    panel.plot(
        list(done), list(done.values()), line, color=colour, marker=marker, label=agent,
        markerfacecolor="none", markersize=7, linewidth=1.8,
    )  # fmt: skip


def _crosses(panel: Any, agent: str, found: Mapping[int, Cell | None]) -> None:
    """Where an agent ran out of memory."""
    colour = STYLES[agent][0]
    for k, cell in found.items():
        if cell and cell["outcome"] == "oom":
            height = cell["at_bytes"] / 2**20
            panel.plot([k], [height], "x", color=colour, markersize=10, markeredgewidth=2.5)
            panel.annotate(
                "oom", (k, height), textcoords="offset points", xytext=(-12, -16), color=colour
            )


def _held(cells: Cells, shape: str) -> tuple[list[str], list[int]]:
    """Agents and numbers of steps that there are cells of."""
    split = [name.split("/") for name in cells if name.startswith(f"{shape}/")]
    agents = {agent for _, agent, _ in split}
    return [agent for agent in STYLES if agent in agents], sorted({int(k) for *_, k in split})


def _entry(cell: Cell | None, form: str, read: Quantity) -> str:
    if cell is None:
        return ""
    if cell["outcome"] == "ok":
        return form.format(read(cell))
    if cell["outcome"] == "oom":
        return f"oom at {cell['at_bytes'] / 2**30:.1f} GiB"
    if cell["outcome"] == "timeout":
        return f"timeout at {cell['at_s']:.0f} s"
    return "failed"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
