"""The built-in environments, as data: ids, aliases and where their code stands."""

from __future__ import annotations

if __name__ != "lazybench.envs":
    raise ImportError("import 'lazybench.envs', not 'envs': a second copy doubles the registries")

import re
from collections.abc import Mapping
from dataclasses import replace

from lazybench import registry
from lazybench.data.folders import data_root
from lazybench.data.importing.catalogue import ORIGIN, metas
from lazybench.envs.attack import ids
from lazybench.envs.data_catalogue import DATA_CATALOGUE
from lazybench.envs.longtail import ids as longtail_ids
from lazybench.specs import EnvSpec, Resolved

__all__ = [
    "ALIASES",
    "CATALOGUE",
    "DATA_CATALOGUE",
    "few_shot",
    "imported_envs",
    "installed",
    "resolve",
]

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
# The ways that are listed: what the test classes allow.
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
# Functions to regress have no ways, and the same classes in train and test make no new tasks.
_NO_WAYS = ("sinusoid", "mnist", "cifar10", "cifar100")
_NAME = re.compile(
    r"(?P<data>[a-z][a-z0-9-]*?)-(?P<way>\d+)way(?:-(?P<shot>\d+)shot)?(?P<noniid>-noniid)?"
)


def few_shot(data: str, way: int, shot: int, *, noniid: bool = False) -> EnvSpec:
    """Return the spec of an N-way K-shot classification environment on `data`."""
    size = 5 if way < 20 else 20
    trap = " (one class group a label: the memorisation trap)" if noniid else ""
    return EnvSpec(
        id=f"{data}-{way}way-{shot}shot" + ("-noniid" if noniid else ""),
        family="fewshot",
        target="lazybench.envs.fewshot.env:FewShotEnv",
        vector_target="lazybench.envs.fewshot.env:FewShotVectorEnv",
        data=data,
        kwargs={"data": data, "way": way, "shot": shot, "noniid": noniid},
        trials=_TRIALS[size],
        val_trials=_VAL_TRIALS[size],
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


CATALOGUE: tuple[EnvSpec, ...] = (
    *(
        few_shot(data, way, shot, noniid=noniid)
        for data, ways in _CLASSIFICATION.items()
        for way in ways
        for shot in SHOTS
        for noniid in (False, True)
    ),
    _sinusoid(5),
    _sinusoid(10),
    *longtail_ids.CATALOGUE,
    *ids.CATALOGUE,
)

ALIASES: Mapping[str, tuple[str, ...]] = {
    "tiered": ("tieredimagenet", "glyphs"),
    "mini": ("miniimagenet",),
}
"""Data names that stand for the first data set installed, in order, or else for the last."""


def imported_envs() -> tuple[list[EnvSpec], dict[str, str]]:
    """Return the environments of the data sets that users imported, as far as these allow.

    Where no listed way fits, the most that all splits have is listed. Beside them stands what is
    wrong with the sets that can't be used.
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

    `<data>-lt-<imbalance>` is a long-tailed stream. `<data>-<N>way` means 5-shot. `tiered-…` is the
    tiered protocol, in which super-categories are disjoint between splits: TieredImageNet where it
    is installed, else the embedded glyphs (tiered by script); the note says which. Data sets
    registered by other packages or at run time count.
    """
    stream = longtail_ids.resolve(name, known)
    if stream is not None:
        return Resolved(stream)
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    way, shot = int(match["way"]), int(match["shot"] or 5)
    noniid = bool(match["noniid"])
    candidates = ALIASES.get(match["data"], (match["data"],))
    registered = {spec.id for spec in registry.DATASETS.specs()}
    for data in candidates:
        # The last stands in where none is installed: opening it says where it should lie.
        last = data == candidates[-1] and data in registered
        if data not in _NO_WAYS and (last or installed(data)):
            fresh = few_shot(data, way, shot, noniid=noniid)
            spec = known.get(fresh.id, fresh)
            why = ""
            if match["data"] == "tiered" and data == "glyphs":
                why = " (tiered by script, embedded; TieredImageNet isn't installed)"
            return Resolved(spec, f"{name} is {spec.id}{why}" if spec.id != name else "")
    return None


def installed(data: str) -> bool:
    """True where a data set is embedded or its files lie below the data folder; opens nothing."""
    spec = next((spec for spec in registry.DATASETS.specs() if spec.id == data), None)
    if spec is None or spec.embedded:
        return spec is not None
    root = data_root()
    return any((root / path).exists() for path in spec.probe)
