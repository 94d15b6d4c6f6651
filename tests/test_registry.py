"""Registries: three sources, clashes with both origins, broken plug-ins apart, targets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lazybench.errors import DuplicateName, UnknownName, UsageError
from lazybench.plugins import to_stderr
from lazybench.registry import AGENTS, Registry, agent_spec
from lazybench.specs import AgentSpec, EnvSpec
from lazybench.user_code import load, source_sha256

ROOT = Path(__file__).resolve().parents[1]

MakeRegistry = Callable[[], Registry[AgentSpec]]
PlugIn = Callable[..., None]


def spec(name: str, target: str = "somewhere:Thing", origin: str = "somebody") -> AgentSpec:
    return AgentSpec(name, ("fewshot",), target, origin=origin)


@pytest.fixture
def make_registry(tmp_path: Path) -> MakeRegistry:
    """A registry of three agents, whose entry-point group no installed package has."""
    catalogue = tmp_path / "catalogue.py"
    catalogue.write_text(
        "from lazybench.specs import AgentSpec\n"
        "ALL = tuple(AgentSpec(name, ('fewshot',), 'built.in:Agent')"
        " for name in ('reptile', 'maml', 'lazy_maml'))\n"
    )

    def make() -> Registry[AgentSpec]:
        return Registry("agent", AgentSpec, f"{catalogue}:ALL", None, "lazybench.tests.agents")

    return make


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlugIn]:
    """A function that puts a package with one module and entry points on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install(points: str, source: str, name: str = "x-plugin") -> None:
        (site / "lazybench_test_plugin.py").write_text(source)
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lazybench.tests.agents]\n{points}\n")

    yield install
    sys.modules.pop("lazybench_test_plugin", None)


def test_specs_are_sorted_and_found(make_registry: MakeRegistry) -> None:
    registry = make_registry()
    assert [found.id for found in registry.specs()] == ["lazy_maml", "maml", "reptile"]
    resolved = registry.resolve("maml")
    assert (resolved.spec.target, resolved.note) == ("built.in:Agent", "")


def test_an_unknown_name_brings_the_nearest_ones(make_registry: MakeRegistry) -> None:
    message = (
        "unknown agent 'lazy_mam'. Did you mean: lazy_maml? See all with: lazybench list agents"
    )
    with pytest.raises(UnknownName) as caught:
        make_registry().resolve("lazy_mam")
    assert str(caught.value) == message
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownName) as caught:
        make_registry().resolve("zzz")
    assert str(caught.value) == "unknown agent 'zzz'. See all with: lazybench list agents"


@pytest.mark.parametrize(
    ("kind", "listing"), [("environment", "list envs"), ("data set", "data list")]
)
def test_each_kind_names_its_own_listing(
    make_registry: MakeRegistry, kind: str, listing: str
) -> None:
    registry = make_registry()
    registry.kind = kind
    with pytest.raises(
        UnknownName, match=f"unknown {kind} 'zzz'. See all with: lazybench {listing}"
    ):
        registry.resolve("zzz")


def test_a_name_taken_twice_brings_both_origins(make_registry: MakeRegistry) -> None:
    registry = make_registry()
    registry.register(spec("mine", "mine:One", "alice"))
    message = (
        "agent id 'mine' is registered twice: by alice (mine:One) and by bob (mine:Two); rename one"
    )
    with pytest.raises(DuplicateName) as caught:
        registry.register(spec("mine", "mine:Two", "bob"))
    assert str(caught.value) == message
    with pytest.raises(DuplicateName, match=re.escape("by lazybench (built.in:Agent) and by bob")):
        registry.register(spec("maml", "mine:Two", "bob"))
    assert registry.resolve("maml").spec.target == "built.in:Agent"


