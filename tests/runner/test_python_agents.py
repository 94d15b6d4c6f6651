"""What `lazybench.run` and its kind take in Python: classes, instances, and no bad arguments."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lazybench
import lazybench.runner.request
from lazybench import user_code
from lazybench.errors import ContractError, LazybenchError, UsageError
from lazybench.records import Store
from lazybench.registry import AGENTS
from lazybench.runner.request import RunRequest, make, resolve_env
from lazybench.runner.run_dir import read_options
from lazybench.verify import StateSource, score, verify

ENV = "sinusoid-5shot"
SOURCE = """
import torch
from dataclasses import dataclass

class Zeros:
    def __init__(self, value: float = 0.0):
        self.value = value
    def init(self, env, rng):
        return {}
    def policy(self, state):
        return lambda seen, memory=None: (torch.zeros_like(seen["query_y"]) + self.value, memory)
"""


def zeros(folder: Path, text: str = SOURCE, name: str = "Zeros") -> Any:
    """The class of a file in a folder."""
    path = folder / f"{name.lower()}.py"
    path.write_text(text)
    return user_code.load(f"{path}:{name}")


def defined(text: str = SOURCE, **names: Any) -> Any:
    """The class of a text that is no file, as at a prompt."""
    module = types.ModuleType("a_prompt")
    vars(module).update(names)
    exec(compile(text, "<prompt>", "exec"), vars(module))
    return vars(module)["Zeros"]


def play(folder: Path, agent: Any, **more: Any) -> lazybench.Record:
    options = {"budget": "smoke", "out": folder / "store", "runs": folder / "runs", **more}
    return lazybench.run(agent, ENV, **options)


def test_a_class_is_the_run_of_its_file(tmp_path: Path) -> None:
    by_class = play(tmp_path, zeros(tmp_path))
    by_name = play(tmp_path, f"{tmp_path / 'zeros.py'}:Zeros")
    assert by_class.key == by_name.key
    assert by_class.agent.source_sha256 == user_code.source_sha256(tmp_path / "zeros.py")
    assert not by_class.diagnostics
    assert len(lazybench.load_records(out=tmp_path / "store")) == 1


def test_settings_and_attributes_are_part_of_the_key(tmp_path: Path) -> None:
    kind = zeros(tmp_path)
    plain = play(tmp_path, kind)
    by_class = play(tmp_path, kind, settings={"value": 1.0})
    by_instance = play(tmp_path, kind(1.0))
    assert by_class.key == by_instance.key != plain.key
    assert by_instance.config == {"value": 1.0}
    with pytest.raises(UsageError, match="settings go with an agent's id or class"):
        play(tmp_path, kind(), settings={"value": 2.0})


def test_an_instance_is_copied_and_reported_by_plain_attributes(tmp_path: Path) -> None:
    class Counts:
        def __init__(self) -> None:
            self.calls = 0

        def init(self, env: Any, rng: Any) -> Any:
            self.calls += 1
            return {}

        def policy(self, state: Any) -> Any:
            return lambda seen: torch.zeros_like(seen["query_y"])

    mine = Counts()
    made = make(mine, lazybench.runner.request.resolve_env(ENV)[0], "smoke", {})
    made.instance.init(None, None)
    assert mine.calls == 0
    mine.net = torch.nn.Linear(1, 1)
    with pytest.raises(UsageError, match=r"can't be read .* pass its class"):
        play(tmp_path, mine)


def test_a_class_of_no_file_is_marked_and_hashed_by_its_code(tmp_path: Path) -> None:
    first = play(tmp_path, defined())
    assert first.diagnostics["code_not_in_a_file"] is True
    assert play(tmp_path, defined()).key == first.key
    other = play(tmp_path, defined(SOURCE.replace("+ self.value", "- self.value")))
    assert other.key != first.key
    assert play(tmp_path, defined(SOURCE.replace("= 0.0", "= 3.0"))).key != first.key


def test_a_class_that_uses_what_is_around_it_is_refused(tmp_path: Path) -> None:
    def around(value: float) -> Any:
        class Closes:
            def init(self, env: Any, rng: Any) -> Any:
                return {}

            def policy(self, state: Any) -> Any:
                return lambda seen, memory=None: (seen["query_y"] * 0 + value, memory)

        return Closes

    with pytest.raises(UsageError, match="uses the variable 'value' of an enclosing function"):
        play(tmp_path, around(1.0))


def test_a_file_that_changed_since_its_import_is_refused(tmp_path: Path) -> None:
    kind = zeros(tmp_path, f"{SOURCE}\n# of {tmp_path}\n")
    path = tmp_path / "zeros.py"
    path.write_text(f"{SOURCE}\n# a comment\n")
    assert user_code.defining_sha256(kind) == user_code.source_sha256(path)
    path.write_text(SOURCE.replace("+ self.value", "- self.value"))
    with pytest.raises(UsageError, match=r"has changed since it was imported \('Zeros\.policy'"):
        play(tmp_path, kind)


def test_the_package_s_own_classes_go_by_id(tmp_path: Path) -> None:
    kind = user_code.load("lazybench.agents.fewshot.baselines:Chance")
    own = play(tmp_path, kind)
    assert own.key == play(tmp_path, "chance").key
    assert own.agent.source_sha256 is None
    with pytest.raises(UsageError, match=r"is the class of several agents; name one: .*maml"):
        play(tmp_path, user_code.load("lazybench.agents.fewshot.gradient:GradientAgent"))


def test_a_script_s_own_class_runs_and_is_evaluated_again_from_its_file(tmp_path: Path) -> None:
    script = SOURCE + (
        "\nif __name__ == '__main__':\n    import lazybench\n"
        f"    r = lazybench.run(Zeros, '{ENV}', budget='smoke', out='s', runs='r')\n"
        "    print(r.agent.origin, r.agent.source_sha256)\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    sha256 = user_code.source_sha256(tmp_path / "script.py")
    assert done.stdout.split() == ["script.py:Zeros", sha256]


def test_a_class_from_a_file_next_to_a_script_is_named_by_that_file(tmp_path: Path) -> None:
    """No other process could import its module."""
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "script.py").write_text(
        "import lazybench\nfrom mine import Zeros\n"
        f"r = lazybench.run(Zeros(), {ENV!r}, budget='smoke', progress=False)\n"
        "print(r.agent.origin, r.key12)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    origin, key = done.stdout.split()
    assert origin == "mine.py:Zeros"
    again = subprocess.run(
        [sys.executable, "-m", "lazybench", "verify", key, "--quiet"], cwd=tmp_path, check=False
    )
    assert again.returncode == 0


BAD: list[dict[str, Any]] = [
    {"seed": "a"},
    {"seed": -1},
    {"seed": True},
    {"seed": 1.0},
    {"threads": "2"},
    {"threads": 0},
    {"limit": "3"},
    {"limit": True},
    {"settings": "lr=1"},
    {"settings": {1: 2}},
    {"budget": 3},
    {"precision": None},
    {"device": 0},
    {"init": 3},
    {"force": "yes"},
    {"out": 3},
    {"out": "a\0b"},
    {"runs": None},
    {"tracker": "tensorboard"},
    {"agent": 3},
    {"agent": ""},
    {"agent": len},
    {"agent": os},
    {"env": 3},
    {"env": ["a"]},
]


@pytest.mark.parametrize("given", BAD, ids=str)
def test_bad_arguments_of_run_are_refused_before_anything_is_made(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    options = {"agent": "chance", "env": ENV, "budget": "smoke", "out": tmp_path / "s"}
    options |= {"runs": tmp_path / "r"} | given
    with pytest.raises(LazybenchError):
        lazybench.run(options.pop("agent"), options.pop("env"), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["preset", "plan", "describe_network", "resolve_settings"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise KeyError('medium')", "failed: KeyError: 'medium'"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
        ("import json; json.loads('no')", "failed: JSONDecodeError"),
        ("return 3", "must return a .*, got int 3"),
    ],
)
def test_a_method_of_a_user_s_agent_that_fails_is_named_with_its_line(
    tmp_path: Path, method: str, line: str, said: str
) -> None:
    text = f"""
