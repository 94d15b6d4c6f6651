"""`lazybench cite`: what to cite for what was used."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from lazybench.cli import options, out

HELP = "Print what to cite: lazybench, the data and the methods behind some ids, as BibTeX."
EXAMPLES = (
    "lazybench cite omniglot-5way-1shot maml lazy_reptile > used.bib",
    "lazybench cite cifar100-lt-100 two_component --format text",
    "lazybench cite",
)


class Format(enum.StrEnum):
    """How works are printed."""

    bibtex = "bibtex"
    text = "text"


def cite_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENV|AGENT|DATA]…",
            help="Environments, agents and data sets; none: lazybench alone.",
            autocompletion=options.complete_any,
        ),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.bibtex,
    json: options.Json = False,
) -> None:
    """Print works, each once, with what they are for.

    Raises:
        UnknownName: an id that is neither agent, environment nor data set.
        UsageError: a spec names a work that isn't known.
    """
    from lazybench.references import cited

    works, silent = cited(names or [])
    for name in silent:
        out.note(f"{name} names no work of its own; cite its authors yourself")
    if json:
        facts = [
            {"key": w.key, "for": list(w.for_), "bibtex": w.bibtex, "text": w.text} for w in works
        ]
        out.as_json({"works": facts, "unknown": silent})
    elif form is Format.text:
        for work in works:
            out.line(work.text)
    else:
        head = (f"% {', '.join(work.for_)}\n" if work.for_ else "" for work in works)
        out.line("\n\n".join(f"{top}{work.bibtex}" for top, work in zip(head, works, strict=True)))
