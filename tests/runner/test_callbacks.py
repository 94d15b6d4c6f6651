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
        ("tensorbord", "--track takes tensorboard, tensorboard:DIR, wandb, mlflow, aim"),
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


class Calls:
    """A stand-in of a tracking package that keeps its calls, and whose calls give itself."""

    def __init__(self):
        self.kept = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.kept.append((name, args, kwargs))
            return self

        return call

    def __setitem__(self, name, value):
        self.kept.append((name, value))

    def of(self, name):
        return [call[1:] for call in self.kept if call[0] == name]


@pytest.fixture
def service(monkeypatch):
    def install(name):
        calls = Calls()
        monkeypatch.setitem(__import__("sys").modules, name, calls)
        return calls

    return install


def test_wandb_gets_a_run(service):
    calls = service("wandb")
    record = run(make_tracker("wandb:mine", Path("runs")))
    ((_, begun),) = calls.of("init")
    assert (begun["project"], begun["id"], begun["resume"]) == ("mine", record.key[:12], "allow")
    assert begun["config"]["agent"] == "Learner"
    assert calls.of("define_metric")[-1] == (("*",), {"step_metric": "update"})
    logged = [args[0] for args, _ in calls.of("log")]
    losses = [(each["update"], each["train/loss"]) for each in logged if "train/loss" in each]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert losses[1][1] == pytest.approx(0.5)
    assert [each["update"] for each in logged if "val/mse" in each] == [2, 4, 6]
    assert logged[-1]["test/mse"] == record.metrics["mse"].value
    assert calls.of("finish") == [((), {"exit_code": 0})]


def test_mlflow_gets_a_run(service):
    calls = service("mlflow")
    record = run(make_tracker("mlflow", Path("runs")))
    assert calls.of("set_experiment") == [(("lazybench",), {})]
    ((_, begun),) = calls.of("start_run")
    assert begun["tags"] == {"lazybench.key": record.key}
    (((params,), _),) = calls.of("log_params")
    assert params == {"agent": "Learner", "env": "sinusoid-5shot", "budget": "smoke", "seed": 0}
    logged = [(args[0], kwargs["step"]) for args, kwargs in calls.of("log_metrics")]
    assert [step for values, step in logged if "train/loss" in values] == [1, 2, 3, 4, 5, 6]
    assert logged[-1][0] == {"test/mse": record.metrics["mse"].value}
    assert calls.of("end_run") == [(("FINISHED",), {})]


def test_aim_gets_a_run(service):
    calls = service("aim")
    record = run(make_tracker("aim:mine", Path("runs")))
    assert calls.of("Run") == [((), {"experiment": "mine"})]
    ((facts,),) = calls.of("hparams")
    assert facts["key"] == record.key
    tracked = [(args[0], kwargs) for args, kwargs in calls.of("track")]
    trained = [kwargs for _, kwargs in tracked if kwargs["context"] == {"subset": "train"}]
    assert [each["step"] for each in trained if each["name"] == "loss"] == [1, 2, 3, 4, 5, 6]
    value, last = tracked[-1]
    assert (value, last["context"]) == (record.metrics["mse"].value, {"subset": "test"})
    assert calls.of("status") == [("ok",)]
    assert len(calls.of("close")) == 1


@pytest.mark.parametrize(
    ("name", "call", "end"),
    [("wandb", "finish", ((), {"exit_code": 1})), ("mlflow", "end_run", (("FAILED",), {}))],
)
def test_services_hear_of_a_bad_end(service, name, call, end):
    calls = service(name)
    run(make_tracker(name, Path("runs")), agent=f"{PLAYERS}:Diverges")
    assert calls.of(call) == [end]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "aim"])
def test_a_service_that_is_not_installed_is_named(monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UsageError, match=f"needs the package {name} .*pip install {name}"):
        make_tracker(name, Path("runs"))
