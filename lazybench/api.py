"""Public functions: make environments and agents, run them, register your own, read records."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from lazybench import gymnasium_ids
from lazybench.agent import AgentLike
from lazybench.arguments import (
    check_flag,
    check_numbers,
    check_path,
    check_settings,
    check_text,
    check_whole,
)
from lazybench.boards import build
from lazybench.boards import compare as compare_rows
from lazybench.boards.views import BoardView, ComparisonView, Records, select_table, stored_env
from lazybench.cli.progress import interactive, watching
from lazybench.data.importing.importer import Imported, ImportRequest, MapStyle
from lazybench.data.importing.importer import import_data as import_request
from lazybench.errors import UsageError, nearest
from lazybench.files import need_folder
from lazybench.records import Record, Store
from lazybench.registry import AGENTS, DATASETS, ENVS
from lazybench.runner.callbacks import PROGRESS, SILENT, TRACKER, Callback, as_callback
from lazybench.runner.request import RunRequest, check_budget, check_device, make, resolve_env
from lazybench.runner.run import run as run_request
from lazybench.specs import OWN, AgentSpec, DataSpec, EnvSpec
from lazybench.user_code import load, spelled

if TYPE_CHECKING:
    import gymnasium
    from numpy.typing import ArrayLike

Split = Literal["train", "val", "test"]


@overload
def make_env(
    env: str, *, num_envs: None = None, split: Split = "test", **settings: Any
) -> gymnasium.Env[Any, Any]: ...


@overload
def make_env(
    env: str, *, num_envs: int, split: Split = "test", **settings: Any
) -> gymnasium.vector.VectorEnv[Any, Any, Any]: ...


def make_env(
    env: str, *, num_envs: int | None = None, split: Split = "test", **settings: Any
) -> gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Return a Gymnasium environment: single, or native vector with `num_envs` rows.

    Args:
        env: id or alias (`glyphs-20way-5shot`, `tiered-20way`).
        num_envs: rows of the vector environment; None returns a single environment.
        split: `train`, `val` or `test`.
        **settings: further arguments of the environment (`shots`, `queries`, `backend`, …).

    Raises:
        UnknownName: no such environment.
        UsageError: a setting that isn't allowed.
        DataUnavailable: the data isn't installed or is damaged.
    """
    spec, _ = resolve_env(env)
    _check_env_settings(spec, split, settings)
    arguments = {**spec.kwargs, "split": split, **settings}
    if "device" in settings:
        arguments["device"] = check_device(check_text("device", settings["device"]))
    try:
        if num_envs is None:
            single: gymnasium.Env[Any, Any] = load(spec.target)(**arguments)
            return single
        if spec.vector_target is None:
            raise UsageError(f"{spec.id} has no vector form; leave num_envs out")
        rows: gymnasium.vector.VectorEnv[Any, Any, Any] = load(spec.vector_target)(
            num_envs, **arguments
        )
        return rows
    except TypeError as error:
        raise UsageError(f"{spec.id} can't be made with these settings: {error}") from error


def _check_env_settings(spec: EnvSpec, split: str, settings: Mapping[str, Any]) -> None:
    """Check the settings of an environment against its arguments and what its id says.

    An agent's plan may change some of the latter, such as the ways, for training tasks.

    Raises:
        UsageError: no such setting, or another value of one that is part of the id.
    """
    parameters = inspect.signature(load(spec.vector_target or spec.target)).parameters
    free = {*spec.options, *(spec.plan_options if split == "train" else ())}
    fixed = spec.kwargs.keys() - free if spec.origin == OWN else set()
    allowed = sorted(parameters.keys() - fixed - {"self", "num_envs", "max_episode_steps"})
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for name, value in settings.items():
        if name in fixed and value != spec.kwargs[name]:
            raise UsageError(
                f"{spec.id} has {name}={spec.kwargs[name]}, got {name}={value!r}; tasks that "
                "differ in it have ids of their own: lazybench list envs"
            )
        if name not in parameters and not takes_all:
            raise UsageError(
                f"{spec.id} has no setting '{name}'.{nearest(name, allowed)} Settings: "
                f"{', '.join(allowed)}"
            )


