"""A sweep of your own: a suite as a TOML file, its cells side by side, resumed by the same command.

    python examples/own_sweep.py              # a minute: four cells at the smoke budget

A cell is claimed by a lock and finished by a rename, so the same suite may be run by many machines
over one folder, and what stands is never run again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lazybench.cli import main as lazybench

SUITE = """\
name = "mine"
about = "two learners on two environments, two values of a setting"

[[cells]]
agents = ["protonet"]
envs = ["glyphs-5way-1shot", "glyphs-5way-5shot"]
budget = "smoke"

[[cells]]
agents = ["reptile"]
envs = ["glyphs-5way-1shot"]
budget = "smoke"
[cells.grid]                    # every combination of these settings
inner_steps = [3, 5]
"""


def main() -> int:
    """Write the suite, run it on two workers, and print the boards."""
    folder = Path("runs/own-sweep")
    folder.mkdir(parents=True, exist_ok=True)
    suite = folder / "mine.toml"
    suite.write_text(SUITE, encoding="utf-8")
    places = ["--out", str(folder / "store"), "--runs", str(folder / "work")]
    lazybench(["sweep", str(suite), "--dry-run", *places])
    code = lazybench(["sweep", str(suite), "--jobs", "2", *places])
    lazybench(["leaderboard", "--out", str(folder / "store")])
    return code


if __name__ == "__main__":
    sys.exit(main())
