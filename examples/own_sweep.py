"""A sweep of your own: a suite as a TOML file, its cells on Dask, resumed by the same command.

    pip install 'lazybench[cluster]'
    python examples/own_sweep.py              # a minute: four smoke cells on two workers here
    python examples/own_sweep.py --scheduler tcp://host:8786      # on a cluster that is there
    python examples/own_sweep.py --jobs 2                         # here, without Dask

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


def main(engine: list[str]) -> int:
    """Write the suite, run it on the workers that `engine` names, and print the boards."""
    folder = Path("runs/own-sweep")
    folder.mkdir(parents=True, exist_ok=True)
    suite = folder / "mine.toml"
    suite.write_text(SUITE, encoding="utf-8")
    places = ["--out", str(folder / "store"), "--runs", str(folder / "work")]
    lazybench(["sweep", str(suite), "--dry-run", *places])
    code = lazybench(["sweep", str(suite), *(engine or ["--workers", "2"]), *places])
    lazybench(["leaderboard", "--out", str(folder / "store")])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