def make_agent(
    agent: str | type | AgentLike, env: str, *, budget: str = "small", **settings: Any
) -> Any:
    """Return an agent with its preset for an environment and budget, and `settings` on top.

    Args:
        agent: as for `run`.
        env: environment id or alias.
        budget: names the preset.
        **settings: settings that replace the preset's.

    Raises:
        UnknownName: no such agent or environment.
        UsageError: an unknown setting or a value out of range.
    """
    spec, _ = resolve_env(env)
    return make(agent, spec, check_budget(budget), settings).own


def run(  # noqa: PLR0913 - each is a flag of the command line
    agent: str | type | AgentLike,
    env: str,
    *,
    budget: str = "small",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    init: str | Path | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    threads: int | None = None,
    limit: int | None = None,
    out: str | Path = "leaderboards",
    runs: str | Path = "runs",
    force: bool = False,
    isolated: bool = False,
    allow_overlap: bool = False,
    progress: bool | None = None,
    watch: Callback | None = None,
    tracker: Callback = SILENT,
) -> Record:
    """Train an agent, evaluate it on the official trials, save the record in `out` and return it.

    A run that diverged or failed has a record, too: `record.status` isn't `ok`, `record.reason`
    says why, `record.metrics` is empty, and a RuntimeWarning says so.

    The same call resumes an interrupted run, and returns the stored record of a finished one. Runs
    that differ only in evaluation settings (`batch_norm`) share one training run.

    Args:
        agent: an id, `FILE.py:CLASS`, `MODULE:CLASS`, your own class, or an instance of it. The
            key of a class covers its settings and the hash of its file. If no file defines it (a
            notebook, a prompt), the hash covers only the source of its methods, not what they call
            elsewhere, and the record is marked `code_not_in_a_file`. An instance's attributes give
            its settings; a copy of it is trained.
        env: environment id or alias.
        budget: compute budget, which names the preset.
        seed: seed of training, at least 0.
        settings: settings of the agent that replace the preset's, by name.
        init: weights to start from: `FILE.safetensors`, a run's folder or the digits of its key.
        precision: `fp32`, `tf32` (CUDA) or `bf16`.
        device: `cpu`, `cuda`, `mps` or `auto`.
        threads: tasks in parallel; None uses all available cores.
        limit: evaluate only the first `limit` trials; the record is marked and never ranked.
        out: the store of records.
        runs: folder of checkpoints and unfinished runs.
        force: run again even if a record exists.
        isolated: evaluate the trained policy in a separate process.
        allow_overlap: allow pre-trained weights that have seen the test classes; the row is marked.
        progress: whether to show bars (terminals, notebooks with ipywidgets) or lines on stderr;
            None shows them in a terminal or notebook, unless `watch` is given.
        watch: called with the progress in place of these bars; see `lazybench.Callback`.
        tracker: called with the run's numbers; see `lazybench.Callback`.

    Raises:
        UsageError: a name or value that isn't allowed; nothing was created or trained.
        LazybenchError: as documented in `lazybench.runner.run.run`.
    """
    request = RunRequest(
        agent=agent,
        env=env,
        budget=budget,
        seed=seed,
        overrides=check_settings("settings", settings),
        init=None if init is None else str(check_path("init", init)),
        precision=precision,
        device=device,
        threads=threads,
        limit=limit,
        out=check_path("out", out),
        runs=check_path("runs", runs),
        force=force,
        isolated=isolated,
        allow_overlap=allow_overlap,
    )
    followed = as_callback(tracker, TRACKER)
    if progress is not None:
        check_flag("progress", progress)
    if watch is not None:
        if progress:
            raise UsageError("give either progress=True or watch=, which replaces it")
        return _reported(run_request(request, watch=as_callback(watch, PROGRESS), tracker=followed))
    with watching(quiet=not (interactive() if progress is None else progress)) as display:
        return _reported(run_request(request, watch=display, tracker=followed))


