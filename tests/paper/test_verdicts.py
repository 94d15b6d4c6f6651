"""The rule for verdicts on made-up records: each point alone, then claims as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lazybench.paper.claims import (
    Claim,
    Contrast,
    ContrastResult,
    Side,
    at_best_budget,
    boards_of,
    both_readings,
    contrast_results,
)
from lazybench.paper.searches import Search
from lazybench.paper.verdicts import (
    POINTS,
    Evidence,
    Failure,
    baselines,
    combine,
    control,
    effort,
    first_failure,
    levelled,
    precondition,
    seeds,
    tuning,
    verdicts,
)
from lazybench.records import Reported

ENV = "glyphs-5way-1shot"
CLAIM = Claim(
    "lazy is above plain",
    "nowhere",
    both_readings([Contrast(Side("lazy_reptile"), Side("reptile"), "above", ("-5way-1shot",))]),
)
PLAIN = Claim(
    "b is above a", "nowhere", (Contrast(Side("b"), Side("a"), "above", ("-5way-1shot",)),)
)
ALIKE = Claim("b is like a", "nowhere", (Contrast(Side("b"), Side("a"), "alike", ("-1shot",)),))
FLAT = [{"step": 10.0 * i, "val": 0.5} for i in range(1, 10)]
FIXED = {"image_gradients": "300000"}


def _search(agent: str, trials: int = 4, best: Any = None, env: str = ENV) -> Search:
    return Search(env, agent, FIXED, trials, best or {})


SEARCHES = tuple(_search(name) for name in ("a", "b", "reptile", "lazy_reptile"))
PAPER = tuple(
    Reported(
        source="S",
        table="T",
        row="R",
        agent=name,
        env=env,
        metric="accuracy",
        value=50.0,
        unit="%",
    )
    for name in ("a", "reptile")
    for env in (ENV, "omniglot-5way-1shot", "cifarfs-5way-1shot")
)


def _side(make_run: Any, agent: str, by: float, count: int = 5, **changes: Any) -> list[Any]:
    """One agent over seeds, with a flat curve of nine validations and no falling rate."""
    given = {"curve": FLAT, "cost": {"image_gradients": 1000}, "config": {}, **changes}
    return [make_run(agent, by, seed, **given) for seed in range(count)]


def _baselines(make_run: Any, by: float = -0.3, **changes: Any) -> list[Any]:
    return [
        record
        for name in ("finetune", "nearest_pixel")
        for record in _side(make_run, name, by, curve=[], **changes)
    ]


def _world(make_run: Any, shift: float = 0.05, count: int = 5, **changes: Any) -> list[Any]:
    """Everything that a verdict on PLAIN needs on one board."""
    return [
        *_side(make_run, "a", 0.0, count, **changes),
        *_side(make_run, "b", shift, count, **changes),
        *_baselines(make_run, **{k: v for k, v in changes.items() if k.startswith("env")}),
    ]


def _readings(make_run: Any, theta: float, phi: float, **changes: Any) -> list[Any]:
    """Everything that a verdict on CLAIM needs on one board."""
    found = _side(make_run, "reptile", 0.0, **changes) + _baselines(make_run)
    for reading, by in (("theta", theta), ("phi", phi)):
        given = {"config": {"leap_on": reading}, **changes}
        overrides = {"leap_on": reading} if reading == "phi" else {}
        found += _side(make_run, "lazy_reptile", by, overrides=overrides, **given)
    return found


def _evidence(records: list[Any], **changes: Any) -> Evidence:
    given = {"reported": PAPER, "searches": SEARCHES, **changes}
    return Evidence(boards_of(records), **given)


def _first(records: list[Any], claim: Claim = PLAIN, **changes: Any) -> tuple[Any, Evidence]:
    evidence = _evidence(records, **changes)
    return contrast_results(claim, evidence.boards, evidence.reported)[0], evidence


def _why(point: Any, records: list[Any], claim: Claim = PLAIN, **changes: Any) -> str | None:
    why: str | None = point(*_first(records, claim, **changes))
    return why


def test_the_world_meets_every_point_and_confirms(make_run: Any) -> None:
    result, evidence = _first(_world(make_run))
    assert [point(result, evidence) for point in POINTS] == [None] * 6
    (found,) = verdicts([PLAIN], evidence)
    assert (found.text, found.budget) == ("confirmed", "small")
    assert found.means[0].difference == result.difference


# 1


def test_baselines_without_a_row_give_no_verdict(make_run: Any) -> None:
    sides = _side(make_run, "a", 0.0) + _side(make_run, "b", 0.05)
    assert _why(baselines, sides) == f"no `finetune` row on {ENV} at small"
    sides += _side(make_run, "finetune", -0.3)
    assert _why(baselines, sides) == f"no `nearest_pixel` row on {ENV} at small"


@pytest.mark.parametrize(("by", "agent"), [(0.02, "a"), (0.2, "b")])
def test_both_sides_must_be_above_every_baseline(make_run: Any, by: float, agent: str) -> None:
    sides = _side(make_run, "a", 0.0 if agent == "a" else 0.3) + _side(make_run, "b", 0.05)
    records = sides + _side(make_run, "finetune", by) + _side(make_run, "nearest_pixel", -0.3)
    assert _why(baselines, records) == f"{agent} isn't above finetune on {ENV} at small"


@pytest.mark.parametrize(("batch", "met"), [(0, True), (2, False)])
def test_finetune_has_as_much_compute_at_test(make_run: Any, batch: int, met: bool) -> None:
    tasks = {"env__protocol": {"way": 5, "shot": 1, "trials": 40}}
    config = {"test_steps": 20, "test_batch": 0}
    sides = _side(make_run, "a", 0.0, **tasks, config=config)
    sides += _side(make_run, "b", 0.05, **tasks)
    sides += _side(make_run, "finetune", -0.3, **tasks, config={**config, "test_batch": batch})
    sides += _side(make_run, "nearest_pixel", -0.3, **tasks)
    message = f"`finetune` takes 40 image-gradients a trial on {ENV} at small, a takes 100"
    assert _why(baselines, sides) == (None if met else message)


# 2


@pytest.mark.parametrize(
    ("value", "met"), [(50.0, True), (54.0, True), (57.0, False), (44.0, False)]
)
def test_the_control_is_within_5_points_of_its_number(
    make_run: Any, value: float, met: bool
) -> None:
    paper = [PAPER[0].model_copy(update={"value": value})]
    why = _why(control, _world(make_run), reported=paper)
    assert (why is None) == met
    if why is not None:
        assert f"on {ENV} at small, the paper reports {value:.1f}" in why


def test_on_long_tails_the_papers_errors_count(make_run: Any) -> None:
    paper = [PAPER[0].model_copy(update={"value": 48.0, "metric": "top1_error_pct"})]
    assert _why(control, _world(make_run), reported=paper) is None
    paper = [PAPER[0].model_copy(update={"value": 60.0, "metric": "top1_error_pct"})]
    assert "the paper reports 60.0" in (_why(control, _world(make_run), reported=paper) or "")


@pytest.mark.parametrize(
    ("times", "by", "message"),
    [
        (4, 0.04, None),
        (3.9, 0.04, None),
        (4, 0.06, "when trained longer"),
        (2, 0.0, "nor a run at 4 times the training"),
    ],
)
def test_without_a_number_the_control_is_compared_with_itself(
    make_run: Any, times: float, by: float, message: str | None
) -> None:
    more = {"overrides": {"image_gradients": 1}, "config": {"image_gradients": 1}}
    longer = _side(make_run, "a", by, cost={"image_gradients": int(1000 * times)}, **more)
    why = _why(control, _world(make_run) + longer, reported=())
    assert why is None if message is None else message in (why or "")


def test_other_versions_of_the_control_say_nothing(make_run: Any) -> None:
    longer = _side(
        make_run, "a", 0.0, cost={"image_gradients": 4000}, budget="paper", agent__version=3
    )
    assert "nor a run at 4 times" in (_why(control, _world(make_run) + longer, reported=()) or "")


# 3


def _longer(make_run: Any, shift: float, times: float = 2, count: int = 5) -> list[Any]:
    given = {
        "cost": {"image_gradients": int(1000 * times)},
        "overrides": {"image_gradients": times},
        "config": {"image_gradients": times, "anneal": "linear"},
    }
    return [
        record
        for name, by in (("a", 0.0), ("b", shift))
        for record in _side(make_run, name, by, count, **given)
    ]


def test_nine_validations_are_needed(make_run: Any) -> None:
    message = f"a has only 8 validations on {ENV} at small, a plateau needs 9"
    records = _side(make_run, "a", 0.0, curve=FLAT[:8]) + _side(make_run, "b", 0.05)
    assert _why(levelled, records) == message
    records = _side(make_run, "b", 0.05, curve=FLAT[:1]) + _side(make_run, "a", 0.0)
    assert "b has only 1 validation on" in (_why(levelled, records) or "")


def test_a_rising_side_has_no_verdict(make_run: Any) -> None:
    curve = [{"step": float(i), "val": 0.5 + 0.003 * i} for i in range(9)]
    records = _side(make_run, "a", 0.0) + _side(make_run, "b", 0.05, curve=curve)
    assert _why(levelled, records) == f"b is still rising at the last validations on {ENV} at small"


@pytest.mark.parametrize("falling", [{"anneal": "linear"}, {"drops": [[0.8, 0.1]]}])
def test_a_falling_rate_needs_runs_of_another_length(make_run: Any, falling: Any) -> None:
    records = _side(make_run, "a", 0.0, config=falling) + _side(make_run, "b", 0.05)
    assert "a lowers its learning rate" in (_why(levelled, records) or "")
    assert _why(levelled, records + _longer(make_run, 0.05)) is None


def test_a_side_that_trains_on_the_validation_images_needs_runs_of_another_length(
    make_run: Any,
) -> None:
    curve = [{"step": float(i), "val": 0.5 + 0.003 * i} for i in range(9)]
    seen = {"track": "LT+dev", "curve": curve}
    records = _side(make_run, "a", 0.0, **seen) + _side(make_run, "b", 0.05)
    assert "a trains on the validation images" in (_why(levelled, records) or "")
    assert _why(levelled, records + _longer(make_run, 0.05)) is None


@pytest.mark.parametrize(
    ("shift", "times", "count", "message"),
    [
        (0.05, 2, 5, None),
        (0.03, 2, 5, None),
        (0.02, 2, 5, "the difference goes from"),
        (-0.05, 2, 5, "the verdict changes"),
        (0.0, 2, 5, "the verdict changes"),
        (0.05, 1.5, 5, "lowers its learning rate"),
        (0.05, 2, 2, "lowers its learning rate"),
        (0.05, 0.5, 5, None),
        (0.09, 0.5, 5, None),
        (0.12, 0.5, 5, "the difference goes from"),
        (0.12, 0.1, 5, "lowers its learning rate"),
    ],
)
def test_twice_the_training_has_the_verdict_and_half_the_difference(
    make_run: Any, shift: float, times: float, count: int, message: str | None
) -> None:
    falling = {"anneal": "linear"}
    records = _side(make_run, "a", 0.0, config=falling) + _side(make_run, "b", 0.05, config=falling)
    why = _why(levelled, records + _longer(make_run, shift, times, count))
    assert why is None if message is None else message in (why or ""), why


def test_alike_at_both_lengths_may_differ_in_size(make_run: Any) -> None:
    records = _side(make_run, "a", 0.0) + _side(make_run, "b", 0.001)
    assert _why(levelled, records + _longer(make_run, 0.0), ALIKE) is None
    assert "verdict changes" in (_why(levelled, records + _longer(make_run, 0.1), ALIKE) or "")


def test_effort_is_the_mean_over_seeds_where_all_are_known(make_run: Any) -> None:
    runs = [make_run("a", 0.0, i, cost={"image_gradients": n}) for i, n in enumerate((10, 30))]
    assert effort(boards_of(runs)[0].rows[0]) == 20
    runs = [make_run("a", 0.0, i, cost={"image_gradients": n}) for i, n in enumerate((10, None))]
    assert effort(boards_of(runs)[0].rows[0]) is None


# 4


def test_both_sides_need_a_search_of_the_same_tasks(make_run: Any) -> None:
    records = _world(make_run)
    message = f"no search of the settings of b for {ENV} at small"
    assert _why(tuning, records, searches=[_search("a")]) == message
    assert _why(tuning, records, searches=[_search("a"), _search("b", env="glyphs-20way-5shot")])
    both = [_search(name, env="omniglot-5way-1shot") for name in "ab"]
    assert _why(tuning, records, searches=both) is None
    both = [_search("a"), _search("b", env="omniglot-5way-1shot")]
    assert "tuned unequally" in (_why(tuning, records, searches=both) or "")


def test_sides_run_with_what_their_search_chose(make_run: Any) -> None:
    records = _side(make_run, "a", 0.0, config={"lr": 0.2}) + _side(make_run, "b", 0.05)
    both = [_search("a", best={"lr": 0.2}), _search("b")]
    assert _why(tuning, records, searches=both) is None
    both = [_search("a", best={"lr": 0.1}), _search("b")]
    assert _why(tuning, records, searches=both) == (
        f"a on {ENV} at small runs with settings that no search chose"
    )


def test_searches_are_of_one_size(make_run: Any) -> None:
    both = [_search("a", 6), _search("b", 4)]
    assert _why(tuning, _world(make_run), searches=both) == (
        f"b and a were tuned unequally for {ENV} at small (4 and 6 configurations)"
    )
    both = [_search("a"), _search("b")._replace(fixed={"image_gradients": "1"})]
    assert "tuned unequally" in (_why(tuning, _world(make_run), searches=both) or "")


def test_lazy_sides_need_both_readings(make_run: Any) -> None:
    records = _readings(make_run, 0.05, 0.05)
    assert _why(tuning, records, CLAIM) is None
    alone = [record for record in records if record.config.get("leap_on") != "phi"]
    message = f"no `lazy_reptile (leap_on=phi)` row on {ENV} at small"
    assert _why(tuning, alone, CLAIM) == message


# 5


def _trap(make_run: Any, trapped: float, **changes: Any) -> list[Any]:
    free, trap = "omniglot-20way-1shot", "omniglot-20way-1shot-noniid"
    return [
        *_side(make_run, "a", 0.0, env__id=free, **changes),
        *_side(make_run, "a", trapped, env__id=trap, **changes),
        *_side(make_run, "b", 0.0, env__id=trap, **changes),
    ]


TRAP = Claim(
    "b isn't trapped",
    "nowhere",
    (Contrast(Side("b"), Side("a"), "above", ("-noniid",), trap="-noniid"),),
)


@pytest.mark.parametrize(("trapped", "met"), [(-0.09, False), (-0.11, True), (0.0, False)])
def test_the_control_fails_where_the_claim_says_so(
    make_run: Any, trapped: float, met: bool
) -> None:
    why = _why(precondition, _trap(make_run, trapped), TRAP)
    assert (why is None) == met
    assert met or "which isn't 10 points more" in (why or "")


def test_the_trap_needs_the_tasks_without_it(make_run: Any) -> None:
    records = [r for r in _trap(make_run, -0.2) if r.env.id.endswith("-noniid")]
    for point in (precondition, control):
        assert _why(point, records, TRAP) == "no `a` row on omniglot-20way-1shot at small"
    assert _why(precondition, _world(make_run)) is None


def test_a_trapped_control_is_competent_on_other_tasks(make_run: Any) -> None:
    paper = [PAPER[0].model_copy(update={"env": "omniglot-20way-1shot"})]
    assert _why(control, _trap(make_run, -0.3), TRAP, reported=paper) is None


# 6


@pytest.mark.parametrize(
    ("count", "message"), [(1, "1 seed a side"), (2, "2 seeds a side"), (3, None)]
)
def test_three_seeds_a_side(make_run: Any, count: int, message: str | None) -> None:
    why = _why(seeds, _world(make_run, count=count))
    assert why is None if message is None else message in (why or "")


def test_each_pair_ran_on_one_processor(make_run: Any) -> None:
    records = _side(make_run, "a", 0.0) + _side(make_run, "b", 0.05, machine__processor="other")
    assert _why(seeds, records) == (
        f"the sides on {ENV} at small ran on different processors (other, x86_64)"
    )


def test_the_first_point_that_fails_is_named(make_run: Any) -> None:
    result, evidence = _first(_world(make_run, count=2), reported=())
    found = first_failure(result, evidence)
    assert found is not None
    assert found.point == 2
    assert first_failure(*_first(_world(make_run, count=2))) == Failure(
        6, f"2 seeds a side on {ENV} at small, at least 3 are needed"
    )
    (claim,) = verdicts([PLAIN], evidence)
    assert claim.text.startswith("not tested at this budget: a has neither a reported number")
    assert claim.text.endswith("(point 2)")


# 7

PLACES = (ENV, "omniglot-5way-1shot", "cifarfs-5way-1shot")


def _everywhere(make_run: Any, *shifts: float, **changes: Any) -> list[Any]:
    return [
        record
        for env, shift in zip(PLACES, shifts, strict=False)
        for record in _world(make_run, shift, env__id=env, **changes)
    ]


CROSSING = Claim(
    "b on features is above a on pixels",
    "nowhere",
    (Contrast(Side("b", features="net"), Side("a"), "above", (ENV,)),),
)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (5, "confirmed"),
        (3, "provisional: confirmed"),
        (1, "not tested at this budget: 1 seed a side on glyphs@net-5way-1shot against"),
    ],
)
def test_a_verdict_across_boards_needs_the_same_points(
    make_run: Any, count: int, message: str
) -> None:
    features = {"env__id": "glyphs@net-5way-1shot", "data__name": "glyphs@net"}
    untrained = {
        "network": {"name": "linear", "parameters": 0, "batch_norm": False},
        "curve": [],
        **features,
    }
    sides = _side(make_run, "a", 0.0, count) + _side(make_run, "b", 0.2, count, **untrained)
    searches = (*SEARCHES, _search("b", env=features["env__id"]))
    records = sides + _baselines(make_run)
    (found,) = verdicts([CROSSING], _evidence(records, searches=searches))
    assert "no `finetune` row on glyphs@net-5way-1shot at small (point 1)" in found.text
    records += _baselines(make_run, **features)
    (found,) = verdicts([CROSSING], _evidence(records, searches=searches))
    assert found.text.startswith(message)


def test_a_control_without_a_parameter_is_the_same_at_any_length(make_run: Any) -> None:
    features = {"env__id": "glyphs@net-5way-1shot", "data__name": "glyphs@net"}
    claim = replace(
        CROSSING, contrasts=(Contrast(Side("a"), Side("b", features="net"), "above", (ENV,)),)
    )
    for parameters, message in ((0, "confirmed"), (9, "neither a reported number")):
        network = {"name": "linear", "parameters": parameters, "batch_norm": False}
        sides = _side(make_run, "a", 0.2) + _side(make_run, "b", 0.1, network=network, **features)
        records = sides + _baselines(make_run) + _baselines(make_run, **features)
        searches = (*SEARCHES, _search("b", env=features["env__id"]))
        (found,) = verdicts([claim], _evidence(records, searches=searches))
        assert message in found.text


@pytest.mark.parametrize(
    ("shifts", "count", "message"),
    [
        ((0.05, 0.06, 0.055), 5, "confirmed"),
        ((0.05, 0.06, 0.055), 4, "provisional: confirmed"),
        ((-0.05, -0.06, -0.055), 5, "refuted"),
        ((0.05, 0.06, -0.055), 5, "mixed"),
        ((0.05, 0.0, 0.0), 5, "undecided"),
        ((0.1, 0.1, -0.006), 5, "mixed"),
        ((0.05,), 5, "confirmed"),
        ((-0.05,), 3, "provisional: refuted"),
        ((0.0,), 5, "undecided"),
    ],
)
def test_the_mean_over_boards_decides_and_contradictions_mix(
    make_run: Any, shifts: tuple[float, ...], count: int, message: str
) -> None:
    (found,) = verdicts([PLAIN], _evidence(_everywhere(make_run, *shifts, count=count)))
    assert found.text == message
    (mean,) = found.means
    assert mean.results == len(shifts)
    assert mean.difference.mean == pytest.approx(100 * np.mean(shifts), abs=0.5)
    assert mean.difference.lo < mean.difference.mean < mean.difference.hi


def test_a_mean_against_its_only_decided_result_is_mixed(make_run: Any) -> None:
    (found,) = verdicts([PLAIN], _evidence(_everywhere(make_run, -0.05, 0.0)))
    (mean,) = found.means
    against = mean._replace(verdict="confirmed")
    assert combine(against, found.checked, undecided=False) == "mixed"
    assert combine(against, found.checked, undecided=True) == "undecided"
    assert combine(mean._replace(verdict="refuted"), found.checked, undecided=False) == "refuted"


def test_results_that_fail_a_point_count_for_nothing(make_run: Any) -> None:
    records = _everywhere(make_run, 0.055, 0.0555, -0.2)
    without = [r for r in records if (r.env.id, r.agent.id) != (PLACES[2], "nearest_pixel")]
    assert verdicts([PLAIN], _evidence(records))[0].text == "mixed"
    (found,) = verdicts([PLAIN], _evidence(without))
    assert (found.word, found.means[0].results) == ("confirmed", 2)
    assert [each.failure and each.failure.point for each in found.checked] == [1, None, None]


@pytest.mark.parametrize(
    ("theta", "phi", "message"),
    [
        (0.05, 0.05, "confirmed"),
        (0.05, -0.05, "mixed"),
        (0.05, 0.0, "undecided"),
        (-0.05, -0.05, "refuted"),
    ],
)
def test_a_verdict_holds_under_both_readings(
    make_run: Any, theta: float, phi: float, message: str
) -> None:
    (found,) = verdicts([CLAIM], _evidence(_readings(make_run, theta, phi)))
    assert found.text == message
    assert [mean.reading for mean in found.means] == ["theta", "phi"]


def test_a_reading_that_fails_a_point_leaves_the_claim_untested(make_run: Any) -> None:
    (found,) = verdicts([CLAIM], _evidence(_readings(make_run, 0.05, -0.35)))
    assert found.word is None
    assert found.failure == Failure(
        1, f"lazy_reptile (leap_on=phi) isn't above finetune on {ENV} at small"
    )


def test_one_correction_covers_the_page(make_run: Any) -> None:
    """A weak result alone is confirmed; among many claims of nothing it isn't."""
    weak = _world(make_run, 0.0065, count=3)
    (alone,) = verdicts([PLAIN], _evidence(weak))
    assert 0.005 < alone.checked[0].result.p < 0.05
    assert alone.word == "confirmed"
    records = weak + _side(make_run, "c", 0.0, 3)
    found = verdicts([PLAIN, *NOTHING], _evidence(records))
    assert found[0].checked[0].result.verdict == "undecided"
    assert found[0].word == "undecided"
    assert verdicts([PLAIN], _evidence(records))[0].word == "confirmed"


