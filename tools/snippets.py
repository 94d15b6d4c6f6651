"""The commands and code of README, CONTRIBUTING and docs/: which are run, and why others aren't.

    python tools/snippets.py            # run what is cheap, list everything
    python tools/snippets.py --list     # only list
    python tools/snippets.py --all      # run all that can be run here (half an hour)

Every `lazybench` line is read by the real command line, so that options which aren't there fail;
Python is compiled. Beyond that a snippet is *run* as it stands, run at *smoke* budget, run where
time doesn't matter (*slow*), or *read* alone, for a reason that is listed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
How = Literal["run", "smoke", "slow", "read"]

EMBEDDED = re.compile(r"(glyphs(hard)?|sinusoid|tiered)-")
_FENCE = re.compile(r"^```([\w{}-]*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ASSIGNED = re.compile(r"[A-Z_]+=")
_KEY = re.compile(r"[0-9a-f]{6,64}|[A-Z]+")

CHEAP_CODE = (
    ("docs/idea.md", "lazy("),
    ("docs/verify.md", "def image_hash"),
    ("CONTRIBUTING.md", "def factory"),
    ("docs/extend.md", "rng.at("),
)
"""Python that takes no time: a page, and words of the block."""

TESTED_CODE = (
    ("README.md", "record.agent.id"),
    ("README.md", "class MyAgent"),
    ("docs/guide.md", "nearest support image"),
    ("docs/attack.md", "as_foolbox"),
)
"""Python that `tests/test_readme.py` runs, looking at what it prints."""

UNRUN_CODE: tuple[tuple[str, str, str], ...] = (
    (
        "docs/verify.md",
        "trials-glyphs-5way-1shot-small.npz",
        "needs the file of `lazybench trials`",
    ),
)
"""Python that can't be run alone: page, words, reason."""


@dataclass(frozen=True)
class Snippet:
    """A line for a shell, or a block of Python.

    Attributes:
        file: page, from the root.
        line: its first line there.
        kind: `command` or `python`.
        text: what stands there.
        how: what is done with it.
        why: why no more is done; empty for those run as they stand.
    """

    file: str
    line: int
    kind: Literal["command", "python"]
    text: str
    how: How
    why: str = ""

    @property
    def words(self) -> list[str]:
        """A command's words, without comment, assignments before it, and what follows a pipe."""
        words = shlex.split(self.text, comments=True)
        while words and _ASSIGNED.match(words[0]):
            words = words[1:]
        ends = [i for i, word in enumerate(words) if word in (">", "|", "&&", ";")]
        return words[: ends[0]] if ends else words


def pages() -> list[Path]:
    """Return README, CONTRIBUTING and every page of docs/ that a person wrote."""
    written = (path for path in (ROOT / "docs").glob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(written)]


def snippets() -> list[Snippet]:
    """Return every snippet of every page, in order."""
    return [found for page in pages() for found in _of_page(page)]


def _of_page(page: Path) -> Iterator[Snippet]:
    text, name = page.read_text("utf-8"), str(page.relative_to(ROOT))
    for match in _FENCE.finditer(text):
        line = text[: match.start(2)].count("\n") + 1
        if match[1] == "python":
            yield Snippet(name, line, "python", match[2], *_for_code(name, match[2]))
        elif match[1] in ("", "sh", "bash", "shell", "console"):
            yield from _commands(name, line, match[2])


def _commands(name: str, first: int, block: str) -> Iterator[Snippet]:
    held, begin = "", 0
    for place, line in enumerate(block.splitlines()):
        begin = begin if held else place
        held += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        text, held = " ".join(held.split()), ""
        bare = Snippet(name, first + begin, "command", text, "read")
        if bare.words[:1] in (["lazybench"], ["make"], ["python"], ["pip"]):
            yield Snippet(name, first + begin, "command", text, *_for_command(bare.words))


def _for_code(file: str, code: str) -> tuple[How, str]:
    for page, words, why in UNRUN_CODE:
        if page == file and words in code:
            return "read", why
    if any(page == file and words in code for page, words in TESTED_CODE):
        return "run", "by tests/test_readme.py"
    if any(page == file and words in code for page, words in CHEAP_CODE):
        return "run", ""
    return "slow", "seconds to minutes"


def _for_command(words: Sequence[str]) -> tuple[How, str]:
    if words[0] != "lazybench":
        return "read", "installs or builds; its target or file must be there"
    command, rest = words[1] if len(words) > 1 else "", words[2:]
    if any(option in words for option in ("--write", "--into", "--check")):
        return "read", "reads or writes the whole store; CI runs it"
    if command in ("list", "version", "cite", "new", "--help"):
        return "run", ""
    if command == "show":
        if _KEY.fullmatch(rest[0]):
            return "read", "needs a run of yours"
        return ("slow", "draws") if "--png" in rest else ("run", "")
    if command in ("data", "targets") and rest[:1] in (["list"], ["where"]):
        return "run", ""
    if command == "reproduce" and "--dry-run" in rest:
        return "run", ""
    if command == "sweep" and "--dry-run" in rest:
        return "read", "needs the data of its cells, to know their keys"
    if command in ("leaderboard", "compare", "power", "table"):
        return "slow", "seconds: reads the store"
    if command in ("run", "check") and not any("my_" in word for word in rest):
        return _for_run(command, rest)
    reasons = {
        "run": "needs a file of yours",
        "check": "needs a file of yours",
        "data": "needs a network, or files of yours",
        "targets": "minutes",
        "attack": "needs a model and images of yours",
        "sweep": "hours",
        "reproduce": "minutes",
        "tune": "minutes",
        "evaluate": "needs a run of yours",
        "verify": "needs a run of yours",
        "audit": "needs a run of yours",
        "trials": "needs data, or writes a large file",
        "score": "needs answers of yours",
    }
    return "read", reasons.get(command, "not known to be cheap")