import lazybench
from pydantic import BaseModel

class Settings(BaseModel):
    pass

class Failing(lazybench.Agent):
    families = ("fewshot",)
    Config = Settings

    def __init__(self, config):
        pass

    def plan(self, task):
        return lazybench.Plan(0)

    def init(self, env, rng):
        return {{}}

    def update(self, state, batch, rng):
        return state, {{}}

    def policy(self, state):
        return None

    {"@staticmethod" if method in ("preset", "resolve_settings") else ""}
    def {method}(*given):
        {line}
"""
    (tmp_path / "failing.py").write_text(text)
    place = f"{tmp_path / 'failing.py'}:Failing"
    with pytest.raises(ContractError, match=rf"{method} of agent 'Failing'.* {said}") as caught:
        play(tmp_path, place)
    if "failed" in said:
        number = text.splitlines().index(f"        {line}") + 1
        assert f"failing.py:{number})" in str(caught.value)


def test_a_file_without_a_class_is_no_agent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'mine.py' names no agent; .* mine.py:CLASS"):
        play(tmp_path, "mine.py")


def test_a_file_where_runs_should_be_is_reported_before_the_store_is_made(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("")
    with pytest.raises(LazybenchError, match="r is a file"):
        play(tmp_path, "chance", runs=tmp_path / "r")
    assert [each.name for each in tmp_path.iterdir()] == ["r"]


def test_numpy_s_integers_are_seeds(tmp_path: Path) -> None:
    request = RunRequest("chance", ENV, seed=np.int64(3), limit=np.int32(2))
    assert (request.seed, type(request.seed), request.limit) == (3, int, 2)


def _zeros(seen: Any) -> Any:
    return torch.zeros_like(seen["query_y"])


CALLS: dict[str, Any] = {
    "evaluate name": lambda d: lazybench.evaluate(_zeros, ENV, name=3),
    "evaluate seed": lambda d: lazybench.evaluate(_zeros, ENV, name="m", seed="a"),
    "evaluate seed < 0": lambda d: lazybench.evaluate(_zeros, ENV, name="m", seed=-1),
    "evaluate config": lambda d: lazybench.evaluate(_zeros, ENV, name="m", config="lr=1"),
    "evaluate config value": lambda d: lazybench.evaluate(_zeros, ENV, name="m", config={"f": len}),
    "evaluate limit": lambda d: lazybench.evaluate(_zeros, ENV, name="m", limit="3"),
    "evaluate threads": lambda d: lazybench.evaluate(_zeros, ENV, name="m", threads="2"),
    "evaluate budget": lambda d: lazybench.evaluate(_zeros, ENV, name="m", budget=1),
    "evaluate env": lambda d: lazybench.evaluate(_zeros, 3, name="m"),
    "evaluate out": lambda d: lazybench.evaluate(_zeros, ENV, name="m", out=3),
    "score path": lambda d: score(3, ENV, name="m"),
    "score name": lambda d: score(_answers(d), ENV, name=3),
    "score seed": lambda d: score(_answers(d), ENV, name="m", seed="a"),
    "score config": lambda d: score(_answers(d), ENV, name="m", config="a"),
    "score out": lambda d: score(_answers(d), ENV, name="m", out=3),
    "make_env id": lambda d: lazybench.make_env(None),
    "make_env num_envs": lambda d: lazybench.make_env(ENV, num_envs="2"),
    "make_env num_envs 0": lambda d: lazybench.make_env(ENV, num_envs=0),
    "make_env split": lambda d: lazybench.make_env(ENV, split="dev"),
    "make_env setting": lambda d: lazybench.make_env(ENV, shots="a"),
    "make_env device": lambda d: lazybench.make_env(ENV, backend="torch", device="gpu"),
    "make_agent budget": lambda d: lazybench.make_agent("chance", ENV, budget=["smoke"]),
    "make_agent agent": lambda d: lazybench.make_agent(3, ENV),
    "make_agent setting": lambda d: lazybench.make_agent("maml", ENV, inner_lr="fast"),
    "load_policy run": lambda d: lazybench.load_policy(3, runs=d),
    "load_policy settings": lambda d: lazybench.load_policy("abcdef", settings="a", runs=d),
    "load_policy step": lambda d: lazybench.load_policy("abcdef", step=None, runs=d),
    "load_policy runs": lambda d: lazybench.load_policy("abcdef", runs=3),
    "load_records env": lambda d: lazybench.load_records(3),
    "load_records agent": lambda d: lazybench.load_records(agent=3),
    "load_records out": lambda d: lazybench.load_records(out=3),
    "register_agent": lambda d: lazybench.register_agent("mine"),
    "register_env": lambda d: lazybench.register_env(None),
    "register_data": lambda d: lazybench.register_data({}),
    "check_agent agent": lambda d: _found(lazybench.check_agent(3, ENV)),
    "check_agent env": lambda d: lazybench.check_agent("chance", 3),
    "check_env": lambda d: lazybench.check_env(3),
    "as_dataset env": lambda d: lazybench.as_dataset(3),
    "as_dataset batches": lambda d: lazybench.as_dataset(_train(), batches="3"),
    "as_dataset seed": lambda d: lazybench.as_dataset(_train(), seed="a"),
    "as_torchmeta env": lambda d: lazybench.as_torchmeta(3),
    "as_torchmeta batches": lambda d: lazybench.as_torchmeta(_train(), batches="3"),
    "as_dataset stream": lambda d: lazybench.as_dataset(_stream(), batches="3"),
    "from_torchmeta loader": lambda d: lazybench.from_torchmeta(3),
    "from_torchmeta tasks": lambda d: lazybench.from_torchmeta([], tasks="a"),
}


def _answers(folder: Path) -> Path:
    path = folder / "answers.npy"
    np.save(path, np.zeros((2, 15, 1), np.float32))
    return path


def _train() -> Any:
    return lazybench.make_env(ENV, num_envs=2, split="train")


def _stream() -> Any:
    return lazybench.make_env("glyphs-lt-100", split="train", epochs=1)


def _found(findings: Any) -> None:
    """Raise what a check found, which reports errors without raising them."""
    for finding in findings:
        if not finding.ok:
            raise UsageError(finding.detail)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bad_arguments_in_python_are_a_line(tmp_path: Path, call: Any) -> None:
    with pytest.raises(LazybenchError) as reported:
        call(tmp_path)
    assert "\n" not in str(reported.value)


def test_progress_is_shown_where_somebody_watches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = zeros(tmp_path)
    play(tmp_path, agent)
    assert capsys.readouterr().err == ""
    play(tmp_path, agent, progress=True, force=True)
    assert "test: 0/" in capsys.readouterr().err
    # A terminal, where rich draws the bars.
    monkeypatch.setattr("lazybench.cli.console.on_terminal", lambda stream: True)
    monkeypatch.setenv("TERM", "xterm")
    play(tmp_path, agent, force=True)
    assert "test" in capsys.readouterr().err
    play(tmp_path, agent, progress=False, force=True)
    assert capsys.readouterr().err == ""
    seen: list[str] = []

    class Stages(lazybench.Callback):
        def stage(self, name: str, total: int, done: int = 0) -> None:
            seen.append(name)

    play(tmp_path, agent, watch=Stages(), force=True)
    assert seen == ["test"]
    assert capsys.readouterr().err == ""


def test_wrong_progress_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give either progress=True or watch="):
        play(tmp_path, zeros(tmp_path), progress=True, watch=lazybench.Callback())
    with pytest.raises(UsageError, match="progress must be True or False, got 'yes'"):
        play(tmp_path, zeros(tmp_path), progress="yes")
    assert not (tmp_path / "runs").exists()


def test_notebooks_without_widgets_show_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    from lazybench.cli import progress

    class Shell:
        """What rich looks at to know a notebook."""

    Shell.__name__ = "ZMQInteractiveShell"
    ipython = types.ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr("builtins.get_ipython", Shell, raising=False)
    assert progress.in_notebook()
    assert progress.interactive()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not progress.drawable()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert progress.drawable()


def test_the_file_of_an_instance_repeats_its_run(tmp_path: Path) -> None:
    record = play(tmp_path, zeros(tmp_path)(value=0.25))
    (file,) = (tmp_path / "runs").glob("*/run.toml")
    found = read_options(file)
    assert found.settings == {"value": 0.25}
    again = play(tmp_path / "again", found.agent, settings=found.settings)
    assert again.key == record.key
    # A class that no file defines can't be named in one.
    play(tmp_path / "prompt", defined())
    assert not [*(tmp_path / "prompt" / "runs").glob("*/run.toml")]


HOLDS = """
import torch

