"""`lazybench sweep` and `lazybench tune`: many runs, each in its own process; settings searched."""

from __future__ import annotations

import contextlib
import fnmatch
import shlex
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lazybench.cli import console, options
from lazybench.cli.command import command
from lazybench.cli.progress import Stage, drawable
from lazybench.errors import UsageError
from lazybench.files import need_folder
from lazybench.runner.callbacks import SILENT, Callback

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lazybench.runner.callbacks import Cell, CellEnd
    from lazybench.sweep.scheduler import CellOutcome, Engine, SweepRequest
    from lazybench.sweep.suite import SuiteCell
    from lazybench.sweep.tune import Configuration


_SHOWN = 3


@command(
    "sweep",
    "lazybench sweep table2 --dry-run",
    "lazybench sweep table2",
    "lazybench sweep mine.toml --jobs 2 --timeout 3600 --memory-gib 8",
    "lazybench sweep table2 --only '*cifar100-lt-100*'",
    "lazybench sweep table2 --devices cuda:0-7 --cells-per-device 2",
    "lazybench sweep table2 --workers 4",
    "lazybench sweep table2 --scheduler tcp://10.0.0.1:8786",
    "lazybench sweep mine.toml --emit-commands > cells.txt",
)
def sweep_command(  # noqa: PLR0913 - one parameter for each option
    suite: Annotated[
        str,
        typer.Argument(
            help="SUITE.toml, or the name of an included suite.",
            autocompletion=options.complete_suite,
        ),
    ],
    jobs: options.Jobs = 1,
    timeout: Annotated[
        float | None,
        options.timeout("run in seconds; it then has 30 s to save a checkpoint."),
    ] = None,
    timeout_per_episode: options.TimeoutPerEpisode = None,
    isolated: options.Isolated = False,
    memory_gib: Annotated[
        float | None, typer.Option("--memory-gib", help="Memory limit per run in GiB.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="cuda:0-7", help="Run on these devices, each run on one of them."
        ),
    ] = None,
    cells_per_device: Annotated[
        int,
        typer.Option("--cells-per-device", min=1, help="Runs in parallel on each of --devices."),
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Run on this many Dask workers of this machine."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDRESS", help="Run on a Dask cluster, such as tcp://host:8786."
        ),
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="PATTERN", help="Only runs whose name matches.")
    ] = "*",
    device: options.Device = "cpu",
    threads: Annotated[
        int | None, options.threads("In each run. [default: an even share of the cores]")
    ] = None,
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    dry_run: options.DryRun = False,
    emit_commands: Annotated[
        bool,
        typer.Option(
            "--emit-commands", help="Print a command for each missing run, for another scheduler."
        ),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a suite: a grid of agents, environments and seeds.

    Each cell of the grid is a run with its own process, so one failure doesn't affect the others.
    Recorded runs are skipped: re-run the same command to resume. Updates the board files at the
    end.
    """
    need_folder(out_dir, "--out")
    need_folder(runs, "--runs")
    _one_engine(jobs, devices, workers, scheduler)
    if emit_commands:
        given = {
            "--jobs": jobs != 1,
            "--timeout": timeout is not None,
            "--memory-gib": memory_gib is not None,
            "--devices": devices is not None,
            "--workers": workers is not None,
            "--scheduler": scheduler is not None,
            "--json": json,
            "--dry-run": dry_run,
        }
        _check_emitted([option for option, is_given in given.items() if is_given])
    from lazybench.sweep.process import limits_memory
    from lazybench.sweep.scheduler import SweepRequest, arguments, slots, split
    from lazybench.sweep.suite import aliases, expand, read_suite

    if cells_per_device != 1 and devices is None:
        raise UsageError("--cells-per-device goes with --devices, such as --devices cuda:0-7")
    if devices is not None and device != "cpu":
        raise UsageError("give either --device or --devices, not both")
    pinned = () if devices is None else slots(devices, cells_per_device)
    if memory_gib is not None and not limits_memory():
        console.note("this system can't limit memory: --memory-gib has no effect")
    cells = _matching(expand(read_suite(suite)), only)
    for note in aliases(cells):
        console.note(note)
    memory = None if memory_gib is None else memory_gib * 2**30
    request = SweepRequest(
        jobs,
        timeout,
        memory,
        pinned[0].device if pinned else device,
        out_dir,
        runs,
        pinned,
        elsewhere=emit_commands or scheduler is not None,
        episode_timeout_s=timeout_per_episode,
        isolated=isolated,
        threads=threads,
    )
    missing, known = split(cells, request)
    if emit_commands:
        for cell in missing:
            words = ["lazybench", *arguments(cell, request), "--quiet", "--no-boards"]
            console.line(shlex.join(words))
        for row in known:
            if row.status in BAD:
                console.note(console.one_line(f"{row.status}: {row.cell.name}: {row.reason}"))
        if code := exit_code(known):
            raise typer.Exit(code)
        return
    outcomes = list(known)
    if not dry_run and missing and (workers or scheduler):
        from lazybench.sweep.cluster import on_cluster

        with on_cluster(request, scheduler=scheduler, workers=workers or 0) as engine:
            outcomes += run_cells(missing, request, quiet=quiet, engine=engine)
    elif not dry_run:
        outcomes += run_cells(missing, request, quiet=quiet)
    rows = outcomes if not dry_run else [*known, *map(_missing, missing)]
    if json:
        console.as_json([_facts(row) for row in rows])
    else:
        console.line(_table(rows))
    counts = Counter(row.status for row in rows)
    console.note(", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    if code := exit_code(rows):
        raise typer.Exit(code)


def _one_engine(jobs: int, devices: str | None, workers: int | None, scheduler: str | None) -> None:
    """Check that at most one option says where the runs take place.

    Raises:
        UsageError: several do.
    """
    places = {
        "--jobs": jobs != 1,
        "--devices": devices is not None,
        "--workers": workers is not None,
        "--scheduler": scheduler is not None,
    }
    given = [option for option, is_given in places.items() if is_given]
    if len(given) > 1:
        raise UsageError(
            f"give one of {', '.join(places)}, got {' and '.join(given)}: each sets how many runs "
            "there are in parallel (--devices: --cells-per-device on each device)"
        )


def _matching(cells: Sequence[SuiteCell], pattern: str) -> list[SuiteCell]:
    """The runs of a suite whose name matches a pattern.

    Raises:
        UsageError: no name does.
    """
    found = [cell for cell in cells if fnmatch.fnmatch(cell.name, pattern)]
    if not found:
        some = "; ".join(f"'{cell.name}'" for cell in cells[:_SHOWN])
        raise UsageError(
            f"--only '{pattern}' matches none of the suite's {len(cells)} runs, such as {some}; "
            "put stars around a part of a name: --only '*PART*'"
        )
    return found


def _check_emitted(given: Sequence[str]) -> None:
    """Check that no option would be lost in commands for another scheduler.

    Raises:
        UsageError: an option would be lost.
    """
    if given:
        raise UsageError(
            f"--emit-commands doesn't go with {' and '.join(given)}: it prints one command a line, "
            "and the queue that runs them sets how many run in parallel, their devices and their "
            "limits (sbatch --time, --mem, --gpus); each command keeps --device, --threads and "
            "--timeout-per-episode"
        )


def _missing(cell: SuiteCell) -> CellOutcome:
    from lazybench.sweep.scheduler import CellOutcome

    return CellOutcome(cell, "missing")


def _facts(row: CellOutcome) -> dict[str, object]:
    cell = row.cell
    return {
        "agent": cell.agent,
        "env": cell.env,
        "seed": cell.seed,
        "budget": cell.budget,
        "settings": cell.settings,
        "protocol": cell.protocol,
        "status": row.status,
        "score": row.score,
        "wall_s": row.wall_s,
        "reason": row.reason,
    }


def _table(rows: Sequence[CellOutcome]) -> str:
    cells = [
        (
            row.status,
            row.cell.name,
            row.cell.budget,
            "" if row.score is None else f"{row.score:.4f}",
            "" if not row.wall_s else console.seconds(row.wall_s),
            row.reason,
        )
        for row in rows
    ]
    header = ("status", "run", "budget", "score", "took", "reason")
    return console.table(header, cells, columns=console.width())


BAD = ("failed", "crashed", "oom", "timeout", "busy", "absent", "untrained", "refused", "diverged")
"""Statuses of runs without a score."""


def exit_code(outcomes: Sequence[CellOutcome]) -> int:
    """Return 130 if runs were stopped, 3 if some have no score, and 0 otherwise."""
    statuses = {outcome.status for outcome in outcomes}
    if "stopped" in statuses:
        return 128 + signal.SIGINT
    return _BAD_CELLS if statuses & set(BAD) else 0


_BAD_CELLS = 3


def run_cells(
    cells: Sequence[SuiteCell],
    request: SweepRequest,
    *,
    quiet: bool,
    engine: Engine | None = None,
) -> list[CellOutcome]:
    """Run cells, each in its own process, update the board files and return the outcomes.

    They run on this machine unless another engine is given.
    """
    from lazybench import boards
    from lazybench.records import Store
    from lazybench.sweep.scheduler import Sweep

    engine = engine or Sweep(request)
    with _stopping(engine):
        outcomes = list(_shown(engine, cells, quiet=quiet))
    boards.write(Store(request.out))
    return outcomes


@contextmanager
def _stopping(engine: Engine) -> Iterator[None]:
    """Stop the runs on Ctrl-C or SIGTERM, with time for checkpoints; kill them on a second one."""
    from lazybench.sweep.process import GRACE_S

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signals = 0

    def stop(number: int, frame: object) -> None:
        nonlocal signals
        signals += 1
        engine.stop(at_once=signals > 1)
        message = (
            f"stopping: active runs have {GRACE_S:g} s to save their checkpoints; interrupt again "
            "to kill them now; re-run the same command to resume"
        )
        # Python raises RuntimeError if the main program is writing to the same stream.
        with contextlib.suppress(RuntimeError):
            console.note(message if signals == 1 else "killing the active runs")

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(engine: Engine, cells: Sequence[SuiteCell], *, quiet: bool) -> Iterator[CellOutcome]:
    """The outcomes as they arrive, each shown."""
    with watching_cells(len(cells), quiet=quiet) as watch:
        for outcome in engine.run(cells, watch):
            watch.run_ended(outcome)
            yield outcome


_MOST_BAD = 8


class CellLines(Callback):
    """A watch that writes a line when a run begins and when it ends."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet."""
        self._stage, self._clock, self._moved_s = Stage("runs", total), clock, clock()

    def run_begun(self, cell: Cell) -> None:
        """Write its name."""
        console.note(console.one_line(f"started: {cell.name}"))

    def run_ended(self, outcome: CellEnd) -> None:
        """Write its outcome, and how many runs have ended."""
        now = self._clock()
        self._stage.advance(1, {}, now - self._moved_s)
        self._moved_s = now
        head = f"{self._stage.done}/{self._stage.total}"
        left = f" ({self._stage.time_text})" if self._stage.time_text else ""
        console.note(f"{head} {_outcome_text(outcome)}{left}")


class CellTable(Callback):
    """A watch that draws a table of the active runs and of those without a score."""

    def __init__(
        self, total: int, terminal: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show nothing yet."""
        self._stage, self._terminal, self._clock = Stage("runs", total), terminal, clock
        self._moved_s = clock()
        self._since: dict[str, float] = {}
        self._bad: list[CellEnd] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run_begun(self, cell: Cell) -> None:
        """Add a row."""
        with self._lock:
            self._since[f"{cell.budget} {cell.name}"] = self._clock()

    def run_ended(self, outcome: CellEnd) -> None:
        """Remove its row, and write its outcome above the table."""
        now = self._clock()
        with self._lock:
            self._since.pop(f"{outcome.cell.budget} {outcome.cell.name}", None)
            self._stage.advance(1, {}, now - self._moved_s)
            self._moved_s = now
            self._counts[outcome.status] += 1
            if outcome.status in BAD:
                self._bad.append(outcome)
        self._terminal.print(_outcome_text(outcome), markup=False, highlight=False, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """Return the current table; called a few times a second."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=True)
        for name in ("status", "run", "took", ""):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        now = self._clock()
        with self._lock:
            for bad in self._bad[-_MOST_BAD:]:
                took = console.seconds(bad.wall_s) if bad.wall_s else ""
                reason = console.one_line(bad.reason)
                table.add_row(bad.status, *map(Text, (bad.cell.name, took, reason)))
            for name, since_s in self._since.items():
                table.add_row("running", Text(name), console.seconds(now - since_s), "")
            counts = [f"{count} {status}" for status, count in sorted(self._counts.items())]
            done = f"{self._stage.done}/{self._stage.total}"
            parts = (done, ", ".join(counts), self._stage.time_text)
        # A caption would be as narrow as the table, which may have no rows.
        line = "  ".join(part for part in parts if part)
        last = Text(line, no_wrap=True, overflow="ellipsis")
        return Group(table, last) if table.row_count else last


def _outcome_text(outcome: CellEnd) -> str:
    """An outcome in one line."""
    score = "" if outcome.score is None else f" {outcome.score:.4g}"
    why = f": {outcome.reason}" if outcome.reason else ""
    took = console.seconds(outcome.wall_s)
    return console.one_line(f"{outcome.status}{score} in {took}: {outcome.cell.name}{why}")


@contextmanager
def watching_cells(total: int, *, quiet: bool) -> Iterator[Callback]:
    """Return a watch that fits stderr, closed at the end even if the sweep is interrupted."""
    if quiet or not total:
        yield SILENT
    elif not drawable():
        yield CellLines(total)
    else:
        from rich.console import Console
        from rich.live import Live

        terminal = Console(stderr=True)
        table = CellTable(total, terminal)
        with Live(table, console=terminal, refresh_per_second=4, transient=True):
            yield table


@command(
    "tune",
    "lazybench tune protonet --env glyphs-20way-5shot --trials 9",
    "lazybench tune maml --env glyphs-20way-5shot --trials 9 --search inner_lr=0.01..1 "
    "--search inner_steps=1,5,10",
)
def tune_command(  # noqa: PLR0913 - one parameter for each option
    agent: Annotated[
        str, typer.Argument(help=options.AGENT_HELP, autocompletion=options.complete_agent)
    ],
    env: options.Env,
    trials: Annotated[
        int, options.trials("configurations to try, including the preset.", least=1)
    ] = 9,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="NAME=LO..HI|A,B,C",
            help="Setting to search; repeatable. "
            "[default: step sizes, lr and *_lr, from a tenth to ten times]",
        ),
    ] = None,
    settings: Annotated[list[str] | None, options.setting("Fixed during the search.")] = None,
    budget: options.Budget = "small",
    seed: Annotated[int, options.seed("the search and its training runs.")] = 0,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    runs: options.Runs = Path("runs"),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Search an agent's settings on validation tasks.

    Prints the configurations, best first, and the command that runs the best one. Re-run the same
    command to resume.
    """
    overrides = options.parse_settings(settings or ())
    need_folder(runs, "--runs")
    from lazybench.cli.progress import watching
    from lazybench.runner.request import RunRequest
    from lazybench.sweep.tune import best, read_axis, tune

    axes = dict(read_axis(text) for text in search) if search else None
    request = RunRequest(
        agent=agent,
        env=env,
        budget=budget,
        seed=seed,
        overrides=overrides,
        device=device,
        threads=threads,
        runs=runs,
    )
    with watching(quiet=quiet or json) as watch:
        folder, found = tune(request, trials, axes, watch)
    if len(found) < trials:
        console.note(
            f"--trials {trials} is more than the {len(found)} distinct configurations of this "
            "search, including the preset: each was tried once"
        )
    ordered = best(found)
    if json:
        console.as_json([asdict(configuration) for configuration in ordered])
        return
    console.line(_tune_table(ordered))
    if ordered[0].val is not None:
        words = ["lazybench", "run", "--agent", agent, "--env", env, "--budget", budget]
        words += ["--tuned", str(folder)]
        console.note(f"the best of {len(found)}: {shlex.join(words)}")
    console.note(f"saved in {folder}; higher validation scores are better")


def _tune_table(found: Sequence[Configuration]) -> str:
    rows = [
        (
            str(configuration.number),
            ", ".join(f"{name}={value}" for name, value in configuration.settings.items())
            or "preset",
            configuration.reason if configuration.val is None else f"{configuration.val:.4f}",
            str(configuration.step),
            console.seconds(configuration.cpu_s),
        )
        for configuration in found
    ]
    return console.table(
        ("trial", "settings", "validation", "at step", "CPU"), rows, columns=console.width()
    )
