"""Tasks side by side: order, bits that don't depend on the threads, errors, thread counts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lazybench.errors import UsageError
from lazybench.learning import adam, student
from lazybench.nets import Conv4
from lazybench.nets.params import Params
from lazybench.runtime import threads as parallel
from lazybench.tasks import TaskShape


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    chosen = list(parallel._chosen)
    yield
    parallel._chosen[:] = chosen


def test_results_come_in_order() -> None:
    parallel.set_threads(3)

    def slow_first(item: int) -> int:
        time.sleep(0.02 * (3 - item))
        return item * item

    assert parallel.map_tasks(slow_first, iter(range(4))) == [0, 1, 4, 9]
    assert parallel.map_tasks(slow_first, []) == []


def test_tasks_really_run_in_parallel() -> None:
    parallel.set_threads(2)
    meeting = threading.Barrier(2, timeout=10)
    assert len(parallel.map_tasks(lambda item: meeting.wait(), range(2))) == 2


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    task = TaskShape(5, 1, 1, (1, 28, 28), "uint8")
    net = Conv4(task, filters=32)
    theta = net.init(torch.Generator().manual_seed(0))

    def run(index: int) -> tuple[Params, tuple[float, ...]]:
        generator = torch.Generator().manual_seed(index)
        x = net.prepare(torch.randint(256, (10, 1, 28, 28), generator=generator).byte())
        y = torch.arange(10) % 5

        def loss(params: Params) -> Tensor:
            return torch.nn.functional.cross_entropy(net(params, x), y)

        trail = student(theta, [loss] * 3, rule=adam(1e-2))
        return trail.end, trail.losses

    found = []
    for threads in (1, 2, 3):
        parallel.set_threads(threads)
        found.append(parallel.map_tasks(run, range(4)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


def test_an_error_is_raised_once_the_tasks_that_had_started_are_done() -> None:
    parallel.set_threads(2)
    started, done = threading.Event(), threading.Event()

    def task(item: int) -> None:
        if item == 0:
            started.wait(10)
            raise RuntimeError("task 0 failed")
        started.set()
        time.sleep(0.1)
        done.set()

    with pytest.raises(RuntimeError, match="task 0 failed"):
        parallel.map_tasks(task, range(2))
    assert done.is_set()
    assert parallel.map_tasks(lambda item: item, range(3)) == [0, 1, 2], "the pool lives on"


def test_operators_in_a_task_run_on_one_thread() -> None:
    for threads in (1, 2):
        parallel.set_threads(threads)
        inside = parallel.map_tasks(lambda item: torch.get_num_threads(), range(2))
        assert inside == [1, 1]


def test_set_threads() -> None:
    assert parallel.set_threads(3) == 3
    assert parallel.threads() == 3
    assert parallel.set_threads(None) == parallel.usable_cores() == parallel.threads()
    for wrong in (0, -2):
        with pytest.raises(UsageError, match=f"threads must be at least 1, got {wrong}"):
            parallel.set_threads(wrong)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_usable_cores_follow_the_affinity() -> None:
    code = (
        "import os; core = min(os.sched_getaffinity(0)); os.sched_setaffinity(0, {core})\n"
        "from lazybench.runtime import threads\n"
        "raise SystemExit(threads.usable_cores() != 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
