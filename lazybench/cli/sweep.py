"""`lazybench sweep`: run the cells of a suite, each in a process of its own."""

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
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from lazybench.arguments import need_folder
from lazybench.cli import console, options
from lazybench.cli import console as out
from lazybench.cli.progress import Stage, drawable
from lazybench.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from lazybench.sweep.scheduler import CellOutcome, Engine, SweepRequest
    from lazybench.sweep.suite import SuiteCell
    from lazybench.sweep.tune import Tried


HELP = "Run the cells of a suite, skipping those that stand; the same command continues."
EXAMPLES = (
    "lazybench sweep table2 --dry-run",
    "lazybench sweep table2",
    "lazybench sweep mine.toml --jobs 2 --timeout 3600 --memory-gib 8",
    "lazybench sweep table2 --only '*cifar100-lt-100*'",
    "lazybench sweep table2 --devices cuda:0-7 --cells-per-device 2",
    "lazybench sweep table2 --workers 4",
    "lazybench sweep table2 --scheduler tcp://10.0.0.1:8786",
    "lazybench sweep mine.toml --emit-commands > cells.txt",
)
_SHOWN = 3


def sweep_command(  # noqa: PLR0913 - one parameter for each option
    suite: Annotated[str, typer.Argument(help="SUITE.toml, or the name of a shipped suite.")],
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Cells side by side.")] = 1,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Seconds a cell may take, before 30 s more to end in."),
    ] = None,
    timeout_per_episode: options.TimeoutPerEpisode = None,
    isolated: options.Isolated = False,
    memory_gib: Annotated[
        float | None, typer.Option("--memory-gib", help="Memory that a cell may hold.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="cuda:0-7", help="Pin each cell to one of these devices."
        ),
    ] = None,
    cells_per_device: Annotated[
        int,
        typer.Option("--cells-per-device", min=1, help="Cells side by side on each of --devices."),
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Run on so many Dask workers on this machine."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDRESS", help="Run on a Dask cluster, as tcp://host:8786."
        ),
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="PATTERN", help="Only cells whose line matches.")
    ] = "*",
    device: options.Device = "cpu",
    out_dir: options.Out = Path("leaderboards"),
    runs: options.Runs = Path("runs"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what stands and what is missing; run nothing.")
    ] = False,
    emit_commands: Annotated[
        bool,
        typer.Option(
            "--emit-commands", help="Write the missing cells' commands, for another scheduler."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Outcomes on stdout as JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Run what is missing of a suite and write the board files anew.

    Raises:
        UsageError: a suite that can't be read, limits that aren't positive, options that don't go
            together, or a pattern that no cell matches.
        typer.Exit: some cells have no score, or it was interrupted.
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
        }
        _for_a_queue([option for option, is_given in given.items() if is_given])
    from lazybench.runtime.devices import slots
    from lazybench.sweep.process import limits_memory
    from lazybench.sweep.scheduler import SweepRequest, arguments, split
    from lazybench.sweep.suite import expand, read_suite

    if cells_per_device != 1 and devices is None:
        raise UsageError("--cells-per-device goes with --devices, such as --devices cuda:0-7")
    if devices is not None and device != "cpu":
        raise UsageError("give either --device or --devices, not both")
    pinned = () if devices is None else slots(devices, cells_per_device)
    if memory_gib is not None and not limits_memory():
        console.note("this system can't limit memory: --memory-gib has no effect")
    cells = _matching(expand(read_suite(suite)), only)
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
    )
    missing, known = split(cells, request)
    if emit_commands:
        for cell in missing:
            console.line(shlex.join(["lazybench", *arguments(cell, request), "--quiet"]))
        for row in known:
            if row.status in BAD:
                console.note(console.one_line(f"{row.status}: {row.cell.name}: {row.reason}"))
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
    """Look whether the options that say where cells run go together.

    Raises:
        UsageError: they don't.
    """
    asked = {
        "--jobs": jobs != 1,
        "--devices": devices is not None,
        "--workers": workers is not None,
        "--scheduler": scheduler is not None,
    }
    given = [option for option, is_given in asked.items() if is_given]
    if len(given) > 1:
        raise UsageError(
            f"give one of {', '.join(asked)}, got {' and '.join(given)}: each says how many cells "
            "run side by side (--devices: one for each device and --cells-per-device)"
        )