def test_forget_takes_back_what_was_registered_at_run_time_only(
    make_registry: MakeRegistry,
) -> None:
    registry = make_registry()
    registry.register(spec("mine"))
    registry.forget("mine")
    registry.forget("never_there")
    with pytest.raises(UnknownName):
        registry.resolve("mine")
    registry.forget("maml")
    assert registry.resolve("maml").spec.target == "built.in:Agent"
    registry.register(spec("mine"))
    assert registry.resolve("mine").spec.id == "mine"


def test_a_spec_of_another_kind_is_refused(make_registry: MakeRegistry) -> None:
    with pytest.raises(
        UsageError, match="the agent registry takes entries of type AgentSpec, got EnvSpec; wrap"
    ):
        make_registry().register(EnvSpec("x", "fewshot", "a:b", None, "d"))  # type: ignore[arg-type]


def test_entry_points_give_one_spec_or_many(make_registry: MakeRegistry, plug_in: PlugIn) -> None:
    plug_in(
        "one = lazybench_test_plugin:ONE\nmany = lazybench_test_plugin:MANY",
        "from lazybench.specs import AgentSpec\n"
        "def make(name): return AgentSpec(name, ('fewshot',), 'p:A', origin='x-plugin')\n"
        "ONE = make('p1')\nMANY = [make('p2'), make('p3')]\n",
    )
    registry = make_registry()
    names = [found.id for found in registry.specs()]
    assert names == ["lazy_maml", "maml", "p1", "p2", "p3", "reptile"]
    assert registry.broken == {}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_module_anywhere\n", "ModuleNotFoundError"),
        ("raise RuntimeError('boom')\n", "RuntimeError: boom"),
        ("X = 1\n", "AttributeError"),
        ("BAD = 3\n", "UsageError: the agent registry takes entries of type AgentSpec, got int"),
        (
            "from lazybench.specs import AgentSpec\n"
            "BAD = AgentSpec('maml', ('fewshot',), 'p:A', origin='x-plugin')\n",
            "DuplicateName: agent id 'maml' is registered twice: by lazybench (built.in:Agent) "
            "and by x-plugin (p:A)",
        ),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt: "),
        ("raise GeneratorExit('no')\n", "GeneratorExit: no"),
        ("raise type('Own', (BaseException,), {})('mine')\n", "Own: mine"),
        ("class E(Exception):\n    __str__ = None\nraise E\n", "E: (its message can't be shown)"),
        (
            "import itertools\nBAD = itertools.count()\n",
            "UsageError: an entry point gives at most 10000 specs",
        ),
        (
            "def specs():\n    raise KeyboardInterrupt\n    yield\nBAD = specs()\n",
            "KeyboardInterrupt: ",
        ),
        (
            "from lazybench.specs import AgentSpec\n"
            "BAD = AgentSpec('a', ('fewshot',), 'p:A', about=3)\n",
            "UsageError: about of agent 'a' must be text, got int",
        ),
        (
            "from lazybench.specs import AgentSpec\n"
            "class Own(AgentSpec):\n"
            "    @property\n"
            "    def reference(self): raise KeyboardInterrupt\n"
            "    @reference.setter\n"
            "    def reference(self, value): pass\n"
            "Own.__setattr__ = object.__setattr__\n"
            "BAD = object.__new__(Own)\n"
            "BAD.__dict__.update(vars(AgentSpec('a', ('fewshot',), 'p:A')))\n",
            "KeyboardInterrupt: ",
        ),
        (
            "from lazybench.specs import AgentSpec\nBAD = AgentSpec(3, ('fewshot',), 'p:A')\n",
            "UsageError: an id of the agent registry consists",
        ),
        (
            "from lazybench.specs import AgentSpec\nBAD = AgentSpec('a b', ('fewshot',), 'p:A')\n",
            "UsageError: an id of the agent registry consists",
        ),
        (
            "from lazybench.specs import AgentSpec\nBAD = AgentSpec('a', 'fewshot', 'p:A')\n",
            "UsageError: agent 'a' must be of family fewshot, longtail, attack",
        ),
        (
            "from lazybench.specs import AgentSpec\nBAD = AgentSpec('a', ([],), 'p:A')\n",
            "UsageError: agent 'a' must be of family fewshot, longtail, attack",
        ),
    ],
)
def test_a_broken_plug_in_is_kept_apart(
    make_registry: MakeRegistry, plug_in: PlugIn, source: str, why: str
) -> None:
    plug_in("bad = lazybench_test_plugin:BAD", source)
    registry = make_registry()
    assert [found.id for found in registry.specs()] == ["lazy_maml", "maml", "reptile"]
    assert registry.resolve("maml").spec.target == "built.in:Agent"
    assert list(registry.broken) == ["x-plugin: bad (lazybench_test_plugin:BAD)"]
    assert registry.broken["x-plugin: bad (lazybench_test_plugin:BAD)"].startswith(why)
    listed = re.escape("(broken plug-ins: x-plugin: bad (lazybench_test_")
    with pytest.raises(UnknownName, match=listed):
        registry.resolve("zzz")


