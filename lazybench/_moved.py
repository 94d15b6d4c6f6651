"""Modules under their former names, for one release: importing one warns and gives the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED: Mapping[str, str] = {
    "lazybench.attack_task": "lazybench.tasks",
    "lazybench.counter": "lazybench.seeding",
    "lazybench.envs.attack_doors": "lazybench.envs.attack.adapters",
    "lazybench.envs.attack_ids": "lazybench.envs",
    "lazybench.envs.longtail_ids": "lazybench.envs",
    "lazybench.harness": "lazybench.runner",
    "lazybench.harness.trained": "lazybench.runner.trained",
    "lazybench.interop": "lazybench.envs.interop",
    "lazybench.longtail_task": "lazybench.tasks",
    "lazybench.params": "lazybench.nets.params",
    "lazybench.rng": "lazybench.seeding",
    "lazybench.task": "lazybench.tasks",
}
"""Former names that the documentation had, and where the module is now."""


class _Former(MetaPathFinder, Loader):
    """Finds the names of `MOVED` and loads what they became."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a former name; None for any other."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module under its new name."""
        new = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} is now {new}; the former name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return importlib.import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module ran under its new name."""


def install() -> None:
    """Let the former names be imported."""
    if not any(isinstance(finder, _Former) for finder in sys.meta_path):
        sys.meta_path.append(_Former())
