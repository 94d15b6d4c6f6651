"""Templates of plug-in packages: a small working agent or environment, a test and a README."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from lazybench.errors import OutputUnavailable, UsageError
from lazybench.registry import AGENTS, DATA_ALIASES, DATASETS, ENVS
from lazybench.specs import OWN, Family
from lazybench.user_code import load

Kind = Literal["agent", "env"]

_TEMPLATES = PackageLoader("lazybench", "templates/new")
# Templates are plain text, so nothing needs to be escaped.
_ENVIRONMENT = Environment(
    loader=_TEMPLATES, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
)
_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
_LONGEST = 40


@dataclass(frozen=True)
class _Field:
    """Values for the templates of a family.

    Attributes:
        env: environment for the first run of a new agent.
        ending: end of the id of a new data set's first environment.
        agent: agent for the first run on a new environment.
        metric: metric of the family.
        baselines: scores to exceed, by a new agent and on a new environment.
        about: descriptions of the agent and the environment.
    """

    env: str
    ending: str
    agent: str
    metric: str
    baselines: tuple[float, float]
    about: tuple[str, str]


_FIELDS: dict[Family, _Field] = {
    "fewshot": _Field(
        "glyphs-5way-1shot",
        "-5way-1shot",
        "nearest_pixel",
        "accuracy",
        (0.4, 0.25),
        ("A small prototypical network", "Few-shot classification of crossed waves"),
    ),
    "longtail": _Field(
        "glyphs-lt-100",
        "-lt-10",
        "cross_entropy",
        "accuracy",
        (0.1, 0.2),
        ("A balanced two-layer classifier", "A long-tailed stream of crossed waves"),
    ),
    "attack": _Field(
        "glyphs-net4-untargeted",
        "",
        "square",
        "success",
        (0.3, 0.1),
        ("A search along learned directions", "Attacks within a small ball and few queries"),
    ),
}


@dataclass(frozen=True)
class Written:
    """A package that was written.

    Attributes:
        folder: its path.
        files: paths of its files, relative to the folder.
        id: id of the agent, or of the first environment.
        env: environment of the first run.
        agent: agent of the first run.
    """

    folder: Path
    files: tuple[str, ...]
    id: str
    env: str
    agent: str


def new_package(kind: Kind, name: str, family: Family, parent: Path) -> Written:
    """Write a package into a new folder, completely or not at all.

    Args:
        kind: `agent` or `env`.
        name: small letters, digits, `-` and `_`.
        family: of the agent or the environment.
        parent: folder in which its folder is created.

    Raises:
        UsageError: the name isn't valid for a package or is taken, or the folder exists.
        OutputUnavailable: the folder can't be written.
    """
    words = _words(kind, name, family)
    folder = parent / words["package"]
    if os.path.lexists(folder):
        raise UsageError(
            f"{folder} exists already and won't be overwritten; choose another name, or another "
            "folder with --dir"
        )
    contents = _rendered(kind, family, words)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # In the same parent folder, so that one rename puts it in place.
        with tempfile.TemporaryDirectory(dir=parent, prefix=".new-") as held:
            for path, text in contents.items():
                target = Path(held) / "made" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            shutil.move(Path(held) / "made", folder)
    except OSError as error:
        raise OutputUnavailable(
            f"can't write to {folder} ({error.strerror or error}); choose another folder with --dir"
        ) from error
    first = words["id"] if kind == "agent" else words["env"]
    agent = words["id"] if kind == "agent" else words["agent"]
    return Written(folder, tuple(sorted(contents)), first, words["env"], agent)


def _words(kind: Kind, name: str, family: Family) -> dict[str, str]:
    """The values for the templates.

    Raises:
        UsageError: the name isn't valid for a package, or is taken.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"a name has at most {_LONGEST} lower-case letters, digits, '-' and '_'; it begins "
            "with a letter, and '-' and '_' are neither last nor repeated, such as my_learner; got "
            f"'{name}'"
        )
    module, package = name.replace("-", "_"), name.replace("_", "-")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or _importable(module):
        raise UsageError(
            f"'{name}' can't be the name of a package: Python has a module or keyword '{module}'; "
            "choose another"
        )
    field = _FIELDS[family]
    known = module if kind == "agent" else package
    _check_free(kind, known)
    own = kind == "env"
    return {
        "kind": kind,
        "family": family,
        "module": module,
        "package": package,
        "id": known,
        "cls": _class_name(family, module),
        "about": field.about[own],
        "env": known + field.ending if own else field.env,
        "agent": field.agent,
        "metric": field.metric,
        "baseline": str(field.baselines[own]),
    }


def _class_name(family: Family, module: str) -> str:
    """The name of an agent's class, which is no keyword and no name that its file has otherwise."""
    name = "".join(part.capitalize() for part in module.split("_"))
    source, _, _ = _TEMPLATES.get_source(_ENVIRONMENT, f"agent_{family}.py.jinja")
    taken = keyword.iskeyword(name) or re.search(rf"\b{name}(Config)?\b", source)
    return f"{name}Agent" if taken else name


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return True


def _check_free(kind: Kind, known: str) -> None:
    """Check that an id is free.

    Raises:
        UsageError: it isn't; the message names its origin.
    """
    origins = {spec.id: spec.origin for spec in AGENTS.specs()}
    if kind == "env":
        origins = {spec.id: spec.origin for spec in ENVS.specs()}
        origins |= {spec.id: spec.origin for spec in DATASETS.specs()}
        origins |= dict.fromkeys(load(DATA_ALIASES), OWN)
    if known in origins:
        raise UsageError(
            f"'{known}' is taken, by {origins[known]}; choose another name "
            f"(lazybench list {kind}s shows the taken ones)"
        )


def _rendered(kind: Kind, family: Family, words: dict[str, str]) -> dict[str, str]:
    """The files' contents, by their paths below the folder."""
    module = words["module"]
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": f"{kind}_readme.md",
        f"{module}/__init__.py": f"{kind}_init.py",
        f"tests/test_{module}.py": f"test_{kind}.py",
    }
    if kind == "agent":
        sources[f"{module}/agent.py"] = f"agent_{family}.py"
    elif family != "attack":
        sources[f"{module}/data.py"] = "env_data.py"
    return {
        path: _ENVIRONMENT.get_template(f"{name}.jinja").render(words)
        for path, name in sources.items()
    }
