"""Compares a few settings of agents on validation tasks; how the `small` presets were chosen.

    python tools/tune_small.py --env glyphs-20way-5shot --share 0.25 \
        "reptile inner_lr=0.003 outer_lr=1.0" "reptile inner_lr=0.001 outer_lr=1.0"

Each argument is an agent and its settings. All take the same share of their preset's
meta-iterations: where a setting changes what one costs, change the share too. Nothing of
the test split is ever opened. Prints one Markdown row each.
"""

from __future__ import annotations

import argparse
import time

from lazybench.harness.fit import Training, fit
from lazybench.harness.request import make, resolve_env
from lazybench.harness.signals import Signals
from lazybench.harness.watch import SILENT
from lazybench.parallel import set_threads


def compare(setting: str, env: str, share: float, seed: int) -> str:
    """Return the Markdown row of one setting: last and best validation score, wall seconds."""
    agent, *pairs = setting.split()
    given = dict(pair.split("=", 1) for pair in pairs)
    spec, _ = resolve_env(env)
    whole = make(agent, spec, "small", given).config["iterations"]
    updates = max(1, round(whole * share))
    made = make(agent, spec, "small", {**given, "iterations": updates, "validate_every": 0})
    before = time.perf_counter()
    progress = fit(Training(made.agent, spec, "small", seed, "cpu", None), SILENT, Signals())
    wall_s = time.perf_counter() - before
    value = progress.curve[-1]["val"]
    return f"| {env} | {agent} | {' '.join(pairs)} | {updates} | {value:.4f} | {wall_s:.0f} |"


def main() -> None:
    """Compare the settings given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="+", help='as "reptile inner_lr=0.003"')
    parser.add_argument("--env", required=True)
    parser.add_argument("--share", type=float, default=0.25, help="share of the small budget")
    parser.add_argument("--seed", type=int, default=100, help="not one that boards use")
    options = parser.parse_args()
    set_threads(None)
    print("| env | agent | settings | updates | val | wall s |\n|---|---|---|---|---|---|")
    for setting in options.settings:
        print(compare(setting, options.env, options.share, options.seed), flush=True)


if __name__ == "__main__":
    main()
