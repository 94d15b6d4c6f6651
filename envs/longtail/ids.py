"""Ids of long-tailed streams, `<data>-lt-<imbalance>`: the catalogue and the pattern behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lazybench.data.importing.catalogue import ORIGIN, Meta, metas
from lazybench.data.splits import held_out_each
from lazybench.specs import BUDGETS, EnvSpec, Measure

DEV_PER_CLASS = 10

MEASURES = (
    Measure("top1_error_pct", "%", "lower"),
    Measure("many_accuracy"),
    Measure("medium_accuracy"),
    Measure("few_accuracy"),
    Measure("geometric_mean"),
    Measure("zero_recall_count", "classes", "lower"),
    Measure("ece", "fraction", "lower"),
    Measure("nll", "nats", "lower"),
)
"""What a pass tells beside the balanced accuracy; see `longtail_metrics`."""

_NAME = re.compile(r"(?P<data>[a-z][a-z0-9-]*)-lt-(?P<imbalance>[1-9]\d*)")


@dataclass(frozen=True)
class Size:
    """What a spec tells of a data set: its classes, its test images and the listed imbalances."""

    classes: int
    test_images: int
    listed: tuple[int, ...] = ()


SIZES: Mapping[str, Size] = {
    "cifar10": Size(10, 10_000, (200, 100, 50, 20, 10)),
    "cifar100": Size(100, 10_000, (200, 100, 50, 20, 10)),
    "glyphs": Size(60, 1800, (100, 50, 20)),
    "glyphshard": Size(60, 1800),
}


def long_tailed(data: str, imbalance: int, size: Size) -> EnvSpec:
    """Return the spec of a long-tailed stream; a trial is one test image."""
    dev = DEV_PER_CLASS * size.classes
    return EnvSpec(
        id=f"{data}-lt-{imbalance}",
        family="longtail",
        target="lazybench.envs.longtail.env:LongTailEnv",
        vector_target=None,
        data=data,
        kwargs={"data": data, "imbalance": imbalance},
        trials=dict.fromkeys(BUDGETS, size.test_images),
        val_trials=dict.fromkeys(BUDGETS, dev),
        measures=MEASURES,
        training={"eval_split": "val"},
        about=f"long-tailed {data}, {size.classes} classes, imbalance {imbalance}",
        cites=("cui2019classbalanced", "liu2019openworld"),
    )


CATALOGUE: tuple[EnvSpec, ...] = tuple(
    long_tailed(data, imbalance, size) for data, size in SIZES.items() for imbalance in size.listed
)


def resolve(name: str, known: Mapping[str, EnvSpec]) -> EnvSpec | None:
    """Return the stream of that name, on built-in data or on imported images, or None."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    data, imbalance = match["data"], int(match["imbalance"])
    if data in SIZES:
        return known.get(name) or long_tailed(data, imbalance, SIZES[data])
    found = [meta for meta in metas()[0] if meta.name == data and meta.kind == "images"]
    return replace(long_tailed(data, imbalance, _size(found[0])), origin=ORIGIN) if found else None


def _size(meta: Meta) -> Size:
    """What `lazybench.data.labelled` makes of an imported set."""
    counts = meta.splits["train"].counts
    return Size(len(counts), len(counts) * held_out_each(min(counts)))
