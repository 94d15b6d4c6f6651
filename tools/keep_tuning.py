"""Keep the results of `lazybench tune` and write them into docs/presets.md.

    python tools/keep_tuning.py runs/tune-*      # copy finished searches to leaderboards/tuning/
    python tools/keep_tuning.py --further queries runs/tune-*  # a second search of an agent
    python tools/keep_tuning.py                  # only write the page anew
    python tools/keep_tuning.py --check          # exit 1 if the page isn't what the files make

A search is kept as `leaderboards/tuning/<env>/<agent>.json`: the agent, the budget, the settings
that were fixed, the preset's values of those that were searched, and each configuration with its
validation score and cost. A search of further
settings, which starts from what the first one chose, is `<env>/<agent>-<name>.json`. The block of
docs/presets.md between the markers is a pure function of these files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lazybench.files import read_lines, write_json
from lazybench.paper.searches import read_kept
from lazybench.runner.provenance import code
from lazybench.runner.request import make, resolve_env
from lazybench.sweep.tune import read_tuning

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "leaderboards" / "tuning"
PAGE = ROOT / "docs" / "presets.md"
PROTOCOL = ("image_gradients", "validations")
"""Fixed settings that the page's text states and its table leaves out."""

BEGIN, END = "<!-- tuning: begin -->", "<!-- tuning: end -->"


def keep(
    folder: Path, to: Path = KEPT, commit: str | None = None, further: str | None = None
) -> Path:
    """Copy one finished search; return the file that now holds it.

    Args:
        folder: what `lazybench tune` named at its end.
        to: the folder of all searches.
        commit: of the checkout that ran the search, where it isn't this one; its presets must be
            those of this one.
        further: name of what was searched, where the agent has a search already.

    Raises:
        UsageError: the folder holds no finished search.
    """
    found = read_tuning(folder)
    # A longer search of the same settings may have written further lines, and a trial that was
    # repeated several.
    lines = {line["tried"]["number"]: line["tried"] for line in read_lines(folder / "trials.jsonl")}
    tried = [lines[number] for number in range(found.tuning.trials)]
    searched = {name for trial in tried for name in trial["settings"]}
    fixed = {name: v for name, v in found.settings.items() if name not in searched}
    preset = make(found.agent, resolve_env(found.env)[0], found.budget, fixed).config
    facts = {
        "agent": found.agent,
        "budget": found.budget,
        "commit": commit or code().commit,
        "env": found.env,
        "fixed": fixed,
        "preset": {name: preset[name] for name in sorted(searched)},
        "trials": tried,
    }
    name = found.agent if further is None else f"{found.agent}-{further}"
    path = to / found.env / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, facts)
    return path


def table(kept: list[dict[str, Any]]) -> str:
    """Return all searches as one Markdown table, the best configuration of each marked."""
    lines = [
        "| environment | agent | settings | image-gradients | val % | CPU s | best |",
        "|---|---|---|---|---|---|---|",
    ]
    for search in kept:
        fixed = {name: v for name, v in search["fixed"].items() if name not in PROTOCOL}
        scores = [trial["val"] for trial in search["trials"] if trial["val"] is not None]
        for trial in search["trials"]:
            val = trial["val"]
            values = trial["settings"] or search["preset"]
            text = ", ".join(f"{name} {value}" for name, value in {**fixed, **values}.items())
            if not trial["settings"]:
                known = "preset" if search["preset"] else "preset at the time"
                text = f"{text} ({known})" if text else known
            cells = (
                search["env"],
                search["agent"],
                text,
                f"{round(trial['image_gradients']):,}",
                trial["reason"] if val is None else f"{100 * val:.1f}",
                f"{trial['cpu_s']:.0f}",
                "yes" if val is not None and val == max(scores) else "",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str, kept: list[dict[str, Any]]) -> str:
    """Return the page with the table between its markers.

    Raises:
        ValueError: the markers aren't in the page, once each and in order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the markers {BEGIN} and {END}, in this order")
    return f"{head}{BEGIN}\n\n{table(kept)}\n\n{END}{tail}"


def main() -> int:
    """Keep the named searches, then write or check the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders that lazybench tune named")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    parser.add_argument("--commit", help="of the checkout that ran the searches, if not this one")
    parser.add_argument("--further", metavar="NAME", help="of settings that weren't searched yet")
    options = parser.parse_args()
    if options.check and options.folders:
        parser.error("--check writes nothing: leave the folders out")
    for folder in options.folders:
        path = keep(folder, commit=options.commit, further=options.further)
        print(path.relative_to(ROOT))
    kept = read_kept(KEPT)
    old = PAGE.read_text("utf-8")
    new = page(old, kept)
    if options.check:
        if new != old:
            print(f"{PAGE.name} isn't what leaderboards/tuning makes: run {Path(__file__).name}")
        return int(new != old)
    PAGE.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
