"""Weights of another training, and trained states for tasks of another shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lazybench.agent import Network
from lazybench.errors import UsageError
from lazybench.nets import ModuleNet, Net, source_sha256
from lazybench.nets.params import Params, count
from lazybench.tasks import TaskShape

HEAD = "head."
"""Prefix of the names of a network's last layer, which depends on the number of ways."""
NORM = "norm"
"""Prefix of the names of batch norm's scales and offsets."""


def network_description(net: Net, params: Params) -> Network:
    """Return the description of a network with these parameters, for the record.

    Raises:
        UsageError: as `lazybench.nets.source_sha256` does.
    """
    # Batch norm of a frozen module has no parameters, and takes the statistics of batches.
    norms = (
        net.batch_statistics
        if isinstance(net, ModuleNet)
        else any(each.startswith(NORM) for each in params)
    )
    return Network(net.name, count(params), norms, source_sha256(net))


def overlay(theta: Params, weights: Mapping[str, Tensor]) -> Params:
    """Return `theta` with the entries of `weights` in their places.

    A head of another size stays fresh; entries of `weights` that the network doesn't have, such as
    the head of the classes of a pre-training, are left out.

    Raises:
        UsageError: an entry of the network's body is missing or has another shape, or no entry
            fits at all.
    """
    fresh: Params = {}
    taken = 0
    for name, value in theta.items():
        given = weights.get(name)
        if given is not None and given.shape == value.shape:
            # Copied into place, so that the network keeps its memory format.
            fresh[name] = value.clone().copy_(given)
            taken += 1
        elif name.startswith(HEAD):
            fresh[name] = value
        else:
            got = (
                f"it isn't among those given: {', '.join(list(weights)[:5]) or 'none'}"
                if given is None
                else f"got {list(given.shape)}"
            )
            raise UsageError(
                f"the weights don't fit the network: '{name}' must have shape "
                f"{list(value.shape)}, {got}; name them as the network does, or choose their "
                "backbone with --set backbone=NAME"
            )
    if not taken:
        raise UsageError(
            f"none of the weights fit the network: it has {', '.join(theta) or 'none'}, given are "
            f"{', '.join(list(weights)[:5]) or 'none'}; leave --init out"
        )
    return fresh


def moved(state: dict[str, Any], task: TaskShape, *, ways_free: bool) -> dict[str, Any]:
    """Return a trained state whose tasks are of another shape.

    Args:
        state: holds the shape of the tasks that it was trained on as `task`.
        task: shape of the tasks to answer.
        ways_free: whether any number of classes will do; a head of fixed size needs the same.

    Raises:
        UsageError: other instances or targets than the network takes, or other ways than its head.
    """
    trained = TaskShape(**state["task"])
    same = ("instance", "dtype", "target", "target_shape")
    for name in same if ways_free else (*same, "way"):
        had, has = getattr(trained, name), getattr(task, name)
        if had != has:
            why = "its head has one output a class" if name == "way" else "its network takes those"
            raise UsageError(
                f"this agent was trained on tasks with {name} {had} and {why}; these have {has}"
            )
    return {**state, "task": task.fields()}
