"""The cost study: limits, resuming, the meta-gradient's norm, and the page."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """The study's modules, which find each other next to themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import cost
        import cost_cell
        import cost_page

        yield SimpleNamespace(cost=cost, cell=cost_cell, page=cost_page)
    for name in ("cost", "cost_cell", "cost_page"):
        del sys.modules[name]


def done(mib, cpu_s=1.0, norms=(2.0,), extra=20):
    return {
        "outcome": "ok",
        "tensor_bytes": mib * 2**20,
        "peak_bytes": (mib + extra) * 2**20,
        "wall_s": cpu_s,
        "cpu_s": cpu_s,
        "gradient_norms": list(norms),
    }


def code(text):
    return [sys.executable, "-c", text]


def test_too_much_memory_is_a_result(scripts):
    limits = scripts.cost.Limits(200 * 2**20, 60.0, 1, 1.0)
    cell = scripts.cost.watched(code("x = bytearray(b'1') * 10**9; input()"), limits)
    assert cell["outcome"] == "oom"
    assert cell["at_bytes"] > limits.memory_bytes
    assert "oom at 0." in scripts.cost.told(cell)


def test_an_allocation_that_fails_is_out_of_memory(scripts):
    limits = scripts.cost.Limits(2**40, 60.0, 1, 1.0)
    cell = scripts.cost.watched(code('raise RuntimeError("can\'t allocate memory: no")'), limits)
    assert cell["outcome"] == "oom"
    cell = scripts.cost.watched(code("raise ValueError('a mistake')"), limits)
    assert cell["outcome"] == "failed"
    assert cell["error"] == "ValueError: a mistake"


def test_too_much_time_is_a_result(scripts):
    limits = scripts.cost.Limits(2**40, 0.3, 1, 1.0)
    cell = scripts.cost.watched(code("import time; time.sleep(60)"), limits)
    assert cell["outcome"] == "timeout"
    assert 0.3 < cell["at_s"] < 30


def test_finished_cells_are_not_repeated(scripts, tmp_path):
    store, ran = tmp_path / "cost.json", []

    def run(name, known):
        ran.append(name)
        return done(10) if name.endswith("/1") else {"outcome": "failed", "at_bytes": 0, "at_s": 0}

    names = ["28px/maml/1", "28px/maml/2"]
    assert [name for name, _ in scripts.cost.fill(store, names, run)] == names
    assert [cell["outcome"] for _, cell in scripts.cost.fill(store, names, run)] == ["ok", "failed"]
    assert ran == ["28px/maml/1", "28px/maml/2", "28px/maml/2"], "a failed cell is run again"
    held = json.loads(store.read_text("utf-8"))["cells"]
    assert held["28px/maml/1"]["settings"]["inner_steps"] == 1
    list(scripts.cost.fill(store, names[:1], run, stale=lambda cell: cell["outcome"] == "ok"))
    assert ran[-1] == "28px/maml/1"


def test_a_cell_whose_tensors_were_not_counted_is_completed(scripts, tmp_path):
    store = tmp_path / "cost.json"
    half = {name: value for name, value in done(10).items() if name != "tensor_bytes"}
    list(scripts.cost.fill(store, ["28px/maml/1"], lambda name, known: half))

    def complete(name, known):
        assert known["wall_s"] == half["wall_s"]
        return known | {"tensor_bytes": None}

    ((_, cell),) = scripts.cost.fill(store, ["28px/maml/1"], complete)
    assert "nan MiB of tensors" in scripts.cost.told(cell)
    list(scripts.cost.fill(store, ["28px/maml/1"], lambda name, known: pytest.fail("again")))


def test_a_raised_limit_gives_a_cell_another_go(scripts):
    limits, raised = scripts.cost.Limits(1000, 60.0, 1, 1.0), scripts.cost.raised
    for outcome in ("oom", "timeout"):
        cell = {"outcome": outcome, "limit_bytes": 1000, "limit_s": 60.0}
        assert not raised(cell, limits)
        assert raised(cell, limits._replace(memory_bytes=1001)) == (outcome == "oom")
        assert raised(cell, limits._replace(time_s=61.0)) == (outcome == "timeout")
    assert not raised(done(1), limits)


