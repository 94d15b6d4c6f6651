"""Groups of runs that differ only in their seed: names, scores and ranks."""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from lazybench.errors import UnknownName
from lazybench.files import canonical_json
from lazybench.records.schema import Record
from lazybench.registry import ENVS
from lazybench.specs import EnvSpec
from lazybench.stats import (
    Difference,
    Estimate,
    mean_estimate,
    paired_difference,
    paired_estimate,
)
from lazybench.user_code import load

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lazybench.class_effects import ClassEffects, TrialClasses

# Settings that a column shows, so that neither the row's name nor the board's head needn't.
SHOWN = frozenset({"batch_norm"})
TRANSDUCTIVE = "transductive"
"""The batch norm of an agent's row where none is named."""
_LONGEST_OVERRIDES = 80
_AGREE = 1e-4
LARGEST = 1e100
"""Squares of larger numbers leave the floats: such scores have neither an interval nor a
difference, and pictures draw them here."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        records: all of them, by seed.
        name: the row's name.
    """

    records: tuple[Record, ...]
    name: str

    @property
    def scored(self) -> list[Record]:
        """The records that have a score."""
        return [record for record in self.records if score_of(record) is not None]

    def trial_scores(self) -> list[NDArray[Any]] | None:
        """Each scored seed's [n] trial scores, or None if they aren't what the score is of.

        An env's score may be something other than the mean over trials; then the trials' scores
        give neither an interval nor a paired difference.
        """
        return self._trial_scores

    @cached_property
    def _trial_scores(self) -> list[NDArray[Any]] | None:
        arrays = []
        for record in self.scored:
            scores, score = record.trials.scores_array(), score_of(record)
            if score is None or not _is_mean_of(score, scores):
                return None
            arrays.append(scores)
        return arrays or None

    def class_effects(self) -> ClassEffects | None:
        """The effects of the trials' classes; None if these aren't known or aren't a sample."""
        counts = {record.trials.n for record in self.scored}
        return class_effects(self.scored[0]) if len(counts) == 1 else None

    def mean_estimate(self, column: str = "") -> Estimate | None:
        """Return the mean over seeds and trials with the parts of its variance; None without one.

        The classes of the trials are random where they are known.

        Args:
            column: a number of each trial that is taken in place of the score.
        """
        values = self._values(column)
        return mean_estimate(values, self.class_effects()) if values else None

    def estimate(self, other: Group, column: str = "") -> Estimate | None:
        """Return the mean of `less` with the parts of its variance; None if it has none.

        Args:
            other: runs on the same environment.
            column: a number of each trial that is taken in place of the score.
        """
        sides = self._sides(other, column)
        if sides is None:
            return None
        left, right, same = sides
        return paired_estimate(left, right, same_seeds=same, effects=self.class_effects())

    def less(
        self, other: Group, column: str = "", *, over_classes: bool = True
    ) -> Difference | None:
        """Return how much higher these runs score than another group's on the same trials.

        In the trials' own unit. Seeds are paired where both have the same ones, and the classes of
        the trials are random where they are known. None if either has no score of each trial,
        or the trials aren't as many.

        Args:
            other: runs on the same environment.
            column: a number of each trial that is taken in place of the score.
            over_classes: whether classes are random, too, where they are known.
        """
        sides = self._sides(other, column)
        if sides is None:
            return None
        left, right, same = sides
        effects = self.class_effects() if over_classes else None
        return paired_difference(left, right, same_seeds=same, effects=effects)

    def _sides(
        self, other: Group, column: str
    ) -> tuple[list[NDArray[Any]], list[NDArray[Any]], bool] | None:
        """The arguments of a paired difference, and whether both sides have the same seeds."""
        left, right = self._values(column), other._values(column)
        if not left or not right or len({array.size for array in left + right}) != 1:
            return None
        seeds = [[record.seed for record in side.scored] for side in (self, other)]
        return left, right, seeds[0] == seeds[1]

    def _values(self, column: str) -> list[NDArray[Any]]:
        if not column:
            return self.trial_scores() or []
        columns = [record.trials.columns.get(column) for record in self.scored]
        by_seed = [packed.unpack() for packed in columns if packed is not None]
        whole = len(by_seed) == len(columns) and all(is_usable(values) for values in by_seed)
        return by_seed if whole else []