class Holds:
    def __init__(self, value=0.0, steps=5):
        self.value, self.steps, self.scale = value, steps, 2

    def init(self, env, rng):
        return {}

    def policy(self, state):
        value = self.value * self.scale
        return lambda seen, memory=None: (torch.zeros_like(seen["query_y"]) + value, memory)
"""


def test_an_instance_is_the_run_of_the_arguments_that_make_it(tmp_path: Path) -> None:
    """Its other attributes follow from them: they are no settings, and the run can be verified."""
    kind = zeros(tmp_path, HOLDS, "Holds")
    record = play(tmp_path, kind(value=0.5))
    assert (record.config, record.overrides) == ({"value": 0.5}, {"value": 0.5})
    assert record.key == play(tmp_path, kind, settings={"value": 0.5}).key
    assert play(tmp_path, kind()).key == play(tmp_path, kind).key
    found = verify(
        Store(tmp_path / "store").path(record), source=StateSource(runs=tmp_path / "runs")
    )
    assert all(each.ok is not False for each in found.findings), found.findings
    assert found.trials > 0
    (file,) = (tmp_path / "runs").glob(f"*{record.key12}/run.toml")
    assert read_options(file).settings == {"value": 0.5}


def test_an_instance_with_attributes_of_its_own_is_another_run(tmp_path: Path) -> None:
    kind = zeros(tmp_path, HOLDS, "Holds")
    changed = kind(value=0.5)
    changed.scale = 3
    record = play(tmp_path, changed)
    assert record.config == {"value": 0.5, "steps": 5, "scale": 3}
    assert record.key != play(tmp_path, kind(value=0.5)).key
    with pytest.raises(UsageError, match="has scale=3, which 'Holds' doesn't take as arguments"):
        verify(Store(tmp_path / "store").path(record))
    assert not [*(tmp_path / "runs").glob(f"*{record.key12}/run.toml")]
    with pytest.raises(UsageError, match="aren't those that its class gives it"):
        play(tmp_path / "isolated", changed, isolated=True)
    # Runs of earlier versions have all attributes as settings.
    found = make(kind, resolve_env(ENV)[0], "smoke", record.config | {"scale": 2}, whole=True)
    assert found.config == record.config | {"scale": 2}


def test_a_run_that_failed_warns(tmp_path: Path) -> None:
    """Nothing else on the screen of a script says so."""
    broken = SOURCE.partition("return lambda")[0] + 'raise OSError("no weights")\n'
    with pytest.warns(RuntimeWarning, match=r"has no score: failed: OSError: no weights"):
        record = play(tmp_path, zeros(tmp_path, broken))
    assert (record.status, dict(record.metrics)) == ("failed", {})
    assert f"failed: {record.reason}" in str(record)


def test_a_record_is_printed_without_its_trials(tmp_path: Path) -> None:
    record = play(tmp_path, zeros(tmp_path))
    value = record.metrics["mse"].value
    assert f"\nmse ({record.env.unit})" in str(record)
    assert f"{value:.6g} (" in str(record)
    assert len(str(record)) < 2000
    name = f"{record.agent.id} on {ENV}-v{record.env.version}, smoke, seed 0: ok"
    assert repr(record) == f"<Record {record.key12}: {name}>"


@pytest.mark.parametrize(
    ("given", "config"),
    [
        ({}, {}),
        ({"value": 0}, {"value": 0.0}),
        ({"value": "0"}, {"value": 0.0}),
        ({"value": 0.0}, {"value": 0.0}),
        ({"value": 2}, {"value": 2.0}),
        ({"value": "2"}, {"value": 2.0}),
        ({"name": "7"}, {"name": "7"}),
        ({"name": "true"}, {"name": "true"}),
        ({"steps": 3.0}, {"steps": 3}),
        ({"steps": "5"}, {"steps": 5}),
        ({"bare": 2}, {"bare": 2.0}),
        ({"bare": 1}, {"bare": 1.0}),
        ({"odd": "3"}, {"odd": 3}),
        ({"odd": 3, "steps": 3.0, "value": 2}, {"odd": 3, "steps": 3, "value": 2.0}),
    ],
)
def test_settings_have_the_types_of_a_plain_class(
    tmp_path: Path, given: dict[str, Any], config: dict[str, Any]
) -> None:
    """One value in three spellings would be three runs, and three rows of a board."""
    text = SOURCE.replace(
        "value: float = 0.0",
        "value: float = 0.0, name: str = 'a', steps: int = 5, bare=1.0, odd: \"Unknown\" = 1"
        if "odd" in given
        else "value: float = 0.0, name: str = 'a', steps: int = 5, bare=1.0",
    )
    found = make(zeros(tmp_path, text), resolve_env(ENV)[0], "smoke", given)
    assert (found.config, found.overrides) == (config, config)
    assert [type(each) for each in found.config.values()] == [type(e) for e in config.values()]


KINDS = """
from pathlib import Path