def test_a_ctrl_c_while_a_plug_in_is_imported_is_the_users(
    make_registry: MakeRegistry, plug_in: PlugIn
) -> None:
    """A real signal interrupts, also where the plug-in catches it or raises something else."""
    for ending in ("", "    pass\n", "    raise RuntimeError\n"):
        body = "import os, signal\n{0}os.kill(os.getpid(), signal.SIGINT)\n"
        caught = body.format("try:\n    ") + "except BaseException:\n" + ending
        source = caught if ending else body.format("")
        if not ending:
            plug_in("bad = lazybench_test_plugin:BAD", source)
        sys.modules.pop("lazybench_test_plugin", None)
        path = next(Path(each) for each in sys.path if Path(each).name == "site")
        (path / "lazybench_test_plugin.py").write_text(source + "#" * len(ending))
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            make_registry().specs()
        assert signal.getsignal(signal.SIGINT) is before


def test_a_plug_in_cannot_keep_a_handler_of_ctrl_c(
    make_registry: MakeRegistry, plug_in: PlugIn
) -> None:
    plug_in(
        "bad = lazybench_test_plugin:BAD",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n",
    )
    before = signal.getsignal(signal.SIGINT)
    make_registry().specs()
    assert signal.getsignal(signal.SIGINT) is before


def test_damaged_metadata_of_a_package_affects_no_other_package(
    make_registry: MakeRegistry, plug_in: PlugIn, tmp_path: Path
) -> None:
    plug_in("one = lazybench_test_plugin:ONE", SPECS)
    plug_in("one = no_such_module:ONE", SPECS, name="y-plugin")
    (tmp_path / "site" / "y_plugin-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00")
    registry = make_registry()
    assert registry.resolve("same").spec.origin == "x-plugin"
    (why,) = registry.broken.values()
    assert "no_such_module" in why