def _matching(cells: Sequence[SuiteCell], pattern: str) -> list[SuiteCell]:
    """The cells whose line matches.

    Raises:
        UsageError: there is none.
    """
    found = [cell for cell in cells if fnmatch.fnmatch(cell.name, pattern)]
    if not found:
        some = "; ".join(f"'{cell.name}'" for cell in cells[:_SHOWN])
        raise UsageError(
            f"--only '{pattern}' matches none of the suite's {len(cells)} cells, such as {some}; a "
            "part of a line needs stars around it: --only '*PART*'"
        )
    return found


def _for_a_queue(given: Sequence[str]) -> None:
    """Look whether options would be lost in commands for another scheduler.

    Raises:
        UsageError: one would.
    """
    if given:
        raise UsageError(
            f"--emit-commands doesn't go with {' and '.join(given)}: it writes commands, a line "
            "each, and the queue that runs them sets how many there are side by side, on what "
            "devices, and their limits (sbatch --time, --mem, --gpus); --device and "
            "--timeout-per-episode are kept in each command"
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
    header = ("status", "cell", "budget", "score", "took", "why no score")
    return console.table(header, cells, columns=console.width())


BAD = ("failed", "crashed", "oom", "timeout", "busy", "absent", "untrained", "refused", "diverged")
"""What a cell may come to that leaves it without a score."""


def exit_code(outcomes: Sequence[CellOutcome]) -> int:
    """Return 130 where cells were stopped, 3 where some have no score, 0 otherwise."""
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
    """Return what became of the cells, each run in a process of its own; write the boards anew.

    They run on this machine unless an engine for elsewhere is given.
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
    """Ctrl-C and SIGTERM stop a sweep's cells, which write their checkpoints; a second kills."""
    from lazybench.sweep.process import GRACE_S

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = 0

    def stop(number: int, frame: object) -> None:
        nonlocal heard
        heard += 1
        engine.stop(at_once=heard > 1)
        told = (
            f"stopping: cells under way have {GRACE_S:g} s to write their checkpoints; once more "
            "kills them now; the same command continues"
        )
        # The main program may be amidst writing to the same stream, which Python refuses.
        with contextlib.suppress(RuntimeError):
            console.note(told if heard == 1 else "killing the cells under way")

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(engine: Engine, cells: Sequence[SuiteCell], *, quiet: bool) -> Iterator[CellOutcome]:
    """The outcomes as they come, each told in a line."""
    pass

    with watching_cells(len(cells), quiet=quiet) as watch:
        for outcome in engine.run(cells, watch.begun):
            watch.ended(outcome)
            yield outcome


_MOST_BAD = 8


class CellWatch(Protocol):
    """Hears what becomes of the cells of a sweep."""

    def begun(self, cell: SuiteCell) -> None:
        """A cell is under way; may be called from any thread."""
        ...

    def ended(self, outcome: CellOutcome) -> None:
        """A cell has ended."""
        ...


class SilentCells:
    """A watch that shows nothing."""

    def begun(self, cell: SuiteCell) -> None:
        """Show nothing."""

    def ended(self, outcome: CellOutcome) -> None:
        """Show nothing."""


class CellLines:
    """A watch that writes a line when a cell begins and when it ends."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet."""
        self._stage, self._clock, self._moved_s = Stage("cells", total), clock, clock()

    def begun(self, cell: SuiteCell) -> None:
        """Write which."""
        out.note(out.one_line(f"begun: {cell.name}"))

    def ended(self, outcome: CellOutcome) -> None:
        """Write what became of it, and how many there are left."""
        now = self._clock()
        self._stage.advance(1, {}, now - self._moved_s)
        self._moved_s = now
        head = f"{self._stage.done}/{self._stage.total}"
        left = f" ({self._stage.time_text})" if self._stage.time_text else ""
        out.note(f"{head} {_told(outcome)}{left}")


class CellTable:
    """A watch that draws the cells under way and those without a score, above a bar."""

    def __init__(
        self, total: int, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show nothing yet."""
        self._stage, self._console, self._clock = Stage("cells", total), console, clock
        self._moved_s = clock()
        self._since: dict[str, float] = {}
        self._bad: list[CellOutcome] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begun(self, cell: SuiteCell) -> None:
        """Add a row."""
        with self._lock:
            self._since[f"{cell.budget} {cell.name}"] = self._clock()

    def ended(self, outcome: CellOutcome) -> None:
        """Take the row away, and write what became of the cell above the table."""
        now = self._clock()
        with self._lock:
            self._since.pop(f"{outcome.cell.budget} {outcome.cell.name}", None)
            self._stage.advance(1, {}, now - self._moved_s)
            self._moved_s = now
            self._counts[outcome.status] += 1
            if outcome.status in BAD:
                self._bad.append(outcome)
        self._console.print(_told(outcome), markup=False, highlight=False, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """Return the table as it stands now; called a few times a second."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=True)
        for name in ("status", "cell", "took", ""):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        now = self._clock()
        with self._lock:
            for bad in self._bad[-_MOST_BAD:]:
                took = out.seconds(bad.wall_s) if bad.wall_s else ""
                reason = out.one_line(bad.reason)
                table.add_row(bad.status, *map(Text, (bad.cell.name, took, reason)))
            for name, since_s in self._since.items():
                table.add_row("running", Text(name), out.seconds(now - since_s), "")
            told = [f"{count} {status}" for status, count in sorted(self._counts.items())]
            done = f"{self._stage.done}/{self._stage.total}"
            parts = (done, ", ".join(told), self._stage.time_text)
        # Not the table's caption, which would be as narrow as the table: without rows, its header.
        line = "  ".join(part for part in parts if part)
        last = Text(line, no_wrap=True, overflow="ellipsis")
        return Group(table, last) if table.row_count else last


def _told(outcome: CellOutcome) -> str:
    """One line of what became of a cell."""
    score = "" if outcome.score is None else f" {outcome.score:.4g}"
    why = f": {outcome.reason}" if outcome.reason else ""
    took = out.seconds(outcome.wall_s)
    return out.one_line(f"{outcome.status}{score} in {took}: {outcome.cell.name}{why}")


@contextmanager
def watching_cells(total: int, *, quiet: bool) -> Iterator[CellWatch]:
    """A watch that fits stderr, closed at the end even if the sweep is interrupted."""
    if quiet or not total:
        yield SilentCells()
    elif not drawable():
        yield CellLines(total)
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        table = CellTable(total, console)
        with Live(table, console=console, refresh_per_second=4, transient=True):
            yield table


TUNE_HELP = "Search an agent's settings on validation tasks; the same command continues."
TUNE_EXAMPLES = (
    "lazybench tune protonet --env glyphs-20way-5shot --trials 9",
    "lazybench tune maml --env glyphs-20way-5shot --trials 9 --search inner_lr=0.01..1 "
    "--search inner_steps=1,5,10",
)


def tune_command(  # noqa: PLR0913 - one parameter for each option
    agent: Annotated[
        str,
        typer.Argument(
            help="Agent: an id, or FILE.py:CLASS.", autocompletion=options.complete_agent
        ),
    ],
    env: options.Env,
    trials: Annotated[
        int, typer.Option("--trials", "-n", min=1, help="Configurations, the preset among them.")
    ] = 9,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="NAME=LO..HI|A,B,C",
            help="What is searched; repeatable. [default: step sizes, a tenth to ten times]",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Fix a setting; repeatable."),
    ] = None,
    budget: options.Budget = "small",
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Of draws and trainings.")] = 0,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    runs: options.Runs = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Trials on stdout as JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Try configurations and print them, best first, with the command that runs the best one.

    Raises:
        LazybenchError: as the harness has it.
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
            f"{trials} trials were asked for, but what is searched has {len(found)} distinct "
            "settings, the preset among them: each was tried once"
        )
    ordered = best(found)
    if json:
        console.as_json([asdict(tried) for tried in ordered])
        return
    console.line(_tune_table(ordered))
    if ordered[0].val is not None:
        words = ["lazybench", "run", "--agent", agent, "--env", env, "--budget", budget]
        words += ["--tuned", str(folder)]
        console.note(f"the best of {len(found)}: {shlex.join(words)}")
    console.note(f"kept in {folder}; higher validation scores are better")


def _tune_table(found: Sequence[Tried]) -> str:
    rows = [
        (
            str(tried.number),
            ", ".join(f"{name}={value}" for name, value in tried.settings.items()) or "preset",
            tried.reason if tried.val is None else f"{tried.val:.4f}",
            str(tried.step),
            console.seconds(tried.cpu_s),
        )
        for tried in found
    ]
    return console.table(
        ("trial", "settings", "validation", "at step", "CPU"), rows, columns=console.width()
    )