class Kinds:
    def __init__(self, sizes: tuple[int, ...] = (1,), rates: dict[str, float] = {}, of=Path("x"),
                 folder: Path = Path(".")) -> None:
        assert isinstance(sizes, tuple) and isinstance(rates, dict) and isinstance(folder, Path)
        self.sizes = sizes

    def fit(self, env, budget, rng):
        raise NotImplementedError
"""


def test_tuples_mappings_and_paths_reach_a_plain_class_as_annotated(tmp_path: Path) -> None:
    """The record holds what JSON can hold, and gives the same agent again."""
    path = tmp_path / "kinds.py"
    path.write_text(KINDS)
    given = {"sizes": [2, 3.0], "rates": {"a": 1}, "folder": "here"}
    for _ in range(2):
        found = make(f"{path}:Kinds", resolve_env(ENV)[0], "smoke", given)
        assert found.own.sizes == (2, 3)
        given = found.config
        assert given == {"sizes": [2, 3], "rates": {"a": 1.0}, "folder": "here"}
        assert found.overrides == given
        assert type(given["rates"]["a"]) is float
    with pytest.raises(UsageError, match="bad value for sizes"):
        make(f"{path}:Kinds", resolve_env(ENV)[0], "smoke", {"sizes": ["a"]})


@pytest.mark.parametrize("value", ["abc", "true false", None])
def test_a_setting_of_another_type_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UsageError, match="bad value for value: Input should be a valid number"):
        make(zeros(tmp_path), resolve_env(ENV)[0], "smoke", {"value": value})


def test_a_default_given_to_a_registered_setting_counts(tmp_path: Path) -> None:
    path = tmp_path / "zeros.py"
    path.write_text(SOURCE)
    spec = lazybench.AgentSpec("threes", ("fewshot",), f"{path}:Zeros", {"value": 3.0})
    lazybench.register_agent(spec)
    try:
        assert make("threes", resolve_env(ENV)[0], "smoke", {}).config == {"value": 3.0}
        assert make("threes", resolve_env(ENV)[0], "smoke", {"value": 0}).config == {"value": 0.0}
    finally:
        AGENTS.forget("threes")


MODULES = """
import random
import numpy as np
import torch

