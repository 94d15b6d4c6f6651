"""The wheel holds what git tracks, installs beside what is there, and only as `lazybench`."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
ASSETS = PurePosixPath("envs/assets")
BUILD_FILES = ("pyproject.toml", "setup.py", "README.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def call(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[PurePosixPath]:
    """Every file that git tracks in the three source folders, the two links left out."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: nothing to compare the package list with")
    names = call("git", "ls-files", "-z", "lazybench", "envs", "agents").split("\0")
    links = {"lazybench/envs", "lazybench/agents"}
    return [PurePosixPath(name) for name in names if name and name not in links]


@pytest.fixture(scope="module")
def wheel(tracked: list[PurePosixPath], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built without network from a copy of the tracked files, links left out."""
    source = tmp_path_factory.mktemp("source")
    extra = [path.name for pattern in ("LICENSE*", "NOTICE*") for path in ROOT.glob(pattern)]
    for name in [*tracked, *BUILD_FILES, *extra]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("dist")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    call(*PIP, "wheel", *offline, "-w", str(out), str(source))
    (built,) = out.glob("lazybench-*.whl")
    return built


def installed_path(source: PurePosixPath) -> str:
    return str(source if source.parts[0] == "lazybench" else PurePosixPath("lazybench", source))


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [
        requirement
        for requirement in map(Requirement, itertools.chain(*lists))
        if requirement.name != project["name"]
    ]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_package_list_is_the_tree(tracked: list[PurePosixPath]) -> None:
    folders = {path.parent for path in tracked if path.suffix == ".py" or path.parent == ASSETS}
    names = {str(installed_path(folder)).replace("/", ".") for folder in folders}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(names)


def test_wheel_holds_every_tracked_file(wheel: Path, tracked: list[PurePosixPath]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {installed_path(path) for path in tracked}


def test_wheel_has_one_top_level_name_and_one_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        (entry_points,) = (n for n in archive.namelist() if n.endswith("/entry_points.txt"))
        text = archive.read(entry_points).decode()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lazybench"}
    assert "lazybench = lazybench.cli:main" in text.splitlines()


def test_version_is_in_one_place(wheel: Path) -> None:
    text = (ROOT / "lazybench" / "_version.py").read_text("utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert wheel.name.split("-")[1] == version
    shown = call(sys.executable, "-c", "import lazybench; print(lazybench.__version__)")
    assert shown.strip() == version


def metadata(folder: Path, repository: str) -> Message:
    """Return the metadata that a build has where the repository's address is set to this."""
    for name in (*BUILD_FILES, "lazybench/_version.py", "LICENSE", "NOTICE"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    text = (folder / "pyproject.toml").read_text("utf-8")
    packages = re.sub(r"^packages = \[.*?^\]", 'packages = ["lazybench"]', text, flags=re.M | re.S)
    (folder / "pyproject.toml").write_text(packages, "utf-8")
    script = (folder / "setup.py").read_text("utf-8")
    variable = re.compile(r'^REPOSITORY = ".*"$', re.MULTILINE)
    script, replaced = variable.subn(f"REPOSITORY = {repository!r}", script)
    assert replaced == 1
    (folder / "setup.py").write_text(script, "utf-8")
    code = "from setuptools import build_meta as b; b.prepare_metadata_for_build_wheel('.')"
    call(sys.executable, "-c", code, cwd=folder)
    (made,) = folder.glob("lazybench-*.dist-info/METADATA")
    return message_from_string(made.read_text("utf-8"))


def test_links_are_absolute_once_the_repository_is_named(tmp_path: Path) -> None:
    address = "https://example.org/owner/lazybench"
    found = metadata(tmp_path, address)
    tag = f"{address}/blob/v{found['Version']}"
    urls = dict(url.split(", ") for url in found.get_all("Project-URL"))
    assert urls["Homepage"] == address
    assert urls["Changelog"] == f"{tag}/CHANGELOG.md"
    assert found["Description-Content-Type"] == "text/markdown"
    links = LINK.findall(found.get_payload())
    own = LINK.findall((ROOT / "README.md").read_text("utf-8"))
    assert len(links) == len(own) > 20
    for link, before in zip(links, own, strict=True):
        if before.startswith("https://"):
            assert link == before
        else:
            assert link == f"{tag}/{before}"
            assert (ROOT / before.partition("#")[0]).exists()


def test_without_a_repository_the_readme_is_as_it_is(tmp_path: Path) -> None:
    found = metadata(tmp_path, "")
    assert found.get_all("Project-URL") is None
    assert found.get_payload().strip() == (ROOT / "README.md").read_text("utf-8").strip()


def test_install_changes_nothing_that_is_there(wheel: Path, tmp_path: Path) -> None:
    """Every requirement is met here, torch's above all, so pip may install lazybench alone."""
    report = tmp_path / "report.json"
    call(*PIP, "install", "--dry-run", "--no-index", "--report", str(report), str(wheel))
    planned = {item["metadata"]["name"] for item in json.loads(report.read_text())["install"]}
    assert planned <= {"lazybench"}


@pytest.mark.parametrize("version", ["2.4.0", "2.6.0+cu124", "2.13.0", "2.13.0+cpu"])
def test_torch_range_accepts(version: str) -> None:
    (torch,) = (r for r in requirements() if r.name == "torch")
    assert torch.specifier.contains(version)


@pytest.mark.parametrize("version", ["1.9.0", "2.3.1", "3.0.0"])
def test_torch_range_refuses(version: str) -> None:
    (torch,) = (r for r in requirements() if r.name == "torch")
    assert not torch.specifier.contains(version)


def test_every_requirement_is_pinned_inside_its_range() -> None:
    pinned = pins()
    wrong = [
        f"{requirement} pinned at {pinned.get(canonicalize_name(requirement.name))}"
        for requirement in requirements()
        if canonicalize_name(requirement.name) not in pinned
        or not requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])
    ]
    assert not wrong


def test_pins_name_releases_not_builds() -> None:
    assert [name for name, version in pins().items() if version.local] == []


@pytest.mark.parametrize("folder", ["envs", "agents"])
def test_import_by_the_folder_name_is_refused(folder: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert f"lazybench.{folder}" in last


@pytest.mark.parametrize("folder", ["envs", "agents"])
def test_link_points_to_the_top_folder(folder: str) -> None:
    link = ROOT / "lazybench" / folder
    if not link.is_symlink():
        pytest.skip("this checkout has no links: the build doesn't need them")
    assert link.readlink() == Path("..", folder)
