"""Trackers hear of a run; what they do wrong is told once and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lazybench
from lazybench.errors import UsageError
from lazybench.runner.callbacks import make_tracker

PLAYERS = Path(__file__).with_name("players.py")
AGENT = f"{PLAYERS}:Learner"

TO_A_FILE = """
import json, pathlib
class ToAFile:
    def __init__(self, broken=""):
        self.broken = broken
    def _write(self, *what):
        if what[0] == self.broken:
            raise RuntimeError("no more space")
        with pathlib.Path("heard.jsonl").open("a") as file:
            file.write(json.dumps(what) + "\\n")
    def begin(self, run): self._write("begin", run)
    def log(self, step, values): self._write("log", step, values)
    def evaluated(self, step, split, values): self._write("evaluated", step, split, values)
    def end(self, status): self._write("end", status)
class Half:
    def begin(self, run): ...
    log = evaluated = begin
def raises(): raise KeyError("no server")
"""


class Notes:
    """A watch that keeps its arguments."""

    def __init__(self):
        self.kept = []

    def note(self, text):
        self.kept.append(text)

    def stage(self, name, total, done=0): ...
    def advance(self, amount, values): ...
    def finished(self): ...


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TO_A_FILE)
    return tmp_path


def received():
    return [json.loads(line) for line in Path("heard.jsonl").read_text().splitlines()]


def run(tracker=None, agent=AGENT, **options):
    reported = {} if tracker is None else {"tracker": tracker}
    return lazybench.run(agent, "sinusoid-5shot", budget="smoke", **reported, **options)


def test_a_tracker_receives_all_that_happens():
    record = run(make_tracker("mine.py:ToAFile", Path("runs")))
    reported = received()
    kind, begun = reported[0]
    assert kind == "begin"
    assert begun == {
        "agent": "Learner",
        "env": "sinusoid-5shot",
        "budget": "smoke",
        "seed": 0,
        "config": {},
        "key": record.key,
        "folder": begun["folder"],
        "step": 0,
    }
    assert Path(begun["folder"], "config.json").is_file()
    assert [each[1] for each in reported if each[0] == "log"] == [1, 2, 3, 4, 5, 6]
    assert reported[1][2] == {"loss": 1.0}
    evaluated = [each[1:] for each in reported if each[0] == "evaluated"]
    assert [(step, split) for step, split, _ in evaluated] == [
        (2, "val"),
        (4, "val"),
        (6, "val"),
        (record.checkpoint.step, "test"),
    ]
    assert evaluated[-1][2] == {"mse": record.metrics["mse"].value}
    assert reported[-1] == ["end", "ok"]
    # A run that is done begins no more.
    run(make_tracker("mine.py:ToAFile", Path("runs")))
    assert received() == reported


@pytest.mark.parametrize("method", ["begin", "log", "evaluated", "end"])
def test_a_failing_tracker_is_reported_once_and_disabled(method):
    plain = run(out="plain", runs="plain-runs")
    notes = Notes()
    broken = make_tracker("mine.py:ToAFile", Path("runs"))
    broken.broken = method
    tracked = run(broken, watch=notes)
    reported = [note for note in notes.kept if "tracker" in note]
    assert reported == [
        "the tracker failed and is now disabled (RuntimeError: no more space); the run "
        "continues, and its record isn't affected"
    ]
    assert tracked.comparable() == plain.comparable()


def test_an_unhappy_end_is_received_too():
    run(make_tracker("mine.py:ToAFile", Path("runs")), agent=f"{PLAYERS}:Diverges")
    assert received()[-1] == ["end", "diverged"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tensorbord", "--track takes tensorboard, tensorboard:DIR, module:factory"),
        ("mine.py:Nothing", "'mine.py' has no 'Nothing'"),
        ("mine.py:Half", "mine.py:Half() gives lacks end"),
        ("mine.py:raises", "mine.py:raises() failed: KeyError: 'no server'"),
    ],
)
def test_what_is_no_tracker_is_refused_before_anything_is_trained(text, words):
    with pytest.raises(UsageError) as caught:
        make_tracker(text, Path("runs"))
    assert words in str(caught.value)


def test_without_tensorboard_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"install it with: pip install 'lazybench\[track\]'"):
        make_tracker("tensorboard", Path("runs"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = run(make_tracker("tensorboard", Path("runs")))
    (place,) = (folder / "runs" / "tensorboard").iterdir()
    assert record.key[:12] in place.name
    events = EventAccumulator(str(place)).Reload()
    losses = events.Scalars("train/loss")
    assert [each.step for each in losses] == [1, 2, 3, 4, 5, 6]
    assert losses[1].value == pytest.approx(0.5)
    assert [each.step for each in events.Scalars("val/mse")] == [2, 4, 6]
    (test,) = events.Scalars("test/mse")
    assert test.value == pytest.approx(record.metrics["mse"].value)
