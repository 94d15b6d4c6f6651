"""Imports go down the layers only, nothing unpickles freely, and only the command line prints."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
parse = functools.cache(ast.parse)

# Which packages the files of a folder may not import.
FORBIDDEN = {
    "lazybench": ("lazybench.envs", "lazybench.agents"),
    "envs": ("lazybench.agents",),
    "agents": ("lazybench.envs",),
}

# What may import everything: public names, the command line, and what looks over all of it.
FRONT = ("lazybench/__init__.py", "lazybench/api.py", "lazybench/cli/", "lazybench/doctor.py")

# The layers of the package, bottom up: a room imports from rows above its own, and from itself.
# Rooms of one row don't know each other. CONTRIBUTING has the same order.
LAYERS = (
    ("_version", "class_effects", "errors", "tables"),
    ("arguments", "files", "seeding", "specs", "stats", "tasks"),
    ("agent", "findings", "plugins", "runtime"),
    ("user_code",),
    ("nets", "registry"),
    ("gymnasium_ids", "learning", "records", "references"),
    ("data", "scaffold"),
    ("agents", "envs"),
    ("runner",),
    ("check", "sweep", "verify"),
    ("boards",),
    ("envs.own_target", "paper"),
    ("_moved", "api", "doctor"),
    ("cli",),
)
LAYER = {room: number for number, row in enumerate(LAYERS) for room in row}

# Imports that go up on purpose: who, what, and why.
UPWARD = {
    ("api", "cli.progress"): "scripts show the progress that commands show",
    ("envs.targets.training", "runner.callbacks"): "the protocol of progress, which runs share",
}

# Strings may name modules of envs and agents here only, where ids are mapped to code.
SPECS = ("lazybench.registry", "lazybench.specs")
MODULE = re.compile(r"lazybench\.(envs|agents)(\.\w+)*(:\w+)?")

# Calls that run code found in the file that they read.
UNSAFE_LOADS = {
    "cPickle.load", "cPickle.loads", "dill.load", "dill.loads", "joblib.load", "marshal.load",
    "marshal.loads", "pickle.Unpickler", "pickle.load", "pickle.loads", "shelve.open", "torch.load",
}  # fmt: skip


# Not worth a line in CONTRIBUTING's tree.
PLAIN = ("__main__.py", "_version.py", "__pycache__")


def sources(folder: str) -> list[Path]:
    """Every module of a top-level folder; the links in `lazybench/` belong to their targets."""
    top = ROOT / folder
    return sorted(
        path
        for path in top.rglob("*.py")
        if folder != "lazybench" or path.relative_to(top).parts[0] not in ("envs", "agents")
    )


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "lazybench" else ("lazybench", *parts))


def imported(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = module.split(".")
                above = above[: len(above) - node.level + is_package]
                source = ".".join([*above, *filter(None, [source])])
            for alias in node.names:
                yield node.lineno, f"{source}.{alias.name}"


def upward_imports(code: str, module: str, folder: str, *, is_package: bool = False) -> list[str]:
    banned = (*FORBIDDEN[folder], "envs", "agents")
    return [
        f"{line}: {name}"
        for line, name in imported(parse(code), module, is_package=is_package)
        if any(name == package or name.startswith(f"{package}.") for package in banned)
    ]


def room_of(module: str) -> str:
    """The room of a module, `runner` for `lazybench.runner.train`; the package itself is ``."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[:2] == ["envs", "own_target"] else 1])