def made():
    return torch.nn.Linear(1, 1).weight.item() + np.random.rand() + random.random()

class Fits:
    def fit(self, env, budget, rng):
        level = made()
        return lambda seen, memory=None: (torch.zeros_like(seen["query_y"]) + level, memory)

class Inits:
    def init(self, env, rng):
        return {"level": made()}
    def policy(self, state):
        level = state["level"]
        return lambda seen, memory=None: (torch.zeros_like(seen["query_y"]) + level, memory)
"""


@pytest.mark.parametrize("name", ["Fits", "Inits"])
def test_modules_that_draw_their_weights_globally_are_seeded(tmp_path: Path, name: str) -> None:
    """`torch.nn.Linear` takes no generator; one key must have one result."""
    path = tmp_path / "modules.py"
    path.write_text(MODULES)
    found: dict[tuple[int, int], float] = {}
    for seed, turn in ((0, 0), (0, 1), (1, 0)):
        torch.manual_seed(turn)
        before = torch.get_rng_state()
        folder = tmp_path / f"{seed} {turn}"
        record = play(folder, f"{path}:{name}", seed=seed)
        assert record.status == "ok", record.reason
        found[seed, turn] = record.metrics["mse"].value
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0, 0] == found[0, 1]
    assert found[0, 0] != found[1, 0]