def _reported(record: Record) -> Record:
    """Return a record, after a warning if it has no score."""
    if record.status != "ok":
        warnings.warn(
            f"the run {record.key12} of {record.agent.id} has no score: {record.status}"
            f"{f': {record.reason}' if record.reason else ''}; see record.status and record.reason",
            RuntimeWarning,
            stacklevel=3,
        )
    return record


def load_records(
    env: str | None = None, agent: str | None = None, *, out: str | Path = "leaderboards"
) -> Records:
    """Return the records of a store, optionally of one environment or agent only.

    The list shows a table in notebooks, and `load_records().to_frame()` is a pandas data frame
    with a row per record, or per trial; see `lazybench.Records`.

    Raises:
        UnknownName: no such environment or agent, neither registered nor in records.
        UsageError: an argument of another type, or there is no folder `out`.
        OutputUnavailable: `out` is a file.
    """
    folder = need_folder(check_path("out", out), "out")
    if not folder.is_dir():
        raise UsageError(
            f"there is no folder '{folder}'; name the folder of records with out=, or create it "
            "with a run"
        )
    store = Store(folder)
    wanted = None if env is None else stored_env(store, check_text("env", env))[0]
    named = None if agent is None else spelled(check_text("agent", agent))
    found = store.records(wanted)
    if named is None:
        return Records(found, found.skipped)
    of_agent = [each for each in found if named in (each.agent.id, each.agent.origin)]
    known = of_agent or store.records(agent=named)
    if not known and not Path(named.rpartition(":")[0]).is_file():
        AGENTS.resolve(named)
    return Records(of_agent, found.skipped)


def board(
    env: str,
    *,
    budget: str = "small",
    protocol: Mapping[str, Any] | None = None,
    data: str | None = None,
    out: str | Path = "leaderboards",
) -> BoardView:
    """Return the board of an environment, which prints, draws and exports itself.

    Args:
        env: environment id or alias.
        budget: compute budget.
        protocol: settings of the environment by name that tell boards apart (`query_budget`).
        data: first digits of the fingerprint of the board's data; None for the data installed
            here where several boards fit.
        out: the store of records.

    Raises:
        UnknownName: no such environment or board; the message names the budgets with records.
        UsageError: several boards fit, or an argument isn't allowed.
    """
    store = Store(need_folder(check_path("out", out), "out"))
    env_id, _ = stored_env(store, check_text("env", env))
    settings = _as_text(protocol)
    records = select_table(store, env_id, check_budget(budget), settings, data=_text("data", data))
    (found,) = build(records, store.reported())
    return BoardView(found, Records(records))


def compare(  # noqa: PLR0913 - each is a flag of the command line
    left: str,
    right: str,
    *,
    env: str,
    budget: str = "small",
    batch_norm: str | None = None,
    protocol: Mapping[str, Any] | None = None,
    data: str | None = None,
    out: str | Path = "leaderboards",
) -> ComparisonView:
    """Return the paired comparison of two rows of a board, on the trials that they share.

    Args:
        left: an agent (`FILE.py:CLASS` for the row of the file's present source), a row's name as
            the board shows it, or the first digits of a record's key.
        right: the row that is subtracted, in the same form.
        env: environment id or alias.
        budget: compute budget.
        batch_norm: of the rows; None takes the transductive one where a name has several rows.
        protocol: settings of the environment by name that tell boards apart (`query_budget`).
        data: first digits of the fingerprint of the board's data; None for the data installed
            here where several boards fit.
        out: the store of records.

    Raises:
        UnknownName: no such environment, board or row.
        UsageError: several fit, or the rows were evaluated on different trials.
    """
    store = Store(need_folder(check_path("out", out), "out"))
    env_id, _ = stored_env(store, check_text("env", env))
    settings = _as_text(protocol)
    sides = [check_text(name, side) for name, side in (("left", left), ("right", right))]
    data = _text("data", data)
    records = select_table(store, env_id, check_budget(budget), settings, data=data, rows=sides)
    return ComparisonView(compare_rows(records, *sides, norm=batch_norm))


def _text(name: str, value: str | None) -> str | None:
    return None if value is None else check_text(name, value)


def _as_text(protocol: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: str(v) for name, v in check_settings("protocol", protocol).items()}