def climbs(code: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports of rooms in the same or a higher layer that `UPWARD` doesn't name."""
    own = room_of(module)
    found = []
    for line, name in imported(parse(code), module, is_package=is_package):
        room = room_of(name)
        if name.partition(".")[0] != "lazybench" or room not in LAYER or room == own:
            continue
        allowed = any(
            within(module, f"lazybench.{who}") and within(name, f"lazybench.{what}")
            for who, what in UPWARD
        )
        if LAYER[room] >= LAYER[own] and not allowed:
            found.append(f"{line}: {name}")
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def named_modules(code: str) -> list[str]:
    """String constants that name a module of `lazybench.envs` or `lazybench.agents`."""
    return [
        f"{node.lineno}: {node.value}"
        for node in ast.walk(parse(code))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and MODULE.fullmatch(node.value)
    ]


def modules(folder: str) -> Iterator[tuple[Path, str]]:
    """Every module of a top-level folder with its dotted name."""
    for path in sources(folder):
        yield path, module_name(path.parent if path.name == "__init__.py" else path)


def unsafe_loads(code: str) -> list[str]:
    """Uses of loaders that run code.

    An `Unpickler` with its own `find_class` is fine, and so is `torch.load` called with
    `weights_only=True`, which is one.
    """
    tree = parse(code)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({a.asname: a.name for a in node.names if a.asname})
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    vetted = {
        id(base)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(f, ast.FunctionDef) and f.name == "find_class" for f in node.body)
        for base in node.bases
    }
    vetted |= {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and names.get("torch", "torch") == "torch"
        and any(
            each.arg == "weights_only"
            and isinstance(each.value, ast.Constant)
            and each.value.value is True
            for each in node.keywords
        )
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and id(node) not in vetted:
            first, _, rest = ast.unparse(node).partition(".")
            name = ".".join(filter(None, [names.get(first, first), rest]))
            if name in UNSAFE_LOADS:
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            value = node.value
            if not (isinstance(value, ast.Constant) and value.value is False):
                found.append(f"{value.lineno}: allow_pickle")
    return found


def prints(code: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_imports_go_downward(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{hit}"
        for path, module in modules(folder)
        if not path.relative_to(ROOT).as_posix().startswith(FRONT)
        for hit in upward_imports(
            path.read_text("utf-8"), module, folder, is_package=path.name == "__init__.py"
        )
    ]
    assert not found, f"may not import {FORBIDDEN[folder]}"


def test_contributing_shows_every_room_and_the_layers() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    tree, layers = re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    for folder in ("lazybench", "envs", "agents"):
        for path in (ROOT / folder).iterdir():
            name = path.name if path.suffix == ".py" else f"{path.name}/"
            if path.suffix in ("", ".py") and path.name not in PLAIN and not path.is_symlink():
                assert re.search(rf"(^|[ /]){re.escape(name)}", tree, re.MULTILINE), name
    rows = [set(re.split(", ?", row.replace("/", "."))) for row in layers.splitlines()]
    assert rows[::-1] == [set(row) - {"_moved", "_version"} for row in LAYERS]


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_rooms_import_lower_layers_only(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{hit}"
        for path, module in modules(folder)
        if module not in ("lazybench", "lazybench.__main__")
        for hit in climbs(path.read_text("utf-8"), module, is_package=path.name == "__init__.py")
    ]
    assert not found, "import from a lower layer, or say in UPWARD why not"


def test_every_room_has_its_layer_and_every_exception_is_used() -> None:
    named = {(room_of(module), module) for folder in FORBIDDEN for _, module in modules(folder)}
    rooms = {room for room, module in named} - {"", "__main__"}
    assert rooms == set(LAYER)
    for who, what in UPWARD:
        used = [
            name
            for folder in FORBIDDEN
            for path, module in modules(folder)
            if within(module, f"lazybench.{who}")
            for _, name in imported(
                parse(path.read_text("utf-8")), module, is_package=path.name == "__init__.py"
            )
            if within(name, f"lazybench.{what}")
        ]
        assert used, f"{who} doesn't import {what} any more: take the row out of UPWARD"


def test_the_core_names_no_environment_or_agent_by_a_string() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{hit}"
        for path, module in modules("lazybench")
        if module not in SPECS
        for hit in named_modules(path.read_text("utf-8"))
    ]
    assert not found, "import it, inside a function where start-up asks for that"


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_no_loader_runs_code(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{hit}"
        for path in sources(folder)
        for hit in unsafe_loads(path.read_text("utf-8"))
    ]
    assert not found, "read safetensors and JSON, or an Unpickler that lists what it allows"


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_only_the_command_line_prints(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources(folder)
        if path.relative_to(ROOT).parts[:2] != ("lazybench", "cli")
        for line in prints(path.read_text("utf-8"))
    ]
    assert not found


def test_core_has_sources() -> None:
    assert ROOT / "lazybench" / "errors.py" in sources("lazybench")


@pytest.mark.parametrize(
    ("code", "module", "folder"),
    [
        ("import lazybench.envs", "lazybench.cli.run", "lazybench"),
        ("from lazybench import agents", "lazybench.runner", "lazybench"),
        ("from . import envs", "lazybench.runner", "lazybench"),
        ("from ..envs.fewshot import Episode", "lazybench.cli.run", "lazybench"),
        ("def f():\n    from lazybench.agents import x", "lazybench.runner", "lazybench"),
        ("from ..envs import fewshot", "lazybench.agents.lazy", "agents"),
        ("from lazybench.agents.lazy import x", "lazybench.envs.fewshot.env", "envs"),
        ("import envs.fewshot", "lazybench.envs.attack.env", "envs"),
    ],
)
def test_upward_import_is_seen(code: str, module: str, folder: str) -> None:
    assert upward_imports(code, module, folder)


def test_relative_import_in_a_package_file_is_resolved() -> None:
    code = "from .agents import x"
    assert upward_imports(code, "lazybench.cli", "lazybench", is_package=False)
    assert upward_imports(code, "lazybench.cli", "lazybench", is_package=True) == []


@pytest.mark.parametrize(
    ("code", "module", "folder"),
    [
        ("TARGET = 'lazybench.envs.fewshot.env:Episode'", "lazybench.registry", "lazybench"),
        ("from . import errors", "lazybench.runner", "lazybench"),
        ("from .datasets import glyphs", "lazybench.envs.fewshot.env", "envs"),
        ("import agents_of_change", "lazybench.runner", "lazybench"),
    ],
)
def test_downward_import_is_allowed(code: str, module: str, folder: str) -> None:
    assert upward_imports(code, module, folder) == []


@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("from lazybench.runner import run", "lazybench.records.store"),
        ("def f():\n    from lazybench.cli import console", "lazybench.paper.claims"),
        ("from lazybench.sweep.suite import Suite", "lazybench.check.env_checker"),
        ("from lazybench.runner.run import run", "lazybench.envs.targets.training"),
        ("from lazybench.envs.own_target import run", "lazybench.envs.attack.env"),
        ("from .boards import build", "lazybench.stats"),
    ],
)
def test_climbing_import_is_seen(code: str, module: str) -> None:
    assert climbs(code, module)


