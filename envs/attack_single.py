"""The attack of one image at a time: a block of one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from lazybench.attack_task import AttackTask, Queries, Replies
from lazybench.envs.attack import AttackVectorEnv
from lazybench.envs.attack_block import Observation
from lazybench.envs.blackbox import BlackBox
from lazybench.envs.trial_rows import first_row, one_trial
from lazybench.errors import UsageError


class AttackEnv(gymnasium.Env[Observation, Any]):
    """One attacked image at a time: one row of `AttackVectorEnv`, not in a block.

    A fixed-size action is a dict of `rows [m, C, H, W]` and `mask [m]`; `Queries` work as well.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        """Open one row; settings are those of `AttackVectorEnv`.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: the target isn't trained, or its images aren't installed.
            ContractError: the target fails on its first image.
        """
        self._row = AttackVectorEnv(1, render_mode=render_mode, **settings)
        self.render_mode = render_mode
        self.observation_space = self._row.single_observation_space
        self.action_space = self._row.single_action_space
        self._over = True

    @property
    def task(self) -> AttackTask:
        """What an agent may know beforehand."""
        return self._row.task

    @property
    def data(self) -> dict[str, str]:
        """Name, fingerprint, preparation and source of the images and the target."""
        return self._row.data

    @property
    def protocol(self) -> dict[str, Any]:
        """How attacks are judged, and which weights the target has."""
        return self._row.protocol

    @property
    def box(self) -> BlackBox:
        """The open attack, as `AttackVectorEnv.box`."""
        return self._row.box

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open trial `seed`, the next one, or `options["trial"]`.

        Raises:
            UsageError: a trial or an option that isn't there.
            ContractError: the target failed.
        """
        super().reset(seed=seed)
        observation, info = self._row.reset(seed=seed, options=one_trial(options))
        self._over = False
        return first_row(observation), _scalars(info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Ask the target; once the image is finished, judge it.

        Raises:
            UsageError: the episode is over already, or none was opened.
            ContractError: an action of the wrong shape, type or range; or the target failed.
        """
        if self._over:
            raise UsageError("the episode is over; call env.reset()")
        observation, rewards, terminated, truncated, info = self._row.step(_block(action))
        self._over = bool(terminated[0] or truncated[0])
        ragged = Replies._fields[:4] if isinstance(action, Queries) else ()
        told = {name: part for name, part in info.items() if not name.startswith("_")}
        return (
            first_row(observation, whole=ragged),
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _scalars(told),
        )

    def render(self) -> Any:
        """Return clean, nearest adversarial and difference, uint8 `[height, width, 3]`, or None."""
        pictures = self._row.render()
        return pictures[0] if pictures else None

    def close(self) -> None:
        """Let go of the target and end its process."""
        self._row.close()


def _block(action: Any) -> Any:
    """One image's action as that of a block of one."""
    if isinstance(action, Queries):
        return action
    if isinstance(action, dict):
        return {name: part[None] for name, part in action.items()}
    return np.asarray(action)[None]


def _scalars(info: dict[str, Any]) -> dict[str, Any]:
    return {name: part[0].item() for name, part in info.items()}
