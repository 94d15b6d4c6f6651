"""Asking what there is loads no heavy library: each command in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "scipy", "gymnasium", "foolbox")

RUN = """
import json, runpy, sys
code = 0
try:
    exec(sys.argv.pop(1))
except SystemExit as stop:
    code = stop.code
heavy = sorted({name.partition('.')[0] for name in sys.modules} & set(%r))
sys.stderr.write('\\n' + json.dumps({'code': code, 'heavy': heavy}))
""" % (HEAVY,)  # noqa: UP031 - the code holds braces
AS_MODULE = "runpy.run_module('lazybench', run_name='__main__', alter_sys=True)"


def loaded(code: str, *argv: str) -> tuple[object, list[str], str]:
    """Exit code, heavy libraries loaded, and standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, code, *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    try:
        report = json.loads(done.stderr.splitlines()[-1])
    except (IndexError, ValueError):
        pytest.fail(f"no report from the child:\n{done.stderr}")
    return report["code"], report["heavy"], done.stdout


@pytest.mark.parametrize(
    "module", ["lazybench", "lazybench.cli", "lazybench.registry", "lazybench.errors"]
)
def test_import_is_light(module: str) -> None:
    code, heavy, _ = loaded(f"import {module}")
    assert code == 0
    assert heavy == []


@pytest.mark.parametrize("argv", [["--help"], ["version"], ["list", "agents"], ["list", "envs"]])
def test_command_is_light(argv: list[str]) -> None:
    code, heavy, out = loaded(AS_MODULE, *argv)
    assert code in (0, None)
    assert heavy == []
    assert out.strip()


def test_heavy_import_is_seen() -> None:
    assert loaded("import numpy")[1] == ["numpy"]
