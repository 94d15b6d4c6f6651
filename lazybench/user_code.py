"""Loads users' code from modules and files, and hashes it with everything that it depends on.

A run's key contains the hash of the user's code: the file that a target names, the files that it
imports from its own folder or package, those that these import, and the files that any of them
declares:

    FILES = ["weights.pt"]   # in the same folder; another content gives another key

Files of the package itself are never hashed: they have versions, and may be moved and formatted.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from lazybench.errors import LazybenchError, UsageError, nearest
from lazybench.files import open_file, read_file
from lazybench.plugins import contained, describe

FILES = "FILES"
"""The name of a module's list of further files that its results depend on."""

USER_MODULE = "lazybench_user_"
"""Prefix of the names of modules that were loaded from a user's file."""

MOST_SOURCE_BYTES = 1 << 26
"""Size limit of a Python file in bytes."""

_PACKAGE = Path(__file__).resolve().parent
# In a checkout, two folders of the package are links.
_OWN = tuple((_PACKAGE / part).resolve() for part in ("", "envs", "agents"))
_INSTALLED = ("site-packages", "dist-packages")
_BLOCK_BYTES = 1 << 20
_LOADING = threading.RLock()


def load(target: str) -> Any:
    """Return the object that `module:name` or `path/to/file.py:name` names.

    A file becomes a separate module, identified by its path and content, and may import files of
    its folder. What it prints during the import goes to stderr.

    Raises:
        UsageError: the target has another form, or the module, file or name doesn't exist; an
            error inside the user's file is reported with its own message.
    """
    module, (where, _, name) = _module(target), target.rpartition(":")
    try:
        return getattr(module, name)
    except AttributeError:
        if where == "__main__":
            raise UsageError(
                f"'{name}' was defined in a notebook, a prompt or a script that has ended; to load "
                "it again, save it in a file: FILE.py:CLASS"
            ) from None
        public = [key for key in vars(module) if not key.startswith("_")]
        raise UsageError(f"'{where}' has no '{name}'.{nearest(name, public)}") from None


def spelled(target: str) -> str:
    """Return `file.py:name` with a canonical path, so that every spelling gives the same run.

    The path is relative to the current folder, or absolute if the file is elsewhere, without `./`,
    `../` and links. `module:name` and other texts are returned unchanged.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where.endswith(".py") or not Path(where).is_file():
        return target
    path = Path(where).resolve()
    here = Path.cwd().resolve()
    inside = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{inside.as_posix()}:{name}"


def _file_of(module: Any) -> Path | None:
    """The file of an entry of `sys.modules`, which may be any object."""
    path = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return Path(path) if path else None


def is_of_script(module: str) -> bool:
    """Return whether a module is a file in the folder of the running script, or of a prompt.

    Other processes can't import it, since the folder is on the path of this script alone.
    """
    path = None if "." in module else _file_of(sys.modules.get(module))
    folder = Path(sys.path[0] if sys.path else "").resolve()
    inside = path is not None and path.resolve().parent == folder
    return inside and folder.name not in _INSTALLED and not is_own(folder)


def defining_file(thing: Any) -> Path | None:
    """Return the file that defines a class or function; None if there is none."""
    try:
        path = inspect.getsourcefile(thing)
    except (TypeError, OSError):
        # Built in, or of a notebook or a prompt.
        return None
    return Path(path) if path is not None and Path(path).is_file() else None


def source_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits.

    Raises:
        OSError: it can't be read, or is a source file larger than `MOST_SOURCE_BYTES`.
    """
    if path.suffix == ".py":
        return hashlib.sha256(read_file(path, MOST_SOURCE_BYTES)).hexdigest()
    digest = hashlib.sha256()
    with open_file(path, None) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def target_sha256(target: str) -> str | None:
    """Return the sha256 of the user's code behind `module:name` or `file.py:name`.

    It is the file's own if the file needs no other, else a hash over all files that it needs (see
    the module), independent of their folder's name. None for code without a file, and for the
    package's own.

    Raises:
        UsageError: as `load`, or a file of `FILES` is missing, or the list isn't a list of texts.
    """
    path = _module(target).__file__
    if path is None or not Path(path).is_file() or is_own(Path(path)):
        return None
    return files_sha256(Path(path))


