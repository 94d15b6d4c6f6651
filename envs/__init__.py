"""The built-in environments as data: ids, aliases and the modules of their code."""

from __future__ import annotations

if __name__ != "lazybench.envs":
    raise ImportError("import 'lazybench.envs', not 'envs': a second copy doubles the registries")

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from lazybench import registry
from lazybench.data.folders import data_root
from lazybench.data.importing.catalogue import ORIGIN, Meta, metas
from lazybench.data.splits import DEV_PER_CLASS, held_out_each
from lazybench.envs.attack.summary import BAD_COLUMNS, COLUMNS, DETECTION_COLUMNS
from lazybench.envs.attack.summary import MEASURES as ATTACK_MEASURES
from lazybench.envs.data_catalogue import DATA_CATALOGUE
from lazybench.specs import BUDGETS, EnvSpec, Measure, Resolved

__all__ = [
    "ALIASES",
    "CATALOGUE",
    "DATA_CATALOGUE",
    "anyway",
    "dirichlet",
    "few_shot",
    "imported_envs",
    "installed",
    "resolve",
]

CALIBRATION_MEASURES = (
    Measure("ece", "fraction", "lower"),
    Measure("brier", "squared probability", "lower"),
    Measure("self_estimate_error", "fraction", "lower"),
)
"""Metrics of agents that say how sure they are; see `lazybench.envs.fewshot.trial_sampler`."""

WAYS = (5, 20, 30, 50)
SHOTS = (1, 5)

_TRIALS = {
    5: {"smoke": 40, "small": 600, "medium": 600, "paper": 1000},
    20: {"smoke": 12, "small": 200, "medium": 200, "paper": 1000},
}
_VAL_TRIALS = {
    5: {"smoke": 10, "small": 60, "medium": 150, "paper": 300},
    20: {"smoke": 4, "small": 20, "medium": 40, "paper": 100},
}
# Validation accuracy that boards show the cost of.
_TARGETS = {
    "omniglot-5way-1shot": (0.95, 0.98),
    "omniglot-20way-1shot": (0.9,),
    "cifarfs-5way-5shot": (0.7,),
}
# The listed ways, as far as the test classes allow.
_CLASSIFICATION = {
    "glyphs": WAYS,
    "glyphshard": WAYS,
    "omniglot": WAYS,
    "omniglot-alphabet": WAYS,
    "cifarfs": WAYS[:2],
    "fc100": WAYS[:2],
    "miniimagenet": WAYS[:2],
    "tieredimagenet": WAYS,
}
# Regression tasks have no ways, and equal classes in train and test give no new tasks.
_NO_WAYS = ("sinusoid", "mnist", "cifar10", "cifar100")
_NAME = re.compile(
    r"(?P<data>[a-z][a-z0-9@-]*?)-(?P<way>\d{1,9})way(?:-(?P<shot>\d{1,9})shot)?"
    r"(?P<variant>-noniid|-dirichlet)?"
)


CONCENTRATION = 2
"""Parameter of the Dirichlet distribution of `-dirichlet` environments (Veilleux et al. 2021)."""


def dirichlet(data: str, way: int, shot: int) -> EnvSpec:
    """Return the spec of a few-shot environment with unevenly spread queries on `data`."""
    usual = few_shot(data, way, shot)
    return replace(
        usual,
        id=f"{usual.id}-dirichlet",
        kwargs={**usual.kwargs, "concentration": CONCENTRATION},
        options=("concentration",),
        about=f"{usual.about}, query classes drawn from Dirichlet({CONCENTRATION})",
        cites=(*usual.cites, "veilleux2021realistic"),
    )


MOST_WAYS, MOST_SHOTS = 20, 20
"""Of the tasks of `-anyway` environments."""


def anyway(data: str) -> EnvSpec:
    """Return the spec of an environment on `data` whose tasks differ in ways and shots."""
    usual = few_shot(data, MOST_WAYS, MOST_SHOTS)
    return replace(
        usual,
        id=f"{data}-anyway",
        kwargs={**usual.kwargs, "uneven": True},
        trials=_TRIALS[5],
        val_trials=_VAL_TRIALS[5],
        plan_options=(),
        about=f"classification on {data} with 2 to {MOST_WAYS} ways and 1 to {MOST_SHOTS} shots",
        cites=("triantafillou2020metadataset",),
    )


