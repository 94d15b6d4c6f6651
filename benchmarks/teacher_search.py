"""What the lazy teacher's search costs within one task of a Lazy Reptile meta-iteration.

5-way 5-shot, 10 inner steps, one validation image a class, five gammas; CPU time of one thread,
the student and its search in turns. Run from the root of a checkout:
`python benchmarks/teacher_search.py`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from student_step import EDGE_PX, LR, WAY, interleaved, strokes

from lazybench import learning
from lazybench.agents.fewshot.episode import objective
from lazybench.nets import Conv4
from lazybench.nets.params import Params
from lazybench.runtime.threads import keep_freed_memory
from lazybench.tasks import TaskShape


def main() -> None:
    """Write the student's and the search's times and the search's share of the two."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shots", type=int, default=5, help="support images a class")
    parser.add_argument("--steps", type=int, default=10, help="inner steps, k")
    parser.add_argument("--rounds", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    shape = TaskShape(WAY, args.shots, 1, (1, EDGE_PX, EDGE_PX), "uint8")
    net, goal, rule = Conv4(shape), objective(shape), learning.sgd(LR)
    anchor = net.init(torch.Generator().manual_seed(0))
    support, query = strokes(WAY * args.shots), strokes(WAY, seed=1)
    y, query_y = torch.arange(WAY).repeat_interleave(args.shots), torch.arange(WAY)
    picks = learning.batches(len(y), 10, args.steps, torch.Generator().manual_seed(0))
    teacher = learning.lazy()

    def student() -> learning.Trail:
        x = net.prepare(support)
        losses: list[learning.LossFn] = [
            lambda phi, pick=pick: F.cross_entropy(net(phi, x[pick]), y[pick])  # type: ignore[misc]
            for pick in picks
        ]
        return learning.student(anchor, losses, rule=rule)

    trail = student()

    def score(params: Params) -> tuple[float, ...]:
        return goal.score(net(params, query_x), query_y)

    def search() -> learning.Leap:
        return teacher(anchor, trail, score)

    query_x = net.prepare(query)
    ways = {"student": student, "search": search}
    taken = interleaved(ways, args.rounds, time.thread_time)
    for name, pick in (("best", min), ("median", statistics.median)):
        student_s, search_s = pick(taken["student"]), pick(taken["search"])
        share = 100 * search_s / (student_s + search_s)
        sys.stdout.write(
            f"{name:<8}student_ms {student_s * 1e3:7.2f}  search_ms {search_s * 1e3:6.2f}  "
            f"search_percent {share:.1f}\n"
        )


if __name__ == "__main__":
    main()
