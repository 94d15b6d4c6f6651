from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.boards import build, to_csv, to_json, to_latex, to_markdown
from lazybench.boards.build import (
    FEW_SEEDS_NOTE,
    GROUPS_NOTE,
    NO_CLASSES_NOTE,
    SMOKE_NOTE,
    SUPERSEDED,
    TIES_NOTE,
    usual_tables,
)
from lazybench.boards.flags import BELOW_BASELINE, STILL_RISING
from lazybench.boards.group import groups, is_own, preferred
from lazybench.records import Reported, Trials


def test_a_board_is_ranked_by_score_and_pairs_its_trials(make_run: Any) -> None:
    (board,) = build([make_run("worse"), make_run("better", 0.1, cost__queries=12)])
    first, second = board.ranked
    assert (first.agent, first.rank, first.diff) == ("better", 1, None)
    assert (second.agent, second.rank) == ("worse", 2)
    assert second.diff is not None
    assert second.score is not None
    assert first.score is not None
    assert second.diff.mean == pytest.approx(second.score - first.score, abs=1e-9)
    assert second.diff.hi < 0
    # Paired by trial, the interval is far narrower than the rows' own, which overlap.
    assert first.lo is not None
    assert second.hi is not None
    assert second.diff.hi - second.diff.lo < 2
    assert first.lo < second.hi + 5
    assert board.unit == "%"
    assert first.queries == 12
    assert board.notes == (FEW_SEEDS_NOTE, NO_CLASSES_NOTE)


def test_the_spread_over_seeds_is_next_to_the_score_in_every_form(make_run: Any) -> None:
    levels = (0.5, 0.6, 0.8)
    runs = [make_run("a", seed=s, scores=np.full(40, v)) for s, v in enumerate(levels)]
    (board,) = build([*runs, make_run("alone", seed=0)])
    spread = {row.agent: row.seed_std for row in board.ranked}
    assert spread["alone"] is None
    assert spread["a"] == pytest.approx(100 * np.std(levels, ddof=1))
    assert "| std over seeds" in to_markdown(board)
    assert "15.28" in to_markdown(board)
    assert ",seed_std," in to_csv(board)
    assert ",15.2753," in to_csv(board)
    assert r"\shortstack[l]{std over\\seeds}" in to_latex(board)
    assert '"seed_std": 15.2753' in to_json(board)


def test_a_mean_over_equal_scores_shares_the_rank_of_that_score(make_run: Any) -> None:
    """Three times .99 add up to less than 2.97 unless they are added exactly."""
    scores = np.r_[np.ones(99), 0.0]
    runs = [make_run("a", seed=s, scores=scores, n=100) for s in range(3)]
    (board,) = build([*runs, make_run("b", scores=scores, n=100)])
    assert [(row.agent, row.rank, row.score) for row in board.ranked] == [
        ("a", 1, 99.0),
        ("b", 1, 99.0),
    ]


def test_lower_is_better_turns_the_order(make_run: Any) -> None:
    runs = [make_run("more", 0.1, env__better="lower"), make_run("less", env__better="lower")]
    (board,) = build(runs)
    assert [row.agent for row in board.ranked] == ["less", "more"]


def test_the_order_of_records_makes_no_difference(make_run: Any) -> None:
    runs = [make_run(agent, seed=s) for agent in "abc" for s in range(2)]
    runs += [make_run("a", budget="paper"), make_run("b", env__id="other")]
    shuffled = random.Random(0).sample(runs, len(runs))
    assert build(shuffled) == build(runs)


@pytest.mark.parametrize(
    "change",
    [
        {"env__id": "glyphs-5way-5shot"},
        {"env__version": 2},
        {"env__protocol": {"trials": 40, "eps": 3.0}},
        {"data__fingerprint": "cd" * 32},
        {"data__prep": "2"},
        {"budget": "paper"},
    ],
)
def test_what_cannot_be_compared_never_shares_a_board(
    make_run: Any, change: dict[str, Any]
) -> None:
    assert [len(board.ranked) for board in build([make_run("a"), make_run("b", **change)])] == [
        1,
        1,
    ]


def test_limited_and_smoke_runs_are_not_ranked(make_run: Any) -> None:
    limited = make_run("best", 0.3, limited=True, n=10, env__protocol={"trials": 10})
    small, smoke = build([make_run("a"), limited, make_run("a", budget="smoke")])
    assert [row.agent for row in small.ranked] == ["a"]
    assert [(row.agent, row.rank, row.marks) for row in small.unranked] == [
        ("best", None, ("limited",))
    ]
    assert dict(small.protocol) == {"trials": 40}
    assert smoke.ranked == ()
    assert smoke.unranked[0].marks == ("smoke",)
    assert smoke.notes == (SMOKE_NOTE,)