def defining_sha256(thing: Any) -> str | None:
    """Return the sha256 of the user's code that defines a class or function, as `target_sha256`.

    None if no file defines it, and for the package's own.

    Raises:
        UsageError: the code in the file has changed since this process imported it; or as
            `target_sha256`.
    """
    path = defining_file(thing)
    if path is None or is_own(path):
        return None
    _need_same_code(thing, path)
    return files_sha256(path)


def loose_sha256(given: type) -> str:
    """Return the sha256 of a class without a file: of its methods' source, and its values.

    If the source isn't available either (a plain prompt), it is the hash of the compiled methods.
    """
    parts = [_class_text(each) for each in given.__mro__ if each is not object]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def is_own_class(given: type) -> bool:
    """Return whether a class belongs to the package."""
    path = defining_file(given)
    return path is not None and is_own(path)


def declared(target: str, name: str, default: Any) -> Any:
    """Return the value of a name in the module of a target, else the default.

    Raises:
        UsageError: as `load`.
    """
    return vars(_module(target)).get(name, default)


def function_of(value: Any) -> FunctionType | None:
    """Return the function behind a value of a class (a method, a property), else None."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    found = inspect.unwrap(value) if callable(value) else None
    return found if isinstance(found, FunctionType) else None


def is_own(path: Path) -> bool:
    """Return whether a file belongs to the package."""
    return any(path.resolve().is_relative_to(folder) for folder in _OWN)


def _module(target: str) -> ModuleType:
    """The module of a target; see `load`."""
    if not isinstance(target, str):
        raise UsageError(f"a target is 'module:name' or 'file.py:name', got {target!r}")
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise UsageError(f"a target is 'module:name' or 'file.py:name', got '{target}'")
    own = where.partition(".")[0] == "lazybench"
    try:
        with nullcontext() if own else contained():
            if where.endswith(".py"):
                return _load_file(Path(where))
            return importlib.import_module(where)
    except LazybenchError:
        raise
    except Exception as error:
        raise UsageError(
            f"can't import '{where}': {describe(error)}{_as_file(where, name)}"
        ) from error


def files_sha256(path: Path) -> str:
    """Return the sha256 of a Python file and the files that it needs, without importing it.

    Raises:
        OSError: a file can't be read.
        UsageError: a file of `FILES` is missing, or the list isn't a list of texts.
    """
    path = path.resolve()
    return _whole_sha256(path, _hashes(path))


def _hashes(path: Path) -> dict[Path, str]:
    """The sha256 of each file that a file needs, itself first."""
    return {file: source_sha256(file) for file in _needed(path)}


def _whole_sha256(path: Path, hashes: Mapping[Path, str]) -> str:
    """One sha256 over a file and the files that it needs; its own if it needs none."""
    if len(hashes) == 1:
        return hashes[path]
    folder = _Root(path).folder
    others = sorted(
        (Path(os.path.relpath(file, folder)).as_posix(), sha256)
        for file, sha256 in hashes.items()
        if file != path
    )
    lines = [hashes[path], *(f"{name} {sha256}" for name, sha256 in others)]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _needed(path: Path) -> list[Path]:
    """The file, then each file of its folder or package that it imports, and declared files."""
    found, seen, waiting = [path], {path}, [path]
    while waiting:
        for other, is_code in _needed_by(waiting.pop()):
            if other in seen:
                continue
            seen.add(other)
            found.append(other)
            waiting += [other] if is_code else []
    return found


def _needed_by(path: Path) -> Iterator[tuple[Path, bool]]:
    """The files that a module imports or declares, and whether each is code."""
    try:
        tree = ast.parse(read_file(path, MOST_SOURCE_BYTES))
    except (SyntaxError, ValueError, RecursionError):
        # Importing it reports the error.
        return
    root = _Root(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from ((file, True) for file in root.modules(alias.name.split(".")))
        elif isinstance(node, ast.ImportFrom):
            parts = root.absolute(node)
            if parts is not None:
                for alias in node.names:
                    yield from ((file, True) for file in root.modules([*parts, alias.name]))
    for line in tree.body:
        if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
            continue
        names = line.targets if isinstance(line, ast.Assign) else [line.target]
        if any(isinstance(name, ast.Name) and name.id == FILES for name in names):
            yield from ((file, False) for file in _declared(line.value, path))


def _declared(value: ast.expr, path: Path) -> list[Path]:
    """The files that a module declares.

    Raises:
        UsageError: not a list of texts, or a file is missing.
    """
    try:
        names = ast.literal_eval(value)
    except ValueError:
        names = None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"{FILES} in {path} must be a list of file names, as in {FILES} = ['weights.pt']"
        )
    files = [(path.parent / name).resolve() for name in names]
    for name, file in zip(names, files, strict=True):
        if not file.is_file():
            raise UsageError(
                f"{path} declares '{name}' in {FILES}, but there is no such file in its folder; "
                "put it there, or remove it from the list"
            )
    return files


class _Root:
    """The folders in which a module's own imports are looked up.

    Attributes:
        own_folder: the module's folder.
        folder: parent of its outermost package; its own folder if it is in no package.
        package: names of the packages that the module is in; empty for a single file.
    """

    def __init__(self, path: Path) -> None:
        self.own_folder = self.folder = path.parent
        self.package: list[str] = []
        while (self.folder / "__init__.py").is_file():
            self.package.insert(0, self.folder.name)
            self.folder = self.folder.parent

    def absolute(self, node: ast.ImportFrom) -> list[str] | None:
        """The full name of X in `from X import …`; None if it is above the package."""
        given = node.module.split(".") if node.module else []
        if not node.level:
            return given
        base = self.package[: len(self.package) - node.level + 1]
        return base + given if self.package and node.level <= len(self.package) else None

    def modules(self, parts: list[str]) -> list[Path]:
        """The user's files that are run to import `a.b.c`; `c` may be a name in `a.b`.

        Files in the folder of an installation aren't the user's.
        """
        if parts[0] in sys.stdlib_module_names:
            return []
        places = [self.own_folder] if self.own_folder.name not in _INSTALLED else []
        places += [self.folder] if self.package and parts[:1] == self.package[:1] else []
        found = []
        for place in places:
            for depth in range(1, len(parts) + 1):
                path = place.joinpath(*parts[:depth])
                both = path.with_name(f"{path.name}.py"), path / "__init__.py"
                found += [file.resolve() for file in both if file.is_file() and not is_own(file)]
        return found


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"no such file: {path}; give the path of a Python file, as in my.py:NAME")
    path = path.resolve()
    hashes = _hashes(path)
    whole = f"{path}\n{_whole_sha256(path, hashes)}"
    mark = hashlib.sha256(whole.encode("utf-8", "surrogateescape"))
    name = f"{USER_MODULE}{mark.hexdigest()[:12]}"
    with _LOADING:
        nearby = _NEIGHBOURS.claim(path, hashes)
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UsageError(f"can't read {path} as a Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        finally:
            _NEIGHBOURS.note(nearby)
        return module


class _Neighbours:
    """Import hook for files that a user's file imports from its own folder.

    Files there never shadow modules of Python or of installed packages.

    Attributes:
        folders: for each name, the folder of the last loaded file that imports it.
        imported: for each name, the imported file, and its sha256 at that time.
    """

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.imported: dict[str, tuple[Path, str]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a file in the folder; None for anything else."""
        folder = None if path is not None else self.folders.get(name)
        return None if folder is None else PathFinder.find_spec(name, [str(folder)], target)

    def claim(self, path: Path, hashes: Mapping[Path, str]) -> dict[Path, str]:
        """Let a file import the files of its folder; return these with their sha256.

        Args:
            path: the file.
            hashes: hashes of all files that it needs.

        Modules that were imported for a file of another folder, or that have changed since, are
        removed from `sys.modules`, so that each file gets its own; earlier importers keep theirs.
        """
        root = _Root(path)
        nearby = {
            file: sha256 for file, sha256 in hashes.items() if file != path and file.suffix == ".py"
        }
        claimed: dict[str, Path] = {}
        for file in nearby:
            for folder in (root.folder, root.own_folder):
                if file.is_relative_to(folder):
                    claimed[file.relative_to(folder).parts[0].removesuffix(".py")] = folder
        known = {
            name: _file_of(module) or Path(path)
            for name, module in sys.modules.items()
            if name.partition(".")[0] in claimed
        }
        if any(self.imported.get(name) != (at, nearby.get(at)) for name, at in known.items()):
            for name in known:
                del sys.modules[name]
        self.folders |= claimed
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        importlib.invalidate_caches()
        return nearby

    def note(self, nearby: dict[Path, str]) -> None:
        """Remember which files of the folder have been imported."""
        for name, module in list(sys.modules.items()):
            file = _file_of(module) or Path()
            if name.partition(".")[0] in self.folders and file in nearby:
                self.imported[name] = file, nearby[file]


