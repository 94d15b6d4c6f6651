from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from lazybench.agent import contract
from lazybench.errors import UsageError
from lazybench.registry import AGENTS
from lazybench.runner.request import RunRequest, make, resolve_env, with_protocol
from lazybench.runner.resolve import resolve
from lazybench.user_code import load


def test_a_run_may_choose_what_the_environment_lets_it() -> None:
    spec, _ = resolve_env("glyphs-5way-1shot")
    assert with_protocol(spec, {}) is spec
    open_spec = replace(spec, options=("shot",))
    assert with_protocol(open_spec, {"shot": "3"}).kwargs["shot"] == 3
    assert open_spec.kwargs["shot"] == 1
    with pytest.raises(UsageError, match=r"no setting 'shots' that a run may change.*shot"):
        with_protocol(open_spec, {"shots": 3})
    with pytest.raises(UsageError, match="Settings: none"):
        with_protocol(spec, {"shot": 3})


@pytest.mark.parametrize(
    ("agent", "env", "settings", "message"),
    [
        ("knn", "glyphs-5way-1shot", {"votes": "equal", "temperature": 9}, "without votes=softmax"),
        ("knn", "glyphs-5way-1shot", {"train_images": 9}, "without centre=train, got centre=none"),
        ("r2d2", "glyphs-5way-1shot", {"temperature": 2}, "head=prototypes or matching"),
        (
            "reptile",
            "glyphs-5way-1shot",
            {"gammas": [0.5]},
            "without teacher=lazy or test_leap=true, got teacher=greedy, test_leap=false; leave",
        ),
        ("maml", "glyphs-5way-1shot", {"damping": 2}, "without meta_gradient=implicit"),
        ("cross_entropy", "glyphs-lt-100", {"beta": 0.9}, "class_weights=effective_number"),
        ("two_component", "glyphs-lt-100", {"posthoc_tau": 2}, "posthoc=logit_adjust or tau_norm"),
        (
            "two_component",
            "glyphs-lt-100",
            {"rho": 0.9},
            "without strength=scaled, got strength=re",
        ),
        ("two_component", "glyphs-lt-100", {"gammas": [0.5]}, "without teacher=lazy"),
        (
            "l2rw",
            "glyphs-lt-100",
            {"tau": 3},
            "without weighting=two_component, got weighting=l2rw",
        ),
        ("balms", "glyphs-lt-100", {"net_hidden": 7}, "without weighting=meta_weight_net"),
        ("cross_entropy", "glyphs-lt-100", {"reduction": "weights"}, "class_weights=effective_n"),
    ],
)
def test_a_setting_without_effect_is_refused(
    agent: str, env: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"has no effect on agent '{agent}' .*{message}"):
        resolve(RunRequest(agent, env, "smoke", overrides=settings))


def test_a_setting_with_what_it_needs_is_taken() -> None:
    for agent, settings in (
        ("reptile", {"gammas": [0.5], "test_leap": True}),
        ("lazy_reptile", {"hull": 2, "hull_step": 0.25}),
        ("knn", {"temperature": 9}),
        ("two_component", {"strength": "scaled", "rho": 0.9}),
        ("lazy_two_component", {"gammas": (0.5,), "tau": 0.02}),
        ("balms", {"net_lr": 0.1, "sampler_temperature": 2.0}),
    ):
        env = "glyphs-lt-20" if agent.endswith(("component", "balms")) else "glyphs-5way-1shot"
        resolved = resolve(RunRequest(agent, env, "smoke", overrides=settings))
        assert settings.keys() <= resolved.agent.config.keys()


@pytest.mark.parametrize("agent", ["maml", "protonet", "baseline_finetune"])
def test_a_length_of_training_replaces_the_presets_other_form_of_it(agent: str) -> None:
    """With `--budget paper --set image_gradients=1000`, all of the preset's were trained."""
    env = resolve_env("glyphs-5way-1shot")[0]

    def config(**given: Any) -> tuple[int, int]:
        found = make(agent, env, "paper", given).config
        return found["iterations"], found["image_gradients"]

    iterations, images = config()
    assert iterations > 10_000
    assert config(image_gradients=1000) == (0, 1000)
    assert config(image_gradients=1000, iterations=5) == (5, 1000)
    assert config(image_gradients=0) == (iterations, images)
    assert config(iterations=7)[0] == 7


def test_what_a_setting_needs_are_settings_and_their_values() -> None:
    """A misspelt name or value would refuse every run that replaces the setting."""
    for spec in AGENTS.specs():
        kind = contract(load(spec.target))
        config = kind.Config
        for name, needs in kind.NEEDS.items():
            assert config is not None
            assert {name, *needs} <= config.model_fields.keys(), (spec.id, name)
            for other, values in needs.items():
                for value in values:
                    TypeAdapter(config.model_fields[other].annotation).validate_python(value)
