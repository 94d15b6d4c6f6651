"""One entry in the table of columns is a column in every format, and only where a row fills it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lazybench import registry
from lazybench.boards import build, compare, group, to_csv, to_html, to_json, to_latex, to_markdown
from lazybench.boards.build import CLASSES_NOTE, NO_CLASSES_NOTE
from lazybench.boards.columns import COLUMNS
from lazybench.boards.plot_data import plot_data
from lazybench.boards.readme_blocks import END, filled
from lazybench.boards.render import board_text
from lazybench.envs.trial_classes import TEST_SPLITS, few_shot_classes
from lazybench.records import Record
from lazybench.runner import provenance

GPU = {"train_wall_s": 3.0, "peak_memory_bytes": 5, "peak_gpu_memory_bytes": 1_234_000_000}


def test_gpu_memory_is_shown_in_every_format(make_run: Any) -> None:
    runs = [make_run("a", 0.5, cost=GPU), make_run("b", 0.4)]
    boards = build(runs)
    (board,) = boards
    assert "GPU memory MB" in to_markdown(boards)
    assert "1,234" in to_markdown(boards)
    assert "GPU memory MB" in to_html(boards, runs)
    assert r"GPU MB" in to_latex(boards).replace(r"\\", " ")
    assert "GPU MB" in board_text(board)
    values = [row["peak_gpu_memory_mb"] for row in csv.DictReader(io.StringIO(to_csv(boards)))]
    assert values == ["1234.0", ""]
    first, second = json.loads(to_json(boards))["boards"][0]["ranked"]
    assert first["peak_gpu_memory_mb"] == 1234
    assert "peak_gpu_memory_mb" not in second
    block = filled(f"<!-- lazybench board: {board.env} small 5 gpu_mb -->\n{END}", boards)
    assert "GPU MB" in block
    assert "1,234" in block
    (shown,) = plot_data(boards, runs)
    assert ("peak_gpu_memory_mb", "peak GPU memory, MB") in shown.costs


def test_boards_without_a_gpu_lack_the_column(make_run: Any) -> None:
    runs = [make_run("a", 0.5), make_run("b", 0.4)]
    boards = build(runs)
    texts = [render(boards) for render in (to_markdown, to_csv, to_json, to_latex)]
    texts += [to_html(boards, runs), board_text(boards[0])]
    assert not any("gpu" in text.lower() for text in texts)


def test_records_without_a_gpu_keep_their_bytes(make_run: Any) -> None:
    old, new = make_run("a", 0.5), make_run("a", 0.5, cost=GPU)
    assert "gpu" not in old.to_json()
    assert Record.from_json(old.to_json()).to_json() == old.to_json()
    assert Record.from_json(new.to_json()).cost.peak_gpu_memory_bytes == 1_234_000_000
    assert old.key == new.key
    assert "gpu" not in json.dumps(new.comparable())


def test_a_gpu_is_named_and_its_memory_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name, value in (
        ("get_device_name", "a GPU"),
        ("max_memory_allocated", 7),
        ("reset_peak_memory_stats", None),
    ):

        def answer(device: str, value: Any = value) -> Any:
            asked.append(device)
            return value

        monkeypatch.setattr(f"torch.cuda.{name}", answer)
    assert provenance.machine().gpu is None
    assert provenance.peak_gpu_memory_bytes("cpu") == 0
    provenance.reset_peak_memory()
    assert not asked
    provenance.reset_peak_memory("cuda:1")
    assert provenance.machine("cuda:1").gpu == "a GPU"
    assert provenance.peak_gpu_memory_bytes("cuda:1") == 7
    assert asked == ["cuda:1"] * 3


def test_every_column_has_a_key_of_its_own_and_help() -> None:
    assert not [key for key, n in Counter(column.key for column in COLUMNS).items() if n > 1]
    assert all(column.help for column in COLUMNS)


def known_classes(make_run: Any, seeds: int = 3) -> list[Any]:
    """Runs of two agents on embedded data, whose trials' classes matter."""
    spec = registry.ENVS.resolve("glyphs-5way-1shot").spec
    fingerprint = next(name for name, n in TEST_SPLITS.items() if n.classes == 425)
    design = few_shot_classes(spec, fingerprint, 200)
    assert design is not None
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 0.2, 425)[design.members].mean(axis=1)
    return [
        make_run(
            agent,
            seed=seed,
            scores=level + effects + rng.normal(0, 0.02, 200),
            env__id=spec.id,
            env__version=spec.version,
            data__fingerprint=fingerprint,
            env__protocol={"trials": 200},
        )
        for agent, level in (("a", 0.6), ("b", 0.5))
        for seed in range(seeds)
    ]


