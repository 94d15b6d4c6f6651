"""What attackers see and send, as Gymnasium's spaces, and actions of either form as queries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from lazybench.attack_task import Queries, Replies
from lazybench.envs.attack_opened import OpenTarget
from lazybench.envs.attack_oracle import plain
from lazybench.envs.attack_settings import Protocol
from lazybench.errors import ContractError
from lazybench.spaces import broadcast_box, labels

_TRIALS = 1 << 40
_LOWEST = float(np.finfo(np.float32).min)


def attack_spaces(
    protocol: Protocol, target: OpenTarget, lead: tuple[int, ...], each: int
) -> tuple[spaces.Dict, spaces.Dict]:
    """Return the observation and action space of attacks.

    Args:
        protocol: how attacks are judged.
        target: what is attacked.
        lead: `(n,)` of a block of images, `()` of a single one.
        each: rows of a fixed-size action for each image, m.
    """
    rows = (*lead, each)
    seen: dict[str, spaces.Space[Any]] = {
        "trial": broadcast_box(0, _TRIALS, lead, np.int64),
        "x": broadcast_box(0, 1, (*lead, *target.instance), np.float32),
        "label": labels(target.classes, lead, hidden=False),
        "goal": labels(target.classes, lead, hidden=True),
        "left": broadcast_box(0, protocol.query_budget, lead, np.int64),
        "done": spaces.MultiBinary(lead),
        "best_distance": broadcast_box(
            -1, math.sqrt(math.prod(target.instance)) + 1, lead, np.float32
        ),
        "labels": labels(target.classes, rows, hidden=True),
        "hit": spaces.MultiBinary(rows),
        "served": spaces.MultiBinary(rows),
    }
    if protocol.access == "scores":
        seen["scores"] = broadcast_box(_LOWEST, 0, (*rows, target.classes), np.float32)
    sent = spaces.Dict(
        {
            "rows": broadcast_box(0, 1, (*rows, *target.instance), np.float32),
            "mask": spaces.MultiBinary(rows),
        }
    )
    return spaces.Dict(seen), sent


def as_queries(action: Any, images: int, each: int, device: torch.device) -> tuple[Queries, Any]:
    """Return an action as queries; beside them, for a fixed-size one, the places of its rows.

    Args:
        action: `Queries`; or a dict of `rows [n, m, …]` and `mask [n, m]`, true for rows to send.
        images: n.
        each: m.
        device: where the images are.

    Returns:
        The queries, and the place of each row among the n * m ones, or None for `Queries`.

    Raises:
        ContractError: an action of neither form.
    """
    if isinstance(action, Queries):
        return action, None
    if not isinstance(action, dict) or set(action) != {"rows", "mask"}:
        got = ", ".join(map(str, action)) if isinstance(action, dict) else type(action).__name__
        raise ContractError(
            f"an action is Queries(rows, owner), or a dict of rows and mask, got {got}"
        )
    try:
        rows, mask = plain(action["rows"]), plain(action["mask"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContractError(f"rows and mask must be tensors or arrays: {error}") from None
    mask = mask.to(rows.device)
    if rows.shape[:2] != (images, each) or mask.shape != (images, each):
        raise ContractError(
            f"rows and mask must have {each} rows for each of {images} images, [{images}, {each}, "
            f"…], got {list(rows.shape)} and {list(mask.shape)}"
        )
    places = mask.flatten().nonzero()[:, 0]
    return Queries(rows.flatten(0, 1)[places], places // each), places.to(device)


def laid_out(replies: Replies, places: Tensor | None, images: int, each: int) -> dict[str, Tensor]:
    """Return replies as observation entries: of a fixed-size action `[n, m, …]`, else `[R, …]`."""
    told = replies._asdict()
    if places is None:
        return told
    blank = {"scores": 0.0, "labels": -1, "hit": False, "served": False}
    for name, value in blank.items():
        part = told[name]
        whole = part.new_full((images * each, *part.shape[1:]), value)
        told[name] = whole.index_copy_(0, places, part).unflatten(0, (images, each))
    return told