def import_data(  # noqa: PLR0913 - each is a flag of the command line
    x: str | Path | MapStyle | ArrayLike,
    y: ArrayLike | None = None,
    *,
    name: str,
    group: ArrayLike | None = None,
    split: ArrayLike | None = None,
    split_file: str | Path | None = None,
    split_seed: int | None = None,
    fractions: Sequence[float] | None = None,
    size: int | None = None,
    grey: bool = False,
    standardise: bool = False,
    skip_small: bool = False,
    licence: str = "",
    replace: bool = False,
) -> Imported:
    """Import data of your own below the data folder, and return what was imported.

    Environments `<name>-5way-1shot` and so on work at once, here and in every later process. The
    same instances give the same trials, whatever the source: arrays, data sets in memory or files
    of lossless formats. Images of other formats (JPEG, …) are known by the bytes of their files,
    since decoders differ; once decoded, they are other data.

    Args:
        x: with `y`: features `[M, d]` or uint8 images `[M, H, W]`, `[M, H, W, C]` or
            `[M, C, H, W]`, as an array, tensor or list. Without `y`: a data set of items
            `(image, label)` as torchvision's are, a Hugging Face `datasets.Dataset` with the
            features `image` and `label`, or a path as `lazybench data import` takes it.
        y: `[M]` labels, whole numbers or text.
        name: id of the data set.
        group: `[M]` super-category of each instance, with arrays.
        split: `[M]` `train`, `val` or `test` of each instance, with arrays; no class may be in two.
        split_file: JSON file that lists the classes of each split.
        split_seed: seed of a random split, which replaces the source's own.
        fractions: of the classes in a random split; None for 64/16/20.
        size: side of the resized images in pixels; None keeps their size.
        grey: whether to convert images to greyscale.
        standardise: whether to scale each feature to mean 0 and deviation 1 over train.
        skip_small: whether to leave out classes with too few instances, instead of refusing them.
        licence: licence of the data.
        replace: whether to replace data imported earlier under this name.

    Raises:
        UsageError: a name, option, layout or value that isn't allowed.
        DuplicateName: the name is taken.
        DataUnavailable: a source can't be read.
        OutputUnavailable: the data folder can't be written.
    """
    source: Path | MapStyle | Mapping[str, Any]
    given = {"group": group, "split": split}
    arrays = {key: value for key, value in given.items() if value is not None}
    if y is not None:
        source = {"x": x, "y": y, **arrays}
    elif arrays:
        raise UsageError(f"{', '.join(arrays)} go with arrays x and y; leave them out, or give y")
    elif isinstance(x, str | os.PathLike):
        source = check_path("x", x)
    elif isinstance(x, MapStyle):
        source = x
    else:
        raise UsageError(
            f"x must be arrays with y=, a path, or a data set of items (image, label), got "
            f"{type(x).__name__} without y"
        )
    flags = {"grey": grey, "standardise": standardise, "skip_small": skip_small}
    for flag, value in {**flags, "replace": replace}.items():
        check_flag(flag, value)
    return import_request(
        ImportRequest(
            source=source,
            name=check_text("name", name),
            split_file=None if split_file is None else check_path("split_file", split_file),
            split_seed=None if split_seed is None else check_whole("split_seed", split_seed),
            fractions=None if fractions is None else check_numbers("fractions", fractions),
            size=None if size is None else check_whole("size", size),
            **flags,
            licence=check_text("licence", licence) if licence else "",
            replace=replace,
        )
    )


def register_env(spec: EnvSpec) -> None:
    """Register an environment for this process; also in Gymnasium's registry if that is loaded.

    Raises:
        DuplicateName: the id is taken.
    """
    ENVS.register(spec)
    if "gymnasium" in sys.modules:
        gymnasium_ids.register_all()


def register_agent(spec: AgentSpec) -> None:
    """Register an agent for this process.

    Raises:
        DuplicateName: the id is taken.
    """
    AGENTS.register(spec)


def register_data(spec: DataSpec) -> None:
    """Register a data set for this process.

    Raises:
        DuplicateName: the id is taken.
    """
    DATASETS.register(spec)