def few_shot(data: str, way: int, shot: int, *, noniid: bool = False) -> EnvSpec:
    """Return the spec of an N-way K-shot classification environment on `data`."""
    size = 5 if way < 20 else 20
    trap = " (one class group a label: the memorisation trap)" if noniid else ""
    env = f"{data}-{way}way-{shot}shot" + ("-noniid" if noniid else "")
    return EnvSpec(
        id=env,
        family="fewshot",
        target="lazybench.envs.fewshot.env:FewShotEnv",
        vector_target="lazybench.envs.fewshot.env:FewShotVectorEnv",
        data=data,
        kwargs={"data": data, "way": way, "shot": shot, "noniid": noniid},
        # In the memorisation trap the ways are the groups that labels come from.
        plan_options=() if noniid else ("way",),
        trials=_TRIALS[size],
        val_trials=_VAL_TRIALS[size],
        targets=_TARGETS.get(env, ()),
        measures=CALIBRATION_MEASURES,
        trial_classes="lazybench.envs.trial_classes:few_shot_classes",
        about=f"{way}-way {shot}-shot classification on {data}{trap}",
        cites=("vinyals2016matching", *(("yin2020memorization",) if noniid else ())),
    )


def _sinusoid(shot: int) -> EnvSpec:
    return EnvSpec(
        id=f"sinusoid-{shot}shot",
        family="fewshot",
        target="lazybench.envs.fewshot.env:FewShotEnv",
        vector_target="lazybench.envs.fewshot.env:FewShotVectorEnv",
        data="sinusoid",
        kwargs={"data": "sinusoid", "way": 1, "shot": shot},
        trials=_TRIALS[5],
        val_trials=_VAL_TRIALS[5],
        metric="mse",
        better="lower",
        unit="squared amplitude",
        about=f"{shot}-shot regression of sine waves",
        cites=("finn2017maml",),
    )


LONGTAIL_MEASURES = (
    Measure("top1_error_pct", "%", "lower"),
    Measure("many_accuracy"),
    Measure("medium_accuracy"),
    Measure("few_accuracy"),
    Measure("geometric_mean"),
    Measure("zero_recall_count", "classes", "lower"),
    Measure("ece", "fraction", "lower"),
    Measure("nll", "nats", "lower"),
)
"""Further measures of a pass; see `lazybench.envs.longtail.metrics`."""

_STREAM_NAME = re.compile(r"(?P<data>[a-z][a-z0-9@-]*)-lt-(?P<imbalance>[1-9]\d{0,8}|natural)")


SIZES: Mapping[str, tuple[int, int]] = {
    "cifar10": (10, 10_000),
    "cifar100": (100, 10_000),
    "glyphs": (60, 1800),
    "glyphshard": (60, 1800),
}
"""Classes and test images by data set."""

IMBALANCES: Mapping[str, tuple[int, ...]] = {
    "cifar10": (200, 100, 50, 20, 10),
    "cifar100": (200, 100, 50, 20, 10),
    "glyphs": (100, 50, 20),
}
"""The listed imbalances by data set."""


def long_tailed(
    data: str, imbalance: int | Literal["natural"], classes: int, test_images: int
) -> EnvSpec:
    """Return the spec of a long-tailed stream; a trial is one test image."""
    words = "its own class counts" if imbalance == "natural" else f"imbalance {imbalance}"
    dev = DEV_PER_CLASS * classes
    return EnvSpec(
        id=f"{data}-lt-{imbalance}",
        family="longtail",
        target="lazybench.envs.longtail.env:LongTailEnv",
        vector_target=None,
        data=data,
        kwargs={"data": data, "imbalance": imbalance},
        trials=dict.fromkeys(BUDGETS, test_images),
        val_trials=dict.fromkeys(BUDGETS, dev),
        measures=LONGTAIL_MEASURES,
        training={"eval_split": "val"},
        trial_classes="lazybench.envs.trial_classes:long_tail_classes",
        about=f"long-tailed {data}, {classes} classes, {words}",
        cites=("cui2019classbalanced", "liu2019openworld"),
    )


_STREAMS: tuple[EnvSpec, ...] = tuple(
    long_tailed(data, imbalance, *SIZES[data])
    for data, listed in IMBALANCES.items()
    for imbalance in listed
)


