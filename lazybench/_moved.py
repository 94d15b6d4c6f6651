"""Modules under their former names, for one release: importing one warns and gives the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

MOVED: Mapping[str, str] = {
    "agents.fewshot.gradient_settings": "agents.fewshot.settings",
    "attack_task": "tasks",
    "counter": "seeding",
    "envs.attack_doors": "envs.attack.adapters",
    "envs.attack_ids": "envs",
    "envs.longtail_ids": "envs",
    "harness": "runner",
    "harness.trained": "runner.trained",
    "interop": "envs.interop",
    "longtail_task": "tasks",
    "params": "nets.params",
    "rng": "seeding",
    "task": "tasks",
}
"""Former names of documented modules, and where each is now; both below `lazybench`."""

RENAMED: Mapping[str, Mapping[str, str]] = {"envs.attack_ids": {"attack": "attack_env"}}
"""Names that changed when their module moved: the former name and the new one, by module."""

_PACKAGE = "lazybench."


def new_name(former: str) -> str | None:
    """Return the new name of a module by its former one; None for any other name.

    A module inside a package that moved, such as `lazybench.harness.request`, moved with it.
    """
    if not former.startswith(_PACKAGE):
        return None
    name = former.removeprefix(_PACKAGE)
    if name in MOVED:
        return _PACKAGE + MOVED[name]
    package, _, rest = name.partition(".")
    return f"{_PACKAGE}{MOVED[package]}.{rest}" if rest and package in MOVED else None


class Size(NamedTuple):
    """The size of a long-tailed test, as `lazybench.envs.longtail_ids` had it."""

    classes: int
    test_images: int
    imbalances: tuple[int, ...] = ()


def _with_sizes(long_tailed: Callable[..., Any]) -> Callable[[str, int, Size], Any]:
    """Return `long_tailed` as it was, which took both numbers as one `Size`."""
    return lambda data, imbalance, size: long_tailed(data, imbalance, *size[:2])


class _Former(MetaPathFinder, Loader):
    """Import hook for the names of `MOVED`: a former name gives the module of the new name."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a former name; None for any other."""
        return None if new_name(fullname) is None else ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module under its new name."""
        new = new_name(spec.name)
        if new is None:
            raise ImportError(f"{spec.name} is no former name", name=spec.name)
        warnings.warn(
            f"{spec.name} is now {new}; the former name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(new)
        renamed = RENAMED.get(spec.name.removeprefix(_PACKAGE))
        if renamed is not None:
            values = vars(module)
            module = ModuleType(spec.name, module.__doc__)
            vars(module).update({former: values[now] for former, now in renamed.items()})
        if spec.name == _PACKAGE + "envs.longtail_ids":
            long_tailed = _with_sizes(vars(module)["long_tailed"])
            module = ModuleType(spec.name, module.__doc__)
            vars(module).update(Size=Size, long_tailed=long_tailed)
        self._specs[spec.name] = module.__spec__ or spec
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back: it ran under its new name."""
        if module.__spec__ is not None:
            module.__spec__ = self._specs.pop(module.__spec__.name)


def install() -> None:
    """Let the former names be imported."""
    if not any(isinstance(finder, _Former) for finder in sys.meta_path):
        # First, since the path of `runner` would find its modules again below `harness`.
        sys.meta_path.insert(0, _Former())
