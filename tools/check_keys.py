"""Compare the key of each published record with the key that this checkout gives the same run.

    python tools/check_keys.py                     # the records of leaderboards/
    python tools/check_keys.py --out OTHER_STORE

A run is resolved as `lazybench run` resolves it: agent, preset, settings, environment, network.
Where its data or its target isn't installed, the record says what they are, and all else is
computed. It ends with 1 where a key is another one. A record of an older version of its agent or
environment, of imported data, or of a run that was trained elsewhere, is compared with what it says
of itself alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from lazybench.envs.attack.gradient_maps import maps_shape
from lazybench.envs.attack.protocol import read_protocol
from lazybench.envs.fewshot.trial_sampler import QUERIES
from lazybench.envs.longtail.stream import class_counts
from lazybench.envs.targets.nets import WHITEBOXES
from lazybench.errors import DataUnavailable, LazybenchError, UnknownName
from lazybench.records import Record, Store, make_key
from lazybench.records.store import first_difference
from lazybench.runner import resolve
from lazybench.runner.evaluate import open_env, open_training
from lazybench.runner.request import RunRequest, resolve_env
from lazybench.specs import EnvSpec
from lazybench.tasks import AttackTask, LongTailTask, TaskShape
from lazybench.verify.load_policy import agent_name

ROOT = Path(__file__).resolve().parents[1]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
SHAPES = {
    "omniglot": GREY,
    "mnist": GREY,
    "cifarfs": COLOUR,
    "cifar10": COLOUR,
    "cifar100": COLOUR,
}
"""Instances of the data sets of published records that don't come with the package."""


@dataclass
class Checked:
    """What was found: how many records by how they were compared, and a line for each other key."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RecordedEnv:
    """An environment whose data are absent, as far as a key looks at it."""

    task: Any
    data: dict[str, Any]
    protocol: dict[str, Any]
    track: str | None = None


def check(records: Iterable[Record]) -> Checked:
    """Return how the keys of records compare with those of the same runs now."""
    found = Checked()
    runs = defaultdict(list)
    for record in records:
        if make_key(record.identity()) != record.key:
            found.faults.append(f"{_named(record)}: its own fields make another key")
        elif record.trained_on is not None:
            # No run of its own, so that only its own fields can be compared.
            found.counts["evaluated elsewhere"] += 1
        else:
            runs[json.dumps(_seedless(record.identity()), sort_keys=True)].append(record)
    for alike in runs.values():
        try:
            how, difference = _compared(alike[0])
        except LazybenchError as error:
            how, difference = "refused", f"{type(error).__name__}: {error}"
        found.counts[how] += len(alike)
        if difference:
            found.faults += [f"{_named(record)}: {difference}" for record in alike]
    return found


def _compared(record: Record) -> tuple[str, str]:
    """How a record was compared, and what makes its key another one ('' for nothing)."""
    try:
        spec = resolve_env(record.env.id)[0]
    except UnknownName:
        if record.data.source.startswith(("imported ", "features of ")):
            return "of imported data", ""
        raise
    if spec.version > record.env.version:
        return "of an older version", ""
    absent = False

    def lenient(opened: Callable[..., Any]) -> Callable[..., Any]:
        def or_recorded(spec: EnvSpec, *rest: Any, **settings: Any) -> Any:
            nonlocal absent
            try:
                return opened(spec, *rest, **settings)
            except DataUnavailable:
                absent = True
                return _recorded(record, spec)

        return or_recorded

    recorded = record.env.protocol
    request = RunRequest(
        agent_name(record),
        record.env.id,
        record.budget,
        record.seed,
        record.overrides,
        protocol={name: recorded[name] for name in spec.options if name in recorded},
        device=record.device,
        precision=record.precision,
        limit=record.trials.n if record.limited else None,
        out=ROOT / "leaderboards",
    )
    with mock.patch.multiple(
        resolve, open_env=lenient(open_env), open_training=lenient(open_training)
    ):
        now = resolve.resolve(request, here=False)
    if now.agent.spec.version > record.agent.version:
        return "of an older version", ""
    old, new = _seedless(record.identity()), _seedless(now.identity)
    how = "resolved; data absent" if absent else "resolved"
    given = {**new, "seed": record.seed, "world_size": record.world_size}
    if make_key(given) == record.key:
        return how, ""
    changed = first_difference(old, new)
    return how, "another key" if changed is None else "{}: {} is now {}".format(*changed)


def _recorded(record: Record, spec: EnvSpec) -> RecordedEnv:
    """A record's environment without its data."""
    shape, recorded, data = SHAPES[record.data.name], record.env.protocol, dict(record.data)
    if spec.family == "fewshot":
        way, shot = spec.kwargs["way"], spec.kwargs["shot"]
        task: Any = TaskShape(way, shot, QUERIES, shape, "uint8", classes=64)
        # How many queries a Dirichlet task has depends on the data's classes.
        queries = recorded["query"] if "concentration" in spec.kwargs else QUERIES
        return RecordedEnv(task, data, {"query": queries})
    if spec.family == "longtail":
        counts = class_counts(recorded["head"], spec.kwargs["imbalance"], 100)
        task = LongTailTask(100, shape, "uint8", counts, 1, 100, recorded["dev_per_class"])
        names = ("head", "dev_per_class", "subset")
        return RecordedEnv(task, data, {name: recorded[name] for name in names})
    settings = {
        "norm": "l2",
        "eps": None,
        "query_budget": 3000,
        "mode": None,
        "targeted": False,
        "access": "scores",
        "target_rule": "next",
    }
    asked_for = {**settings, **{k: v for k, v in spec.kwargs.items() if k in settings}}
    protocol = read_protocol(shape[0], **asked_for)
    boxes = WHITEBOXES[spec.kwargs["target"]].train
    attack: AttackTask = protocol.task(10, shape, boxes, maps_shape(shape))
    of_target = {name: recorded[name] for name in ("target_sha256", "target_accuracy")}
    asked_too = {"images": None, "strict": spec.kwargs.get("strict", False)}
    return RecordedEnv(attack, data, {**protocol.fields(), **asked_too, **of_target})


def _seedless(identity: dict[str, Any]) -> dict[str, Any]:
    """What a key is made of, but for the seed, and for what the defaults of a key stand for."""
    left_out = ("seed", "world_size", "trained_on")
    return {name: value for name, value in identity.items() if name not in left_out}


def _named(record: Record) -> str:
    return f"{record.agent.id} on {record.env.id}, seed {record.seed} ({record.key12})"


def main() -> int:
    """Print what was found; return 1 where a key is another one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "leaderboards", help="the store")
    found = check(Store(parser.parse_args().out).records())
    for line in found.faults:
        print(f"OTHER KEY  {line}")
    print(", ".join(f"{count} {how}" for how, count in sorted(found.counts.items())))
    return 1 if found.faults or not found.counts else 0


if __name__ == "__main__":
    sys.exit(main())