@pytest.mark.parametrize(
    "source",
    ["raise KeyboardInterrupt", "raise GeneratorExit", "raise type('O', (BaseException,), {})"],
)
def test_a_users_file_that_raises_anything_is_a_usage_error(tmp_path: Path, source: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(UsageError, match="can't import '"):
        load(f"{path}:Mine")
    path.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    with pytest.raises(KeyboardInterrupt):
        load(f"{path}:Mine")


def test_what_threads_print_while_they_import_comes_back_to_stdout(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The block that ends last restores stdout, whichever began first."""
    first, second = to_stderr(), to_stderr()
    before = sys.stdout
    first.__enter__()
    second.__enter__()
    os.write(1, b"quiet")
    print("also quiet")
    first.__exit__(None, None, None)
    os.write(1, b"still quiet")
    second.__exit__(None, None, None)
    assert sys.stdout is before
    os.write(1, b"heard")
    shown = capfd.readouterr()
    assert shown.out == "heard"
    assert shown.err == "quietalso quiet\nstill quiet"


SPECS = """
from lazybench.specs import AgentSpec
print('hello from a plug-in')
ONE = AgentSpec('same', ('fewshot',), 'p:One')
TWO = [AgentSpec('other', ('fewshot',), 'p:Other'), AgentSpec('same', ('fewshot',), 'p:Two')]
"""


def test_one_id_of_two_packages_names_both(
    make_registry: MakeRegistry, plug_in: PlugIn, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in("two = lazybench_test_plugin:TWO", SPECS, name="z-plugin")
    plug_in("one = lazybench_test_plugin:ONE", SPECS, name="a-plugin")
    registry = make_registry()
    # In the order of the packages' names, whatever was installed first; the other ids stay.
    assert registry.resolve("same").spec.target == "p:One"
    assert registry.resolve("other").spec.origin == "z-plugin", "nobody passes for lazybench"
    assert registry.broken == {
        "z-plugin: two (lazybench_test_plugin:TWO) [same]": (
            "DuplicateName: agent id 'same' is registered twice: by a-plugin (p:One) and by "
            "z-plugin (p:Two); rename one"
        )
    }
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "hello from a plug-in\n")


def test_a_package_whose_list_cannot_be_read_affects_no_other_package(
    make_registry: MakeRegistry, plug_in: PlugIn
) -> None:
    plug_in("one = lazybench_test_plugin:ONE", SPECS)
    plug_in("no equals sign", SPECS, name="y-plugin")
    registry = make_registry()
    assert registry.resolve("same").spec.origin == "x-plugin"
    ((where, why),) = registry.broken.items()
    assert "y_plugin-1.0.dist-info" in where
    assert why.startswith("its entry_points.txt can't be read: ")


def test_what_is_registered_at_run_time_does_not_pass_for_the_packages_own(
    make_registry: MakeRegistry,
) -> None:
    registry = make_registry()
    registry.register(AgentSpec("mine", ("fewshot",), "my.module:Mine"))
    assert registry.resolve("mine").spec.origin == "my.module"


BROKEN_AND_SOUND = """
from lazybench.specs import AgentSpec, EnvSpec
print('hello')
AGENT = AgentSpec('plugged', ('fewshot',), 'no.such:Agent')
ENVS = [EnvSpec('plugged-env', 'fewshot', 'no.such:Env', None, 'glyphs'),
        EnvSpec('bad/id', 'fewshot', 'no.such:Env', None, 'glyphs')]
"""
SEEN = """
import contextlib, io, json
from lazybench.cli import main
shown = io.StringIO()
with contextlib.redirect_stdout(shown):
    codes = [main(["list", what, "--json"]) for what in ("agents", "envs")]
import gymnasium
import lazybench
print(json.dumps([codes, [name for name in gymnasium.registry if "plugged" in name]]))
print(shown.getvalue())
"""


def test_in_a_separate_process_a_broken_plug_in_is_listed_and_affects_no_other(
    tmp_path: Path,
) -> None:
    (tmp_path / "plugged.py").write_text(BROKEN_AND_SOUND)
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[lazybench.agents]\na = plugged:AGENT\nb = plugged:MISSING\n"
        "[lazybench.envs]\ne = plugged:ENVS\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    first, _, listings = done.stdout.partition("\n")
    assert json.loads(first) == [[0, 0], ["lazybench/plugged-env-v1"]]
    decoder = json.JSONDecoder()
    agents, end = decoder.raw_decode(listings)
    envs, _ = decoder.raw_decode(listings[end:].strip())
    assert [each["id"] for each in agents["agents"] if each["origin"] == "plugged"] == ["plugged"]
    assert list(agents["broken"]) == ["plugged: b (plugged:MISSING)"]
    (broken,) = envs["broken"].values()
    assert "got 'bad/id'" in broken


AGENT = '''"""An agent."""
class Mine:
    """Answers zero.

    More about it.
    """
    families = ("fewshot", "attack")
    def update(self, state, batch, rng): ...
class Bare:
    pass
'''


def test_agents_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    path.write_text(AGENT)
    found = agent_spec(f"{path}:Mine")
    assert (found.id, found.families, found.trains) == ("Mine", ("fewshot", "attack"), True)
    assert found.about == "Answers zero."
    assert found.target == found.origin == f"{path}:Mine"
    assert not found.tuned
    bare = agent_spec(f"{path}:Bare")
    assert (bare.id, bare.families, bare.trains, bare.about) == ("Bare", ("fewshot",), False, "")
    assert load(f"{path}:Mine") is load(f"{path}:Mine"), "one file is one module"


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "edited.py"
    path.write_text("X = 1\n")
    before = source_sha256(path)
    assert load(f"{path}:X") == 1
    path.write_text("X = 2\n")
    assert load(f"{path}:X") == 2
    assert source_sha256(path) != before


def test_what_is_wrong_with_a_target_is_said(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    path.write_text(AGENT)
    missing = tmp_path / "no.py"
    for target, message in (
        (f"{path}:Mien", f"'{path}' has no 'Mien'. Did you mean: Mine?"),
        (f"{missing}:Mine", f"no such file: {missing}; give the path of a Python file"),
        ("my.py", "a target is 'module:name' or 'file.py:name', got 'my.py'"),
        (":Mine", "a target is 'module:name' or 'file.py:name', got ':Mine'"),
        ("no_such_module_at_all:X", "can't import 'no_such_module_at_all': ModuleNotFoundError"),
        ("lazybench.errors:Unknownname", "Did you mean: UnknownName"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            load(target)


def test_an_error_inside_a_users_file_keeps_its_message(tmp_path: Path) -> None:
    path = tmp_path / "faulty.py"
    path.write_text("raise KeyError('my own mistake')\n")
    for _ in range(2):  # a failed import leaves nothing behind
        with pytest.raises(UsageError, match="KeyError: 'my own mistake'"):
            load(f"{path}:X")


def test_every_built_in_agent_can_be_loaded() -> None:
    for found in AGENTS.specs():
        if found.origin == "lazybench":
            factory = load(found.target)
            assert set(found.families) <= set(factory.families)
            assert factory.learns() or not found.trains
    with pytest.raises(UnknownName, match="Did you mean: lazy_reptile"):
        agent_spec("lazy_reptil")


FINDER = """
from lazybench.specs import AgentSpec
names, broken = [], {}
def found():
    return [AgentSpec(n, ('fewshot',), 'on.disk:A', origin='imported') for n in names], dict(broken)
"""


def test_what_is_found_on_disk_is_looked_up_each_time(
    make_registry: MakeRegistry, tmp_path: Path
) -> None:
    path = tmp_path / "finder.py"
    path.write_text(f"# {tmp_path}\n{FINDER}")
    names, broken = load(f"{path}:names"), load(f"{path}:broken")
    registry = make_registry()
    registry._finder = f"{path}:found"
    assert len(registry.specs()) == 3
    names += ["birds", "maml"]
    broken["trees (imported)"] = "cut"
    assert registry.resolve("birds").spec.target == "on.disk:A"
    assert registry.resolve("maml").spec.target == "built.in:Agent", "no import shadows a built-in"
    assert set(registry.broken) == {"trees (imported)", "maml (imported)"}
    with pytest.raises(DuplicateName, match=r"by imported \(on.disk:A\) and by alice"):
        registry.register(spec("birds", origin="alice"))
    registry.forget("birds")
    assert registry.resolve("birds").spec.origin == "imported"
    names.clear()
    broken.clear()
    registry.register(spec("birds", origin="alice"))
    assert registry.resolve("birds").spec.origin == "alice"
    assert registry.broken == {}


def test_the_former_name_of_independent_trials_is_taken_for_a_release() -> None:
    with pytest.warns(DeprecationWarning, match="independent_trials"):
        spec = EnvSpec("x", "attack", "m:C", None, "glyphs", apart=True)  # type: ignore[call-arg]
    assert spec.independent_trials
    assert spec.apart
    assert not replace(spec, independent_trials=False).apart
