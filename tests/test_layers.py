"""Imports go downward only, nothing unpickles freely, and only the command line prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Which packages the files of a folder may not import.
FORBIDDEN = {
    "lazybench": ("lazybench.envs", "lazybench.agents"),
    "envs": ("lazybench.agents",),
    "agents": ("lazybench.envs",),
}

# What may import everything: public names, the command line, and what looks over all of it.
FRONT = ("lazybench/__init__.py", "lazybench/api.py", "lazybench/cli/", "lazybench/doctor.py")

# Calls that run code found in the file that they read.
UNSAFE_LOADS = {
    "cPickle.load", "cPickle.loads", "dill.load", "dill.loads", "joblib.load", "marshal.load",
    "marshal.loads", "pickle.Unpickler", "pickle.load", "pickle.loads", "shelve.open", "torch.load",
}  # fmt: skip


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
        for line, name in imported(ast.parse(code), module, is_package=is_package)
        if any(name == package or name.startswith(f"{package}.") for package in banned)
    ]


def unsafe_loads(code: str) -> list[str]:
    """Uses of loaders that run code; an `Unpickler` with its own `find_class` is fine."""
    tree = ast.parse(code)
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
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_imports_go_downward(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{hit}"
        for path in sources(folder)
        if not path.relative_to(ROOT).as_posix().startswith(FRONT)
        for hit in upward_imports(
            path.read_text("utf-8"),
            module_name(path.parent if path.name == "__init__.py" else path),
            folder,
            is_package=path.name == "__init__.py",
        )
    ]
    assert not found, f"may not import {FORBIDDEN[folder]}"


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
    "code",
    [
        "import torch\ntorch.load('x')",
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
    )
    assert unsafe_loads(code) == []
