"""The commands and code of README, CONTRIBUTING and docs/ work, as far as they can be run here."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from lazybench.registry import AGENTS, ENVS
from lazybench.user_code import load

ROOT = Path(__file__).resolve().parents[1]


TOOL = sys.modules[load(f"{ROOT / 'tools' / 'snippets.py'}:snippets").__module__]
FOUND = TOOL.snippets()


def of(kind: str, *how: str) -> list[Any]:
    return [
        each
        for each in FOUND
        if each.kind == kind and each.how in how and not each.why.startswith("by tests")
    ]


def name(snippet: Any) -> str:
    return f"{snippet.file}:{snippet.line}"


def test_pages_have_snippets_of_every_kind() -> None:
    assert len(FOUND) > 70
    assert {each.how for each in FOUND} == {"run", "smoke", "slow", "read"}
    assert all(each.why for each in FOUND if each.how == "read")


def test_every_command_is_read_by_the_command_line() -> None:
    wrong = {}
    for each in of("command", "run", "smoke", "slow", "read"):
        try:
            if each.words[0] == "lazybench":
                TOOL.parse(each.words)
            else:
                assert TOOL.target_is_there(each.words), "no such target or file"
        except Exception as error:
            wrong[name(each)] = f"{each.text}: {error}"
    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    [
        "lazybench run --agent maml --env x --setting a=1",
        "lazybench lst agents",
        "lazybench list agnets",
        "lazybench run --agent maml",
    ],
)
def test_wrong_command_is_not_read(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|no command|is not one of|missing"):
        TOOL.parse(line.split())


def test_agents_and_environments_in_commands_exist() -> None:
    """Names that are neither ids nor files nor placeholders in capitals."""
    wrong = []
    agents = {spec.id for spec in AGENTS.specs()}
    for each in of("command", "run", "smoke", "slow", "read"):
        for option, value in zip(each.words, each.words[1:], strict=False):
            imported = re.match(r"(clip|protonet-cifarfs)-", value)
            if ":" in value or "=" in value or "," in value or imported or value.isupper():
                continue
            if option in ("--agent", "-a") and value not in agents:
                wrong.append((name(each), value))
            if option in ("--env", "-e"):
                try:
                    # Features have the ids of their data, once these are embedded.
                    ENVS.resolve(re.sub(r"@[a-z0-9-]+?(?=-[0-9]+way|-lt-)", "", value))
                except Exception:
                    wrong.append((name(each), value))
    assert wrong == []


def test_python_compiles() -> None:
    for each in of("python", "run", "slow", "read"):
        compile(each.text, name(each), "exec")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a store that may be read, and no data."""
    (tmp_path / "leaderboards").symlink_to(ROOT / "leaderboards")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "no-data"))
    return tmp_path


@pytest.mark.parametrize("snippet", of("command", "run"), ids=name)
def test_cheap_command_works(
    snippet: Any, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lazybench.cli import main

    assert main(TOOL.argv(snippet)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("snippet", of("python", "run"), ids=name)
def test_cheap_code_works(snippet: Any, inside: Path) -> None:
    exec(compile(snippet.text, name(snippet), "exec"), {"__name__": "snippet"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "snippet", [*of("command", "smoke", "slow"), *of("python", "slow")], ids=name
)
def test_slow_snippet_works(snippet: Any, tmp_path: Path) -> None:
    TOOL.execute(snippet, tmp_path)


@pytest.mark.slow
def test_answers_of_another_framework(tmp_path: Path) -> None:
    """docs/verify.md from the export to the record."""
    (code,) = (each.text for each in FOUND if "np.load" in each.text and each.how == "read")
    export = "lazybench trials glyphs-5way-1shot --arrays"
    score = "lazybench score predictions.npz --env glyphs-5way-1shot --name theirs"
    for kind, text in (("command", export), ("python", code), ("command", score)):
        TOOL.execute(TOOL.Snippet("docs/verify.md", 0, kind, text, "slow"), tmp_path)


def test_every_page_is_in_the_navigation() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    listed = {line for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL)
              for line in block.split() if not line.startswith(":")}  # fmt: skip
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {each for each in listed if "/" not in each and each in pages} == pages
    for each in listed - {"Understand", "Use", "Measured", "Look", "up"}:
        assert (ROOT / "docs" / f"{each}.md").is_file(), each


def test_links_between_pages_lead_somewhere() -> None:
    wrong = []
    for page in [*TOOL.pages(), *(ROOT / "docs" / "datasets").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
            made = link.startswith("api/")
            if not re.match(r"[a-z]+:", link) and not made and not (page.parent / link).exists():
                wrong.append(f"{page.name}: {link}")
    assert wrong == []


@pytest.mark.slow
def test_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs the extra 'docs'")
    from sphinx.cmd.build import main

    # The reference is written into the folder of the pages, so a copy is built.
    shutil.copytree(ROOT, tmp_path / "lazybench", ignore=shutil.ignore_patterns(
        ".git", ".*cache", "runs", "leaderboards", "api", "_build"), symlinks=True)  # fmt: skip
    docs = tmp_path / "lazybench" / "docs"
    here = os.getcwd()
    try:
        assert main(["-W", "-q", "-b", "html", str(docs), str(tmp_path / "out")]) == 0
    finally:
        os.chdir(here)
    pages = list((tmp_path / "out").rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        fetched = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]+)"',
                             page.read_text("utf-8"))  # fmt: skip
        assert fetched == [], page.name
