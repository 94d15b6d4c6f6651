"""One cell of `cost.py`, measured in a process of its own.

Writes the cell as JSON: `python benchmarks/cost_cell.py 28px/lazy_maml/10 6 30`, where 6 tasks are
measured, and no meta-iteration starts after 30 s; `… 28px/lazy_maml/10 tensors` counts the bytes of
tensors alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from lazybench import make_env
from lazybench.errors import Diverged
from lazybench.runner.provenance import peak_memory_bytes, reset_peak_memory
from lazybench.runner.request import make, resolve_env
from lazybench.runtime.threads import keep_freed_memory, using_threads
from lazybench.seeding import Rng
from lazybench.tasks import TaskShape

SEED = 0
BETA1 = 0.9
"""Of the outer Adam: its first moment after one step is (1 - BETA1) times the meta-gradient."""

_M_MMAP_THRESHOLD, _EXACT_BYTES = -3, 1 << 18

Cell = dict[str, Any]
"""`outcome` (`ok`, `oom`, `timeout` or `failed`), the settings, and what was measured."""


class Shape(NamedTuple):
    """A task's shape and its network; `env` is None where pixels are random numbers."""

    way: int
    shot: int
    instance: tuple[int, int, int]
    backbone: str
    inner_lr: float
    env: str | None

    @property
    def title(self) -> str:
        """What the tables and pictures call it."""
        channels, height, width = self.instance
        pixels = "random pixels" if self.env is None else self.env.split("-")[0]
        return (
            f"{self.backbone}, {height}x{width}x{channels}, {self.way}-way {self.shot}-shot, "
            f"{pixels}, inner rate {self.inner_lr:g}"
        )


SHAPES = {
    "28px": Shape(20, 1, (1, 28, 28), "conv4-64", 0.1, "glyphs-20way-1shot"),
    "84px": Shape(20, 5, (3, 84, 84), "conv4-32", 0.01, None),
}


VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "maml_replayed": ("maml", {"inner": "replayed"})
}
"""Rows that are settings of an agent, and not an agent of their own name."""


def settings(name: str) -> dict[str, Any]:
    """The agent's settings in a cell."""
    shape_name, row, k = name.split("/")
    shape = SHAPES[shape_name]
    return {
        **VARIANTS.get(row, ("", {}))[1],
        "backbone": shape.backbone,
        "inner_rule": "sgd",
        "inner_lr": shape.inner_lr,
        "inner_steps": int(k),
        "inner_batch": 0,
        "meta_batch": 1,
        "train_shots": shape.shot,
        "train_queries": 1,
        "outer_rule": "adam",
        "clip": None,
        "iterations": 1000,
        "validate_every": 0,
    }


def measure(name: str, count: int, limit_s: float) -> Cell:
    """Run a cell: `count` tasks, no third meta-iteration after `limit_s` seconds.

    Memory is that of the first meta-iteration, for which the C library is told to give every large
    block back at once: the gaps that it keeps otherwise come to a fifth of the size, and to more
    or less of it from run to run. Times are those of the others, which keep freed memory.
    """
    with using_threads(1):
        agent, state, batches, rng = begun(name, count)
        give_back_at_once()
        before = resident_bytes()
        reset_peak_memory()
        wall_s, cpu_s, norms = [], [], []
        begin_s = time.perf_counter()
        for index, batch in enumerate(batches):
            if index > 1 and time.perf_counter() - begin_s > limit_s:
                break
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            norms.append(norm_after(agent, state, batch, rng.at("update", index)))
            wall_s.append(time.perf_counter() - start_s)
            cpu_s.append(time.process_time() - start_cpu_s)
            if index == 0:
                peak = peak_memory_bytes()
                keep_freed_memory()
    # The first one counts only where it is the only one.
    return {
        "outcome": "ok",
        "rounds": len(wall_s),
        "peak_bytes": peak - before,
        "wall_s": statistics.median(wall_s[1:] or wall_s),
        "cpu_s": statistics.median(cpu_s[1:] or cpu_s),
        "gradient_norms": norms,
        "processor": platform.processor() or platform.machine(),
    }


