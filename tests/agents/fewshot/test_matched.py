"""The control that takes the mean step of a lazy run, read off that run's record."""

from __future__ import annotations

import pytest

import lazybench
from lazybench.errors import UsageError
from lazybench.runner.request import make, resolve_env

ENV = "sinusoid-5shot"
FAST = {"iterations": 5, "validate_every": 0}


def play(folder, agent, **settings):
    return lazybench.run(
        agent,
        ENV,
        budget="smoke",
        settings={**FAST, **settings},
        limit=8,
        out=folder / "store",
        runs=folder / "runs",
    )


def test_the_control_takes_the_lazy_runs_beta_and_mean_leap(tmp_path):
    lazy = play(tmp_path, "lazy_reptile", outer_lr=3.0, gammas=[0.5, 0.75])
    control = play(tmp_path, "reptile_matched", matched_to=lazy.key12)
    leap = lazy.diagnostics["mean_leap"]
    assert 0.25 <= leap <= 0.5
    assert control.config["outer_lr"] == 3.0
    assert control.config["matched_leap"] == leap
    # All else of the lazy run as well, but for its search.
    different = {name for name, value in lazy.config.items() if control.config[name] != value}
    assert different == {"teacher", "gammas", "matched_leap"}


def test_only_a_lazy_record_can_be_matched(tmp_path):
    plain = play(tmp_path, "reptile")
    with pytest.raises(UsageError, match="has no lazy search"):
        play(tmp_path, "reptile_matched", matched_to=plain.key12)
    with pytest.raises(UsageError, match="isn't in the store"):
        play(tmp_path, "reptile_matched", matched_to="abcdef12")
    maml = play(tmp_path, "lazy_maml")
    with pytest.raises(UsageError, match=r"another step than Reptile's \(lazy_maml\)"):
        play(tmp_path, "reptile_matched", matched_to=maml.key12)


def test_digits_of_a_key_that_look_like_a_number_stay_digits():
    asked = []
    with pytest.raises(UsageError, match="'12e456789012' isn't in the store"):
        make(
            "reptile_matched",
            resolve_env(ENV)[0],
            "smoke",
            {"matched_to": "12e456789012"},
            find=asked.append,
        )
    assert asked == ["12e456789012"]
