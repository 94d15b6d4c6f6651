"""What is cited for what: entries that BibTeX can read, and one for every id."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lazybench._version import __version__
from lazybench.errors import UnknownName, UsageError
from lazybench.references import bibliography, cited
from lazybench.registry import AGENTS, DATASETS, ENVS

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {
    "inproceedings": {"author", "title", "booktitle", "year"},
    "article": {"author", "title", "journal", "year"},
    "techreport": {"author", "title", "institution", "year"},
    "misc": {"author", "title", "note", "year"},
}
OWN = [
    spec
    for registry in (AGENTS, ENVS, DATASETS)
    for spec in registry.specs()
    if spec.origin == "lazybench"
]


def test_every_entry_is_whole() -> None:
    for work in bibliography().values():
        kind = re.match(r"@(\w+)\{", work.bibtex)
        assert kind is not None
        assert set(work.fields) >= NEEDED[kind[1]], work.key
        assert work.bibtex.count("{") == work.bibtex.count("}"), work.key
        assert re.fullmatch(r"(19|20)\d\d", work.fields["year"]), work.key
        assert all(", " in name for name in work.fields["author"].split(" and ")) or (
            work.key == "lazybench"
        ), work.key


def test_keys_tell_first_author_and_year() -> None:
    for key, work in bibliography().items():
        if key == "lazybench":
            continue
        family = work.fields["author"].split(",")[0].lower()
        assert key.startswith(family.replace(" ", "") + work.fields["year"]), key


def test_file_holds_nothing_but_entries_and_comments() -> None:
    text = (ROOT / "lazybench" / "references.bib").read_text("utf-8")
    for key, work in bibliography().items():
        text = text.replace(work.bibtex, "") if key != "lazybench" else text
    assert all(line.startswith("%") for line in text.splitlines() if line.strip())


def test_every_id_names_a_work_that_is_known() -> None:
    for spec in OWN:
        assert spec.cites, spec.id
        assert set(spec.cites) <= set(bibliography()), spec.id


def test_every_work_is_cited_by_something() -> None:
    used = {key for spec in OWN for key in spec.cites}
    assert set(bibliography()) == used


def test_reference_and_cited_works_agree() -> None:
    """The line that `show` prints, such as `Finn et al. 2017`, is among the works cited."""
    for spec in AGENTS.specs():
        match = re.match(r"([A-Z]\w+)\b.*?\b((?:19|20)\d\d)\b", getattr(spec, "reference", ""))
        if match is not None:
            works = [bibliography()[key] for key in spec.cites]
            found = {(w.fields["author"].split(",")[0], w.fields["year"]) for w in works}
            assert (match[1], match[2]) in found, spec.id


def test_environment_brings_its_data_and_protocol() -> None:
    works, silent = cited(["omniglot-20way-1shot-noniid", "lazy_reptile", "reptile"])
    assert silent == []
    keys = [work.key for work in works]
    assert keys[0] == "lazybench"
    wanted = {"lake2015omniglot", "yin2020memorization", "jamal2021lazy", "nichol2018reptile"}
    assert wanted <= set(keys)
    assert len(keys) == len(set(keys))
    reptile = next(work for work in works if work.key == "nichol2018reptile")
    assert reptile.for_ == ("lazy_reptile", "reptile")


def test_plain_text_has_no_latex() -> None:
    text = bibliography()["bertinetto2019r2d2"].text
    assert text.startswith("Luca Bertinetto, João F. Henriques, Philip H. S. Torr and Andrea Veda")
    assert text.endswith("International Conference on Learning Representations (ICLR), 2019.")
    assert not any(mark in work.text for work in bibliography().values() for mark in "{}\\")


def test_unknown_id() -> None:
    with pytest.raises(UnknownName, match="Did you mean: reptile"):
        cited(["reptil"])


ENTRY = "@article{me2030,\n  author = {Me, M.},\n  title = {Mine},\n  year = {2030}\n}"


@pytest.mark.parametrize(
    ("cites", "message"),
    [
        (("fin2017maml",), "Did you mean: finn2017maml"),
        (("@article me",), "BibTeX entry that can't be read"),
        ((ENTRY.replace("me2030", "finn2017maml"), "finn2017maml"), "another entry under the key"),
    ],
)
def test_spec_of_another_package_with_a_wrong_work(
    monkeypatch: pytest.MonkeyPatch, cites: tuple[str, ...], message: str
) -> None:
    spec = AGENTS.resolve("maml").spec
    monkeypatch.setattr(AGENTS, "_specs", {"theirs": replace(spec, id="theirs", cites=cites)})
    with pytest.raises(UsageError, match=message):
        cited(["theirs"])


def test_agent_of_a_file_brings_its_own_entry(tmp_path: Path) -> None:
    lines = f'class Mine:\n    """Mine."""\n    cites = ({ENTRY!r}, "finn2017maml")\n'
    (tmp_path / "mine.py").write_text(lines)
    works, silent = cited([f"{tmp_path}/mine.py:Mine"])
    assert [work.key for work in works] == ["lazybench", "me2030", "finn2017maml"]
    assert silent == []


def test_agent_without_a_work_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('class Mine:\n    """Mine."""\n')
    works, silent = cited([f"{tmp_path}/mine.py:Mine"])
    assert [work.key for work in works] == ["lazybench"]
    assert silent == [f"{tmp_path}/mine.py:Mine"]


def test_citation_file_has_this_version_and_the_licence() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(rf"^version: {re.escape(__version__)}$", text, re.MULTILINE)
    assert "\nlicense: MIT\n" in text
    assert "\ncff-version: 1.2.0\n" in f"\n{text}"


def test_command_prints_bibtex(capsys: pytest.CaptureFixture[str]) -> None:
    from lazybench.cli import main

    assert main(["cite", "glyphs-lt-100", "two_component"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("% glyphs-lt-100\n@misc{lazybench,\n")
    assert "% two_component\n@inproceedings{jamal2020rethinking,\n" in printed
    assert main(["cite", "maml", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [work["key"] for work in found["works"]] == ["lazybench", "finn2017maml"]
    assert main(["cite", "maml", "--format", "text"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("Chelsea Finn, Pieter Abbeel and")
    assert main(["cite", "mamll"]) == 2
    assert "Did you mean: maml" in capsys.readouterr().err
