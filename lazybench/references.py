"""Citations: BibTeX entries by key, and the entries that an id cites.

Specs name keys of `references.bib`, or contain whole BibTeX entries; an id without citations cites
only lazybench.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from lazybench._version import __version__
from lazybench.errors import UnknownName, UsageError, nearest
from lazybench.specs import DataSpec, EnvSpec

LAZYBENCH = "lazybench"
"""The key of lazybench itself."""

_ENTRY = re.compile(r"^@(\w+)\{([^\s,]+),\n.*?^\}$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", re.MULTILINE)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_LATEX = {r"{\~a}": "ã", r"{\'e}": "é", r"{\'i}": "í", r"{\'o}": "ó", r"\&": "&", "--": "-"}


@dataclass(frozen=True)
class Work:
    """A BibTeX entry.

    Attributes:
        key: its citation key.
        bibtex: the entry as text.
        for_: the ids that cite it, in the given order.
    """

    key: str
    bibtex: str
    for_: tuple[str, ...] = ()

    @property
    def fields(self) -> dict[str, str]:
        """The entry's BibTeX fields by name."""
        return dict(_FIELD.findall(self.bibtex))

    @property
    def url(self) -> str:
        """The address of the work: its `url`, or its page at arXiv; empty without either."""
        fields = self.fields
        number = _ARXIV.search(fields.get("journal", ""))
        return fields.get("url") or (f"https://arxiv.org/abs/{number[1]}" if number else "")

    @property
    def text(self) -> str:
        """The citation as one line of plain text: authors, title, venue, year."""
        fields = {name: _plain(value) for name, value in self.fields.items()}
        names = [" ".join(reversed(n.split(", "))) for n in fields["author"].split(" and ")]
        authors = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
        found = (fields.get(name) for name in ("booktitle", "journal", "institution", "note"))
        venue = next((each for each in found if each), "")
        return f"{authors}. {fields['title']}. {venue + ', ' if venue else ''}{fields['year']}."


@cache
def bibliography() -> Mapping[str, Work]:
    """Return every known work by its key, lazybench itself first."""
    text = (resources.files("lazybench") / "references.bib").read_text("utf-8")
    own = Work(
        LAZYBENCH,
        f"@misc{{{LAZYBENCH},\n"
        "  author = {{lazybench contributors}},\n"
        "  title = {lazybench: a benchmark suite for meta-learning},\n"
        f"  note = {{Version {__version__}}},\n"
        "  year = {2026}\n}",
    )
    works = {match[2]: Work(match[2], match[0]) for match in _ENTRY.finditer(text)}
    return {LAZYBENCH: own} | works


def cited(names: Sequence[str]) -> tuple[list[Work], list[str]]:
    """Return the works that some ids cite, each once, lazybench first; and the ids without any.

    Args:
        names: agents, environments (with their data) and data sets, as ids or aliases.

    Raises:
        UnknownName: an unknown id.
        UsageError: a spec names an unknown work, or contains an invalid entry.
    """
    found: dict[str, Work] = {LAZYBENCH: bibliography()[LAZYBENCH]}
    silent = []
    for name in names:
        keys = _keys(name)
        if not keys:
            silent.append(name)
        for key in keys:
            work = _work(key, name)
            known = found.get(work.key, work)
            if known.bibtex != work.bibtex:
                raise UsageError(
                    f"'{name}' has another entry under the key '{work.key}' than "
                    f"{', '.join(known.for_) or 'lazybench'}; rename one"
                )
            for_ = tuple(dict.fromkeys([*known.for_, name]))
            found[work.key] = Work(work.key, work.bibtex, for_)
    return list(found.values()), silent


def _work(key: str, name: str) -> Work:
    if key.startswith("@"):
        match = _ENTRY.fullmatch(key.strip())
        if match is None:
            raise UsageError(
                f"'{name}' has a BibTeX entry that can't be read: {key[:60]!r}; the first line of "
                "an entry must be '@kind{key,' and its last line '}'"
            )
        return Work(match[2], match[0])
    try:
        return bibliography()[key]
    except KeyError:
        raise UsageError(
            f"'{name}' cites '{key}', which isn't in lazybench's references.{_hint(key)} A spec "
            "may also contain whole BibTeX entries"
        ) from None


def _hint(key: str) -> str:
    return nearest(key, bibliography())


def _keys(name: str) -> tuple[str, ...]:
    from lazybench.registry import AGENTS, DATASETS, ENVS, agent_spec

    agents = {spec.id for spec in AGENTS.specs()}
    if name in agents or ":" in name:
        return agent_spec(name).cites
    for registry in (ENVS, DATASETS):
        try:
            spec = registry.resolve(name).spec
        except UnknownName:
            continue
        if registry is DATASETS:
            return tuple(spec.cites)
        return tuple(dict.fromkeys((*spec.cites, *DATASETS.resolve(spec.data).spec.cites)))
    known = [*agents, *_ids(ENVS.specs()), *_ids(DATASETS.specs())]
    raise UnknownName(
        f"unknown name '{name}': no agent, environment or data set.{nearest(name, known)} "
        "See: lazybench list agents|envs|data"
    )


def _ids(specs: Iterable[EnvSpec | DataSpec]) -> list[str]:
    return [spec.id for spec in specs]


def _plain(value: str) -> str:
    """A field without LaTeX markup."""
    for marked, letter in _LATEX.items():
        value = value.replace(marked, letter)
    return value.replace("{", "").replace("}", "")
