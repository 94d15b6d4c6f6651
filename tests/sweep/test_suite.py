from __future__ import annotations

from pathlib import Path

import pytest

from lazybench.errors import LazybenchError, UsageError
from lazybench.runner.request import make, resolve_env
from lazybench.sweep.suite import Block, Suite, expand, read_suite, shipped

GOOD = """
name = "mine"
[[cells]]
agents = ["a", "b"]
envs = ["e"]
seeds = [0, 1]
set = { x = 1 }
[cells.grid]
y = [2, 3]
[[cells]]
agents = ["a"]
envs = ["e"]
set = { x = 1, y = 2 }
"""


def test_a_suite_is_every_combination_once_in_the_order_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    cells = expand(read_suite(str(path)))
    assert [cell.name for cell in cells] == [
        f"{agent} e s{seed} x=1 y={y}" for agent in "ab" for seed in (0, 1) for y in (2, 3)
    ]
    assert cells[0].settings == {"x": 1, "y": 2}
    # As editors save it: behind a byte-order mark.
    path.write_text(GOOD, encoding="utf-8-sig")
    assert expand(read_suite(str(path))) == cells


@pytest.mark.parametrize("name", shipped())
def test_shipped_suites_name_only_what_there_is(name: str) -> None:
    suite = read_suite(name)
    assert suite.name == name
    for cell in expand(suite):
        spec, _ = resolve_env(cell.env)
        try:
            make(cell.agent, spec, cell.budget, cell.settings)
        except LazybenchError as error:
            raise AssertionError(f"{name}: {cell.name}: {error}") from error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "isn't a readable TOML file"),
        ('name = "x"\ncells = []', "cells"),
        (GOOD.replace("envs", "env"), "env"),
        (GOOD.replace("seeds = [0, 1]", 'seeds = ["no"]'), r"seeds\.0 in block 1 of cells: Input"),
        (GOOD.replace("seeds = [0, 1]", 'budget = "tiny"'), "medium, paper, got 'tiny'"),
    ],
)
def test_a_suite_that_cant_be_read_is_reported_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        read_suite(str(path))
    assert "\n" not in str(raised.value).strip() or "TOML" in str(raised.value)


def test_an_unknown_suite_reports_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="table2"):
        read_suite("tabel2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'name = "x"\nagents = ["a"]\n[[cells]]\nagents = ["a"]\nenvs = ["e"]\n',
            r"'agents' at the top of the file; allowed keys: name",
        ),
        (
            'name = "x"\n[[cells]]\nagents = ["a"]\nenvs = ["e"]\n'
            '[[cells]]\nagents = ["a"]\nenvs = ["e"]\nseed = [1]\n',
            r"'seed' in block 2 of cells; allowed keys: agents, envs, seeds.*Did you mean: seeds",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_those_that_are_allowed(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_suite(str(path))


def test_the_suite_of_the_documentation_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "suites.md").read_text("utf-8")
    path = tmp_path / "documented.toml"
    path.write_text(page.partition("```toml\n")[2].partition("```")[0])
    cells = expand(read_suite(str(path)))
    assert len(cells) == 24 + 2
    for key in (*Suite.model_fields, *(f"cells.{name}" for name in Block.model_fields)):
        assert f"| `{key}` |" in page, key
    for name in shipped():
        assert f"| `{name}` |" in page, name
