"""One meta-iteration of Reptile and FOMAML: the plain way against lazybench's.

The plain way takes one task after another with `functional_call` on an `nn.Module`, on all cores
or on one; lazybench takes tasks side by side, one core each. All keep freed memory, which the plain
way wouldn't by itself, so that the ratio errs on the low side.

The ratio means something on an idle machine only: where other jobs hold a core, the plain way's
threads wait for each other and its times grow tenfold. Run from the root of a checkout:
`python benchmarks/meta_iteration.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from student_step import EDGE_PX, LR, WAY, Plain, interleaved, plain_step, strokes, table
from torch import Tensor

from lazybench import learning
from lazybench.nets import Conv4
from lazybench.parallel import map_tasks, set_threads, usable_cores
from lazybench.params import Params, mean, scale, subtract
from lazybench.task import TaskShape

SHOTS, QUERIES, BATCH = 10, 5, 10


def main() -> None:
    """Write one table an algorithm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tasks", type=int, default=8, help="tasks of a meta-batch, T")
    parser.add_argument("--steps", type=int, default=5, help="inner steps, k")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    set_threads(None)
    rows, held = WAY * SHOTS, WAY * QUERIES
    support = strokes(args.tasks * rows).view(args.tasks, rows, 1, EDGE_PX, EDGE_PX)
    query = strokes(args.tasks * held, seed=1).view(args.tasks, held, 1, EDGE_PX, EDGE_PX)
    y, query_y = torch.arange(WAY).repeat_interleave(SHOTS), torch.arange(WAY).repeat(QUERIES)
    seeds = [torch.Generator().manual_seed(task) for task in range(args.tasks)]
    picks = [learning.batches(rows, BATCH, args.steps, seed) for seed in seeds]

    model = Plain()
    theta = {name: value.detach().requires_grad_() for name, value in model.named_parameters()}

    def plain(fomaml: bool, threads: int) -> None:
        torch.set_num_threads(threads)
        totals: list[Tensor] = [torch.zeros_like(value) for value in theta.values()]
        for task in range(args.tasks):
            phi = theta
            for pick in picks[task]:
                phi = plain_step(model, phi, support[task][pick].float() / 255, y[pick])
            ends = list(phi.values())
            if fomaml:
                outputs = torch.func.functional_call(model, phi, (query[task].float() / 255,))
                grads = list(torch.autograd.grad(F.cross_entropy(outputs, query_y), ends))
            else:
                moved = zip(theta.values(), ends, strict=True)
                grads = [(start - end).detach() for start, end in moved]
            totals = [total + grad / args.tasks for total, grad in zip(totals, grads, strict=True)]
        for value, total in zip(theta.values(), totals, strict=True):
            value.data.sub_(total, alpha=LR)
        torch.set_num_threads(1)

    net = Conv4(TaskShape(WAY, SHOTS, QUERIES, (1, EDGE_PX, EDGE_PX), "uint8"))
    rule, teacher = learning.sgd(LR), learning.greedy()
    anchor = net.init(torch.Generator().manual_seed(0))

    def ours(fomaml: bool) -> None:
        def run(task: int) -> Params:
            x = net.prepare(support[task])
            losses: list[learning.LossFn] = [
                lambda phi, pick=pick: F.cross_entropy(net(phi, x[pick]), y[pick])  # type: ignore[misc]
                for pick in picks[task]
            ]
            leap = teacher(anchor, learning.student(anchor, losses, rule=rule), lambda phi: ())
            if not fomaml:
                return learning.reptile_gradient(anchor, leap).params
            held_x = net.prepare(query[task])
            return learning.fomaml_gradient(
                anchor, leap, lambda phi: F.cross_entropy(net(phi, held_x), query_y)
            ).params

        gradient = mean(map_tasks(run, range(args.tasks)))
        anchor.update(subtract(anchor, scale(gradient, LR)))

    for fomaml in (False, True):
        ways: dict[str, Callable[[], object]] = {
            "plain": partial(plain, fomaml, usable_cores()),
            "plain, one thread": partial(plain, fomaml, 1),
            "lazybench": partial(ours, fomaml),
        }
        name = "fomaml" if fomaml else "reptile"
        sys.stdout.write(f"{name}: {args.tasks} tasks, {args.steps} steps of {BATCH}, wall time\n")
        sys.stdout.write(table(interleaved(ways, args.rounds, time.perf_counter, 30.0), "plain"))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
