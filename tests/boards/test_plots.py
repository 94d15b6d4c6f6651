from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.boards import build, compare
from lazybench.errors import LazybenchError
from lazybench.records import Trials


def runs_of(make_run: Any) -> list[Any]:
    curve = [{"step": 5, "val": 0.2}, {"step": 10, "val": 0.4}]
    trials = Trials.of([1.0, 0.0], columns={"success_query": [7, 0]})
    more: dict[str, Any] = {"curve": curve, "env__protocol": {"query_budget": 100}}
    return [
        make_run(name, trials=trials, cost={"train_cpu_s": cost}, **more)
        for name, cost in (("$x_{", 0.0), ("_hidden", 3.0), ("🙂 " + "y" * 90, 5.0))
    ]


def test_each_picture_is_drawn_once_and_alike(make_run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    from lazybench.boards.plots import draw

    runs = runs_of(make_run)
    boards = build(runs)
    paths = draw(boards, runs, tmp_path / "one", "svg")
    kinds = ["scores", "learning", "success", "pareto"]
    assert [path.name for path in paths] == [f"glyphs-5way-1shot-v1-small-{k}.svg" for k in kinds]
    again = draw(boards, runs, tmp_path / "two", "svg")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert all(path.read_bytes().startswith(b"<?xml") for path in paths)


def texts(path: Path) -> str:
    """What is in an SVG, which keeps each text in a comment next to its outline."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"), re.DOTALL))


def test_captions_and_the_logarithmic_axis(make_run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    from lazybench.boards.plots import draw

    more: dict[str, Any] = {"curve": [{"step": 5, "val": 0.2}], "track": "LT+dev"}
    costs: dict[str, dict[str, Any]] = {
        "floor": {"train_wall_s": 0.0},
        "near": {"train_cpu_s": 110.0},
        "far": {"train_cpu_s": 390.0},
        "untold": {"train_wall_s": 3.0},
    }
    runs = [make_run(name, cost=cost, **more) for name, cost in costs.items()]
    found = {
        path.stem.rpartition("-")[2]: path for path in draw(build(runs), runs, tmp_path, "svg")
    }
    pareto = texts(found["pareto"]).splitlines()
    assert "training, CPU seconds (logarithmic)" in pareto
    assert {"none", "150", "200", "300"} <= set(pareto)
    assert "0" not in pareto
    assert "Left out, since their records don't have it: untold." in pareto
    assert "Track LT+dev: training may have used" in texts(found["learning"])


def test_png_and_only_what_there_is_to_show(make_run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    from lazybench.boards.plots import draw

    runs = [make_run("a", cost={})]
    (path,) = draw(build(runs), runs, tmp_path, "png")
    assert path.name.endswith("-scores.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_says_what_to_install(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lazybench.boards.plots import draw

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    runs = [make_run("a")]
    with pytest.raises(LazybenchError, match=r"pip install 'lazybench\[plots\]'"):
        draw(build(runs), runs, tmp_path, "png")


def test_trials_at_one_place_are_counted(make_run: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    from lazybench.boards.plots import compare_picture

    hits = {"a": [1.0] * 37 + [0.0] * 3, "b": [1.0] * 31 + [0.0] * 9}
    runs = [make_run(name, scores=np.array(scores)) for name, scores in hits.items()]
    path = tmp_path / "hits.svg"
    path.write_bytes(compare_picture(compare(runs, "a", "b"), "svg"))
    shown = texts(path).splitlines()
    # Both hit, a alone, neither; a corner without a trial is reported as well.
    assert {"31", "6", "3"} <= set(shown)
    assert shown.count("0") == 3
    runs = [make_run("a", 0.1), make_run("b")]
    path.write_bytes(compare_picture(compare(runs, "a", "b"), "svg"))
    assert "1" not in texts(path).splitlines()


def test_long_tails_are_compared_from_head_to_tail(make_run: Any) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    from lazybench.boards.plots import compare_picture

    rng = np.random.default_rng(0)
    env = {"env__id": "cifar10-lt-100", "env__family": "longtail"}
    hits = {name: rng.integers(0, 2, (3, 10_000)).astype(float) for name in ("a", "b")}
    runs = [
        make_run(name, seed=seed, scores=scores[seed], **env)
        for name, scores in hits.items()
        for seed in range(3)
    ]
    found = compare(runs, "a", "b")
    assert found.left.by_class is not None
    # Test images lie class after class, 1,000 of each.
    expected = [100 * hits["a"][:, 1000 * k : 1000 * (k + 1)].mean() for k in range(10)]
    assert found.left.by_class.tolist() == pytest.approx(expected)
    assert compare_picture(found, "png").startswith(b"\x89PNG")
    assert "from most to fewest" in compare_picture(found, "svg").decode()
    few = compare([make_run("a", 0.1), make_run("b")], "a", "b")
    assert few.left.by_class is None
