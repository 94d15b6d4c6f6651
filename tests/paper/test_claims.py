"""What made-up records say of the paper's claims."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from lazybench.paper.claims import (
    CLAIMS,
    NOTE,
    Claim,
    Contrast,
    ContrastResult,
    Side,
    _alike_p,
    _decided,
    claims_page,
    contrast_results,
    corrected,
    intervals_text,
    verdict,
    verdict_text,
)
from lazybench.records import Packed, Reported
from lazybench.stats import Difference, Estimate, Parts, paired_estimate

ENV = "glyphs-5way-1shot"
HELPS = Claim("b is above a", "nowhere", (Contrast(Side("b"), Side("a"), "above", ("-1shot",)),))
ALIKE = Claim("b is like a", "nowhere", (Contrast(Side("b"), Side("a"), "alike", ("-1shot",)),))


def runs(make_run: Any, shift: float, seeds: int = 3, **changes: Any) -> list[Any]:
    return [
        make_run(agent, by, seed, **changes)
        for agent, by in (("a", 0.0), ("b", shift))
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("claim", "shift", "seeds", "told"),
    [
        (HELPS, 0.1, 3, "confirmed"),
        (HELPS, -0.1, 3, "refuted"),
        (HELPS, 0.1, 2, "undecided"),
        (HELPS, 0.0, 3, "undecided"),
        (ALIKE, 0.1, 3, "refuted"),
        (ALIKE, 0.0, 3, "confirmed"),
    ],
)
def test_verdicts(make_run: Any, claim: Claim, shift: float, seeds: int, told: str) -> None:
    (found,) = contrast_results(claim, runs(make_run, shift, seeds))
    assert found.verdict == told
    assert found.difference.mean == pytest.approx(100 * shift, abs=1)
    assert (found.place, found.seeds) == (f"{ENV}, small", seeds)
    assert len(found.keys) == 2 * seeds


def test_where_less_is_better_the_sign_turns(make_run: Any) -> None:
    (found,) = contrast_results(HELPS, runs(make_run, -0.1, env__better="lower"))
    assert found.verdict == "confirmed"
    assert 0 < found.difference.lo < found.difference.mean < found.difference.hi


def test_findings_that_disagree_are_undecided(make_run: Any) -> None:
    records = runs(make_run, 0.1) + runs(make_run, -0.1, env__id="omniglot-5way-1shot")
    found = contrast_results(HELPS, records)
    assert [each.verdict for each in found] == ["confirmed", "refuted"]
    assert verdict(found) == "undecided"
    assert verdict(found[:1]) == "confirmed"
    assert verdict([]) == "undecided"


def _found(p: float, told: str = "confirmed", seeds: int = 3) -> ContrastResult:
    return ContrastResult("b", "a", "there", Difference(1.0, 0.1, 1.9, p), seeds, told, ())  # type: ignore[arg-type]


def test_one_board_of_many_may_be_above_by_chance() -> None:
    others = [_found(0.5, "undecided") for _ in range(3)]
    told = corrected([_found(0.03), *others])
    assert {each.verdict for each in told} == {"undecided"}
    assert verdict_text(told) == "undecided"
    told = corrected([_found(0.005), *others])
    assert verdict(told) == "confirmed"
    assert verdict_text(told) == "confirmed (1 of 4)"
    assert verdict_text(told[:1]) == "confirmed"
    # Two trained models are no finding, and without a p nothing is decided.
    few = [_found(0.9, "undecided", seeds=1), _found(math.nan)]
    assert [each.verdict for each in corrected([_found(0.03), *few])] == [
        *("confirmed", "undecided", "undecided")
    ]


ENDS = st.floats(-5, 5)


@given(ENDS, ENDS, st.floats(0, 5), st.floats(0, 5), st.sampled_from(["above", "alike"]))
def test_a_wider_interval_says_no_more(
    one: float, other: float, below: float, above: float, expected: Any
) -> None:
    lo, hi = sorted((one, other))
    narrow = _decided(expected, Difference((lo + hi) / 2, lo, hi, 0.0))
    wide = _decided(expected, Difference((lo + hi) / 2, lo - below, hi + above, 0.0))
    assert wide in (narrow, "undecided")


@pytest.mark.parametrize(
    ("lo", "hi", "told"),
    [
        (0.05, 0.95, "confirmed"),
        (0.05, 1.05, "undecided"),
        (-0.05, 1.05, "undecided"),
        (-1.0, 1.0, "confirmed"),
        (1.05, 1.95, "refuted"),
        (-1.95, -1.05, "refuted"),
        (0.95, 1.95, "undecided"),
    ],
)
def test_alike_lies_within_the_bounds_and_its_contrary_beyond(
    lo: float, hi: float, told: str
) -> None:
    assert _decided("alike", Difference((lo + hi) / 2, lo, hi, 0.0)) == told


@given(
    st.floats(-3, 3),
    st.floats(1e-3, 4),
    st.floats(1e-3, 4),
    st.integers(2, 9),
    st.integers(9, 400),
)
def test_the_p_of_alike_belongs_to_the_interval(
    mean: float, seeds: float, trials: float, seeds_df: int, trials_df: int
) -> None:
    estimate = Estimate(mean, Parts(seeds**2, seeds_df, trials**2, trials_df))
    half = estimate.parts.half(0.95)
    told = _decided("alike", Difference(mean, mean - half, mean + half, 0.0))
    p = _alike_p(ALIKE.contrasts[0], estimate)
    assert p is not None
    if abs(p - 0.05) > 1e-6:
        assert (told == "undecided") == (p > 0.05)
    assert _alike_p(HELPS.contrasts[0], estimate) is None


def test_the_p_of_alike_is_that_of_two_one_sided_tests() -> None:
    values = np.random.default_rng(0).normal(0.2, 2, 60)
    estimate = paired_estimate(values, np.zeros(60))
    one = ttest_1samp(values, -1, alternative="greater").pvalue
    other = ttest_1samp(values, 1, alternative="less").pvalue
    assert _alike_p(ALIKE.contrasts[0], estimate) == pytest.approx(2 * max(one, other))


SHIFT = 0.002


def test_alike_is_corrected_for_the_number_of_findings(make_run: Any) -> None:
    def told(boards: int) -> list[ContrastResult]:
        records = [
            record
            for i in range(boards)
            for record in runs(make_run, 0.01 if i else SHIFT, env__id=f"glyphs{i}-5way-1shot")
        ]
        return contrast_results(ALIKE, records)

    (alone,) = told(1)
    first, *others = told(9)
    assert first.difference == alone.difference
    assert 0.01 < alone.p < 0.05
    assert alone.verdict == "confirmed"
    assert all(each.p > 0.05 for each in others)
    assert first.verdict == "undecided"


def test_one_alike_contrast_leaves_the_others_corrected(make_run: Any) -> None:
    side = Contrast(Side("c"), Side("a"), "alike", ("-1shot",))
    claim = Claim("both", "nowhere", (*HELPS.contrasts, side))
    found = contrast_results(claim, runs(make_run, 0.1) + [make_run("c", 0.1, s) for s in range(3)])
    assert [each.verdict for each in found] == ["confirmed", "refuted"]
    weak = [_found(0.03), *(_found(0.5, "undecided") for _ in range(3))]
    assert corrected(weak)[0].verdict == "undecided"
    alike = replace(_found(0.0), alike_p=0.04)
    assert [each.verdict for each in corrected([alike, *weak])] == ["undecided"] * 5


def test_no_verdict_stands_at_small_and_refuted_nowhere(make_run: Any) -> None:
    for budget, shift, told, says in (
        ("small", 0.1, "withdrawn", "as claimed"),
        ("small", -0.1, "withdrawn", "against it"),
        ("small", 0.0, "undecided", "undecided"),
        ("paper", 0.1, "confirmed", "as claimed"),
        ("paper", -0.1, "withdrawn", "against it"),
    ):
        found = contrast_results(HELPS, runs(make_run, shift, budget=budget))
        assert (verdict_text(found), intervals_text(found)) == (told, says)
        page = claims_page([(HELPS, found)])
        assert NOTE in page
        assert f"| 1 | b is above a | nowhere | {told} | {says} |" in page
        assert f"| 3 | {says} |" in page
        assert "refuted" not in page.replace(NOTE, "")


def test_what_doesnt_count(make_run: Any) -> None:
    for changes in (
        {"budget": "smoke"},
        {"limited": True},
        {"trained_on": "omniglot-5way-1shot"},
        {"overrides": {"inner_steps": 3}},
        {"env__id": "glyphs-5way-5shot"},
    ):
        assert contrast_results(HELPS, runs(make_run, 0.1, **changes)) == []


def test_a_difference_of_differences(make_run: Any) -> None:
    contrast = Contrast(Side("b"), Side("a"), "above", ("-5way-5shot",), ("-5way-1shot",))
    claim = Claim("more at 5 shots", "nowhere", (contrast,))
    records = runs(make_run, 0.05) + runs(make_run, 0.15, env__id="glyphs-5way-5shot")
    (found,) = contrast_results(claim, records)
    assert found.difference.mean == pytest.approx(10, abs=1)
    assert found.verdict == "confirmed"
    assert 0 < found.difference.p < 0.05
    assert len(found.keys) == 12
    weak = [_found(0.5, "undecided") for _ in range(20)]
    assert corrected([replace(found, difference=found.difference._replace(p=0.04)), *weak])[
        0
    ].verdict == ("undecided")
    other = runs(make_run, 0.15, env__id="omniglot-5way-5shot", data__name="omniglot")
    assert contrast_results(claim, runs(make_run, 0.05) + other) == [], "gains of two data sets"


def _printed(agent: str, value: float | None, **changes: Any) -> Reported:
    given = {"env": ENV, "metric": "accuracy", "unit": "%", **changes}
    return Reported(source="S", table="T", row="R", agent=agent, value=value, **given)


def test_the_papers_difference_stands_beside_ours_where_it_prints_both(make_run: Any) -> None:
    ours = runs(make_run, 0.1)
    papers = [_printed("a", 60.0), _printed("b", 70.0)]
    (found,) = contrast_results(HELPS, ours, papers)
    assert found.reported == pytest.approx(10)
    assert found.contains_reported
    page = claims_page([(HELPS, [found])])
    assert "| +10.00 |" in page
    (found,) = contrast_results(HELPS, ours, [_printed("a", 60.0), _printed("b", 90.0)])
    assert not found.contains_reported
    assert "| +30.00 (out) |" in claims_page([(HELPS, [found])])
    for other in (
        _printed("b", None),
        _printed("b", 70.0, env="omniglot-5way-1shot"),
        _printed("b", 70.0, metric="success"),
        _printed("b", 70.0, settings={"hull": 3}),
        _printed("b", 70.0, batch_norm="inductive"),
    ):
        (found,) = contrast_results(HELPS, ours, [papers[0], other])
        assert found.reported is None


def test_errors_and_queries_that_papers_print_are_better_where_they_are_less(
    make_run: Any,
) -> None:
    papers = [_printed(name, v, metric="top1_error_pct") for name, v in (("a", 60.0), ("b", 57.0))]
    (found,) = contrast_results(HELPS, runs(make_run, 0.1), papers)
    assert found.reported == pytest.approx(3)
    contrast = Contrast(Side("b"), Side("a"), "above", ("-1shot",), column="queries")
    ours = runs(make_run, 0.0)
    asked = {"a": 30.0, "b": 20.0}
    for record in ours:
        record.trials.columns["queries"] = Packed.of(np.full(40, asked[record.agent.id]))
    papers = [
        _printed(name, value, metric="success_queries", unit="queries")
        for name, value in (("a", 749.0), ("b", 566.0))
    ]
    (found,) = contrast_results(Claim("fewer", "nowhere", (contrast,)), ours, papers)
    assert found.difference.mean == pytest.approx(10)
    assert found.reported == pytest.approx(183)


def test_a_printed_difference_of_differences(make_run: Any) -> None:
    contrast = Contrast(Side("b"), Side("a"), "above", ("-5way-5shot",), ("-5way-1shot",))
    records = runs(make_run, 0.05) + runs(make_run, 0.15, env__id="glyphs-5way-5shot")
    papers = [_printed("a", 60.0), _printed("b", 61.0)]
    papers += [_printed(n, v, env="glyphs-5way-5shot") for n, v in (("a", 70.0), ("b", 74.0))]
    (found,) = contrast_results(Claim("more", "nowhere", (contrast,)), records, papers)
    assert found.reported == pytest.approx(3)


def _told(records: list[Any]) -> list[Any]:
    return [(claim, contrast_results(claim, records)) for claim in CLAIMS]


def test_the_page_has_every_claim_and_no_number_without_records(make_run: Any) -> None:
    page = claims_page(_told([]))
    assert page.count("\n## ") == len(CLAIMS)
    assert "No records of both" in page
    records = [
        make_run(agent, shift, seed)
        for agent, shift in (("lazy_reptile", 0.1), ("reptile", 0.0))
        for seed in range(3)
    ]
    told = claims_page(_told(records))
    row = "| 2 | Lazy helps Reptile on five-way tasks | Tables 1, 5 and 6 |"
    assert f"{row} withdrawn | as claimed |" in told
    assert records[0].key12 in told
