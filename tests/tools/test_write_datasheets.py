"""The data sheets are what the catalogue makes, and what they say of the glyphs is so."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lazybench.envs.data_catalogue import CONTENT, HERE, LIMITS, ORIGIN
from lazybench.envs.datasets.glyphs import read_frozen
from lazybench.registry import DATASETS, open_data

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "datasets"


@pytest.fixture(scope="module")
def tool(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tools/write_datasheets.py")


def test_files_are_what_the_catalogue_makes(tool: ModuleType) -> None:
    made = tool.files()
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text("utf-8") == text, f"run: {tool.COMMAND}"


def test_every_data_set_has_a_whole_sheet() -> None:
    for spec in DATASETS.specs():
        if spec.origin == "lazybench":
            assert tuple(spec.sheet) == (CONTENT, ORIGIN, HERE, LIMITS)
            assert spec.licence
            assert spec.cites
            text = (FOLDER / f"{spec.id}.md").read_text("utf-8")
            assert all(f"## {heading}\n" in text for heading in (*spec.sheet, "Licence", "To cite"))


def test_glyphs_sheet_counts_what_is_there() -> None:
    frozen = read_frozen()
    said = DATASETS.resolve("glyphs").spec.sheet[CONTENT].replace(",", "")
    numbers = list(map(int, re.findall(r"\d+", said)))
    by_split = {
        split: [i for i, each in enumerate(frozen.splits) if each == split]
        for split in ("train", "val", "test")
    }
    scripts = {split: len({frozen.scripts[i] for i in rows}) for split, rows in by_split.items()}
    assert numbers == [
        len(frozen.names), len(set(frozen.scripts)),
        int(frozen.count.min()), int(frozen.count.max()), len(frozen.bitmaps), 28, 28,
        *(n for split in by_split for n in (len(by_split[split]), scripts[split])),
    ]  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("name", ["omniglot", "cifarfs", "fc100", "miniimagenet", "tieredimagenet"])
def test_sheet_reports_the_classes_of_each_split(name: str) -> None:
    from lazybench.errors import DataUnavailable

    try:
        opened = open_data(name)
    except DataUnavailable as error:
        pytest.skip(str(error))
    turned = 4 if name == "omniglot" else 1
    counts = [opened.pool(split).classes for split in ("train", "val", "test")]
    counts[0] //= turned
    sheet = DATASETS.resolve(name).spec.sheet
    said = re.findall(r"\d+", (sheet[HERE] if turned > 1 else sheet[CONTENT]).replace(",", ""))
    assert all(str(count) in said for count in counts), counts


@pytest.fixture(scope="module")
def croissant() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "glyphs.croissant.json").read_text("utf-8"))
    return loaded


def test_croissant_names_the_file_that_is_shipped(croissant: dict[str, Any]) -> None:
    (file,) = croissant["distribution"]
    path = FOLDER / file["contentUrl"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
    assert file["contentSize"] == f"{path.stat().st_size} B"


def test_croissant_has_what_the_format_asks_for(croissant: dict[str, Any]) -> None:
    wanted = {"@context", "@type", "conformsTo", "name", "description", "license", "distribution"}
    assert wanted <= set(croissant)
    assert croissant["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    (records,) = croissant["recordSet"]
    fields = {field["@id"] for field in records["field"]}
    assert all(set(row) == fields for row in records["data"])
    assert sum(row["scripts/characters"] for row in records["data"]) == len(read_frozen().names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_croissant_is_valid_for_its_own_library() -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant")
    opened = mlcroissant.Dataset(str(FOLDER / "glyphs.croissant.json"))
    assert not opened.metadata.ctx.issues.errors
    assert len(list(opened.records("scripts"))) == len(set(read_frozen().scripts))