def test_the_interval_over_classes_is_shown_in_every_format(make_run: Any) -> None:
    (board,) = build(known_classes(make_run))
    for row in board.ranked:
        assert row.lo is not None
        assert row.hi is not None
        assert row.classes_lo is not None
        assert row.classes_hi is not None
        assert row.classes_lo < row.lo < row.hi < row.classes_hi
    assert CLASSES_NOTE in board.notes
    first = board.ranked[0]
    assert first.classes_lo is not None
    ends = f"{first.classes_lo:.2f} to {first.classes_hi:.2f}"
    for text in (to_markdown(board), to_latex(board), board_text(board)):
        assert ends in text
    rows = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert float(rows[0]["classes_lo"]) == pytest.approx(first.classes_lo)
    assert json.loads(to_json(board))["boards"][0]["ranked"][0]["classes_hi"] > first.score


def test_boards_of_unknown_classes_lack_the_interval_and_say_so(make_run: Any) -> None:
    (board,) = build([make_run("a", env__id="glyphs-5way-1shot")])
    assert NO_CLASSES_NOTE in board.notes
    assert "classes_lo" not in to_csv(board)
    assert "classes_lo" not in to_json(board)
    (attack,) = build([make_run("a", env__id="mnist-net4-untargeted", env__family="attack")])
    assert NO_CLASSES_NOTE not in attack.notes


def test_classes_are_those_of_the_protocol(make_run: Any) -> None:
    """Another concentration draws other trials, of other classes."""
    spec = registry.ENVS.resolve("glyphs-5way-1shot-dirichlet").spec
    fingerprint = next(name for name, n in TEST_SPLITS.items() if n.classes == 425)

    def run(**protocol: Any) -> Any:
        return make_run(
            "a",
            scores=np.zeros(50),
            env__id=spec.id,
            env__version=spec.version,
            data__fingerprint=fingerprint,
            env__protocol={"trials": 50, **protocol},
        )

    for concentration in (2, 0):
        chosen = replace(spec, kwargs={**spec.kwargs, "concentration": concentration})
        wanted = few_shot_classes(chosen, fingerprint, 50)
        found = group.trial_classes(run(concentration=concentration))
        assert wanted is not None
        assert found is not None
        np.testing.assert_array_equal(found.members, wanted.members)
    assert group.trial_classes(run(concentration="many")) is None


def test_compare_shows_both_intervals(make_run: Any) -> None:
    found = compare(known_classes(make_run), "a", "b")
    assert found.left.over_classes is not None
    assert found.left.over_classes[0] < found.left.summary.lo
    inner, outer = found.over_trials, found.difference
    assert outer.mean == inner.mean
    assert outer.hi - outer.lo > inner.hi - inner.lo


def test_ranks_use_the_interval_over_classes(make_run: Any) -> None:
    """A difference that other trials would confirm and other classes might not."""
    spec = registry.ENVS.resolve("cifarfs-5way-1shot").spec
    fingerprint = next(name for name, n in TEST_SPLITS.items() if n.classes == 20)
    design = few_shot_classes(spec, fingerprint, 200)
    assert design is not None
    rng = np.random.default_rng(1)
    own = rng.normal(0, 0.15, 20)
    own += 0.025 - own[design.members].mean()
    changes = {
        "env__id": spec.id,
        "env__version": spec.version,
        "data__fingerprint": fingerprint,
        "env__protocol": {"trials": 200},
    }
    runs = [
        make_run(agent, seed=seed, scores=0.5 + effect + rng.normal(0, 0.01, 200), **changes)
        for agent, effect in (("a", own[design.members].mean(axis=1)), ("b", np.zeros(200)))
        for seed in range(3)
    ]
    found = compare(runs, "a", "b")
    assert found.over_trials.lo > 0
    assert found.difference.lo < 0
    (board,) = build(runs)
    assert [row.rank for row in board.ranked] == [1, 1]
