"""Ids of attacks, `<data>-<target>-<untargeted|targeted>[-label][-linf]`: the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lazybench.envs.attack_summary import COLUMNS, MEASURES
from lazybench.specs import EnvSpec

QUERY_BUDGET = 3000


@dataclass(frozen=True)
class Attacked:
    """What the ids of a data set share: radii and the number of images."""

    l2: float
    linf: float
    small: int


DATA: Mapping[str, Attacked] = {
    "mnist": Attacked(3.0, 0.3, 100),
    "glyphs": Attacked(3.0, 0.3, 100),
    "cifar10": Attacked(1.0, 8 / 255, 50),
}

TARGETS = ("mnist-net4", "mnist-lenet5", "cifar10-resnet18", "cifar10-resnet8", "glyphs-net4")


def attack(target: str, *, targeted: bool, label: bool, linf: bool) -> EnvSpec:
    """Return the spec of attacks on a target; a trial is one image that it gets right."""
    data = target.partition("-")[0]
    size = DATA[data]
    aim = "targeted" if targeted else "untargeted"
    ending = ("-label" if label else "") + ("-linf" if linf else "")
    shown = "top class" if label else "scores"
    return EnvSpec(
        id=f"{target}-{aim}{ending}",
        family="attack",
        target="lazybench.envs.attack_single:AttackEnv",
        vector_target="lazybench.envs.attack:AttackVectorEnv",
        data=data,
        kwargs={
            "target": target,
            "targeted": targeted,
            "access": "label" if label else "scores",
            "norm": "linf" if linf else "l2",
            "eps": size.linf if linf else size.l2,
            "query_budget": QUERY_BUDGET,
        },
        trials={"smoke": 8, "small": size.small, "paper": 1000},
        val_trials={"smoke": 4, "small": 32, "paper": 64},
        metric="success",
        val_metric=("mse", "lower"),
        measures=MEASURES,
        columns=COLUMNS,
        block=size.small,
        apart=True,
        options=("eps", "query_budget", "mode", "target_rule", "strict"),
        about=f"{aim} attacks on {target} by its {shown}, {'linf' if linf else 'L2'}",
    )


CATALOGUE: tuple[EnvSpec, ...] = tuple(
    attack(target, targeted=targeted, label=label, linf=linf)
    for target in TARGETS
    for targeted in (False, True)
    for label in (False, True)
    for linf in (False, True)
)
