"""Write docs/settings.md: the settings of all shipped agents, from their docstrings.

    python tools/write_settings.py

The page isn't edited by hand; `tests/tools/test_write_settings.py` compares.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from lazybench.agent import contract, setting_meanings
from lazybench.registry import AGENTS
from lazybench.user_code import load

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
FAMILIES = {
    "fewshot": "Few-shot agents",
    "longtail": "Long-tailed agents",
    "attack": "Attackers",
}
_HEAD = """# Settings

<!-- Made by `python tools/write_settings.py` from docstrings; don't edit. -->

`--set NAME=VALUE` changes a setting of an agent. `lazybench show AGENT --env ENV` prints its values
at each budget, with these explanations. Agents that share a setting are listed together.
"""
_MOST_NAMED = 4


def page() -> str:
    """Return the text of the page."""
    return "\n".join([_HEAD, *(part for family in FAMILIES for part in _family(family))])


def _family(family: str) -> list[str]:
    """The heading of a family and a table of its agents' settings."""
    specs = [spec for spec in AGENTS.specs() if spec.origin == "lazybench"]
    agents: dict[tuple[str, str], list[str]] = defaultdict(list)
    for spec in specs:
        if spec.families[0] == family:
            for name, meaning in setting_meanings(contract(load(spec.target))).items():
                agents[name, meaning].append(spec.id)
    lines = [f"## {FAMILIES[family]}", "", "| setting | meaning | agents |", "|---|---|---|"]
    for (name, meaning), named in sorted(agents.items()):
        shown = meaning.replace("|", "\\|")
        lines.append(f"| `{name}` | {shown} | {_names(named)} |")
    return [*lines, ""]


def _names(named: list[str]) -> str:
    """The agents of a setting in short."""
    if len(named) > _MOST_NAMED:
        return f"{', '.join(named[:_MOST_NAMED])} and {len(named) - _MOST_NAMED} more"
    return ", ".join(named)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
