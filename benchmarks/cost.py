"""What a meta-iteration costs against the number of inner steps k: the suite `fig3`.

Peak memory (of tensors, and resident), seconds and the meta-gradient's norm of one task's
meta-iteration, for second-order MAML, first-order MAML, iMAML, lazy MAML and lazy Reptile. Every
cell runs in a process of its own under a memory limit and a time limit; running out of either is a
result. Finished cells are kept in OUT.json and not repeated; OUT.md and OUT.png are drawn from it.

All agents take the same steps: plain gradient descent on the whole support set, at the same rate,
from the same fresh weights, on the same tasks. `Choice:` one query image a class, the paper's K+1.

Run from the root of a checkout: `python benchmarks/cost.py`. It takes hours; `--quick` takes
minutes. On a busy machine trust the CPU seconds.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cost_cell import SHAPES, Cell, resident_bytes, settings
from cost_page import draw, median_norm, page, tensors_mib

AGENTS = ("maml", "maml_replayed", "fomaml", "imaml", "lazy_maml", "lazy_reptile")
STEPS = (1, 2, 5, 10, 20, 50)
QUICK_STEPS = (1, 2, 5)


class Limits(NamedTuple):
    """What a cell may take; how many tasks it measures, and seconds after which it starts none."""

    memory_bytes: int
    time_s: float
    tasks: int
    rounds_s: float


def main() -> None:
    """Measure what is missing, then draw the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="28px, k up to 5, two tasks")
    parser.add_argument(
        "--cells", default="*", help="only cells SHAPE/AGENT/K that match, as in */maml/*"
    )
    parser.add_argument("--out", type=Path, help="OUT.json, OUT.md, OUT.png (docs/cost)")
    parser.add_argument("--memory-gib", type=float, default=14.0, help="limit of a cell")
    parser.add_argument("--time-s", type=float, default=900.0, help="limit of a cell")
    parser.add_argument("--tasks", type=int, default=6, help="tasks that a cell measures")
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    args = parser.parse_args()
    limits = Limits(int(args.memory_gib * 2**30), args.time_s, args.tasks, 30.0)
    if args.quick:
        limits = limits._replace(tasks=2, rounds_s=3.0)
    out: Path = args.out or Path("runs/cost-quick" if args.quick else "docs/cost")
    out.parent.mkdir(parents=True, exist_ok=True)
    names = [
        f"{shape}/{agent}/{k}"
        for k in (QUICK_STEPS if args.quick else STEPS)
        for shape in (("28px",) if args.quick else SHAPES)
        for agent in AGENTS
        if fnmatch.fnmatch(f"{shape}/{agent}/{k}", args.cells)
    ]
    store = out.with_suffix(".json")
    script = str(Path(__file__).with_name("cost_cell.py"))

    def child(name: str, known: Cell | None) -> Cell:
        how = [str(limits.tasks), str(limits.rounds_s)]
        cell = known or watched([sys.executable, script, name, *how], limits)
        if cell["outcome"] == "ok":
            count = watched([sys.executable, script, name, "tensors"], limits)
            cell["tensor_bytes"] = count.get("tensor_bytes")
        return cell

    for name, cell in fill(
        store, names, child, stale=lambda cell: args.again or raised(cell, limits)
    ):
        sys.stdout.write(f"{name:<24} {told(cell)}\n")
        sys.stdout.flush()
    cells = json.loads(store.read_text("utf-8"))["cells"]
    draw(cells, SHAPES, out.with_suffix(".png"))
    text = page(cells, SHAPES, out.with_suffix(".png").name)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def fill(
    store: Path,
    names: list[str],
    run: Callable[[str, Cell | None], Cell],
    *,
    stale: Callable[[Cell], bool] = lambda cell: False,
) -> Iterator[tuple[str, Cell]]:
    """Run the cells that `store` doesn't hold; yield each once it is there.

    A cell that failed for a reason other than its limits is run again, and so is a `stale` one. One
    whose tensors weren't counted is handed to `run` as it stands.
    """
    found = json.loads(store.read_text("utf-8")) if store.is_file() else {"cells": {}}
    for name in names:
        known = found["cells"].get(name)
        if known is not None and (known["outcome"] == "failed" or stale(known)):
            known = None
        if known is None or (known["outcome"] == "ok" and "tensor_bytes" not in known):
            found["cells"][name] = run(name, known) | {"settings": settings(name)}
            fresh = store.with_suffix(".tmp")
            fresh.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            fresh.replace(store)
        yield name, found["cells"][name]


def raised(cell: Cell, limits: Limits) -> bool:
    """Whether a cell passed a limit that is higher now."""
    given = {"oom": limits.memory_bytes, "timeout": limits.time_s}.get(cell["outcome"])
    had = cell.get("limit_bytes" if cell["outcome"] == "oom" else "limit_s")
    return given is not None and had is not None and given > had


def watched(words: list[str], limits: Limits) -> Cell:
    """Run a command that writes a cell as JSON; end it where it passes a limit."""
    begin_s = time.perf_counter()
    seen = 0
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        while child.poll() is None:
            taken_s = time.perf_counter() - begin_s
            seen = max(seen, resident_bytes(child.pid))
            if seen > limits.memory_bytes or taken_s > limits.time_s:
                child.kill()
                child.communicate()
                over = "oom" if seen > limits.memory_bytes else "timeout"
                return {
                    "outcome": over,
                    "at_bytes": seen,
                    "at_s": taken_s,
                    "limit_bytes": limits.memory_bytes,
                    "limit_s": limits.time_s,
                }
            time.sleep(0.02)
        out, errors = child.communicate()
    if child.returncode:
        # The kernel's own end to a process that takes too much, or an allocation it refused.
        starved = child.returncode == -9 or "can't allocate memory" in errors
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return {
            "outcome": "oom" if starved else "failed",
            "at_bytes": seen,
            "at_s": time.perf_counter() - begin_s,
            "error": last,
        }
    cell: Cell = json.loads(out.splitlines()[-1])
    return cell


def told(cell: Cell) -> str:
    """One line on a cell."""
    if cell["outcome"] == "ok":
        return (
            f"{tensors_mib(cell):8.1f} MiB of tensors {cell['peak_bytes'] / 2**20:6.0f} MiB "
            f"resident {cell['wall_s']:8.2f} s wall "
            f"{cell['cpu_s']:8.2f} s CPU   norm {median_norm(cell):.3g}"
        )
    where = f"at {cell['at_bytes'] / 2**30:.1f} GiB after {cell['at_s']:.0f} s"
    return f"{cell['outcome']} {where} {cell.get('error', '')}".rstrip()


if __name__ == "__main__":
    main()