def _resolve_stream(name: str, known: Mapping[str, EnvSpec]) -> EnvSpec | None:
    """Return the stream of that name, or None.

    Built-in data have one, and so have imported images, and features of images that have one.
    """
    match = _STREAM_NAME.fullmatch(name)
    if match is None:
        return None
    data = match["data"]
    imbalance: int | Literal["natural"] = (
        "natural" if match["imbalance"] == "natural" else int(match["imbalance"])
    )
    if data in SIZES:
        return known.get(name) or long_tailed(data, imbalance, *SIZES[data])
    size = next((_size(meta) for meta in metas()[0] if meta.name == data), None)
    return None if size is None else replace(long_tailed(data, imbalance, *size), origin=ORIGIN)


def _size(meta: Meta) -> tuple[int, int] | None:
    """Classes and test instances of an imported set's streams; None if it has none.

    They are as `lazybench.data.importing.storage.labelled` gives them.
    """
    if meta.stream_parts:
        return len(meta.stream_parts["test"].counts), sum(meta.stream_parts["test"].counts)
    if meta.kind != "images" and not (meta.embedding and meta.embedding.held_out):
        return None
    counts = meta.splits["train"].counts
    return len(counts), len(counts) * held_out_each(min(counts))


QUERY_BUDGET = 3000

SMALL: Mapping[str, int] = {"mnist": 100, "glyphs": 100, "cifar10": 50}
"""Images of each data set that are attacked at `small`."""

VERSIONS: Mapping[str, int] = {"cifar10": 2}
"""Revisions by data set, where it isn't the first. The second of CIFAR-10 has validation tasks from
a white box that had learned something; the first one's answered at random."""

TARGETS = ("mnist-net4", "mnist-lenet5", "cifar10-resnet18", "cifar10-resnet8", "glyphs-net4")


def attack_env(target: str, *, targeted: bool, label: bool, linf: bool) -> EnvSpec:
    """Return the spec of attacks on a target; a trial is one image that it gets right."""
    data = target.partition("-")[0]
    aim = "targeted" if targeted else "untargeted"
    ending = ("-label" if label else "") + ("-linf" if linf else "")
    shown = "top class" if label else "scores"
    return EnvSpec(
        id=f"{target}-{aim}{ending}",
        version=VERSIONS.get(data, 1),
        family="attack",
        target="lazybench.envs.attack.env:AttackEnv",
        vector_target="lazybench.envs.attack.env:AttackVectorEnv",
        data=data,
        kwargs={
            "target": target,
            "targeted": targeted,
            "access": "label" if label else "scores",
            "norm": "linf" if linf else "l2",
            "query_budget": QUERY_BUDGET,
        },
        trials={"smoke": 8, "small": SMALL[data], "medium": SMALL[data], "paper": 1000},
        val_trials={"smoke": 4, "small": 32, "medium": 32, "paper": 64},
        metric="success",
        val_metric=("mse", "lower"),
        measures=ATTACK_MEASURES,
        columns=COLUMNS,
        later_columns=BAD_COLUMNS,
        block=SMALL[data],
        independent_trials=True,
        options=(
            *("eps", "query_budget", "mode", "target_rule", "strict"),
            *("bad_query_budget", "bad_answers", "defence"),
        ),
        left_out={"bad_query_budget": None, "bad_answers": "missed", "defence": "none"},
        option_columns={"defence": DETECTION_COLUMNS},
        about=f"{aim} attacks on {target} by its {shown}, {'linf' if linf else 'L2'}",
        cites=("du2020metaattack",),
    )


_ATTACKS: tuple[EnvSpec, ...] = tuple(
    attack_env(target, targeted=targeted, label=label, linf=linf)
    for target in TARGETS
    for targeted in (False, True)
    for label in (False, True)
    for linf in (False, True)
)


_ADVERSARIAL_NAME = re.compile(
    r"(?P<target>glyphs-lenet5(-pgd)?|glyphs-net4-pgd|mnist-net4-pgd|cifar10-resnet8-pgd)"
    r"-(?P<aim>untargeted|targeted)(?P<label>-label)?(?P<linf>-linf)?"
)
"""Attacks on adversarially trained networks and on a plain one, which aren't listed."""


