"""A block of attacked images: Gymnasium spaces, actions of both forms as queries, episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from lazybench.envs.attack.blackbox import BlackBox
from lazybench.envs.attack.oracle import plain
from lazybench.envs.attack.protocol import AttackProtocol
from lazybench.envs.attack.summary import BAD_CHECKPOINTS, CHECKPOINTS
from lazybench.envs.attack.target import OpenTarget
from lazybench.envs.observations import broadcast_box, grid, labels
from lazybench.envs.trial_index import Seed, TrialIndex
from lazybench.errors import ContractError, UsageError
from lazybench.tasks import Queries, Replies

_TRIALS = 1 << 40
_LOWEST = float(np.finfo(np.float32).min)


def attack_spaces(
    protocol: AttackProtocol, target: OpenTarget, lead: tuple[int, ...], each: int
) -> tuple[spaces.Dict, spaces.Dict]:
    """Return the observation and action space of attacks.

    Args:
        protocol: settings that define success.
        target: the attacked target.
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
    """Return an action as queries and, for a fixed-size one, the places of its rows.

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
    entries = replies._asdict()
    if places is None:
        return entries
    blank = {"scores": 0.0, "labels": -1, "hit": False, "served": False}
    for name, value in blank.items():
        part = entries[name]
        whole = part.new_full((images * each, *part.shape[1:]), value)
        entries[name] = whole.index_copy_(0, places, part).unflatten(0, (images, each))
    return entries


Observation = dict[str, Any]
Stepped = tuple[
    Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
]

_PATIENCE = 1000


class AttackBlock:
    """Episodes of `AttackVectorEnv` on split test.

    Attributes:
        observation_space, action_space: of the block.
        single_observation_space, single_action_space: of one image.
    """

    def __init__(
        self,
        target: OpenTarget,
        protocol: AttackProtocol,
        images: int,
        *,
        rows: int,
        backend: str,
        device: torch.device,
    ) -> None:
        """Open no image yet.

        Args:
            target: the attacked target.
            protocol: settings that define success.
            images: n.
            rows: rows of a fixed-size action for each image, m.
            backend: `numpy` or `torch`.
            device: where the images are.
        """
        self._target, self._protocol, self._images, self._rows = target, protocol, images, rows
        self._backend, self._device = backend, device
        whole = attack_spaces(protocol, target, (images,), rows)
        single = attack_spaces(protocol, target, (), rows)
        self.observation_space, self.action_space = whole
        self.single_observation_space, self.single_action_space = single
        self._box: BlackBox | None = None
        self._trials = TrialIndex(images)
        self._idle = 0
        self._rewarded = np.zeros(images, np.bool_)
        self._reported = np.zeros(images, np.bool_)

    @property
    def box(self) -> BlackBox:
        """The open attack.

        Raises:
            UsageError: none is open.
        """
        if self._box is None:
            raise UsageError("no attack is open; call env.reset() first")
        return self._box

    def reset(
        self, *, seed: Seed = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open the trials of a reset.

        Raises:
            UsageError: trials or a mask of another length or type, or trials that aren't there.
            ContractError: the target failed.
        """
        mask = self._trials.choose(seed, options)
        if not (options and "trials" in options):
            # Seeds are any numbers, and repeated resets must never run out of images.
            self._trials.trial[mask] = self._target.within(self._trials.trial[mask])
        rule = self._protocol.target_rule if self._protocol.targeted else None
        found = self._target.open(self._trials.trial[mask], rule, self._device)
        if self._box is None or mask.all():
            self._box = self._protocol.box(self._target.oracle, *found, self._trials.trial)
        else:
            self._box.open(mask, *found, self._trials.trial[mask])
        self._reported[mask] = self._rewarded[mask] = False
        self._idle = 0
        nothing = np.zeros((self._images, self._rows), np.bool_)
        blank = {"rows": self._box.x[:, None].expand(-1, self._rows, -1, -1, -1), "mask": nothing}
        return self._observe(blank), {"trial": self._trials.trial.copy()}

    def step(self, actions: Any) -> Stepped:
        """Query the target; score the finished images.

        Raises:
            UsageError: called before the first reset.
            ContractError: an action of the wrong shape, type or range, nothing is charged; or the
                target failed, and the rows sent stay charged.
        """
        box = self.box
        ledger, before = box.ledger, box.invalid.copy()
        observation = self._observe(actions)
        info: dict[str, Any] = {}
        info |= {"trial": self._trials.trial.copy(), "invalid": box.invalid - before}
        rewards = (ledger.success_query > 0) & ~self._rewarded
        self._rewarded |= rewards
        fresh = ledger.done & ~self._reported
        if fresh.any():
            for name, values in self._verdict(box, fresh).items():
                info[name], info[f"_{name}"] = np.where(fresh, values, 0), fresh.copy()
        self._reported |= fresh
        succeeded = (ledger.success_query > 0) & (self._protocol.mode == "first")
        return (
            observation,
            rewards.astype(np.float64),
            ledger.done & succeeded,
            ledger.done & ~succeeded,
            info,
        )

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return clean, nearest adversarial and difference of each image; None before a reset.

        Pictures are uint8 `[height, width, 3]`; no difference is mid-grey.
        """
        if self._box is None:
            return None
        clean, best = self._box.x.cpu().numpy(), self._box.best.cpu().numpy()
        return tuple(
            grid(np.stack([x, near, (near - x) / 2 + 0.5]), 3)
            for x, near in zip(clean, best, strict=True)
        )

    def _observe(self, actions: Any) -> Observation:
        """Send an action's queries; return the observation after it."""
        box = self.box
        queries, places = as_queries(actions, self._images, self._rows, self._device)
        # A fixed-size action of no row is a step without a query, not a surrender.
        replies = box.answer(queries) if places is None else box.query(*queries)
        self._idle = 0 if bool(replies.served.any()) else self._idle + 1
        if self._idle > _PATIENCE:
            box.ledger.give_up()
            replies = replies._replace(done=torch.ones_like(replies.done))
        nearest = box.ledger.nearest
        far = torch.from_numpy(np.where(np.isinf(nearest), -1, nearest).astype(np.float32))
        label, goal = box.label, box.goal
        parts = {
            "trial": torch.from_numpy(self._trials.trial.copy()).to(self._device),
            "x": box.x,
            "label": label,
            "goal": torch.full_like(label, -1) if goal is None else goal,
            "best_distance": far.to(self._device),
            **laid_out(replies, places, self._images, self._rows),
        }
        if places is not None and self._protocol.access == "label":
            del parts["scores"]
        if self._backend == "torch":
            return parts
        return {name: part.cpu().numpy() for name, part in parts.items()}

    def _verdict(self, box: BlackBox, images: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        columns = box.verdict(images)
        ledger = box.ledger
        curve = {f"l2_at_{by}": ledger.least_l2(by) for by in CHECKPOINTS}
        curve |= {f"l2_at_bad_{bad}": ledger.least_l2_at_bad(bad) for bad in BAD_CHECKPOINTS}
        return columns | {name: np.where(np.isinf(far), -1.0, far) for name, far in curve.items()}