def _for_run(command: str, rest: Sequence[str]) -> tuple[How, str]:
    env = next((rest[i + 1] for i, w in enumerate(rest) if w in ("--env", "-e")), "")
    if command == "check" and not env:
        env = "sinusoid-5shot"
    if "--config" in rest:
        return "read", "needs a file of yours"
    if "--init" in rest or any(_KEY.fullmatch(word) for word in rest):
        return "read", "needs a run of yours"
    if not EMBEDDED.match(env):
        return "read", "needs data that isn't embedded"
    if any(option in rest for option in ("--devices", "--device")):
        return "read", "needs a GPU"
    return "smoke", "minutes as it stands"


def parse(words: Sequence[str]) -> None:
    """Let the real command line read a command, without doing what it says.

    Raises:
        Exception: an option, command or value that isn't there, as the command line words it.
    """
    import typer

    from lazybench.cli.app import make_app

    command: Any = typer.main.get_command(make_app())
    path, rest = "lazybench", list(words[1:])
    if rest[:1] in (["--help"], ["--version"], []):
        return
    while hasattr(command, "commands"):
        name = rest.pop(0)
        if name not in command.commands:
            raise ValueError(f"'{path}' has no command '{name}'")
        command, path = command.commands[name], f"{path} {name}"
    if "--config" in rest:
        # Its file, which the reader has, is read with the options.
        rest[rest.index("--config") + 1] = str(ROOT / "tests" / "fixtures" / "run.toml")
    if "--help" not in rest:
        command.make_context(path, rest)


def target_is_there(words: Sequence[str]) -> bool:
    """Whether the target of a `make`, or the file of a `python`, exists."""
    if words[0] == "make":
        text = (ROOT / "Makefile").read_text("utf-8")
        named = [word for word in words[1:] if "=" not in word]
        return all(re.search(rf"^{re.escape(word)}:", text, re.MULTILINE) for word in named)
    if words[0] == "python" and words[1:2] != ["-m"]:
        return (ROOT / words[1]).is_file()
    return True


def argv(snippet: Snippet) -> list[str]:
    """Return the arguments that a command is run with: at smoke budget, where that is how."""
    words = snippet.words[1:]
    if snippet.how == "smoke" and words[0] == "run":
        at = [i for i, word in enumerate(words) if word in ("--budget", "-b")]
        words = words[: at[0]] + words[at[0] + 2 :] if at else words
        words = [*words, "--budget", "smoke"]
    return words


def execute(snippet: Snippet, folder: Path) -> None:
    """Run a snippet in a process of its own, in a folder that holds a copy of the boards' store.

    Raises:
        RuntimeError: it failed; the message holds what it printed.
    """
    if not (folder / "leaderboards").exists():
        shutil.copytree(ROOT / "leaderboards", folder / "leaderboards")
    if snippet.kind == "python":
        call = ["-W", "ignore::DeprecationWarning", "-c", snippet.text]
    else:
        call = ["-m", "lazybench", *argv(snippet)]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *call],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"{snippet.file}:{snippet.line} ended with {done.returncode}\n{done.stderr}"
        )


def table(found: Sequence[Snippet]) -> str:
    """Return the list of snippets, a line each."""
    lines = []
    for each in found:
        first = each.text if each.kind == "command" else each.text.strip().splitlines()[0] + " …"
        why = f" ({each.why})" if each.why else ""
        lines.append(f"{each.how:5}  {each.file}:{each.line}  {first}{why}")
    count = {
        how: sum(each.how == how for each in found) for how in ("run", "smoke", "slow", "read")
    }
    return "\n".join([*lines, ", ".join(f"{n} {how}" for how, n in count.items())])


def main(args: Sequence[str] | None = None) -> None:
    """List the snippets, after running them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--all", action="store_true", help="run the slow ones, too")
    asked = parser.parse_args(args)
    found = snippets()
    kinds = ("run", "smoke", "slow") if asked.all else ("run",)
    with tempfile.TemporaryDirectory() as folder:
        for each in found:
            if each.kind == "command" and each.words[0] == "lazybench":
                parse(each.words)
            if not asked.list and each.how in kinds and not each.why.startswith("by tests"):
                # A reader of one page hasn't run what stands on another.
                page = Path(folder) / each.file.replace("/", "-")
                page.mkdir(exist_ok=True)
                execute(each, page)
                sys.stderr.write(f"ran {each.file}:{each.line}\n")
    sys.stdout.write(table(found) + "\n")


if __name__ == "__main__":
    main()