_NEIGHBOURS = _Neighbours()


def _as_file(where: str, name: str) -> str:
    """A hint how to name a module of the current folder as a file."""
    path = Path(*where.split(".")).with_suffix(".py")
    return f"; {path} is here: name it as a file, {path}:{name}" if path.is_file() else ""


def _class_text(given: type) -> str:
    """A class as text: its methods and values by name."""
    parts = [f"class {given.__qualname__}", defining_sha256(given) or ""]
    if parts[1] or is_own_class(given):
        return "\n".join(parts)
    for name, value in vars(given).items():
        function = function_of(value)
        if function is not None:
            try:
                text = inspect.getsource(function)
            except (OSError, TypeError):
                text = _code_text(function.__code__)
            parts.append(f"{name}: {text} {function.__defaults__} {function.__kwdefaults__}")
        elif not name.startswith("__"):
            parts.append(f"{name}: {value!r}")
    return "\n".join(parts)


def _code_text(code: CodeType) -> str:
    """The compiled code of a function, as text without addresses."""
    constants = [
        _code_text(each)
        if isinstance(each, CodeType)
        else repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each)
        for each in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


_SINCE_S = time.time()
"""When this module was imported: files written to later may differ from what was imported."""


def _need_same_code(thing: Any, path: Path) -> None:
    """Check that a file that was modified since its import still defines a class in the same way.

    Raises:
        UsageError: it doesn't, so its hash wouldn't be that of the running code.
    """
    functions = [thing, *vars(thing).values()] if inspect.isclass(thing) else [thing]
    live = [each.__code__ for each in functions if inspect.isfunction(each)]
    if path.stat().st_mtime <= _SINCE_S or not live:
        return
    try:
        source = read_file(path, MOST_SOURCE_BYTES)
        left: list[Any] = [compile(source, str(path), "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        left = []
    there: dict[str, list[str]] = {}
    for code in left:
        there.setdefault(code.co_qualname, []).append(_code_text(code))
        left.extend(each for each in code.co_consts if isinstance(each, CodeType))
    for code in live:
        same_file = Path(code.co_filename).name == path.name
        if same_file and _code_text(code) not in there.get(code.co_qualname, []):
            raise UsageError(
                f"{path} has changed since it was imported ('{code.co_qualname}' differs): restart "
                "Python or reload the module, so that the running code is the file's"
            )