def test_a_cell_is_measured_in_a_separate_process(scripts, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    words = [sys.executable, str(FOLDER / "cost_cell.py"), "28px/fomaml/1", "2", "0"]
    cell = scripts.cost.watched(words, scripts.cost.Limits(2**40, 120.0, 2, 0.0))
    assert cell["outcome"] == "ok"
    assert cell["rounds"] == 2, "one for the memory and one for the time, whatever the limit"
    assert cell["peak_bytes"] > 2**20
    assert cell["cpu_s"] > 0
    assert all(0 < norm < math.inf for norm in cell["gradient_norms"])


def test_live_bytes_are_those_of_the_tensors_at_once(scripts):
    def run():
        first, second = torch.ones(1 << 18), torch.ones(1 << 18)
        both = first + second
        del first
        double = torch.ones(1 << 19)
        del second, both
        return torch.cat([double, double])

    run()
    assert scripts.cell.live_bytes(run) == 6 << 20, "2 MiB with their catenation, 4 MiB"


def test_lazy_tensors_are_as_many_whatever_k(scripts):
    for agent, flat in (("lazy_maml", True), ("fomaml", True), ("maml", False)):
        few, many = (scripts.cell.live_tensors(f"28px/{agent}/{k}")["tensor_bytes"] for k in (2, 4))
        assert (many <= 1.01 * few) == flat, agent


def test_the_norm_is_that_of_the_step_that_sgd_would_take(scripts):
    from lazybench.runner.request import make, resolve_env
    from lazybench.seeding import Rng

    settings = scripts.cell.settings("28px/fomaml/2") | {"backbone": "conv4-32"}
    task, (batch,) = scripts.cell.tasks(scripts.cell.SHAPES["28px"], 1)
    spec, _ = resolve_env("glyphs-20way-1shot")
    env, rng = SimpleNamespace(task=task), Rng(0)
    agent = make("fomaml", spec, "small", settings).instance
    norm = scripts.cell.norm_after(agent, agent.init(env, rng.at("init")), batch, rng.at(0))
    plain = {"outer_rule": "sgd", "outer_lr": 1.0, "anneal": "none", "clip": None}
    agent = make("fomaml", spec, "small", settings | plain).instance
    state = agent.init(env, rng.at("init"))
    after, _ = agent.update(state, batch, rng.at(0))
    theta, moved = state["theta"], after["theta"]
    step = math.sqrt(sum(float((theta[n] - moved[n]).square().sum()) for n in theta))
    assert norm == pytest.approx(step, rel=1e-3)


def test_random_pixels_have_the_shape(scripts):
    shape = scripts.cell.SHAPES["84px"]
    task, batches = scripts.cell.tasks(shape, 2)
    assert [tuple(batch["support_x"].shape) for batch in batches] == [(1, 100, 3, 84, 84)] * 2
    assert tuple(batches[0]["query_x"].shape) == (1, 20, 3, 84, 84)
    assert batches[0]["support_y"][0].bincount().tolist() == [5] * 20
    assert task.support_rows == 100


def test_the_page_reports_what_was_measured(scripts):
    cells = {
        "28px/maml/1": done(60),
        "28px/maml/50": {"outcome": "oom", "at_bytes": 14 * 2**30, "at_s": 9.0},
        "28px/fomaml/1": done(30, 1.0),
        "28px/fomaml/50": done(30, 2.0),
        "28px/lazy_maml/1": done(30, 1.5),
        "28px/lazy_maml/50": done(32, 2.0, (3.0, None, None)),
        "28px/lazy_reptile/1": done(30),
        "28px/lazy_reptile/50": {"outcome": "timeout", "at_bytes": 2**30, "at_s": 900.0},
    }
    text = scripts.page.page(cells, scripts.cell.SHAPES, "cost.png")
    for line in (
        "| Peak of live tensors, MiB | k=1 | k=50 |",
        "| Peak resident size, MiB | k=1 | k=50 |",
        "| maml | 60.0 | oom at 14.0 GiB |",
        "| lazy_maml | 30.0 | 32.0 |",
        "| lazy_maml | 50 | 52 |",
        "| lazy_maml | 2 | inf |",
        "| lazy_reptile | 1.00 | timeout at 900 s |",
        "- lazy_maml: live tensors at k=50 are 1.07 times those at k=1 (within 1.1), the resident "
        "size is 1.04 times.",
        "- lazy_maml against fomaml: 1.00 to 1.07 times the tensors, 1.00 to 1.50 times the time.",
    ):
        assert line in text.splitlines()
    assert "84x84" not in text
    worse = cells | {"28px/lazy_maml/50": done(34)}
    assert any("(NOT within 1.1)" in line for line in scripts.page.checks(worse, "28px"))


def test_the_picture_is_drawn(scripts, tmp_path):
    pytest.importorskip("matplotlib")
    # A norm that isn't finite and a shape without any finished cell leave panels without a line.
    cells = {"28px/maml/1": done(60, norms=(None,)), "28px/lazy_maml/1": done(30, norms=(0.0,))}
    cells["84px/lazy_maml/2"] = {"outcome": "timeout", "at_bytes": 2**30, "at_s": 9.0}
    cells["28px/maml/2"] = {"outcome": "oom", "at_bytes": 14 * 2**30, "at_s": 9.0}
    path = tmp_path / "cost.png"
    scripts.page.draw(cells, scripts.cell.SHAPES, path)
    assert path.read_bytes().startswith(b"\x89PNG")
