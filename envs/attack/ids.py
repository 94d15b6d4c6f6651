"""Ids of attacks, `<data>-<target>-<untargeted|targeted>[-label][-linf]`: the catalogue."""

from __future__ import annotations

from collections.abc import Mapping

from lazybench.envs.attack.summary import COLUMNS, MEASURES
from lazybench.specs import EnvSpec

QUERY_BUDGET = 3000


SMALL: Mapping[str, int] = {"mnist": 100, "glyphs": 100, "cifar10": 50}
"""Images of each data set that are attacked at `small`."""

VERSIONS: Mapping[str, int] = {"cifar10": 2}
"""Revisions by data set, where it isn't the first. The second of CIFAR-10 has validation tasks from
a white box that had learned something; the first one's answered at random."""

TARGETS = ("mnist-net4", "mnist-lenet5", "cifar10-resnet18", "cifar10-resnet8", "glyphs-net4")


def attack(target: str, *, targeted: bool, label: bool, linf: bool) -> EnvSpec:
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
        measures=MEASURES,
        columns=COLUMNS,
        block=SMALL[data],
        apart=True,
        options=("eps", "query_budget", "mode", "target_rule", "strict"),
        about=f"{aim} attacks on {target} by its {shown}, {'linf' if linf else 'L2'}",
        cites=("du2020metaattack",),
    )


CATALOGUE: tuple[EnvSpec, ...] = tuple(
    attack(target, targeted=targeted, label=label, linf=linf)
    for target in TARGETS
    for targeted in (False, True)
    for label in (False, True)
    for linf in (False, True)
)
