"""Presets of the classifiers on long-tailed streams.

`paper` has the schedule that meta-weighting papers share: ResNet-32 at 32x32, 160 epochs and then
40. `medium` has the same network and images for 32 epochs and then 8. `small` keeps the
proportions with ResNet-8 at 16x16, 24 epochs and then 6. `smoke` is for seconds, never ranked.

`Choice:` the published drops, to 1/100 and 1/10,000 of the step size, belong to 40 late epochs. In
6 they would end the training: `small` and `medium` drop to 1/10 and 1/100. At `small` the steps of
the second stage then add up to about as much (320 * .01 against 2,120 * .001), and drw on
cifar100-lt-100 validates at 29.0 %, against 23.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazybench.specs import EnvSpec

_DEFERRED = {"class_weights": "effective_number", "weighted": "late"}

_AGENTS: Mapping[str, Mapping[str, Any]] = {
    "cross_entropy": {},
    "class_balanced": {"class_weights": "effective_number"},
    # A class-balanced part of the training images, seen at a small step size: drawn, not cut out.
    "class_balanced_finetune": {"late_sampler": "class"},
    "logit_adjust": {"loss": "logit_adjust"},
    "logit_adjust_posthoc": {"posthoc": "logit_adjust"},
    "balanced_softmax": {"loss": "balanced_softmax"},
    "mixup": {"mixup": 1.0},
    "sade": {"loss": "sade"},
    "drw": _DEFERRED,
    "ldam_drw": {"loss": "ldam", **_DEFERRED},
    # The body's schedule ends with the first stage; the new head has a separate one.
    "crt": {
        "late_sampler": "class",
        "late_trains": "fresh_head",
        "drops": ((0.64, 1e-2), (0.72, 1e-4), (0.8, 1.0), (0.9, 0.1)),
    },
    "tau_norm": {"posthoc": "tau_norm"},
    "dev_finetune": {"dev": "late"},
    "balanced_softmax_dev": {"loss": "balanced_softmax", "dev": "joined"},
}

_BETA: Mapping[str, Mapping[str, Any]] = {"cifar100": {"beta": 0.9}}
"""Of `class_balanced`, by data set, where .9999 isn't best.

`Choice:` .9 on CIFAR-100, as BagofTricks-LT has it; Cui et al. (section 5) choose it on validation
images for each imbalance factor and find smaller values best there than on CIFAR-10."""


def stream_preset(env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings that every agent on a long-tailed stream has at a budget.

    `Choice:` drawn characters aren't mirrored: another character may be what comes out. Features
    (`glyphs@effnet-lite0`) are vectors, which have a linear classifier and no augmentation.
    """
    settings = _images_preset(env, budget)
    return settings | _FEATURES if "@" in env.data else settings


_FEATURES: dict[str, Any] = {"backbone": "linear", "side": 0, "pad": 0, "flip": False}


def _images_preset(env: EnvSpec, budget: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"flip": not env.data.startswith(("glyphs", "omniglot"))}
    if budget == "paper":
        return settings | {"backbone": "resnet32", "epochs": 200}
    drops = ((0.8, 0.1), (0.9, 0.01))
    if budget == "medium":
        return settings | {"backbone": "resnet32", "epochs": 40, "drops": drops, "validations": 10}
    settings |= {"backbone": "resnet8", "side": 16, "epochs": 30, "drops": drops}
    if budget == "smoke":
        settings |= {"backbone": "resnet8-8", "epochs": 2, "validations": 1}
    return settings


def classifier_preset(algorithm: str, env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of `algorithm` on `env` at `budget`, before any override."""
    settings = {**stream_preset(env, budget), **_AGENTS[algorithm]}
    if algorithm == "class_balanced":
        settings |= _BETA.get(env.data, {})
    if algorithm == "mixup" and budget != "paper":
        # Zhang et al. (2018, section 3.1) find that large alpha underfits, as short trainings do.
        settings["mixup"] = 0.2
    if settings.get("loss") == "ldam":
        # Its code's first 5 of 200 epochs: steps of cosines times 30 are too long at the start.
        settings["warmup_epochs"] = settings["epochs"] / 40
    return settings


_TWO_COMPONENT = {"class_weights": "effective_number", "weighted": "late"}

_META_PRESETS_AGENTS: Mapping[str, Mapping[str, Any]] = {
    "two_component": _TWO_COMPONENT,
    "lazy_two_component": {**_TWO_COMPONENT, "teacher": "lazy", "inner_steps": 5},
    "l2rw": {"weighting": "l2rw"},
    "meta_weight_net": {"weighting": "meta_weight_net"},
    "balms": {"weighting": "sampler", "loss": "balanced_softmax", "net_lr": 1e-2},
}


def meta_preset(algorithm: str, env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of `algorithm` on `env` at `budget`, before any override."""
    settings = {**stream_preset(env, budget), **_META_PRESETS_AGENTS[algorithm]}
    if budget == "paper" and algorithm in ("l2rw", "meta_weight_net"):
        settings["late"] = 0.0
    if budget == "smoke":
        settings["dev_batch"] = 20
    return settings