def class_effects(record: Record) -> ClassEffects | None:
    """Return the effects of the classes of a record's trials, from its environment's id alone.

    None if the environment isn't installed in the record's revision, where its classes aren't
    known or aren't a sample of others, or its trials can't distinguish classes.
    """
    return _class_effects(_trials_of(record))


def samples_classes(record: Record) -> bool:
    """Return whether the trials of a record's environment are of a sample of classes.

    Those of features are if those of their data are.
    """
    return bool(_class_source(record.env.id, record.data.name, record.env.version))


def trial_classes(record: Record) -> TrialClasses | None:
    """Return the classes of a record's trials, from its environment alone; None if unknown."""
    return _trial_classes(_trials_of(record))


class _Trials(NamedTuple):
    """What the classes of trials are a function of; options that aren't whole numbers are -1."""

    env_id: str
    data: str
    version: int
    fingerprint: str
    trials: int
    options: tuple[tuple[str, int], ...]


def _trials_of(record: Record) -> _Trials:
    env, data = record.env, record.data
    options = tuple(
        (name, value if isinstance(value, int) else -1)
        for name, value in sorted(env.protocol.items())
    )
    return _Trials(env.id, data.name, env.version, data.fingerprint, record.trials.n, options)


@cache
def _trial_classes(asked: _Trials) -> TrialClasses | None:
    source = _class_source(asked.env_id, asked.data, asked.version)
    spec = _spec(asked.env_id, asked.data)
    if not asked.trials or not source or spec is None:
        return None
    chosen = {name: value for name, value in asked.options if name in spec.options}
    spec = replace(spec, kwargs={**spec.kwargs, **chosen})
    design: TrialClasses | None = load(source)(spec, asked.fingerprint, asked.trials)
    return design


@cache
def _class_effects(asked: _Trials) -> ClassEffects | None:
    # Loads numpy, which listings do without.
    from lazybench.class_effects import ClassEffects

    design = _trial_classes(asked)
    effects = None if design is None else ClassEffects(design)
    return effects if effects is not None and effects.identified else None


@cache
def _class_source(env_id: str, data: str, version: int) -> str:
    """The function that gives the classes of an environment's trials; empty if there is none."""
    spec = _spec(env_id, data)
    return "" if spec is None or spec.version != version else str(spec.trial_classes)


@cache
def _spec(env_id: str, data: str) -> EnvSpec | None:
    """An environment by its id; None where it isn't installed.

    That on features is made from the one on their data, so that boards are the same where the
    features aren't installed.
    """
    images = data.partition("@")[0]
    plain = env_id.replace(data, images, 1)
    try:
        spec: EnvSpec = ENVS.resolve(plain).spec
    except UnknownName:
        return None
    if spec.id != plain:
        return None
    if images == data:
        return spec
    return replace(spec, id=env_id, data=data, kwargs={**spec.kwargs, "data": data})


def bounded(value: float) -> float:
    """`value` as the nearest finite float, also a whole number of any size; NaN stays."""
    return float(min(max(value, -sys.float_info.max), sys.float_info.max))


def is_usable(values: ArrayLike) -> bool:
    """Return whether numbers are finite and small enough that their squares are finite too."""
    import numpy as np

    # A comparison with NaN is False.
    return bool((np.abs(np.asarray(values, np.float64)) <= LARGEST).all())


