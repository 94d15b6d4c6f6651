"""A meta-iteration of ours beside other libraries', in turn in one run, with gradients compared.

Each side has a process of its own, with its own threads and memory as it sets them up: ours takes
tasks side by side on all cores, a peer takes them one after another with torch's threads on all
cores. Sides take turns, so that other load falls on all alike, and wait for each other. Ours is the
agent's own `update`, from uint8 images to the new meta-model; a peer's time ends with the mean
meta-gradient. All start from the same weights and see the same tasks.

Gradients are compared in float64, as the norm of the difference over the peer's norm. In float32
they differ by more, on either side: of two entries of a pooling window that are equal but for
rounding, either may win.

Run from the root of a checkout: `python benchmarks/peers.py`; `--quick` for a first look. The
ratios mean something on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from peer_cases import SHOTS, WAY, Case, Run, cases, ours, theirs
from peer_ways import installed
from torch import Tensor

from lazybench.errors import UnknownName
from lazybench.runtime.threads import map_tasks, set_threads, threads, usable_cores

OURS = "lazybench"
CHECKED_TASKS = 2
"""Tasks whose mean meta-gradient is compared."""


def serve(pipe: Connection, side: str, allowed: int) -> None:
    """Answer a case with a gradient or what stands in its way, then each `round` with seconds."""
    run: Callable[[], Any] | None = None
    if side == OURS:
        set_threads(allowed)
    else:
        torch.set_num_threads(allowed)
    while (wanted := pipe.recv()) != "done":
        if isinstance(wanted, Case):
            try:
                check, gradient = made(wanted.some(CHECKED_TASKS), side, torch.float64)
            except UnknownName as error:
                pipe.send(str(error))
                continue
            pipe.send([value.detach().numpy() for value in gradient(check())])
            run, _ = made(wanted, side, torch.float32)
            run()
            pipe.send("warm")
        elif wanted == "rate":
            pipe.send(matmul_rate())
        elif run is not None:
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            run()
            pipe.send((time.perf_counter() - wall_s, time.process_time() - cpu_s))


def made(case: Case, side: str, dtype: torch.dtype) -> Run:
    """Make a case for one side."""
    return ours(case, dtype) if side == OURS else theirs(case, side, dtype)


def matmul_rate(size: int = 1024) -> float:
    """Floating-point operations a second of float32 products, one on each core; best of five."""
    squares = [torch.rand(size, size) for _ in range(threads())]
    best_s = float("inf")
    for _ in range(5):
        start_s = time.perf_counter()
        map_tasks(lambda square: [square @ square for _ in range(4)], squares)
        best_s = min(best_s, time.perf_counter() - start_s)
    return 4 * 2 * size**3 * len(squares) / best_s


def measured(
    case: Case, pipes: dict[str, Connection], rounds: int, limit_s: float
) -> dict[str, Any] | str:
    """Seconds of all sides and differences of their gradients, or why there are none."""
    gradients: dict[str, Tensor] = {}
    for side, pipe in pipes.items():
        pipe.send(case)
        answer = pipe.recv()
        if isinstance(answer, str):
            return answer
        gradients[side] = torch.cat([torch.from_numpy(part).flatten() for part in answer])
        pipe.recv()
    wall_s: dict[str, list[float]] = {side: [] for side in pipes}
    cpu_s: dict[str, list[float]] = {side: [] for side in pipes}
    end_s = time.perf_counter() + limit_s
    for turn in range(rounds):
        if turn and time.perf_counter() > end_s:
            break
        for side, pipe in pipes.items():
            pipe.send("round")
            for times, value in zip((wall_s, cpu_s), pipe.recv(), strict=True):
                times[side].append(value)
    mine = gradients[OURS]
    gaps = {
        side: float((mine - other).norm() / other.norm())
        for side, other in gradients.items()
        if side != OURS
    }
    return {"case": asdict(case), "wall_s": wall_s, "cpu_s": cpu_s, "gradient_difference": gaps}


def rows(name: str, flops: float, found: dict[str, Any], rate: float) -> Iterator[str]:
    """Lines of the table, one a peer."""
    wall_s, cpu_s = found["wall_s"], found["cpu_s"]
    mine, mine_cpu = wall_s[OURS], cpu_s[OURS]
    for side, gap in found["gradient_difference"].items():
        times = wall_s[side]
        ratios = [other / own for other, own in zip(times, mine, strict=True)]
        cpu = statistics.median(a / b for a, b in zip(cpu_s[side], mine_cpu, strict=True))
        yield (
            f"| {name} | {side} | {statistics.median(ratios):.2f} | {min(times) / min(mine):.2f} "
            f"| {cpu:.2f} | {statistics.median(mine):.3f} | {statistics.median(times):.3f} "
            f"| {gap:.1e} | {flops / min(mine) / rate:.0%} |\n"
        )


HEAD = (
    "| meta-iteration | peer | x median | x best | x CPU | ours_s | peer_s | gradient difference "
    "| of matmul rate |\n|---|---|---|---|---|---|---|---|---|\n"
)


def processor() -> str:
    """The processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1].strip() if found else platform.processor() or platform.machine()


def main() -> int:
    """Write the table as it is measured; 1 where gradients differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of a case's rounds")
    parser.add_argument("--only", default="", help="regular expression of cases to run")
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 16], help="meta-batches, T")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="of each side; the usable cores"
    )
    parser.add_argument("--quick", action="store_true", help="small images, T=4, three rounds")
    parser.add_argument("--json", type=Path, help="write every round's seconds there as well")
    args = parser.parse_args()
    chosen = [case for case in cases(tuple(args.tasks)) if re.search(args.only, case.name)]
    if args.quick:
        chosen = [case for case in chosen if case.backbone == "conv4-64" and case.tasks == 4]
    sides = (OURS, *installed())
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for side in sides:
        pipes[side], far = context.Pipe()
        context.Process(target=serve, args=(far, side, args.threads), daemon=True).start()
    pipes[OURS].send("rate")
    rate = pipes[OURS].recv()
    versions = {side: metadata.version(side) for side in (*sides[1:], "torch")}
    facts = {
        "processor": processor(),
        "threads": args.threads,
        "matmul_gflops": round(rate / 1e9),
        "versions": versions,
    }
    sys.stdout.write(
        f"{facts['processor']}, {facts['threads']} threads a side, float32 products "
        f"{facts['matmul_gflops']} GFLOP/s; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; {WAY}-way {SHOTS}-shot\n\n{HEAD}"
    )
    results, apart = [], False
    for case in chosen:
        found = measured(case, pipes, 3 if args.quick else args.rounds, args.limit)
        if isinstance(found, str):
            sys.stdout.write(f"| {case.name} | not measured: {found} |||||||\n")
            continue
        results.append(found)
        apart |= any(not gap < 1e-3 for gap in found["gradient_difference"].values())
        for line in rows(case.name, case.flops(), found, rate):
            sys.stdout.write(line)
        sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps({**facts, "cases": results}, indent=1) + "\n")
    for pipe in pipes.values():
        pipe.send("done")
    return int(apart)


if __name__ == "__main__":
    sys.exit(main())
