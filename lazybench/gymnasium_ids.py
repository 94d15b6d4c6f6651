"""Registration of every environment with Gymnasium, whichever of the two is imported first.

`gymnasium.make("lazybench:…")` imports lazybench, then looks the id up. If Gymnasium is loaded,
importing lazybench registers at once. If lazybench was imported first, importing it again does
nothing, and Gymnasium has no entry points: a hook on its import registers as soon as it is loaded.
Importing it here instead would multiply the start-up time of every command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lazybench.errors import UnknownName
from lazybench.registry import DATASETS, ENVS
from lazybench.specs import EnvSpec

_GYMNASIUM = "gymnasium"


def register_all() -> None:
    """Register every environment as `lazybench/<id>-v<version>`; existing ids are kept.

    `lazybench/<data>-fewshot-v1` takes any other `way=` and `shot=`, for each data set of classes.
    No id has `max_episode_steps`: environments end their episodes themselves.
    """
    from gymnasium.envs.registration import register, registry

    for name, spec in _entries():
        if name not in registry:
            register(
                name,
                entry_point=spec.target,
                vector_entry_point=spec.vector_target,
                kwargs=dict(spec.kwargs),
            )


def register_when_gymnasium_is_imported() -> None:
    """Register now if Gymnasium is loaded, else right after its first import."""
    if _GYMNASIUM in sys.modules:
        register_all()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _entries() -> Iterator[tuple[str, EnvSpec]]:
    for spec in ENVS.specs():
        yield spec.gymnasium_id, spec
    for data in DATASETS.specs():
        try:
            found: EnvSpec = ENVS.resolve(f"{data.id}-5way-1shot").spec
        except UnknownName:
            # Regression tasks have no ways.
            continue
        yield (
            f"lazybench/{data.id.replace('@', '.')}-fewshot-v{found.version}",
            EnvSpec(
                id=f"{data.id}-fewshot",
                family=found.family,
                target=found.target,
                vector_target=found.vector_target,
                data=data.id,
                kwargs={"data": data.id},
            ),
        )


class _Finder(MetaPathFinder):
    """Import hook that wraps Gymnasium's loader in a `_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _GYMNASIUM:
            return None
        for finder in list(sys.meta_path):
            # The hook stays until the module has run: some callers only check that it is installed.
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(Loader):
    """Wrapper of Gymnasium's loader that registers the environments after the import."""

    def __init__(self, own: Any, finder: _Finder) -> None:
        self._own = own
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        register_all()
