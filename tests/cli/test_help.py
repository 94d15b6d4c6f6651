"""Help of the commands: each described once, and options of one name mean one thing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from lazybench.cli import app, command

OWN = frozenset({"--arrays", "--name", "--only", "--split"})
"""Options whose meaning a reader takes from the command."""
ELSEWHERE = {"--out": {"attack", "targets train"}, "--limit": {"attack"}}
"""Commands that write or count something other than records and trials."""
BEGINNINGS = {"--seed": "Seed of ", "--timeout": "Time limit per ", "--trials": "Number of "}
PRIVATE = re.compile(
    r"\b(told|tells?|stands?|beside|likewise|judged?|asked|anew|aside|lies|side by side)\b",
    re.IGNORECASE,
)


def commands() -> Iterator[tuple[str, command.Command]]:
    for each in app.COMMANDS:
        if isinstance(each, command.Group):
            yield from ((f"{each.name} {inner.name}", inner) for inner in each.commands)
        else:
            yield each.name, each


def options() -> dict[str, dict[str, Any]]:
    """Typer's options by their names, and by the commands that have them."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, each in commands():
        for parameter in typer.main.get_params_from_function(each.function).values():
            if isinstance(parameter.default, typer.models.OptionInfo):
                found[parameter.default.param_decls[0]][name] = parameter.default
    return found


def test_options_of_one_name_mean_one_thing() -> None:
    shared = {name: infos for name, infos in options().items() if len(infos) > 1}
    assert len(shared) >= 25
    for name in shared.keys() - OWN:
        infos = [i for at, i in shared[name].items() if at not in ELSEWHERE.get(name, ())]
        texts = {str(info.help) for info in infos}
        if first := BEGINNINGS.get(name):
            assert all(text.startswith(first) for text in texts), (name, texts)
        else:
            # What a command adds follows the meaning.
            meanings = {re.split(r"(?<=\.) ", text)[0] for text in texts}
            assert len(meanings) == 1, (name, meanings)
        assert len({info.metavar for info in infos}) == 1, name


def test_each_command_is_described_by_its_docstring(lazybench: Any) -> None:
    root = lazybench("--help").out
    for name, each in commands():
        summary = (each.function.__doc__ or "").partition("\n\n")[0]
        assert 0 < len(summary) <= 90, name
        shown = " ".join(lazybench(*name.split(), "--help").out.split())
        assert summary in shown
        assert all(example in shown for example in each.examples)
        assert name.split()[0] in root


def test_help_is_in_the_words_of_the_field() -> None:
    for name, each in commands():
        assert not PRIVATE.search(each.function.__doc__ or ""), name
    for name, infos in options().items():
        for info in infos.values():
            assert not PRIVATE.search(info.help), (name, info.help)


@pytest.mark.parametrize("limit", [20])
def test_the_command_line_has_few_files(limit: int) -> None:
    folder = Path(app.__file__).parent
    assert len(list(folder.rglob("*.py"))) <= limit
