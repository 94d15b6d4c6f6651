"""What training cost until validation first reached a target."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from lazybench.boards import build, to_csv, to_html, to_json, to_latex, to_markdown
from lazybench.boards.columns import target_text, to_target
from lazybench.boards.rows import ToTarget
from lazybench.registry import ENVS

ENV = {"env__id": "omniglot-5way-1shot"}


def curve(*points: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Validations of `(value, CPU seconds, image-gradients)`; the last may be left out."""
    names = ("val", "train_cpu_s", "image_gradients")
    return [
        {"step": 10 * (i + 1)} | dict(zip(names, point, strict=False))
        for i, point in enumerate(points)
    ]


def rows_of(runs: list[Any]) -> dict[str, Any]:
    (board,) = build(runs)
    return {row.agent: row for row in board.rows}


def test_the_first_validation_at_the_target_counts(make_run: Any) -> None:
    points = curve((0.9, 5, 50), (0.95, 10, 100), (0.94, 15, 150), (0.985, 20, 200))
    row = rows_of([make_run("a", curve=points, **ENV)])["a"]
    assert [(t.target, t.train_cpu_s, t.image_gradients) for t in row.to_target] == [
        (95, 10, 100),
        (98, 20, 200),
    ]
    # A mean over trials may miss the target by the last bits.
    for value, reached in ((0.95 - 1e-15, 1), (0.9499, 0)):
        found = to_target(rows_of([make_run("a", curve=curve((value, 7, 1)), **ENV)])["a"], 95)
        assert found is not None
        assert found.reached == reached


def test_a_run_that_diverged_before_its_first_validation_never_gets_there(make_run: Any) -> None:
    runs = [make_run("a", seed=seed, curve=curve((0.96, 7, 8)), **ENV) for seed in (0, 1)]
    lost = [make_run("a", seed=seed, status="diverged", reason="nan", **ENV) for seed in (2, 3)]
    found = to_target(build(runs + lost[:1])[0].ranked[0], 95)
    assert found is not None
    assert (found.reached, found.seeds, found.train_cpu_s) == (2, 3, 7)
    found = to_target(build(runs + lost)[0].ranked[0], 95)
    assert found is not None
    assert (found.reached, found.seeds, found.train_cpu_s) == (2, 4, None)


def test_the_median_counts_seeds_that_never_get_there(make_run: Any) -> None:
    """Against a brute force over all ways in which seeds reach or miss the target."""
    rng = np.random.default_rng(0)
    for seeds in (1, 2, 3, 4, 5):
        for _ in range(4):
            costs = [
                None if rng.random() < 0.4 else float(rng.integers(1, 90)) for _ in range(seeds)
            ]
            runs = [
                make_run(
                    "a", seed=i, curve=curve((0.5 if cost is None else 0.96, cost or 1, 8)), **ENV
                )
                for i, cost in enumerate(costs)
            ]
            found = to_target(rows_of(runs)["a"], 95)
            assert found is not None
            assert (found.reached, found.seeds) == (seeds - costs.count(None), seeds)
            ordered = np.sort([math.inf if cost is None else cost for cost in costs])
            middle = (ordered[(seeds - 1) // 2] + ordered[seeds // 2]) / 2
            assert found.train_cpu_s == (None if math.isinf(middle) else middle)


def test_better_may_be_lower_and_values_may_be_missing(
    make_run: Any, request: pytest.FixtureRequest
) -> None:
    sinusoid = ENVS.resolve("sinusoid-5shot").spec
    ENVS.register(replace(sinusoid, id="lower-5shot", targets=(0.5,), origin="test"))
    request.addfinalizer(lambda: ENVS.forget("lower-5shot"))
    facts = {"env__id": "lower-5shot", "env__metric": "mse", "env__better": "lower"}
    facts["env__unit"] = "squared amplitude"
    points = curve((None, 1), (math.nan, 2), (0.6, 3), (0.4, 4), (0.3, 5))
    found = to_target(rows_of([make_run("a", curve=points, **facts)])["a"], 0.5)
    assert found is not None
    assert (found.train_cpu_s, found.image_gradients) == (4, None)


def test_rows_without_costs_targets_or_training_of_their_own_show_nothing(make_run: Any) -> None:
    old = [{"step": 10, "val": 0.99}, {"step": 20, "val": 0.99, "train_cpu_s": 3.0}]
    timed = curve((0.99, 5, 50))
    runs = [
        make_run("old", curve=old, **ENV),
        make_run("baseline", curve=[], **ENV),
        make_run("moved", curve=timed, trained_on="glyphs-5way-1shot best 10", **ENV),
    ]
    boards = build(runs)
    assert all(row.to_target is None for row in boards[0].rows)
    texts = [render(boards) for render in (to_markdown, to_csv, to_json, to_latex)]
    texts.append(to_html(boards, runs).partition("<body>")[2].partition("<script")[0])
    assert not any("to_target" in text or "to 95" in text for text in texts)
    for env in ("omniglot-5way-5shot", "nobody-5way-1shot"):
        (board,) = build([make_run("a", curve=timed, env__id=env)])
        assert board.rows[0].to_target is None


def test_each_format_shows_it(make_run: Any) -> None:
    fast = curve((0.96, 10, 100), (0.99, 40, 400))
    runs = [make_run("fast", curve=fast, seed=seed, **ENV) for seed in range(3)]
    runs += [make_run("half", curve=curve((0.5, 9, 90)), **ENV)]
    runs += [make_run("half", curve=curve((0.96, 9, 90)), seed=1, **ENV)]
    runs += [make_run("never", 0.2, curve=curve((0.5, 9)), **ENV)]
    boards = build(runs)
    processor = runs[0].machine.processor
    cell = f"10.0 s, 100 image-gradients, 3 of 3 seeds, {processor}"
    page = to_html(boards, runs)
    for text in (to_markdown(boards), page):
        assert "CPU s and image-gradients to 95 %" in text
        assert cell in text
        assert "-- (1 of 2 seeds)" in text
    block = page.partition('<table class="targets">')[2].partition("</table>")[0]
    places = [block.index(f">{name}<") for name in ("fast", "never", "half")]
    assert all(a < b for a, b in pairwise(places))
    assert "<td>--</td>" in block
    table = {row["agent"]: row for row in csv.DictReader(io.StringIO(to_csv(boards)))}
    names = ("to_95_cpu_s", "to_95_image_gradients", "to_95_seeds", "to_95_processors")
    assert [table["fast"][name] for name in names] == ["10.0", "100.0", "3", processor]
    assert [table["never"][name] for name in names] == ["", "", "0", processor]
    first = json.loads(to_json(boards))["boards"][0]["ranked"][0]
    assert [each["target"] for each in first["to_target"]] == [95, 98]


def test_processors_are_named_without_marks(make_run: Any) -> None:
    timed = {"curve": curve((0.99, 5, 50))} | ENV
    runs = [
        make_run("a", machine__processor="Intel(R) Xeon(R)  Processor", **timed),
        make_run("a", seed=1, machine__processor="AMD EPYC", machine__gpu="a GPU", **timed),
    ]
    found = to_target(rows_of(runs)["a"], 95)
    assert found is not None
    assert found.processors == ("AMD EPYC, a GPU", "Intel Xeon Processor")


def test_the_text_leaves_out_images_that_no_one_counted() -> None:
    assert target_text(ToTarget(95, 12.34, None, 2, 3, ("x",))) == "12.3 s, 2 of 3 seeds, x"
    assert target_text(None) == ""