def test_seeds_share_a_row_and_lost_seeds_are_reported(make_run: Any) -> None:
    runs = [make_run("a", seed=seed) for seed in range(2)]
    runs.append(make_run("a", seed=2, status="diverged", reason="loss is NaN\nat step 3"))
    (board,) = build(runs)
    (row,) = board.ranked
    assert row.seeds == (0, 1)
    assert row.marks == ("diverged 1 of 3",)
    assert row.train_wall_s == 10.5
    assert row.peak_memory_mb == pytest.approx(5.000001)
    (lost,) = board.failed
    assert (lost.seeds, lost.rank, lost.score) == ((2,), None, None)
    assert lost.reason == "diverged: loss is NaN at step 3"
    assert lost.marks == ()


def test_configurations_of_one_agent_have_names_of_their_own(make_run: Any) -> None:
    runs = [
        make_run("a"),
        make_run("a", config={"lr": 0.2}, overrides={"lr": 0.2}),
        make_run("a", config={"lr": 0.3}, preset="paper_beta10"),
        make_run("a", config={"lr": 0.4}),
        make_run("b", config={"batch_norm": "inductive"}),
        make_run("b", config={"batch_norm": "transductive"}, overrides={"batch_norm": "x"}),
    ]
    (board,) = build(runs)
    names = {(row.agent.partition(" #")[0], row.batch_norm) for row in board.ranked}
    assert names == {
        ("a (small)", None),
        ("a (lr=0.2, small)", None),
        ("a (paper_beta10)", None),
        ("b", "inductive"),
        ("b", "transductive"),
    }
    assert len({(row.agent, row.batch_norm) for row in board.ranked}) == 6


def test_instances_of_a_users_own_agent_are_named_by_their_settings(make_run: Any) -> None:
    """Attributes of an instance are its settings, not overrides of a preset."""
    own = {"agent__source_sha256": "ab" * 32}
    (board,) = build(
        [
            make_run("Mine", config={"power": 1.0, "same": 3}, **own),
            make_run("Mine", config={"power": 2.0, "same": 3}, **own),
            make_run("Other", config={"power": 1.0}, **own),
            make_run("Other", config={"power": 1.0}, agent__source_sha256="cd" * 32),
        ]
    )
    names = sorted(row.agent for row in board.ranked)
    assert names[:2] == ["Mine (power=1.0)", "Mine (power=2.0)"]
    assert all(name.startswith("Other #") for name in names[2:])


def test_ties_need_three_seeds_a_side(make_run: Any) -> None:
    few = [make_run(agent, seed=seed) for agent in ("a", "bb") for seed in range(2)]
    (board,) = build(few)
    assert [(row.rank, row.ranks) for row in board.ranked] == [(1, None), (2, None)]
    assert board.notes == (FEW_SEEDS_NOTE, NO_CLASSES_NOTE)
    more = [make_run(agent, seed=2) for agent in ("a", "bb")]
    last = [make_run("ccc", -0.2, seed=seed) for seed in range(3)]
    (board,) = build(few + more + last)
    ranks = [(row.rank, row.ranks) for row in board.ranked]
    assert ranks == [(1, (1, 2)), (1, (1, 2)), (3, (3, 3))]
    assert board.notes == (TIES_NOTE, NO_CLASSES_NOTE)
    (board,) = build(few + more + last + [make_run("one", 0.1)])
    message = {row.agent: row.ranks for row in board.ranked}
    assert message == {"a": (1, 2), "bb": (1, 2), "ccc": (3, 3), "one": None}


def test_boards_of_features_are_the_same_where_these_are_not_installed(make_run: Any) -> None:
    features = {"env__id": "glyphs@absent-5way-1shot", "data__name": "glyphs@absent"}
    (board,) = build([make_run("a", **features)])
    assert NO_CLASSES_NOTE in board.notes
    spread = features | {"env__id": "glyphs@absent-5way-1shot-dirichlet"}
    (board,) = build([make_run("a", **spread)])
    assert NO_CLASSES_NOTE in board.notes


