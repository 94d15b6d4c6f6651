"""The tasks of a meta-batch spread over processes (ranks) that torchrun started.

    torchrun --nproc-per-node 2 -m lazybench run --agent maml --env glyphs-20way-5shot

Every rank holds the same state and sees the whole meta-batch; it computes the tasks whose index
leaves its rank when divided by the number of ranks, and one all-reduce adds up the results. Tasks
are functions of their index, so they are the same for any number of ranks, and results differ from
those of one process by the order of sums alone. Without torchrun there is one rank, and nothing
here does anything.
"""

from __future__ import annotations

import atexit
import os
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from lazybench.errors import DeviceUnavailable, RankLost, UsageError
from lazybench.runtime import launched

A = TypeVar("A")

LOST_S = 1800.0
"""Seconds that a rank waits for the others, which a checkpoint or a slow machine may delay."""
_MEETING_PAUSE_S = 0.05


class _Extras:
    """Further values in each sum: a requested stop, and the processor seconds so far."""

    stop = 0
    begin_s = own_s = all_s = 0.0


_extras = _Extras()


def rank() -> int:
    """Return this rank's number if the ranks have joined, else 0; only rank 0 writes files."""
    return torch.distributed.get_rank() if _joined() else 0


def size() -> int:
    """Return the number of ranks that have joined; 1 without torchrun."""
    return torch.distributed.get_world_size() if _joined() else 1


