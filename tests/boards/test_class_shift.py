"""Long tails under other test distributions, against test sets that are drawn again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.boards import build
from lazybench.boards.charts import shift_chart
from lazybench.boards.class_shift import (
    DISTRIBUTIONS,
    RATIOS,
    class_shares,
    harmonic_recall,
    shifted,
)
from lazybench.boards.columns import columns_of, csv_columns
from lazybench.boards.plot_data import plot_data
from lazybench.boards.render import to_csv, to_json

CLASSES, EACH = 60, 30
"""Of the glyphs' test set."""


def answers(seed: int = 0) -> np.ndarray[Any, Any]:
    """Which test images are right: of class c about a share that falls from .9 to .1."""
    chance = np.repeat(np.linspace(0.9, 0.1, CLASSES), EACH)
    return (np.random.default_rng(seed).random(CLASSES * EACH) < chance).astype(np.float32)


def runs_of(make_run: Any, **changes: Any) -> list[Any]:
    env = {"env__id": "glyphs-lt-100", "env__family": "longtail"}
    return [
        make_run("a", seed=s, scores=answers(s), n=CLASSES * EACH, **env, **changes) for s in (0, 1)
    ]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_accuracy_is_that_of_resampled_test_sets(way: str, ratio: int) -> None:
    """Against test images drawn one by one, classes in geometric proportion."""
    right, draws = answers(), 40_000
    counts = (
        np.geomspace(ratio, 1, CLASSES) if way == "forward" else np.geomspace(1, ratio, CLASSES)
    )
    rng = np.random.default_rng([ratio, len(way)])
    drawn = rng.choice(len(right), draws, p=np.repeat(counts, EACH) / counts.sum() / EACH)
    expected = shifted(right.reshape(CLASSES, EACH).mean(1))[f"{way}_{ratio}"]
    assert abs(right[drawn].mean() - expected) < 4 * 0.5 / draws**0.5


def test_whole_counts_give_the_accuracy_of_repeated_images() -> None:
    """Ratio 4 over three classes is 4, 2 and 1 copies of each image, without any rounding."""
    right = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]], float)
    forward = np.repeat(right, [4, 2, 1], axis=0).mean()
    backward = np.repeat(right, [1, 2, 4], axis=0).mean()
    assert class_shares(4, 3) @ right.mean(1) == pytest.approx(forward)
    assert class_shares(1 / 4, 3) @ right.mean(1) == pytest.approx(backward)
    assert class_shares(50, 1).tolist() == [1.0]


def test_features_that_arent_installed_have_the_columns_of_their_images(make_run: Any) -> None:
    (images,) = build(runs_of(make_run))
    features = {"env__id": "glyphs@absent-lt-100", "data__name": "glyphs@absent"}
    (board,) = build(
        [
            make_run(
                "a", seed=s, scores=answers(s), n=CLASSES * EACH, env__family="longtail", **features
            )
            for s in (0, 1)
        ]
    )
    assert board.rows[0].class_shift is not None
    assert board.rows[0].class_shift == images.rows[0].class_shift
    assert board.rows[0].classes_lo == images.rows[0].classes_lo is not None


def test_the_harmonic_mean_takes_half_an_image_for_none() -> None:
    assert harmonic_recall(np.array([0.5, 0.25]), 8) == pytest.approx(1 / 3)
    assert harmonic_recall(np.array([0.0, 0.5]), 10) == pytest.approx(2 / (20 + 2))


def test_rows_have_the_mean_over_seeds(make_run: Any) -> None:
    (board,) = build(runs_of(make_run))
    (row,) = board.rows
    found = row.class_shift
    assert found is not None
    each = [answers(seed).reshape(CLASSES, EACH).mean(1) for seed in (0, 1)]
    assert found.worst_recall == pytest.approx(100 * np.mean([r.min() for r in each]))
    assert found.accuracy["balanced"] == pytest.approx(row.score)
    weights = np.geomspace(50, 1, CLASSES)
    forward = np.mean([np.average(r, weights=weights) for r in each])
    assert found.accuracy["forward_50"] == pytest.approx(100 * forward)
    assert found.accuracy["forward_50"] > row.score > found.accuracy["backward_50"]
    headings = [column.heading(board) for column in columns_of(board, board.rows)]
    assert {"forward 50 (%)", "backward 50 (%)", "worst class (%)"} <= set(headings)
    keys = {column.key for column in csv_columns(board.rows)}
    assert {name for name, _ in DISTRIBUTIONS} - keys == {"balanced"}
    facts = json.loads(to_json(board))["boards"][0]
    (held,) = [row["class_shift"] for block in ("ranked", "unranked") for row in facts[block]]
    assert held["accuracy"]["backward_10"] == pytest.approx(found.accuracy["backward_10"], 1e-5)


_OTHER = {"value": 0.9, "unit": "fraction", "better": "higher", "n": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"env__id": "glyphs-5way-1shot", "env__family": "fewshot"},
        {"env__id": "imported-lt-100"},
        {"scores": answers()[:90], "n": 90},
        {"scores": answers(), "metrics": {"accuracy": _OTHER}},
    ],
    ids=["few-shot", "unknown classes", "a part of the images", "another score"],
)
def test_other_rows_have_none_and_their_boards_no_columns(
    make_run: Any, changes: dict[str, Any]
) -> None:
    env = {"env__id": "glyphs-lt-100", "env__family": "longtail", "n": CLASSES * EACH}
    runs = [make_run("a", **{"scores": answers(), **env, **changes})]
    (board,) = build(runs)
    assert board.rows[0].class_shift is None
    assert "worst_recall" not in to_csv(board)
    assert "class_shift" not in to_json(board)
    (shown,) = plot_data([board], runs)
    assert shift_chart(shown) is None


def test_the_chart_goes_from_forward_to_backward(make_run: Any) -> None:
    runs = runs_of(make_run)
    (shown,) = plot_data(build(runs), runs)
    chart = shift_chart(shown)
    assert chart is not None
    assert " ".join(text for _, text in chart.x.ticks) == "50 25 10 5 2 1 2 5 10 25 50"
    (mark,) = chart.marks
    places = [x for x, _ in mark.line]
    assert places == sorted(places)
    assert places[5] == 0.5
    # Equal factors are equal distances.
    assert places[8] - places[5] == pytest.approx(places[6] - places[5] + places[7] - places[5])
    accuracy = shown.rows[0].class_shift
    assert accuracy is not None
    assert [y for _, y in mark.line] == pytest.approx(
        [chart.y.at(accuracy.accuracy[name]) for name, _ in DISTRIBUTIONS]
    )
    assert len(mark.band) == len(mark.line)
    assert chart.note.startswith("Line: mean over seeds.")


def test_the_page_and_picture_files_have_the_chart(make_run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    from lazybench.boards.page import to_html
    from lazybench.boards.plots import draw

    runs = runs_of(make_run)
    boards = build(runs)
    assert '"title":"Accuracy against test distribution"' in to_html(boards, runs)
    names = [path.name for path in draw(boards, runs, tmp_path, "svg")]
    assert "glyphs-lt-100-v1-small-shifts.svg" in names