def live_tensors(name: str) -> Cell:
    """Count the most bytes of tensors that live at once in a cell's meta-iteration.

    What lives before it (weights, the task) isn't counted.
    """
    with using_threads(1):
        agent, state, batches, rng = begun(name, 1)
        return {
            "outcome": "ok",
            "tensor_bytes": live_bytes(
                lambda: agent.update(state, batches[0], rng.at("update", 0))
            ),
        }


def live_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes of tensors that `run` makes and that live at once.

    This is what an accelerator's own counter tells (`torch.cuda.max_memory_allocated`): exact,
    alike on every machine, and without what a process needs besides.
    """
    with tempfile.TemporaryDirectory() as folder:
        with torch.profiler.profile(profile_memory=True) as found:
            run()
        trace = Path(folder) / "trace.json"
        found.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return int(max(accumulate(event["args"]["Bytes"] for event in changes), default=0))


def begun(name: str, count: int) -> tuple[Any, Any, list[dict[str, Any]], Rng]:
    """The agent of a cell, its fresh state, `count` meta-batches, and the draws."""
    shape_name, row, _ = name.split("/")
    agent_name = VARIANTS.get(row, (row, {}))[0]
    shape = SHAPES[shape_name]
    spec, _ = resolve_env(shape.env or f"glyphs-{shape.way}way-{shape.shot}shot")
    agent = make(agent_name, spec, "small", settings(name)).instance
    task, batches = tasks(shape, count)
    rng = Rng(SEED)
    return agent, agent.init(SimpleNamespace(task=task), rng.at("init")), batches, rng


def give_back_at_once() -> None:
    """Tell the C library to map each large block alone, so that freeing it frees its memory."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _EXACT_BYTES)


def tasks(shape: Shape, count: int) -> tuple[Any, list[dict[str, Any]]]:
    """The shape and `count` training meta-batches of one task each."""
    if shape.env is not None:
        env = make_env(
            shape.env, num_envs=1, split="train", shots=shape.shot, queries=1, backend="torch"
        )
        drawn = [env.reset(seed=SEED + index)[0] for index in range(count)]
        return env.task, drawn
    task = TaskShape(shape.way, shape.shot, 1, shape.instance, "uint8")
    generator = torch.Generator().manual_seed(SEED)

    def images(rows: int) -> torch.Tensor:
        size = (1, rows, *shape.instance)
        return torch.randint(256, size, generator=generator, dtype=torch.uint8)

    ways = torch.arange(shape.way)
    labels = {"support_y": ways.repeat_interleave(shape.shot)[None], "query_y": ways[None]}
    return task, [
        {"support_x": images(task.support_rows), "query_x": images(task.query_rows), **labels}
        for _ in range(count)
    ]


def norm_after(agent: Any, state: Any, batch: Mapping[str, Any], rng: Rng) -> float | None:
    """The Euclidean norm of a meta-iteration's meta-gradient; None where it isn't finite.

    It is read off the outer Adam's first moments; what else the meta-iteration leads to is dropped,
    so that the next one starts from the same weights.
    """
    try:
        after, _ = agent.update(state, batch, rng)
    except Diverged:
        return None
    moments = [value for name, value in after["outer"].items() if name.startswith("m.")]
    return math.sqrt(sum(float(value.square().sum()) for value in moments)) / (1 - BETA1)


def resident_bytes(process: int | str = "self") -> int:
    """The resident size of a process; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


if __name__ == "__main__":
    cell, *how = sys.argv[1:]
    got = live_tensors(cell) if how == ["tensors"] else measure(cell, int(how[0]), float(how[1]))
    sys.stdout.write(json.dumps(got) + "\n")