def join(device: str) -> None:
    """Join the other processes that torchrun started; without it, or if joined, do nothing.

    On CUDA each rank of a machine uses the device with its number there.

    Raises:
        DeviceUnavailable: the machine has fewer devices than ranks.
        RankLost: another rank didn't join.
    """
    if launched()[1] == 1 or _joined():
        return
    if torch.device(device).type == "cuda":
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= there:
            raise DeviceUnavailable(
                f"rank {local} of this machine has no CUDA device left, there are {there}; "
                f"start as many: --nproc-per-node {there}"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    else:
        backend = "gloo"
    _collective(lambda: _meet(backend))
    atexit.register(_leave)


def cores_each(cores: int) -> int:
    """Return a rank's share of a machine's cores."""
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if size() > 1 else cores


def check(sharded: bool, name: str, meta_batch: int | None) -> None:
    """Check that an agent's meta-batch can be spread over all ranks.

    Args:
        sharded: whether its `update` computes `mine` and adds up by `summed`.
        name: its id, for the message.
        meta_batch: tasks of a meta-batch; None if it has none.

    Raises:
        UsageError: it can't.
    """
    if size() == 1:
        return
    if meta_batch is None or not sharded:
        raise UsageError(
            f"agent '{name}' has no meta-batch that could be spread over {size()} processes; run "
            "it without torchrun (many runs in parallel: lazybench sweep --jobs)"
        )
    if meta_batch < size():
        raise UsageError(
            f"a meta-batch of {meta_batch} tasks can't be spread over {size()} processes; start "
            f"at most {meta_batch} of them, or give more tasks with --set meta_batch={size()}"
        )


def mine(tasks: int) -> range:
    """Return the indices of the tasks that this rank computes."""
    return range(rank(), tasks, size())


def summed(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums over all ranks of tensors by name, by one all-reduce; with one rank, `parts`.

    They are sent as one float32 vector, and returned with their original type and memory format.

    Raises:
        RankLost: another rank ended.
    """
    if size() == 1:
        return parts
    own_s = time.process_time() - _extras.begin_s
    device = next(iter(parts.values())).device
    pieces = [part.detach().reshape(-1).to(device, torch.float32) for part in parts.values()]
    extras = torch.tensor([float(_extras.stop), own_s], device=device)
    vector = torch.cat([*pieces, extras])
    _collective(lambda: torch.distributed.all_reduce(vector))
    _extras.stop, _extras.own_s = int(vector[-2]), own_s
    _extras.all_s = float(vector[-1])
    found, at = {}, 0
    for name, part in parts.items():
        piece = vector[at : at + part.numel()].view(part.shape)
        found[name] = torch.empty_like(part).copy_(piece)
        at += part.numel()
    return found


def begin_update(stop: int) -> None:
    """Set the stop request of this rank, which the next sum sends to the others."""
    _extras.stop, _extras.begin_s = stop, time.process_time()
    _extras.own_s = _extras.all_s = 0.0


def stop_of(stop: int) -> int:
    """Return the signal that stops all ranks after this update; 0 if none should stop.

    All ranks receive it with the same sum, so that none waits for a rank that has stopped.
    """
    if size() == 1:
        return stop
    return (stop or _SIGTERM) if _extras.stop else 0


def cpu_s_of(own_s: float) -> float:
    """Return the processor seconds of all ranks, if this rank's update took `own_s`.

    The work after the sum is the same on each rank.
    """
    return own_s if size() == 1 else _extras.all_s + (own_s - _extras.own_s) * size()


def gathered(item: A) -> list[A]:
    """Return the item of each rank, in their order, on every rank.

    Raises:
        RankLost: another rank ended.
    """
    if size() == 1:
        return [item]
    found: list[Any] = [None] * size()
    _collective(lambda: torch.distributed.all_gather_object(found, item))
    return found


def of_first(make: Callable[[], A]) -> A:
    """Return the result of `make` on every rank; only rank 0 calls it.

    Raises:
        RankLost: another rank ended.
    """
    if size() == 1:
        return make()
    held: list[Any] = [make() if rank() == 0 else None]
    _collective(lambda: torch.distributed.broadcast_object_list(held))
    return held[0]  # type: ignore[no-any-return]


def longest_side_by_side(walls_s: Sequence[float]) -> float:
    """Return the wall seconds of blocks that the ranks evaluated in turn, from each block's."""
    each = size()
    return sum(max(walls_s[at : at + each]) for at in range(0, len(walls_s), each))


_SIGTERM = 15


def _meet(backend: str) -> None:
    from torch.distributed.rendezvous import rendezvous

    limit = timedelta(seconds=LOST_S)
    store, number, ranks = next(rendezvous("env://", timeout=limit))
    torch.distributed.init_process_group(
        backend, store=_unused(store, number, ranks), rank=number, world_size=ranks, timeout=limit
    )


def _unused(store: Any, number: int, ranks: int) -> Any:
    """Return a part of the ranks' store that was unused before they started.

    torchrun keeps its store when it restarts the ranks, and a rank would find the addresses of
    ranks that have ended. Each machine counts restarts separately. So rank 0 draws a name and
    replies to every request with it until each of the others confirms it, since a request may come
    from a rank that has ended.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    token = uuid.uuid4().hex
    if number > 0:
        store.set(f"lazybench/asks/{number}", token)
        name = store.get(f"lazybench/answer/{token}").decode()
        store.set(f"{name}/{number}", "met")
        return PrefixStore(name, store)
    name, missing = f"lazybench/{token}", set(range(1, ranks))
    until_s = time.monotonic() + LOST_S
    while missing:
        if time.monotonic() > until_s:
            raise RuntimeError(f"rank {min(missing)} didn't join within {LOST_S:g} s")
        for other in missing:
            if store.check([f"lazybench/asks/{other}"]):
                asks = store.get(f"lazybench/asks/{other}").decode()
                store.set(f"lazybench/answer/{asks}", name)
        missing = {other for other in missing if not store.check([f"{name}/{other}"])}
        time.sleep(_MEETING_PAUSE_S)
    return PrefixStore(name, store)


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _collective(do: Callable[[], Any]) -> None:
    try:
        do()
    except RuntimeError as error:
        raise RankLost(
            f"rank {launched()[0]} lost the others of its run ({str(error).splitlines()[0]}); one "
            "of them has ended, see its message above; the same command resumes"
        ) from error


def _leave() -> None:
    if _joined():
        torch.distributed.destroy_process_group()
