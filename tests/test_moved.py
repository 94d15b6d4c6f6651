"""Documented modules under their former names: each still imports, and warns."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lazybench._moved import MOVED, RENAMED

ROOT = Path(__file__).resolve().parent.parent

# What pages and examples imported before the modules moved.
DOCUMENTED = {
    "lazybench.agent": ("Plan",),
    "lazybench.agents.fewshot.gradient_settings": (),
    "lazybench.agents.fewshot.heads": (),
    "lazybench.attack_task": ("AttackTask", "Queries", "margin"),
    "lazybench.boards.plots": ("as_bytes", "panels"),
    "lazybench.data.fingerprint": ("content_fingerprint", "instance_hash"),
    "lazybench.data.pool": ("SPLITS", "Pool", "Split"),
    "lazybench.envs": ("few_shot",),
    "lazybench.envs.attack_doors": ("BudgetSpent", "as_foolbox"),
    "lazybench.envs.attack_ids": ("attack",),
    "lazybench.envs.longtail_ids": ("Size", "long_tailed"),
    "lazybench.harness.trained": ("find_run",),
    "lazybench.learning": ("lazy", "maml_gradient", "sgd", "student"),
    "lazybench.longtail_task": ("LongTailTask",),
    "lazybench.nets": ("backbone",),
    "lazybench.params": ("Params",),
    "lazybench.records": ("Record",),
    "lazybench.registry": ("open_data",),
    "lazybench.rng": ("Rng",),
    "lazybench.task": ("TaskShape",),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget former names that an earlier test imported: only the first import warns."""
    for former in MOVED:
        monkeypatch.delitem(sys.modules, f"lazybench.{former}", raising=False)


@pytest.mark.parametrize(("former", "new"), MOVED.items())
def test_former_name_gives_the_module_and_warns(former: str, new: str) -> None:
    module = importlib.import_module(f"lazybench.{new}")
    spec = module.__spec__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = importlib.import_module(f"lazybench.{former}")
    if former in RENAMED:
        assert all(vars(found)[was] is vars(module)[now] for was, now in RENAMED[former].items())
    elif former == "envs.longtail_ids":
        spec_of = found.long_tailed("tiny", 10, found.Size(classes=10, test_images=1000))
        assert spec_of == module.long_tailed("tiny", 10, classes=10, test_images=1000)
    else:
        assert found is module
    # The last one: the parent of `harness.trained` is a former name, too.
    assert caught[-1].category is DeprecationWarning
    assert str(caught[-1].message).startswith(f"lazybench.{former} is now lazybench.{new};")
    assert (module.__spec__, module.__name__) == (spec, f"lazybench.{new}")


@pytest.mark.filterwarnings("ignore:lazybench:DeprecationWarning")
@pytest.mark.parametrize(("former", "names"), DOCUMENTED.items())
def test_documented_names_are_there(former: str, names: tuple[str, ...]) -> None:
    module = importlib.import_module(former)
    assert [name for name in names if not hasattr(module, name)] == []


def test_modules_of_a_moved_package_are_not_loaded_twice() -> None:
    code = (
        "import lazybench.harness.request as former\n"
        "import lazybench.runner.request as new\n"
        "assert former is new\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)


def test_templates_of_packages_import_what_is_there() -> None:
    found = [
        (path.name, module, name.partition(" as ")[0].strip(" ()"))
        for path in sorted((ROOT / "lazybench" / "templates").rglob("*.jinja"))
        for module, names in re.findall(
            r"^\s*from (lazybench[\w.]*) import ([^\n]+)", path.read_text("utf-8"), re.MULTILINE
        )
        for name in names.split(",")
    ]
    assert len(found) > 10
    missing = [
        (file, module, name)
        for file, module, name in found
        if name and not hasattr(importlib.import_module(module), name)
    ]
    assert missing == []


def test_the_warning_points_at_the_importing_line() -> None:
    code = "import lazybench\nfrom lazybench.rng import Rng\nassert Rng is lazybench.Rng\n"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr.startswith("<string>:2: DeprecationWarning: lazybench.rng is now")


def test_extend_page_lists_the_former_names() -> None:
    page = (ROOT / "docs" / "extend.md").read_text("utf-8")
    missing = [former for former in MOVED if f"`lazybench.{former}`" not in page]
    assert missing == []
