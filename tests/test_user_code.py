"""User code: which files stand in a key, which module a path gives, and what may be imported."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from lazybench.errors import UsageError
from lazybench.nets import backbone, source_sha256
from lazybench.registry import agent_spec
from lazybench.tasks import TaskShape
from lazybench.user_code import load, spelled, target_sha256
from lazybench.user_code import source_sha256 as file_sha256

MAPS = TaskShape(1, 2, 2, (1, 28, 28), "float32", "array", (1, 28, 28))
ATTACKER = "lazybench.nets.attacker:EncoderDecoder"


@pytest.fixture(autouse=True)
def restore_modules(monkeypatch: pytest.MonkeyPatch):
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        file = getattr(sys.modules[name], "__file__", None)
        if name.startswith("lazybench_user_") or (file and "pytest" in file):
            del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_the_packages_own_files_are_never_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in (ATTACKER, "lazybench.agents.fewshot.gradient:GradientAgent"):
        assert target_sha256(target) is None
    # Published records name it by its place: it is found, and its keys stay, wherever it moves to.
    monkeypatch.setitem(sys.modules, "lazybench.nets.attacker", None)
    net = backbone(ATTACKER, MAPS)
    assert net.name == ATTACKER
    assert source_sha256(net) == "e0f623905fe7def63659aaee4ac9ba695d1b30c157ae276ae8cad8bf45728954"
    assert source_sha256(backbone("conv4-64", TaskShape(5, 1, 1, (1, 16, 16), "uint8"))) is None


def test_a_file_alone_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    write(tmp_path, alone="import json, torch\nimport lazybench.agent\nX = 1\n")
    assert target_sha256(f"{tmp_path}/alone.py:X") == file_sha256(tmp_path / "alone.py")


MAIN = "def late():\n    import helper\n    return helper.value()\n"
HELPER = "from second import VALUE\ndef value():\n    return VALUE\n"


def test_what_a_file_imports_from_its_folder_is_in_its_hash(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", main=MAIN, helper=HELPER, second="VALUE = 1\n", other="Y = 1\n")
    target = f"{folder}/main.py:late"
    first = target_sha256(target)
    assert load(target)() == 1
    write(folder, other="Y = 2\n")
    assert target_sha256(target) == first, "nobody imports it"
    write(folder, second="VALUE = 2\n")
    assert target_sha256(target) != first
    assert load(target)() == 2, "in this process, too"
    # The folder's name and place are no part of it.
    moved = write(tmp_path / "b", main=MAIN, helper=HELPER, second="VALUE = 1\n")
    assert target_sha256(f"{moved}/main.py:late") == first


def test_files_of_equal_text_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    text = "from helper import NAME\ndef where():\n    return NAME, __file__\n"
    one = write(tmp_path / "one", main=text, helper="NAME = 'one'\n")
    two = write(tmp_path / "two", main=text, helper="NAME = 'two'\n")
    for folder in (one, two, one):
        found = load(f"{folder}/main.py:where")()
        assert found == (folder.name, str(folder / "main.py"))
    bare = [write(tmp_path / name, same="STATE = []\n") for name in ("x", "y")]
    assert load(f"{bare[0]}/same.py:STATE") is not load(f"{bare[1]}/same.py:STATE")


def test_a_package_is_hashed_with_its_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = write(
        tmp_path / "site-packages" / "lazybench_test_pack",
        __init__="",
        nets="from . import parts\nfrom .parts import X\nimport lazybench_test_other\n",
        parts="X = 1\n",
    )
    other = write(tmp_path / "site-packages", lazybench_test_other="Z = 1\n")
    monkeypatch.syspath_prepend(str(other))
    before = target_sha256("lazybench_test_pack.nets:X")
    write(other, lazybench_test_other="Z = 2\n")
    assert target_sha256("lazybench_test_pack.nets:X") == before, "other people's package"
    write(pack, parts="X = 2\n")
    assert target_sha256("lazybench_test_pack.nets:X") != before


def test_declared_files_are_hashed_and_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, main="FILES: list[str] = ['w.bin']\nX = 1\n")
    (tmp_path / "w.bin").write_bytes(b"1")
    before = target_sha256(f"{tmp_path}/main.py:X")
    (tmp_path / "w.bin").write_bytes(b"2")
    assert target_sha256(f"{tmp_path}/main.py:X") != before
    (tmp_path / "w.bin").unlink()
    with pytest.raises(UsageError, match=re.escape("declares 'w.bin' in FILES, but there is no")):
        target_sha256(f"{tmp_path}/main.py:X")
    write(tmp_path, main="FILES = open\nX = 1\n")
    with pytest.raises(UsageError, match="must be a list of file names"):
        load(f"{tmp_path}/main.py:X")


def test_a_neighbour_hides_nothing_of_pythons_own(tmp_path: Path) -> None:
    write(tmp_path, main="import csv\nX = csv.reader\n", csv="raise RuntimeError('mine')\n")
    assert load(f"{tmp_path}/main.py:X") is __import__("csv").reader
    assert str(tmp_path) not in sys.path


def test_one_file_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d", net="X = 1\nclass Mine:\n    pass\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "d" / "net.py")
    monkeypatch.chdir(tmp_path)
    for name in ("d/net.py", "./d/net.py", "d/../d/net.py", f"{tmp_path}/d/net.py", "link.py"):
        assert spelled(f"{name}:X") == "d/net.py:X"
        assert agent_spec(f"{name}:Mine").origin == "d/net.py:Mine"
    monkeypatch.chdir(tmp_path / "d")
    assert spelled("../link.py:X") == "net.py:X"
    os.mkdir(tmp_path / "e")
    monkeypatch.chdir(tmp_path / "e")
    assert spelled("../d/net.py:X") == f"{tmp_path.resolve()}/d/net.py:X"
    for name in ("conv4-64", "some.module:X", "no.py:X"):
        assert spelled(name) == name


def test_a_module_of_the_current_folder_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "sub", lazybench_test_net="X = 1\n")
    monkeypatch.chdir(tmp_path)
    message = "sub/lazybench_test_net.py is here: name it as a file, sub/lazybench_test_net.py:X"
    with pytest.raises(UsageError, match=re.escape(message)):
        load("sub.lazybench_test_net:X")