def test_a_row_of_few_seeds_between_tied_ones_doesnt_part_them(make_run: Any) -> None:
    firm = [make_run(agent, seed=seed) for agent in ("a", "bb") for seed in range(3)]
    scores = [run.trials.scores_array() for run in firm]
    (between,) = build([make_run("mid", scores=sum(scores) / len(scores)), *firm])
    message = [(row.agent, row.rank, row.ranks) for row in between.ranked]
    assert {agent: rank for agent, rank, _ in message} == {"a": 1, "bb": 1, "mid": 1}
    assert [agent for agent, _, _ in message][1] == "mid"
    assert {ranks for agent, _, ranks in message if agent != "mid"} == {(1, 2)}


def test_marks_say_what_a_reader_must_know(make_run: Any) -> None:
    run = make_run(
        "a",
        code__dirty=True,
        agent__trained_by="external",
        kind="submitted",
        trained_on="omniglot-5way-1shot",
        data__source="subset of the archive",
        untuned=True,
        diagnostics={"under_trained": True, "pruned": False, "steps": 1},
    )
    (board,) = build([run, make_run("b", device="cuda")])
    (row,) = board.transferred
    assert row.rank is None
    marks = ("dirty", "external", "submitted", "data-subset", "trained on omniglot-5way-1shot")
    assert row.marks == (*marks, "cpu", "under-trained")
    assert not row.tuned
    page = (Path(__file__).parents[2] / "docs/boards.md").read_text("utf-8")
    names = {mark.partition(" on ")[0] for mark in row.marks} | {"untuned", SUPERSEDED}
    for name in names | {BELOW_BASELINE, STILL_RISING}:
        assert f"`{name}" in page.partition("### Marks")[2].partition("\n\n- ")[0], name


def test_a_row_trained_elsewhere_leaves_the_names_of_ranked_rows(make_run: Any) -> None:
    moved = [
        make_run("a", 0.1, trained_on=f"{home}-5way-1shot 0123456789ab best (step 9)")
        for home in ("omniglot", "cifarfs")
    ]
    (board,) = build([make_run("a"), *moved])
    assert [row.agent for row in board.ranked] == ["a"]
    assert {row.agent for row in board.transferred} == {
        *("a (trained on omniglot-5way-1shot)", "a (trained on cifarfs-5way-1shot)")
    }


def test_a_score_that_is_no_mean_of_trials_keeps_its_own_interval(make_run: Any) -> None:
    metric = {"value": 0.9, "ci95": (0.8, 1.2), "n": 40, "unit": "fraction", "better": "higher"}
    (board,) = build([make_run("a", metrics={"accuracy": metric}), make_run("b")])
    first, second = board.ranked
    assert (first.score, first.lo, first.hi) == pytest.approx((90, 80, 100))
    assert second.diff is None
    assert build([make_run("a", trials=Trials())])[0].failed[0].reason == "no score"


def test_reported_rows_are_on_their_env_alone(make_run: Any) -> None:
    def paper(env: str) -> Reported:
        return Reported(
            source="S", table="T", row="R", agent=None, env=env, metric="m", value=None, unit="%"
        )

    (board,) = build([make_run("a")], [paper("glyphs-5way-1shot"), paper("omniglot-5way-1shot")])
    assert [row.env for row in board.reported] == ["glyphs-5way-1shot"]
    assert [row.rank for row in board.ranked] == [1]


def network(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "parameters": 100, **more}


def test_networks_of_different_kinds_are_never_ranked_together(make_run: Any) -> None:
    given = network("conv4-32", weights="a file", weights_sha256="ab" * 32)
    runs = [
        make_run("a", 0.1, network=network("conv4-32")),
        make_run("b", network=network("conv4-32")),
        make_run("c", 0.2, network=network("resnet12")),
        make_run("d", network=given),
        make_run("pixels", -0.1),
    ]
    (board,) = build(runs)
    names = [(name, [(r.agent, r.rank) for r in rows]) for name, rows in board.rank_groups]
    assert names == [
        ("resnet12", [("c", 1)]),
        ("conv4-32", [("a", 1), ("b", 2), ("pixels", 3)]),
        ("conv4-32, weights: a file #ababab", [("d", 1)]),
    ]
    best = {row.agent for row in board.ranked if row.diff is None}
    assert best == {"a", "c", "d"}
    assert GROUPS_NOTE in board.notes


