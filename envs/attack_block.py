"""Images attacked side by side: opened by trial, asked about, judged once they are finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lazybench.envs.attack_opened import OpenTarget
from lazybench.envs.attack_settings import Protocol
from lazybench.envs.attack_spaces import as_queries, attack_spaces, laid_out
from lazybench.envs.attack_summary import CHECKPOINTS
from lazybench.envs.blackbox import BlackBox
from lazybench.envs.picture import grid
from lazybench.envs.trial_rows import TrialRows
from lazybench.errors import UsageError

Observation = dict[str, Any]
Stepped = tuple[
    Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
]

_PATIENCE = 1000


class AttackBlock:
    """What `AttackVectorEnv` does on split test.

    Attributes:
        observation_space, action_space: of the block.
        single_observation_space, single_action_space: of one image.
    """

    def __init__(
        self,
        target: OpenTarget,
        protocol: Protocol,
        images: int,
        *,
        rows: int,
        backend: str,
        device: torch.device,
    ) -> None:
        """Open no image yet.

        Args:
            target: what answers.
            protocol: how it is judged.
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
        self._trials = TrialRows(images)
        self._idle = 0
        self._rewarded = np.zeros(images, np.bool_)
        self._told = np.zeros(images, np.bool_)

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
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open the trials that a reset asks for.

        Raises:
            UsageError: trials or a mask of another length or type, or trials that aren't there.
            ContractError: the target failed.
        """
        mask = self._trials.choose(seed, options)
        if not (options and "trials" in options):
            # Seeds are any numbers, and who resets again and again expects no end.
            self._trials.trial[mask] = self._target.within(self._trials.trial[mask])
        rule = self._protocol.target_rule if self._protocol.targeted else None
        found = self._target.open(self._trials.trial[mask], rule, self._device)
        if self._box is None or mask.all():
            self._box = self._protocol.box(self._target.oracle, *found)
        else:
            self._box.open(mask, *found)
        self._told[mask] = self._rewarded[mask] = False
        self._idle = 0
        nothing = np.zeros((self._images, self._rows), np.bool_)
        blank = {"rows": self._box.x[:, None].expand(-1, self._rows, -1, -1, -1), "mask": nothing}
        return self._observe(blank), {"trial": self._trials.trial.copy()}

    def step(self, actions: Any) -> Stepped:
        """Ask the target; judge what is finished.

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
        fresh = ledger.done & ~self._told
        if fresh.any():
            for name, values in self._verdict(box, fresh).items():
                info[name], info[f"_{name}"] = np.where(fresh, values, 0), fresh.copy()
        self._told |= fresh
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
        """Ask what an action asks; return what is seen after it."""
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
        told = box.verdict(images)
        for by in CHECKPOINTS:
            least = box.ledger.least_l2(by)
            told[f"l2_at_{by}"] = np.where(np.isinf(least), -1.0, least)
        return told
