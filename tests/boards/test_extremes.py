"""Records with numbers at the ends of the floats: every format shows them or leaves them out."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.boards import build, compare, to_csv, to_html, to_json, to_latex, to_markdown
from lazybench.boards.group import bounded
from lazybench.boards.pivot import Choice, Wanted, pivot, pivot_csv, pivot_latex, pivot_markdown
from lazybench.boards.plot_data import gamma_text
from lazybench.boards.render import board_text
from lazybench.records import Packed, Record, Trials

EXTREMES = [1e308, -1e308, 5e-324, math.nan, math.inf, 3e38, 10**400]
COSTS = ("peak_memory_bytes", "outer_steps", "image_gradients", "queries")


def runs_of(make_run: Any, value: Any, unit: str) -> list[Record]:
    """Runs with the value at each place where a record holds a number."""
    # A real number of so many digits is refused by the record itself.
    number = 1e308 if value == 10**400 else value
    real = {"value": number, "ci95": (number, number), "n": 40, "unit": unit, "better": "higher"}
    both = {"accuracy": real, "nll": real}
    scores = np.linspace(0.1, 0.9, 40)
    with np.errstate(all="ignore"):
        scores[3] = number
        single = Packed.of(scores, "<f4")
    asked = {"success_query": Packed.of(scores, "<f8")}
    first = Trials(scores=Packed.of(np.ones(40)), columns=asked)
    count = abs(value) if isinstance(value, int) else 10**18
    places: dict[str, Any] = {
        "metric": {"metrics": both},
        "alone": {"metrics": both, "trials": Trials()},
        "double": {"trials": Trials(scores=Packed.of(scores, "<f8"))},
        "single": {"trials": Trials(scores=single)},
        "curve": {"curve": [{"step": 1, "val": value}, {"step": value, "val": 0.5}]},
        "cost": {"cost": {"gradient_equivalents": number, **dict.fromkeys(COSTS, count)}},
        "both": {"cost": dict.fromkeys(COSTS, count), "curve": [{"step": 1, "val": 0.5}]},
        "wins": {"trials": first, "env__protocol": {"trials": 40, "query_budget": value}},
        "tuned": {"tuning": {"trials": count, "cpu_s": abs(number), "image_gradients": count}},
        "network": {"network": {"name": "x", "parameters": count}},
        "gamma": {"diagnostics": {"gamma_histogram": {"1": value, "2": 1}}},
        "edge": {"diagnostics": {"gamma_histogram": {"1": 1}, "gamma_edge_share": value}},
    }
    return [
        make_run(name, seed=seed, **{"env__unit": unit, **changes})
        for name, changes in places.items()
        for seed in range(3)
    ]


@pytest.mark.parametrize("unit", ["fraction", "L2"])
@pytest.mark.parametrize("value", EXTREMES, ids=[f"{value!r:.6}" for value in EXTREMES])
def test_no_format_breaks(make_run: Any, value: Any, unit: str) -> None:
    runs = runs_of(make_run, value, unit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boards = build(runs)
        text = to_markdown(boards) + to_latex(boards) + "".join(map(board_text, boards))
        header, *rows = csv.reader(io.StringIO(to_csv(boards)))
        found = json.loads(to_json(boards))["boards"]
        page = to_html(boards, runs)
        wanted = [Wanted(run.agent.id, (run.agent.id,)) for run in runs[::3]]
        for metric in (None, "nll") if abs(value) < math.inf else (None,):
            choice = Choice(metric=metric)
            small = [run for run in runs if run.agent.id != "wins"]
            table = pivot(small, wanted, ["glyphs-5way-1shot"], choice)
            for render in (pivot_markdown, pivot_latex, pivot_csv):
                text += render(table, command="x")
        compare(small, "curve", "cost")
        text += "".join(gamma_text(run.diagnostics) for run in runs)
    assert sum(len(board[block]) for board in found for block in ("ranked", "failed")) >= 12
    place = header.index("score")
    assert all(math.isfinite(float(row[place])) for row in rows if row[place])
    # Hundreds of digits make no column.
    rows_of = [line for line in text.splitlines() if line.startswith("|") and "--" not in line]
    assert not any(re.search(r"\d[\d,]{60}", line) for line in rows_of)
    data = page.split('id="data">')[1].split("</script>")[0]
    assert "NaN" not in data
    assert "Infinity" not in data
    assert "nan%" not in page


def test_no_picture_breaks(make_run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    from lazybench.boards.plots import draw, record_picture

    shown = ("metric", "curve", "cost", "both")
    runs = [run for run in runs_of(make_run, 1e308, "fraction")[::3] if run.agent.id in shown]
    assert draw(build(runs), runs, tmp_path, "svg")
    for run in runs:
        if run.agent.id == "curve":
            assert record_picture(run).startswith(b"\x89PNG")


def test_values_stay_what_they_are_within_the_floats() -> None:
    assert [bounded(x) for x in (1, -2.5, 1e308)] == [1.0, -2.5, 1e308]
    assert bounded(10**400) == bounded(math.inf) == 1.7976931348623157e308
    assert bounded(-(10**400)) == -1.7976931348623157e308
    assert math.isnan(bounded(math.nan))
