"""Names: aliases and patterns find the canonical environment and say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lazybench.envs import CATALOGUE, DATA_CATALOGUE, installed, resolve
from lazybench.errors import DataUnavailable, UnknownName
from lazybench.registry import ENVS, open_data
from lazybench.specs import BUDGETS

KNOWN = {spec.id: spec for spec in CATALOGUE}


def test_ids_are_canonical_and_whole() -> None:
    assert len(KNOWN) == len(CATALOGUE)
    data = {spec.id for spec in DATA_CATALOGUE}
    for spec in CATALOGUE:
        assert spec.data in data
        assert spec.id.startswith(f"{spec.data}-")
        assert set(spec.trials) == set(spec.val_trials) == set(BUDGETS)
        if spec.family == "fewshot":
            many = spec.kwargs["way"] >= 20 and not spec.kwargs.get("uneven")
            assert spec.trials["small"] == (200 if many else 600)


def test_tiered_is_glyphs_where_nothing_else_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path))
    found = resolve("tiered-20way", KNOWN)
    assert found is not None
    assert found.spec is KNOWN["glyphs-20way-5shot"]
    assert found.note == (
        "tiered-20way is glyphs-20way-5shot (tiered by script, embedded; "
        "TieredImageNet isn't installed)"
    )


@pytest.mark.parametrize(
    ("name", "spec_id", "note"),
    [
        ("glyphs-20way", "glyphs-20way-5shot", "glyphs-20way is glyphs-20way-5shot"),
        ("glyphs-7way-3shot", "glyphs-7way-3shot", ""),
        ("glyphs-7way-3shot-noniid", "glyphs-7way-3shot-noniid", ""),
        ("glyphs-7way-3shot-dirichlet", "glyphs-7way-3shot-dirichlet", ""),
        ("omniglot-alphabet-9way-1shot", "omniglot-alphabet-9way-1shot", ""),
        ("tiered-5way-1shot-noniid", "glyphs-5way-1shot-noniid", "tiered-5way-1shot-noniid is "),
    ],
)
def test_patterns(name: str, spec_id: str, note: str) -> None:
    found = resolve(name, KNOWN)
    assert found is not None
    assert found.spec.id == spec_id
    assert found.note == note if not note.endswith(" ") else found.note.startswith(note)
    kwargs = found.spec.kwargs
    assert found.spec.id.startswith(f"{kwargs['data']}-{kwargs['way']}way-{kwargs['shot']}shot")
    assert found.spec.data == kwargs["data"]
    assert kwargs["noniid"] is name.endswith("noniid")
    assert set(found.spec.trials) == set(BUDGETS)


@pytest.mark.parametrize(
    "name",
    [
        "nothing-5way-1shot", "sinusoid-5way-1shot", "glyphs", "glyphs-5way-1shot-other",
        "nothing-anyway", "sinusoid-anyway", "anyway", "glyphs-way-1shot", "Glyphs-5way", "",
        "glyphs-5way-1shot ",
    ],
)  # fmt: skip
def test_other_names_are_refused_here(name: str) -> None:
    assert resolve(name, KNOWN) is None


def test_the_registry_names_the_nearest() -> None:
    with pytest.raises(
        UnknownName, match=r"unknown environment 'glyph-5way-1shot'.*glyphs-5way-1shot"
    ):
        ENVS.resolve("glyph-5way-1shot")


def test_registered_data_has_environments(register_tiny: Callable[..., str]) -> None:
    assert resolve("tiny-5way-1shot", KNOWN) is None
    register_tiny("tiny")
    found = resolve("tiny-5way-1shot", KNOWN)
    assert found is not None
    assert found.spec.data == "tiny"


def test_tiered_prefers_the_real_one_once_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path))
    assert not installed("tieredimagenet")
    (tmp_path / "tieredimagenet").mkdir()
    assert not installed("tieredimagenet"), "an empty folder is no data set"
    (tmp_path / "tieredimagenet" / "test_images_png.pkl").touch()
    assert installed("tieredimagenet")
    found = resolve("tiered-20way", KNOWN)
    assert found is not None
    assert found.spec is KNOWN["tieredimagenet-20way-5shot"]
    assert found.note == "tiered-20way is tieredimagenet-20way-5shot"


@pytest.mark.parametrize("name", ["mini-5way", "miniimagenet-7way-1shot", "tieredimagenet-5way"])
def test_known_data_that_lacks_says_so_when_it_is_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path))
    found = resolve(name, KNOWN)
    assert found is not None
    assert not installed(found.spec.data)
    with pytest.raises(DataUnavailable, match=f"lazybench data get {found.spec.data}"):
        open_data(found.spec.data)