NOTHING = [Claim("n", "w", (Contrast(Side("a"), Side("c"), "above", (ENV,)),))] * 20


def test_the_mean_is_corrected_too(make_run: Any) -> None:
    records = _everywhere(make_run, 0.05, 0.06, 0.03) + _side(make_run, "c", 0.0)
    (alone,) = verdicts([PLAIN], _evidence(records))
    assert 0.01 < alone.means[0].p < 0.05
    assert alone.word == "confirmed"
    found = verdicts([PLAIN, *NOTHING], _evidence(records))[0]
    assert {each.result.verdict for each in found.checked} == {"confirmed"}
    assert found.word == "undecided"


def test_alike_is_refuted_only_wholly_outside_the_bounds(make_run: Any) -> None:
    for shift, message in ((0.001, "confirmed"), (0.01, "undecided"), (0.05, "refuted")):
        (found,) = verdicts([ALIKE], _evidence(_world(make_run, shift)))
        assert found.word == message, shift


def test_the_reported_size_is_excluded_only_after_points_1_to_5(make_run: Any) -> None:
    paper = [*PAPER, PAPER[0].model_copy(update={"agent": "b", "value": 70.0})]
    for count in (5, 2):
        (found,) = verdicts([PLAIN], _evidence(_world(make_run, count=count), reported=paper))
        assert found.checked[0].excludes_reported
    lacking = [r for r in _world(make_run) if r.agent.id != "finetune"]
    (found,) = verdicts([PLAIN], _evidence(lacking, reported=paper))
    assert not found.checked[0].excludes_reported
    paper[-1] = paper[-1].model_copy(update={"value": 55.0})
    (found,) = verdicts([PLAIN], _evidence(_world(make_run), reported=paper))
    assert not found.checked[0].excludes_reported


def test_the_largest_budget_with_both_sides_counts(make_run: Any) -> None:
    small = _world(make_run, 0.05)
    medium = _world(make_run, -0.05, budget="medium")
    half = [record for record in medium if record.agent.id == "a"]
    assert verdicts([PLAIN], _evidence(small + half))[0].budget == "small"
    (found,) = verdicts([PLAIN], _evidence(small + _world(make_run, -0.05, budget="medium")))
    assert found.budget == "medium"
    results: list[ContrastResult] = contrast_results(PLAIN, boards_of(small + medium))
    assert {each.budget for each in results} == {"small", "medium"}
    assert {each.budget for each in at_best_budget(results)} == {"medium"}
    assert at_best_budget([]) == []


def test_claims_without_records_or_scores(make_run: Any) -> None:
    other = Claim("memory is flat", "Figure 3", elsewhere="docs/cost.md")
    found = verdicts([PLAIN, other], _evidence([]))
    assert [each.text for each in found] == ["not tested: no records", "see docs/cost.md"]
    assert [each.budget for each in found] == ["", ""]
