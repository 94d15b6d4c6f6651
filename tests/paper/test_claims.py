"""The differences that made-up records have for the paper's claims, and the page of the claims."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_ind

from lazybench.paper.claims import (
    CLAIMS,
    READ_BOTH_WAYS,
    Claim,
    Contrast,
    ContrastResult,
    Side,
    alike_p,
    boards_of,
    decided,
    rows_of,
    training,
)
from lazybench.paper.claims import contrast_results as results_on
from lazybench.paper.claims_page import claims_page, verdicts_note
from lazybench.paper.verdicts import ClaimVerdict, Evidence, verdicts
from lazybench.records import Packed, Reported
from lazybench.stats import Difference, Estimate, Parts, paired_estimate

ENV = "glyphs-5way-1shot"
HELPS = Claim("b is above a", "nowhere", (Contrast(Side("b"), Side("a"), "above", ("-1shot",)),))
ALIKE = Claim("b is like a", "nowhere", (Contrast(Side("b"), Side("a"), "alike", ("-1shot",)),))


def contrast_results(
    claim: Claim, records: list[Any], reported: list[Reported] | None = None
) -> list[ContrastResult]:
    return results_on(claim, boards_of(records), reported or ())


def verdict_on(
    claim: Claim, records: list[Any], reported: list[Reported] | None = None
) -> ClaimVerdict:
    (found,) = verdicts([claim], Evidence(boards_of(records), reported or ()))
    return found


def runs(make_run: Any, shift: float, seeds: int = 3, **changes: Any) -> list[Any]:
    return [
        make_run(agent, by, seed, **changes)
        for agent, by in (("a", 0.0), ("b", shift))
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("claim", "shift", "seeds", "message"),
    [
        (HELPS, 0.1, 3, "confirmed"),
        (HELPS, -0.1, 3, "refuted"),
        (HELPS, 0.1, 2, "undecided"),
        (HELPS, 0.0, 3, "undecided"),
        (ALIKE, 0.1, 3, "refuted"),
        (ALIKE, 0.0, 3, "confirmed"),
    ],
)
def test_verdicts(make_run: Any, claim: Claim, shift: float, seeds: int, message: str) -> None:
    (found,) = contrast_results(claim, runs(make_run, shift, seeds))
    assert found.verdict == message
    assert found.difference.mean == pytest.approx(100 * shift, abs=1)
    assert (found.place, found.budget, found.seeds) == (ENV, "small", seeds)
    assert len(found.keys) == 2 * seeds


def test_where_less_is_better_the_sign_turns(make_run: Any) -> None:
    (found,) = contrast_results(HELPS, runs(make_run, -0.1, env__better="lower"))
    assert found.verdict == "confirmed"
    assert 0 < found.difference.lo < found.difference.mean < found.difference.hi


ENDS = st.floats(-5, 5)


@given(ENDS, ENDS, st.floats(0, 5), st.floats(0, 5), st.sampled_from(["above", "alike"]))
def test_a_wider_interval_says_no_more(
    one: float, other: float, below: float, above: float, expected: Any
) -> None:
    lo, hi = sorted((one, other))
    narrow = decided(expected, Difference((lo + hi) / 2, lo, hi, 0.0))
    wide = decided(expected, Difference((lo + hi) / 2, lo - below, hi + above, 0.0))
    assert wide in (narrow, "undecided")


@pytest.mark.parametrize(
    ("lo", "hi", "message"),
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
    lo: float, hi: float, message: str
) -> None:
    assert decided("alike", Difference((lo + hi) / 2, lo, hi, 0.0)) == message


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
    message = decided("alike", Difference(mean, mean - half, mean + half, 0.0))
    p = alike_p(estimate)
    if abs(p - 0.05) > 1e-6:
        assert (message == "undecided") == (p > 0.05)


def test_the_p_of_alike_is_that_of_two_one_sided_tests() -> None:
    values = np.random.default_rng(0).normal(0.2, 2, 60)
    estimate = paired_estimate(values, np.zeros(60))
    one = ttest_1samp(values, -1, alternative="greater").pvalue
    other = ttest_1samp(values, 1, alternative="less").pvalue
    assert alike_p(estimate) == pytest.approx(2 * max(one, other))


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
    other = runs(make_run, 0.15, env__id="omniglot-5way-5shot", data__name="omniglot")
    assert contrast_results(claim, runs(make_run, 0.05) + other) == [], "gains of two data sets"


CROSSING = Claim(
    "features are above pixels on one data set, below them on another",
    "nowhere",
    (
        Contrast(Side("b", features="net"), Side("a"), "above", ("one-5way-1shot",)),
        Contrast(Side("a"), Side("b", features="net"), "above", ("two-5way-1shot",)),
    ),
)


def on_features(data: str) -> dict[str, Any]:
    return {"env__id": f"{data}@net-5way-1shot", "data__name": f"{data}@net"}


def test_pixels_and_features_are_compared_unpaired(make_run: Any) -> None:
    rng = np.random.default_rng(1)
    pixels, features = rng.normal(0.4, 0.1, 40), rng.normal(0.6, 0.2, 30)
    one = {"env__id": "one-5way-1shot", "data__name": "one"}
    records = [
        make_run("a", scores=pixels, **one),
        make_run("b", scores=features, n=30, **on_features("one")),
        # Neither these features nor this budget are those of the claim.
        make_run("b", 0.3, env__id="one@other-5way-1shot", data__name="one@other"),
        make_run("b", 0.3, budget="medium", **on_features("one")),
        make_run("b", 0.3, **one),
    ]
    (found,) = contrast_results(CROSSING, records)
    oracle = ttest_ind(features, pixels, equal_var=False)
    interval = oracle.confidence_interval(0.95)
    wanted = (features.mean() - pixels.mean(), interval.low, interval.high)
    # Trials are kept as float32.
    assert found.difference[:3] == pytest.approx([100 * each for each in wanted], abs=1e-4)
    assert found.difference.p == pytest.approx(oracle.pvalue, rel=1e-4)
    assert found.place == "one@net-5way-1shot against one-5way-1shot"
    assert found.sides == "b on net features less a"


def test_a_crossing_is_one_claim(make_run: Any) -> None:
    records = [
        record
        for data, shift in (("one", 0.1), ("two", -0.1))
        for seed in range(3)
        for record in (
            make_run("a", 0.0, seed, env__id=f"{data}-5way-1shot", data__name=data),
            make_run("b", shift, seed, **on_features(data)),
        )
    ]
    found = contrast_results(CROSSING, records)
    assert [each.verdict for each in found] == ["confirmed", "confirmed"]
    assert all(each.difference.mean == pytest.approx(10, abs=1) for each in found)
    few = contrast_results(CROSSING, [record for record in records if record.seed < 2])
    assert [each.verdict for each in few] == ["undecided", "undecided"]


def _printed(agent: str, value: float | None, **changes: Any) -> Reported:
    given = {"env": ENV, "metric": "accuracy", "unit": "%", **changes}
    return Reported(source="S", table="T", row="R", agent=agent, value=value, **given)


def test_the_papers_difference_is_next_to_ours_where_it_prints_both(make_run: Any) -> None:
    ours = runs(make_run, 0.1)
    papers = [_printed("a", 60.0), _printed("b", 70.0)]
    (found,) = contrast_results(HELPS, ours, papers)
    assert found.reported == pytest.approx(10)
    assert found.contains_reported
    page = claims_page([verdict_on(HELPS, ours, papers)])
    assert "| +10.00 |" in page
    (found,) = contrast_results(HELPS, ours, [_printed("a", 60.0), _printed("b", 90.0)])
    assert not found.contains_reported
    # Nothing is said of the reported size where points 1 to 5 aren't met.
    page = claims_page([verdict_on(HELPS, ours, [_printed("a", 60.0), _printed("b", 90.0)])])
    assert "| +30.00 |" in page
    assert "(excluded) |" not in page
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


def _page(records: list[Any]) -> str:
    return claims_page(verdicts(CLAIMS, Evidence(boards_of(records))))


def test_the_page_has_every_claim_and_no_number_without_records(make_run: Any) -> None:
    page = _page([])
    assert page.count("\n## ") == len(CLAIMS)
    assert "No records of both" in page
    records = [
        make_run(agent, shift, seed)
        for agent, shift in (("lazy_reptile", 0.1), ("reptile", 0.0))
        for seed in range(3)
    ]
    page = _page(records)
    reason = f"not tested at this budget: no `finetune` row on {ENV} at small (point 1)"
    row = "| 2 | Lazy helps Reptile on five-way tasks | Tables 1, 5 and 6 | small |"
    assert f"{row} {reason} |" in page
    assert "| 3 | as claimed | 1: no `finetune` row on" in page
    assert records[0].key12 in page


def test_mixed_processors_are_marked_on_the_page(make_run: Any) -> None:
    records = runs(make_run, 0.1)
    assert "mixed processors" not in claims_page([verdict_on(HELPS, records)]).partition("\n## ")[2]
    records = [*records[:-1], make_run("b", 0.1, 2, machine__processor="other")]
    assert "| 3 (mixed processors) |" in claims_page([verdict_on(HELPS, records)])


def test_the_note_counts_verdicts(make_run: Any) -> None:
    assert "none has a verdict; 12 are not tested" in " ".join(
        verdicts_note(verdicts(CLAIMS, Evidence([]))).split()
    )
    found = verdict_on(HELPS, runs(make_run, 0.1))
    note = " ".join(verdicts_note([found]).split())
    assert "Of the 1 claims that scores answer, none has a verdict; 1 is not tested" in note
    assert "`small` for 1." in note
    sound = ClaimVerdict(HELPS, found.checked, (), "confirmed", True, None)
    assert "1 provisional: confirmed." in verdicts_note([sound])


def test_every_lazy_few_shot_contrast_is_measured_under_both_readings() -> None:
    for claim in CLAIMS:
        lazy = [
            each for each in claim.contrasts if {each.left.agent, each.right.agent} & READ_BOTH_WAYS
        ]
        assert {each.reading for each in lazy} in (set(), {"theta", "phi"})
        assert sum(each.reading == "theta" for each in lazy) * 2 == len(lazy)


def test_networks_without_batch_norm_are_no_inductive_side(make_run: Any) -> None:
    network = {"name": "linear", "parameters": 1, "batch_norm": False}
    (board,) = boards_of([make_run("a", network=network)])
    assert len(rows_of(Side("a"), "", board.rows)) == 1
    assert rows_of(Side("a", norm="inductive"), "", board.rows) == []


def test_rows_of_a_reading_are_found_by_config_whatever_the_preset(make_run: Any) -> None:
    def row(reading: str, **overrides: Any) -> Any:
        return make_run("lazy_maml", config={"leap_on": reading, **overrides}, overrides=overrides)

    records = [
        row("theta"),
        row("phi", leap_on="phi", outer_lr=2),
        row("phi", hull=3, leap_on="phi"),
        row("theta", image_gradients=5),
    ]
    (board,) = boards_of(records)
    side = Side("lazy_maml")

    def keys(reading: Any, settings: Any = None) -> set[str]:
        chosen = Side("lazy_maml", settings) if settings else side
        return {g.records[0].key for g in rows_of(chosen, reading, board.rows)}

    assert keys("theta") == {records[0].key, records[3].key}
    assert keys("phi") == {records[1].key}
    assert keys("phi", {"hull": 3}) == {records[2].key}
    lengths = [training(group) for group in rows_of(side, "theta", board.rows)]
    assert sorted(map(len, lengths)) == [0, 1]
