"""Numbers out of range are refused where they enter, in every option of every command."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import typer.main

from lazybench.cli import main
from lazybench.cli.app import make_app

TWENTY_DIGITS = "9" * 20
FLOATS = ("nan", "inf", "-inf", "1e400", "-1e400", "-1")
WHOLE = (TWENTY_DIGITS, f"-{TWENTY_DIGITS}", "-1", "nan", "1e400", "2.5", "9" * 5000)


class Numeric(NamedTuple):
    """An option that takes a number, of a command that gets what it needs next to it."""

    command: tuple[str, ...]
    option: str
    kind: type
    least: float | None
    needed: tuple[str, ...]


def commands(app: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for command in app.registered_commands:
        yield (*path, str(command.name)), command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, (*path, str(group.name)))


def numeric() -> Iterator[Numeric]:
    for path, callback in commands(make_app()):
        found, needed = [], []
        for parameter in typer.main.get_params_from_function(callback).values():
            info = parameter.default
            if parameter.annotation is typer.Context:
                continue
            kinds = {parameter.annotation, *typing.get_args(parameter.annotation)} & {int, float}
            is_option = isinstance(info, typer.models.OptionInfo)
            if is_option and kinds:
                found.append((info.param_decls[0], kinds.pop(), info.min))
            elif info.default is ...:
                # Names of nothing: the number is refused before anything is looked up.
                needed += [info.param_decls[0], "none"] if is_option else [_argument(parameter)]
        for option, kind, least in found:
            yield Numeric(path, option, kind, least, tuple(needed))


def _argument(parameter: Any) -> str:
    kind = parameter.annotation
    if hasattr(kind, "__members__"):
        return str(next(iter(kind)))
    # A suite is read before the limits of its cells are looked at.
    return "core" if parameter.name == "suite" else "none"


NUMERIC = list(numeric())


def test_the_walk_finds_the_options() -> None:
    named = {(" ".join(each.command), each.option) for each in NUMERIC}
    assert len(named) >= 39
    assert {
        ("run", "--query-budget"),
        ("sweep", "--memory-gib"),
        ("attack", "--fail-under"),
        ("data import", "--split-seed"),
        ("targets train", "--seed"),
    } <= named


@pytest.mark.parametrize("each", NUMERIC, ids=lambda each: f"{each.command[-1]}{each.option}")
def test_numbers_out_of_range_are_refused(
    each: Numeric,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    zero = ("0",) if each.least == 1 else ()
    for value in (*(FLOATS if each.kind is float else WHOLE), *zero):
        code = main([*each.command, f"{each.option}={value}", *each.needed])
        reported = capsys.readouterr()
        said = f"{each} {value}: exit {code}, {reported.err}"
        assert code == 2, said
        # `--memory-gib` is the request's memory: messages of requests name what Python calls it.
        assert each.option.removeprefix("--").partition("-")[0] in reported.err, said
        assert "Traceback" not in reported.err, said
        assert reported.out == "", said
    assert list(tmp_path.iterdir()) == []


RUN = ("run", "-a", "reptile", "-e", "sinusoid-5shot", "-b", "smoke", "-q")
IMPORT = ("data", "import", "x.npz", "--name", "n", "--split-seed", "0")
TUNE = ("tune", "reptile", "-e", "sinusoid-5shot")
ATTACK = ("attack", "--target", "m.py:predict", "--images", "x.npz", "-q")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ((*RUN, "--seeds", TWENTY_DIGITS), "none above 9223372036854775807"),
        ((*RUN, "--seeds", f"0-{TWENTY_DIGITS}"), "--seeds takes"),
        ((*RUN, "--seeds", "9" * 5000), "--seeds takes"),
        ((*RUN, "--set", "inner_lr=1e400"), "a setting's numbers must be finite"),
        ((*RUN, "--set", "inner_lr=NaN"), "a setting's numbers must be finite"),
        ((*RUN, "--set", "inner_lr=-Infinity"), "a setting's numbers must be finite"),
        ((*RUN, "--set", f"inner_steps={TWENTY_DIGITS}"), "a setting's numbers must be finite"),
        ((*RUN, "--set", f"inner_steps=[[{TWENTY_DIGITS}]]"), "a setting's numbers must be finite"),
        ((*RUN, "--set", f"inner_steps={'9' * 5000}"), "a setting can't be read"),
        ((*RUN, "--set", f"inner_steps={'[' * 100_000}"), "a setting can't be read"),
        ((*TUNE, "--search", "inner_lr=1e-320..1e300"), "range"),
        ((*TUNE, "--search", "inner_lr=nan..1"), "range"),
        ((*TUNE, "--search", "inner_lr=1..1e400"), "range"),
        ((*ATTACK, "--bounds", "0,1e400"), "bounds must be two numbers"),
        ((*ATTACK, "--bounds", "nan,1"), "bounds must be two numbers"),
        ((*ATTACK, "--eps", "1e999999999"), "eps must be a number above 0"),
        ((*ATTACK, "--eps", "1/0"), "eps must be a number above 0"),
        ((*ATTACK, "--eps", f"{TWENTY_DIGITS}/1"), "eps must be a number above 0"),
        ((*ATTACK, "--eps", "infinity"), "eps must be a number above 0"),
        (("sweep", "s.toml", "--devices", f"cuda:0-{TWENTY_DIGITS}"), "--devices takes"),
        (("sweep", "s.toml", "--jobs", "4097"), "jobs must be at least 1 and at most 4096"),
        (("sweep", "s.toml", "--timeout", "1e300"), "timeout must be positive and at most"),
        (("sweep", "s.toml", "--memory-gib", "1e308"), "memory must be positive and at most"),
        (("sweep", "s.toml", "--timeout-per-episode", "1e300"), "timeout-per-episode must be"),
        (("sweep", "inf.toml"), "a setting's numbers must be finite"),
        (("sweep", "big.toml"), "a setting's numbers must be finite"),
        (("sweep", "seed.toml"), "seeds.0 in block 1 of cells: Input should be less than 922337"),
        ((*IMPORT, "--fractions", "1e400,0,0"), "fractions"),
        ((*IMPORT, "--fractions", "nan,0,0"), "fractions"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[-2:])[:40],
)
def test_so_are_those_that_are_typed_as_text(
    command: tuple[str, ...],
    what: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.zeros((2, 8, 8, 3), np.uint8), y=np.zeros(2, np.int64))
    Path("m.py").write_text(
        "import torch\ndef predict(x):\n    m = x.mean((1, 2, 3))\n"
        "    return torch.stack([0.5 - m, m - 0.5], 1)\n"
    )
    cells = '[[cells]]\nagents = ["chance"]\nenvs = ["glyphs-5way-1shot"]\nbudget = "smoke"\n'
    for name, more in (
        ("s", ""),
        ("inf", "set = { a = [inf] }\n"),
        ("big", f"protocol = {{ a = {TWENTY_DIGITS} }}\n"),
        ("seed", f"seeds = [{TWENTY_DIGITS}]\n"),
    ):
        Path(f"{name}.toml").write_text(f'name = "mine"\n{cells}{more}')
    code = main(list(command))
    reported = capsys.readouterr()
    assert code == 2, reported.err
    assert what in reported.err
    assert len(reported.err) < 2000
    assert "Traceback" not in reported.err
