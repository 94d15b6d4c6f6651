"""A walk through the lazy paper at the smoke budget: each claim, its agents, and where to look.

    python examples/paper_walk.py             # a few minutes on two cores, no data, no network

At `smoke` nothing is trained long enough to mean anything: the walk shows how each experiment is
run and read. Replace "smoke" by "small" for minutes an agent, and by "paper" for the real thing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import lazybench
from lazybench.records import Record

BUDGET = "smoke"
OUT, RUNS = "runs/walk", "runs/walk-work"


def run(agent: str, env: str) -> Record:
    """One cell of a table; the same call later prints what stands already."""
    return lazybench.run(agent, env, budget=BUDGET, out=OUT, runs=RUNS)


def show(title: str, records: Sequence[Record]) -> None:
    """Print a small table: score, interval, cost, and what the teacher chose."""
    sys.stdout.write(f"\n{title}\n")
    for record in records:
        headline = record.metrics[record.env.metric]
        gammas = record.diagnostics.get("gamma_histogram", {})
        chosen = ", ".join(f"{gamma}: {count}" for gamma, count in gammas.items() if count)
        sys.stdout.write(
            f"  {record.agent.id:20} {record.env.metric} {headline.value:.3f}  "
            f"{record.cost.train_cpu_s or 0:.1f} CPU s  {'gamma ' + chosen if chosen else ''}\n"
        )


def main() -> None:
    """Walk."""
    # Section 3, eqs. (2) to (5), Algorithm 1: the student walks k steps, the teacher leaps once.
    # docs/idea.md has the picture; lazybench.learning has both as functions.
    #
    # Table 1 and Figure 4: few-shot learning. With one checkpoint (b = 1) Lazy Reptile is Reptile
    # with a step of its own for each task. So it stands beside a control with the same mean step
    # and without the search. `chance` and `nearest_pixel` are the floors.
    few = ("lazy_reptile", "reptile_matched", "lazy_maml", "maml", "nearest_pixel")
    show("Few-shot (Table 1)", [run(agent, "glyphs-5way-1shot") for agent in few])

    # Figure 2 (right): tasks that can be learned by heart. Label j always comes from group j of the
    # train classes; test tasks are drawn as usual.
    trap = ("lazy_reptile", "mr_maml")
    show("Memorisation trap", [run(agent, "glyphs-5way-1shot-noniid") for agent in trap])

    # Table 2, Algorithm 2: long tails. `two_component` with the released constants is `drw` in all
    # but name: its learned part is about 1e-5 of a class weight. The boards show both.
    tails = ("lazy_two_component", "two_component", "drw")
    show("Long-tailed (Table 2)", [run(agent, "glyphs-lt-100") for agent in tails])

    # Tables 3 and 7, Algorithms 3 and 4: blackbox attacks. `meta_attack_untrained` has learned
    # nothing, `square` is today's rival; queries are counted by the environment.
    attacks = ("lazy_meta_attack", "meta_attack_untrained", "square")
    show("Attacks (Table 3)", [run(agent, "glyphs-net4-untargeted") for agent in attacks])

    # Figure 3: memory against k is measured by `make cost` (docs/cost.md).
    # What the records at `small` say of each claim: `lazybench reproduce claims` (docs/claims.md).
    sys.stdout.write(f"\nThe boards: lazybench leaderboard --out {OUT}\n")


if __name__ == "__main__":
    main()
