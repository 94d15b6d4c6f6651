"""The installation: versions against what the package asks for, its own files, and torch."""

from __future__ import annotations

import base64
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lazybench.doctor.findings import Finding, State
from lazybench.errors import LazybenchError
from lazybench.user_code import load

AREA = "installation"
PACKAGE = "lazybench"
TORCH_S = 120.0

_AGAIN = "install lazybench again: pip install -c constraints.txt ."
_EMBEDDED = ("lazybench.envs.datasets.glyphs:read_frozen",)
_EMBEDDED_DEEP = ("lazybench.envs.targets:embedded_nets",)
_TRY = """
import torch
x = torch.ones(3, 3, requires_grad=True)
(x @ x).sum().backward()
assert x.grad is not None and float(x.grad.sum()) == 54
print(torch.__version__, "with CUDA" if torch.cuda.is_available() else "on the CPU")
"""


def examine_installation(*, deep: bool) -> Iterator[Finding]:
    """Yield what was found; with `deep`, torch is made to compute, in a process of its own."""
    try:
        held = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        yield Finding(
            AREA,
            PACKAGE,
            "warn",
            "runs from its source folder, not installed: versions can't be compared",
            "pip install -c constraints.txt -e .",
        )
    else:
        yield from _versions(held)
        yield from _files(held)
    yield from _embedded((*_EMBEDDED, *(_EMBEDDED_DEEP if deep else ())))
    if deep:
        yield _torch()


def _versions(held: metadata.Distribution) -> Iterator[Finding]:
    wanted, python = held.metadata["Requires-Python"], platform.python_version()
    if wanted and python not in SpecifierSet(wanted, prereleases=True):
        advice = f"make an environment with Python {wanted}"
        yield Finding(AREA, "python", "bad", f"{python}, lazybench needs {wanted}", advice)
    else:
        yield Finding(AREA, "python", "ok", python)
    for text in held.requires or ():
        requirement = Requirement(text)
        optional = requirement.marker is not None
        if optional and "extra" not in str(requirement.marker):
            continue
        yield from _package(requirement, optional=optional)


def _package(requirement: Requirement, *, optional: bool) -> Iterator[Finding]:
    name, wanted = requirement.name, requirement.specifier
    fix = f"pip install '{name}{wanted}'"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        if not optional:
            yield Finding(AREA, name, "bad", f"not installed, lazybench needs {wanted}", fix)
        return
    if wanted.contains(found, prereleases=True):
        yield Finding(AREA, name, "ok", found)
    else:
        state: State = "warn" if optional else "bad"
        yield Finding(AREA, name, state, f"{found}, lazybench needs {wanted}", fix)


def _files(held: metadata.Distribution) -> Iterator[Finding]:
    """The package's files against the hashes that its installer wrote down."""
    hashed = [file for file in held.files or () if file.hash is not None]
    own = [file for file in hashed if file.parts[0] == PACKAGE]
    wrong = []
    for file in own:
        try:
            content = Path(str(file.locate())).read_bytes()
        except OSError:
            wrong.append(f"{file} is missing")
            continue
        told = file.hash
        if told is None or told.mode not in hashlib.algorithms_guaranteed:
            continue
        digest = hashlib.new(told.mode, content).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != told.value:
            wrong.append(f"{file} was changed")
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield Finding(AREA, "files", "bad", f"{wrong[0]}{more}", _AGAIN)
    elif own:
        yield Finding(AREA, "files", "ok", f"{len(own)} files as they were installed")


def _embedded(targets: tuple[str, ...]) -> Iterator[Finding]:
    for target in targets:
        subject = target.partition(":")[0].rpartition(".")[2]
        try:
            load(target)()
        except LazybenchError as error:
            yield Finding(AREA, f"embedded {subject}", "bad", str(error), _AGAIN)
        else:
            yield Finding(AREA, f"embedded {subject}", "ok", "its sha256 is the published one")


def _torch() -> Finding:
    fix = "install torch again, for this machine: see pytorch.org/get-started"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY],
            capture_output=True,
            text=True,
            timeout=TORCH_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(AREA, "torch computes", "bad", f"no answer within {TORCH_S:g} s", fix)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return Finding(AREA, "torch computes", "bad", last, fix)
    return Finding(AREA, "torch computes", "ok", done.stdout.strip())