CATALOGUE: tuple[EnvSpec, ...] = (
    *(
        few_shot(data, way, shot, noniid=noniid)
        for data, ways in _CLASSIFICATION.items()
        for way in ways
        for shot in SHOTS
        for noniid in (False, True)
    ),
    *(dirichlet(data, 5, shot) for data in _CLASSIFICATION for shot in SHOTS),
    *(anyway(data) for data in _CLASSIFICATION),
    _sinusoid(5),
    _sinusoid(10),
    *_STREAMS,
    *_ATTACKS,
)

ALIASES: Mapping[str, tuple[str, ...]] = {
    "tiered": ("tieredimagenet", "glyphs"),
    "mini": ("miniimagenet",),
}
"""Data names that mean the first installed data set, in order, or else the last."""


def imported_envs() -> tuple[list[EnvSpec], dict[str, str]]:
    """Return the environments of the data sets that users imported, as far as these allow.

    Where no listed way fits, the largest that all splits allow is listed. The second value has the
    errors of the sets that can't be used.
    """
    known = {spec.id for spec in registry.DATASETS.specs() if spec.origin == ORIGIN}
    found: list[EnvSpec] = []
    sets, broken = metas()
    for meta in sets:
        ways = [way for way in WAYS if way <= meta.most_way] or [meta.most_way]
        found += [
            replace(few_shot(meta.name, way, shot, noniid=noniid), origin=ORIGIN)
            for way in ways
            for shot in SHOTS
            for noniid in (False, True)
            if meta.name in known and shot <= meta.most_shot
        ]
    return found, broken


def resolve(name: str, known: Mapping[str, EnvSpec]) -> Resolved | None:
    """Return the environment for an alias or for a setting that isn't listed, or None.

    `<target>-pgd-…` attacks an adversarially trained network, `glyphs-lenet5-…` a plain one.
    `<data>-lt-<imbalance>` is a long-tailed stream, `<data>-lt-natural` one with the data's own
    counts. `<data>-<N>way` means 5-shot. `tiered-…` is the tiered protocol, in which
    super-categories are disjoint between splits: TieredImageNet where it is installed, else the
    embedded glyphs (tiered by script); the note says which. Data sets registered by other packages
    or at run time count.
    """
    attack = _ADVERSARIAL_NAME.fullmatch(name)
    if attack is not None:
        label, linf = bool(attack["label"]), bool(attack["linf"])
        targeted = attack["aim"] == "targeted"
        return Resolved(attack_env(attack["target"], targeted=targeted, label=label, linf=linf))
    stream = _resolve_stream(name, known)
    if stream is not None:
        return Resolved(stream)
    if name.endswith("-anyway"):
        data = name.removesuffix("-anyway")
        known_data = {spec.id for spec in registry.DATASETS.specs()}
        return Resolved(anyway(data)) if data in known_data and _makes_tasks(data) else None
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    way, shot = int(match["way"]), int(match["shot"] or 5)
    candidates = ALIASES.get(match["data"], (match["data"],))
    registered = {spec.id for spec in registry.DATASETS.specs()}
    for data in candidates:
        # The last is the default if none is installed; opening it reports where its files belong.
        last = data == candidates[-1] and data in registered
        if _makes_tasks(data) and (last or installed(data)):
            fresh = (
                dirichlet(data, way, shot)
                if match["variant"] == "-dirichlet"
                else few_shot(data, way, shot, noniid=bool(match["variant"]))
            )
            spec = known.get(fresh.id, fresh)
            why = ""
            if match["data"] == "tiered" and data == "glyphs":
                why = " (tiered by script, embedded; TieredImageNet isn't installed)"
            return Resolved(spec, f"{name} is {spec.id}{why}" if spec.id != name else "")
    return None


def _makes_tasks(data: str) -> bool:
    """Whether a data set has splits by class, as few-shot tasks need."""
    if data.partition("@")[0] in _NO_WAYS:
        return False
    imported = {spec.id for spec in registry.DATASETS.specs() if spec.origin == ORIGIN}
    return data not in imported or any(m.name == data and m.splits for m in metas()[0])


def installed(data: str) -> bool:
    """True if a data set is embedded or its files are below the data folder; opens nothing."""
    spec = next((spec for spec in registry.DATASETS.specs() if spec.id == data), None)
    if spec is None or spec.embedded:
        return spec is not None
    root = data_root()
    return any((root / path).exists() for path in spec.probe)