def is_drawable(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number that a board can show; NaN isn't."""
    return isinstance(value, int | float) and abs(value) <= LARGEST


def _is_mean_of(score: float, scores: NDArray[Any]) -> bool:
    if scores.size == 0 or not is_usable(scores):
        return False
    mean = float(scores.astype("<f8").mean())
    return math.isfinite(mean) and abs(mean - score) <= _AGREE * max(1.0, abs(score))


def score_of(record: Record) -> float | None:
    """The record's score in its env's unit; None unless the run ended well."""
    if record.status != "ok":
        return None
    metric = record.metrics.get(record.env.metric)
    if metric is not None:
        return metric.value
    scores = record.trials.scores_array()
    return float(scores.astype("<f8").mean()) if scores.size and is_usable(scores) else None


def factor(record: Record) -> float:
    """The factor from a score to the board's unit: 100 for fractions."""
    return 100.0 if record.env.unit == "fraction" else 1.0


def end_of(value: float, record: Record) -> float:
    """Return the end of an interval on the board; that of a fraction stays within 0 and 100 %."""
    return 100 * min(max(value, 0.0), 1.0) if record.env.unit == "fraction" else bounded(value)


def difference(group: Group, other: Group, *, over_classes: bool = True) -> Difference | None:
    """Return the paired difference in the board's unit, or None if the trials aren't the same.

    That of fractions stays within -100 and 100 %, where intervals of few seeds pass them.

    Args:
        group: runs on one environment.
        other: runs on the same.
        over_classes: as in `Group.less`.
    """
    estimate = group.less(other, over_classes=over_classes)
    if estimate is None:
        return None
    scale = factor(group.records[0])
    lo, hi = estimate.lo * scale, estimate.hi * scale
    if group.records[0].env.unit == "fraction" and not math.isnan(lo):
        lo, hi = max(lo, -100.0), min(hi, 100.0)
    return Difference(estimate.mean * scale, lo, hi, estimate.p)


def batch_norm(record: Record) -> str | None:
    """The batch-norm mode of the evaluation, from config or protocol; None without any."""
    if record.network is not None and not record.network.batch_norm:
        return None
    value = record.config.get("batch_norm", record.env.protocol.get("batch_norm"))
    return None if value is None else str(value)


def whole_runs(records: Iterable[Record]) -> list[Record]:
    """The records of a real budget, evaluated on all official trials of their own environment."""
    return [
        record
        for record in records
        if record.budget != "smoke" and not record.limited and record.trained_on is None
    ]


def newest(
    rows: Iterable[Group], agent: str | None, settings: Mapping[str, Any], norm: str
) -> Group | None:
    """The group of an agent's newest version with some settings and batch norm; None without one.

    Where several are left, see `preferred`.

    Args:
        rows: groups of one environment.
        agent: id.
        settings: all overrides but the batch norm.
        norm: its batch norm, where it has one.
    """
    fitting = []
    for group in rows:
        first = group.records[0]
        overrides = {name: value for name, value in first.overrides.items() if name != "batch_norm"}
        same = (first.agent.id, overrides) == (agent, dict(settings))
        if same and batch_norm(first) in (None, norm):
            fitting.append(group)
    return preferred(fitting)


def preferred(found: Iterable[Group]) -> Group | None:
    """Return the one of some groups of an agent that a comparison means; None without any.

    Of the newest version; of several, one that began with fresh weights, then one that ran on a
    CPU, at full precision, in one process. So a run with `--device cuda`, say, never takes the
    place of the usual one.
    """

    def order(group: Group) -> tuple[Any, ...]:
        first = group.records[0]
        usual = (first.device == "cpu", first.precision == "fp32", -first.world_size)
        return (first.agent.version, is_fresh(first), *usual, group.name)

    return max(found, key=order, default=None)


def is_fresh(record: Record) -> bool:
    """Return whether a run's network, if it had one, began with fresh weights."""
    return record.network is None or record.network.weights in (None, "fresh")


def is_own(record: Record) -> bool:
    """Return whether lazybench trained one of its own agents, from fresh weights, on its own tasks.

    Only such runs answer for an agent in claims, in the paper's tables and as a baseline.
    """
    ours = (record.agent.origin, record.trained_on) == ("lazybench", None)
    return ours and record.agent.trained_by != "external" and is_fresh(record)


def weights_of(record: Record) -> str | None:
    """What a run's weights were before its training; None where nothing has weights.

    `fresh`, the source of the weights that it started from, or what a pre-trained backbone, or the
    network that made its features, was trained on.
    """
    network = None if record.network is None else record.network.weights
    return network if network not in (None, "fresh") else record.data.weights or network


def rank_group(record: Record) -> str:
    """The backbone and the source of its weights, whose rows alone are ranked together.

    A user's file is distinguished by its content: files of one name may differ. Empty where no
    network was recorded: a baseline without one, or a record older than this fact.
    """
    network = record.network
    if network is None:
        return ""
    name = _with_digest(network.name, network.source_sha256)
    if record.data.weights is not None:
        name += f" on features, weights: {record.data.weights}"
    if network.weights == "fresh":
        return name
    return f"{name}, weights: {_with_digest(network.weights, network.weights_sha256)}"


def _with_digest(name: str, sha256: str | None) -> str:
    return name if sha256 is None else f"{name} #{sha256[:6]}"


def groups(records: Iterable[Record]) -> list[Group]:
    """The records by everything but the seed, each group under a name of its own."""
    members: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        members[_sameness(record)].append(record)
    ordered = sorted(members.items(), key=lambda item: (item[1][0].agent.id, item[0]))
    firsts = [group[0] for _, group in ordered]
    values, newest_of = _values_of_agents(firsts), newest_versions(firsts)
    names = _by_settings(
        [_name(first, values[first.agent.id], newest_of) for first in firsts], firsts
    )
    shown = Counter((n, batch_norm(r), r.limited) for n, r in zip(names, firsts, strict=True))
    result = []
    for (digest, group), name, first in zip(ordered, names, firsts, strict=True):
        unique = shown[name, batch_norm(first), first.limited] == 1
        by_seed = sorted(group, key=lambda record: (record.seed, record.key))
        result.append(Group(tuple(by_seed), name if unique else f"{name} #{digest[:6]}"))
    return result


def _by_settings(names: Sequence[str], firsts: Sequence[Record]) -> list[str]:
    """The names, with the settings that differ among rows of one name of a user's own agent.

    An instance has its settings as attributes, so that they aren't among the overrides.
    """
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, (name, first) in enumerate(zip(names, firsts, strict=True)):
        if first.agent.source_sha256 is not None:
            alike[name, batch_norm(first), first.limited].append(place)
    result = list(names)
    for places in alike.values():
        configs = [firsts[place].config for place in places]
        values = {key: [each.get(key) for each in configs] for each in configs for key in each}
        differing = sorted(key for key, held in values.items() if held != held[:1] * len(held))
        for place, config in zip(places, configs, strict=True):
            text = _settings_text({key: config[key] for key in differing if key in config})
            if text and len(text) <= _LONGEST_OVERRIDES:
                result[place] += f" ({text})"
    return result


def _sameness(record: Record) -> str:
    same = {name: value for name, value in record.identity().items() if name != "seed"}
    if record.trained_on is not None:
        # The environment and which state was kept; the run and its step differ by seed.
        same["trained_on"] = record.trained_on.split()[0::2][:2]
    same |= {"kind": record.kind, "origin": record.agent.origin, "by": record.agent.trained_by}
    return hashlib.sha256(canonical_json(same).encode("ascii")).hexdigest()


def _values_of_agents(firsts: Iterable[Record]) -> dict[str, dict[str, set[str]]]:
    """For each agent id the values, over its rows, of the facts that a name may show."""
    values: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in firsts:
        for key, value in _varying(record).items():
            values[record.agent.id][key].add(value)
    return values


def settings_text(record: Record) -> str:
    """Return the settings that a run replaced, as `name=value, …`, without the batch norm."""
    overrides = sorted(record.overrides.items())
    return _settings_text({key: value for key, value in overrides if key not in SHOWN})


def _settings_text(settings: Mapping[str, Any]) -> str:
    parts = []
    for key, value in settings.items():
        text = value if isinstance(value, str) else canonical_json(value)
        parts.append(f"{key}={' '.join(text.split())}")
    return ", ".join(parts)


def _name(
    record: Record, values: Mapping[str, set[str]], newest_of: Mapping[tuple[str, str], int]
) -> str:
    """The agent's id, its overrides, and what else differs among the rows of that agent."""
    text = settings_text(record)
    if len(text) > _LONGEST_OVERRIDES:
        text = text[: _LONGEST_OVERRIDES - 1] + "…"
    parts = [text] if text else []
    parts += [value for key, value in _varying(record).items() if value and len(values[key]) > 1]
    if is_superseded(record, newest_of):
        parts.append(f"version {record.agent.version}")
    home = record.trained_on.split()[0] if record.trained_on else record.env.id
    if home != record.env.id:
        parts.append(f"trained on {home}")
    return f"{record.agent.id} ({', '.join(parts)})" if parts else record.agent.id


def _varying(record: Record) -> dict[str, str]:
    return {
        "preset": record.preset,
        "origin": record.agent.origin,
        "precision": record.precision,
        "device": record.device,
        "world": f"{record.world_size} processes",
    }


def newest_versions(records: Iterable[Record]) -> dict[tuple[str, str], int]:
    """The newest version of each agent among some records, by its id and origin."""
    versions: dict[tuple[str, str], int] = {}
    for record in records:
        agent = (record.agent.id, record.agent.origin)
        versions[agent] = max(record.agent.version, versions.get(agent, 0))
    return versions


def is_superseded(record: Record, newest_of: Mapping[tuple[str, str], int]) -> bool:
    """Return whether `newest_versions` has a newer version of the record's agent."""
    return newest_of.get((record.agent.id, record.agent.origin), 0) > record.agent.version