@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("from lazybench.records import Store", "lazybench.runner.run"),
        ("from lazybench.runner.callbacks import Callback", "lazybench.envs.targets.training"),
        ("from lazybench.runner.run import run", "lazybench.envs.own_target.attack"),
        ("import torch\nfrom . import shape", "lazybench.nets.conv4"),
    ],
)
def test_descending_import_is_allowed(code: str, module: str) -> None:
    assert climbs(code, module) == []


@pytest.mark.parametrize(
    "text",
    [
        "lazybench.envs",
        "lazybench.envs.targets.names:embedded_nets",
        "lazybench.agents.fewshot",
    ],
)
def test_string_that_names_a_module_is_seen(text: str) -> None:
    assert named_modules(f"load({text!r})")


def test_prose_that_names_a_module_is_allowed() -> None:
    assert named_modules('def f():\n    """Import `lazybench.envs.targets`."""') == []


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch\ntorch.load('x', weights_only=safe)",
        "import torch\nload = torch.load\nload('x', weights_only=True)",
        "import pickle as torch\ntorch.load('x', weights_only=True)",
        "import torch as t\nload = t.load",
        "from pickle import loads as read\nread(b'')",
        "import pickle\npickle.Unpickler(f).load()",
        "import pickle\nclass Free(pickle.Unpickler):\n    pass",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
)
def test_unsafe_load_is_seen(code: str) -> None:
    assert unsafe_loads(code)


def test_vetting_unpickler_is_allowed() -> None:
    code = (
        "import pickle\n"
        "class Vetted(pickle.Unpickler):\n"
        "    def find_class(self, module, name):\n"
        "        raise ValueError\n"
        "np.load('x', allow_pickle=False)\n"
        "torch.load('x', weights_only=True)\n"
    )
    assert unsafe_loads(code) == []