def test_files_of_one_name_and_other_content_are_distinguished(make_run: Any) -> None:
    runs = [
        make_run("a", network=network("n.py:net", source_sha256="ab" * 32)),
        make_run("b", network=network("n.py:net", source_sha256="cd" * 32)),
        make_run("c", network=network("mlp", weights="w", weights_sha256="ab" * 32)),
        make_run("d", network=network("mlp", weights="w", weights_sha256="cd" * 32)),
    ]
    (board,) = build(runs)
    assert sorted((name, len(rows)) for name, rows in board.rank_groups) == [
        ("mlp, weights: w #ababab", 1),
        ("mlp, weights: w #cdcdcd", 1),
        ("n.py:net #ababab", 1),
        ("n.py:net #cdcdcd", 1),
    ]


def test_what_has_no_network_is_ranked_with_the_only_kind_there_is(make_run: Any) -> None:
    (board,) = build([make_run("a", 0.1, network=network("conv4-32")), make_run("pixels")])
    assert [(row.agent, row.rank) for row in board.ranked] == [("a", 1), ("pixels", 2)]
    assert [row.backbone for row in board.ranked] == ["conv4-32", None]
    assert GROUPS_NOTE not in board.notes


def test_an_older_version_of_an_agent_gives_way(make_run: Any) -> None:
    (board,) = build([make_run("a", 0.1), make_run("a", agent__version=2), make_run("b", -0.1)])
    assert [(row.agent, row.rank) for row in board.ranked] == [
        ("a", 1),
        ("b", 2),
    ]
    (old,) = board.unranked
    assert (old.agent, old.rank, old.marks) == ("a (version 1)", None, ("superseded",))


@pytest.mark.parametrize(
    "newer",
    [
        {"status": "oom", "reason": "no memory"},
        {"trained_on": "glyphs-20way-5shot best 3"},
        {"limited": True},
    ],
    ids=["without a score", "trained elsewhere", "limited"],
)
def test_what_has_no_rank_supersedes_no_row(make_run: Any, newer: dict[str, Any]) -> None:
    (board,) = build([make_run("a", 0.1), make_run("b"), make_run("a", agent__version=9, **newer)])
    assert [row.rank for row in board.ranked] == [1, 2]
    assert not any("superseded" in row.marks for row in board.rows)


def test_usual_boards_are_of_the_newest_revision_and_without_options(make_run: Any) -> None:
    defended = {"env__id": "mnist-net4-untargeted", "env__family": "attack"}
    records = [
        make_run("old"),
        make_run("new", env__version=2),
        make_run("usual", **defended),
        make_run("hard", **defended, env__protocol={"trials": 40, "defence": "noise:0.02"}),
    ]
    found = [[record.agent.id for record in table] for table in usual_tables(records)]
    assert found == [["new"], ["usual"]]


def test_a_run_on_a_gpu_or_from_other_weights_takes_no_usual_runs_place(make_run: Any) -> None:
    fresh = {"name": "conv4", "parameters": 9, "batch_norm": True, "weights": "fresh"}
    usual = make_run("a", network=fresh)
    for other in (
        {"device": "cuda"},
        {"precision": "bf16"},
        {"world_size": 2},
        {"network": {**fresh, "weights": "w", "weights_sha256": "cd" * 32}},
    ):
        rows = groups([usual, make_run("a", 0.2, **{"network": fresh, **other})])
        assert len(rows) == 2
        for ordered in (rows, rows[::-1]):
            found = preferred(ordered)
            assert found is not None
            assert found.records == (usual,)


def test_only_runs_of_this_packages_agents_from_fresh_weights_are_its_own(make_run: Any) -> None:
    fresh = {"name": "conv4", "parameters": 9, "batch_norm": True, "weights": "fresh"}
    assert is_own(make_run("a"))
    assert is_own(make_run("a", network=fresh))
    for changes in (
        {"agent__origin": "a package of mine"},
        {"agent__trained_by": "external"},
        {"trained_on": "glyphs-20way-5shot best 3"},
        {"network": {**fresh, "weights": "w"}},
    ):
        assert not is_own(make_run("a", **changes)), changes


def test_a_board_says_where_rows_that_are_tested_ran_on_different_processors(make_run: Any) -> None:
    def runs(agent: str, processor: str, seeds: int = 3) -> list[Any]:
        return [make_run(agent, seed=i, machine__processor=processor) for i in range(seeds)]

    def noted(records: list[Any]) -> bool:
        (board,) = build(records)
        return any("different processors (x, y)" in note for note in board.notes)

    assert noted(runs("a", "x") + runs("b", "y"))
    assert not noted(runs("a", "x") + runs("b", "x"))
    assert not noted(runs("a", "x") + runs("b", "y", seeds=2))
