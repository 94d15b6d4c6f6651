"""Presets of the meta-weighting agents on long-tailed streams.

They share the schedule of every agent on a stream (`presets.py`), and in `small` all begin their
meta-steps with the last fifth. `Choice:` in their papers `l2rw` and `meta_weight_net` weigh from
the first mini-batch on, as `paper` has it; a late start costs less than half of that, and for l2rw
it validates far better (glyphs-lt-100, one seed: .85, against .58 from half on). `Choice:` the
virtual step has the step size of its stage, on the sum of the losses: at `small` and `medium` that
is ten times the released one, whose step size has dropped further by then; `scaled` fixes the
length of eps instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazybench.agents.longtail.presets import stream_preset
from lazybench.specs import EnvSpec

_TWO_COMPONENT = {"class_weights": "effective_number", "weighted": "late"}

_AGENTS: Mapping[str, Mapping[str, Any]] = {
    "two_component": _TWO_COMPONENT,
    "lazy_two_component": {**_TWO_COMPONENT, "teacher": "lazy", "inner_steps": 5},
    "l2rw": {"weighting": "l2rw"},
    "meta_weight_net": {"weighting": "meta_weight_net"},
}


def meta_preset(algorithm: str, env: EnvSpec, budget: str) -> dict[str, Any]:
    """Return the settings of `algorithm` on `env` at `budget`, before any override."""
    settings = {**stream_preset(env, budget), **_AGENTS[algorithm]}
    if budget == "paper" and settings.get("weighting"):
        settings["late"] = 0.0
    if budget == "smoke":
        settings["dev_batch"] = 20
    return settings
