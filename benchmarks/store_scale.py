"""What commands cost in a store of many records: processor seconds and peak memory.

    python benchmarks/store_scale.py [--records 10000] [--wide 400] [--keep DIR]

Records are made up: a hundred rows of four seeds on each environment, 600 trials a record, of the
size of real ones. A store with one board of many rows is measured apart. Each command runs in a
process of its own; the cost of the same run in a store that holds its record alone is its start-up.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from lazybench.records import Packed, Record, Store, Trials

ROOT = Path(__file__).resolve().parent.parent
ROWS, SEEDS, TRIALS, ANSWERS = 100, 4, 600, 75
_ANSWERS_KEPT = 32
"""Different sets of answers; packing one takes as long as the rest of a record."""
RUN = ("run", "-a", "nearest_pixel", "-e", "glyphs-5way-1shot", "-b", "smoke", "--runs", "runs")


class Cost(NamedTuple):
    """What a process took."""

    cpu_s: float
    peak_mb: float


def records(env: str, rows: int, seeds: int) -> Iterator[Record]:
    """Made-up records of one environment; agents lie close together, as on real boards."""
    rng = np.random.default_rng([len(env), *env.encode()])
    difficulty = rng.uniform(0.3, 0.7, TRIALS)
    answers = [
        Packed.of(rng.integers(0, 5, (TRIALS, ANSWERS), dtype=np.uint8))
        for _ in range(_ANSWERS_KEPT)
    ]
    for row in range(rows):
        skill = rng.normal(0, 0.05)
        for seed in range(seeds):
            chance = rng.normal(skill + rng.normal(0, 0.01), 0.08, TRIALS)
            scores = (np.clip(difficulty + chance, 0, 1) * ANSWERS).round() / ANSWERS
            trials = Trials.of(scores.astype(np.float32))
            packed = answers[(row * seeds + seed) % _ANSWERS_KEPT]
            yield _record(env, row, seed, trials.model_copy(update={"predictions": packed}))


def _record(env: str, row: int, seed: int, trials: Trials) -> Record:
    values = trials.scores_array().astype(float)
    fact: dict[str, Any] = {"n": TRIALS, "unit": "fraction", "better": "higher"}
    return Record.keyed(
        status="ok",
        env={
            "id": env,
            "version": 1,
            "family": "fewshot",
            "metric": "accuracy",
            "better": "higher",
            "unit": "fraction",
            "protocol": {"way": 5, "shot": 1, "query": 15, "trials": TRIALS},
        },
        data={"name": "made-up", "fingerprint": "0" * 64, "prep": "1", "source": "made up"},
        agent={
            "id": f"agent-{row // 4}",
            "origin": "lazybench",
            "trained_by": "lazybench",
            "resumable": True,
        },
        config={"inner_lr": 0.01 * (1 + row % 4), "inner_steps": 5, "iterations": 1000},
        preset="small",
        overrides={"inner_lr": 0.01 * (1 + row % 4)} if row % 4 else {},
        budget="small",
        seed=seed,
        metrics={
            "accuracy": fact | {"value": float(values.mean())},
            "nll": fact | {"value": float(1 - values.mean()), "unit": "nats", "better": "lower"},
        },
        trials=trials,
        curve=[{"step": step, "val": 0.2 + step / 4000} for step in range(100, 1001, 100)],
        cost={"train_wall_s": 100.0 + row, "train_cpu_s": 99.0, "image_gradients": 200_000},
        code={"version": "0.1.0"},
        machine={
            "python": "3.11",
            "platform": "Linux",
            "processor": "made up",
            "cores": 2,
            "threads": 2,
        },
        network={"name": "conv4-64", "parameters": 112_005},
        started="2026-01-01T00:00:00Z",
    )


def fill(root: Path, number: int) -> None:
    """Write so many records, unless they are there."""
    per_env = ROWS * SEEDS
    for place in range(-(-number // per_env)):
        env = f"made-up-{place:03d}"
        rows = min(ROWS, -(-(number - place * per_env) // SEEDS))
        _keep(root, env, rows, SEEDS)


def _keep(root: Path, env: str, rows: int, seeds: int) -> None:
    store = Store(root)
    if (root / "records" / f"{env}-v1").exists():
        return
    for record in records(env, rows, seeds):
        path = store.path(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.to_json(), "ascii")


def cost(folder: Path, *argv: str) -> Cost:
    """Run a command of lazybench in a folder; it must end well."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "lazybench", *argv],
        cwd=folder,
        env=os.environ | threads | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    with process.stderr as stream:
        errors = stream.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lazybench {' '.join(argv)}: {errors.decode(errors='replace')}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def measured(folder: Path, number: int, wide: int) -> Iterator[tuple[str, Cost, str]]:
    """What was run, what it cost, and the goal."""
    many, alone, broad = (folder / name for name in ("many", "alone", "broad"))
    fill(many, number)
    _keep(broad, "broad", wide, 3)
    for root in (alone, many):
        cost(folder, *RUN, "--out", str(root), "--quiet")
    yield "write all boards", cost(folder, "leaderboard", "--write", "--out", str(many)), "10 s"
    for root in (alone, many):
        cost(folder, *RUN, "--out", str(root))
    start = cost(folder, *RUN, "--out", str(alone))
    yield "start-up: the same run in a store of its own", start, ""

    def beyond_start_up() -> Cost:
        again = cost(folder, *RUN, "--out", str(many))
        return Cost(again.cpu_s - start.cpu_s, again.peak_mb)

    yield "run of a finished record, beyond its start-up", beyond_start_up(), "1 s"
    one = next((many / "records").glob("made-up-*")).name
    new = next((many / "records" / one).rglob("*.json"))
    text = new.read_bytes()
    new.unlink()
    cost(folder, "leaderboard", "--write", "--out", str(many))
    new.write_bytes(text)
    yield "the same once another board has a new record", beyond_start_up(), "2 s"
    env = one.removesuffix("-v1")
    yield "print one board", cost(folder, "leaderboard", "--env", env, "--out", str(many)), "2 s"
    yield "print all boards", cost(folder, "leaderboard", "--out", str(many)), "10 s"
    page = cost(folder, "leaderboard", "--html", "page.html", "--out", str(many))
    yield "one page of all boards", page, ""
    yield "check all boards", cost(folder, "leaderboard", "--check", "--out", str(many)), "10 s"
    yield "doctor", cost(folder, "doctor", "--out", str(many), "--runs", "runs"), "10 s"
    shown = cost(folder, "leaderboard", "--env", "broad", "--out", str(broad))
    yield f"print one board of {wide} rows", shown, "2 s"


def main() -> None:
    """Print a table of all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--wide", type=int, default=400, help="rows of the one wide board")
    parser.add_argument("--keep", type=Path, help="make the stores here, and use them again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for name, found, goal in measured(folder, options.records, options.wide):
            rows.append((name, f"{found.cpu_s:.2f}", f"{found.peak_mb:.0f}", goal))
            print(f"{name}: {found.cpu_s:.2f} CPU-s, {found.peak_mb:.0f} MB", flush=True)
    print(f"\n{options.records} records")
    print(tabulate(rows, ("command", "CPU s", "peak MB", "goal"), tablefmt="github"))


if __name__ == "__main__":
    main()
