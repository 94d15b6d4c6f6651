"""Compares a few settings of agents on validation tasks; how the `small` presets were chosen.

    python tools/tune_small.py --env glyphs-20way-5shot --share 0.25 \
        "reptile inner_lr=0.003 outer_lr=1.0" "reptile inner_lr=0.001 outer_lr=1.0"

Each argument is an agent and its settings. All spend the same share of the budget's
image-gradients. Nothing of the test split is ever opened. Prints one Markdown row each.
"""

from __future__ import annotations

import argparse
import time

from lazybench.errors import Diverged
from lazybench.runner.callbacks import SILENT
from lazybench.runner.request import make, resolve_env
from lazybench.runner.signals import Signals
from lazybench.runner.train import Training, fit
from lazybench.runtime.threads import set_threads


def compare(setting: str, env: str, share: float, seed: int) -> str:
    """Return the Markdown row of one setting: last and best validation score, wall seconds."""
    agent, *pairs = setting.split()
    given = dict(pair.split("=", 1) for pair in pairs)
    spec, _ = resolve_env(env)
    whole = make(agent, spec, "small", given).config["image_gradients"]
    spent = {"image_gradients": round(whole * share), "validations": 1}
    made = make(agent, spec, "small", {**given, **spent})
    before = time.perf_counter()
    progress = fit(Training(made.instance, spec, "small", seed, "cpu", None), SILENT, Signals())
    wall_s = time.perf_counter() - before
    value = progress.curve[-1]["val"]
    updates, images = progress.step, round(progress.totals.get("image_gradients", 0))
    row = (env, agent, " ".join(pairs), updates, images, f"{value:.4f}", f"{wall_s:.0f}")
    return f"| {' | '.join(map(str, row))} |"


def main() -> None:
    """Compare the settings given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="+", help='as "reptile inner_lr=0.003"')
    parser.add_argument("--env", required=True)
    parser.add_argument("--share", type=float, default=0.25, help="share of the small budget")
    parser.add_argument("--seed", type=int, default=100, help="not one that boards use")
    options = parser.parse_args()
    set_threads(None)
    print("| env | agent | settings | updates | image-gradients | val | wall s |")
    print("|---|---|---|---|---|---|---|")
    for setting in options.settings:
        try:
            print(compare(setting, options.env, options.share, options.seed), flush=True)
        except Diverged as error:
            print(f"| {options.env} | {setting} | | | | diverged: {error} | |", flush=True)


if __name__ == "__main__":
    main()
