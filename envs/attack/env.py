"""Black-box attacks on images, natively in blocks, in lock-step.

Test: observation (a dict; n images lead): `trial`, `x [n, C, H, W]` float32 in [0, 1], `label` (the
true class), `goal` (-1 if untargeted), `left` (queries), `done`, `best_distance` (of the nearest
adversarial row, -1 for none), and the replies to the last action: `scores`, `labels`, `hit`,
`served`. Action: `Queries`, any number of rows for each image, replies `[R, …]`; or a dict of
`rows [n, m, C, H, W]` and `mask [n, m]`, replies `[n, m, …]`. Reward: 1 at the first success.
Train and val: gradient maps of white boxes to regress, as `lazybench.envs.attack.gradient_maps` has
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from lazybench.arguments import check_one_of, check_whole
from lazybench.data.pool import SPLITS, Split
from lazybench.envs.attack.batch import AttackBlock, Observation, Stepped
from lazybench.envs.attack.blackbox import BlackBox
from lazybench.envs.attack.gradient_maps import GradientMaps, maps_shape
from lazybench.envs.attack.protocol import TargetRule, read_protocol
from lazybench.envs.attack.summary import summary
from lazybench.envs.attack.target import OpenTarget, load_pictures, whiteboxes
from lazybench.envs.trial_index import Seed, SingleEnv, first_row, one_seed
from lazybench.errors import UsageError
from lazybench.runtime.threads import one_thread_after_fork
from lazybench.tasks import Access, AttackTask, Mode, Norm, Queries, Replies

one_thread_after_fork()


class AttackVectorEnv(gymnasium.vector.VectorEnv[Observation, Any, Any]):
    """Images attacked together; each is finished at success, budget or surrender.

    Official trials are the test images that the target classifies correctly, in file order.
    `reset(seed=s)` opens trials s, s+1, …, a list of seeds the trial of each row, `reset()` the
    next ones, and all begin again after the last image; `options={"trials": array}` any that are
    there; `options={"reset_mask": mask}` only some rows. Rows for finished images are refused: not
    forwarded, not charged. `Queries` without a row give up what isn't finished, and so do 1,000
    actions in a row of which nothing was served.

    The last info of an image has `success` (0 or 1), `queries`, `success_query`,
    `success_8bit`, `best_l2` (see `BlackBox.verdict`) and `l2_at_100` to `l2_at_10000`, the
    least L2 distance of any adversarial row by then, -1 for none; `l2_at_bad_100` to
    `l2_at_bad_1000`, the same until so many bad answers; `bad_queries`, all bad answers, and
    `success_bad_queries`, those before the first success. An image is finished once it has had
    `bad_query_budget` of them, and no row is sent that could exceed that. `detected` and `flagged`
    are position of the first query that the defence flagged (0 for none) and their number.
    """

    # Gymnasium declares it on instances.
    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(  # noqa: PLR0913 - Gymnasium hands settings over by name
        self,
        num_envs: int = 1,
        *,
        target: str,
        split: Split = "test",
        norm: Norm = "l2",
        eps: float | str | None = None,
        query_budget: int = 3000,
        mode: Mode | None = None,
        targeted: bool = False,
        access: Access = "scores",
        target_rule: TargetRule = "next",
        bad_query_budget: int | None = None,
        bad_answers: str | int | Sequence[int] = "missed",
        defence: str = "none",
        images: str | None = None,
        strict: bool = False,
        rows: int = 1,
        shots: int | None = None,
        queries: int | None = None,
        backend: Literal["numpy", "torch"] = "numpy",
        device: str = "cpu",
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        """Open the target and its images.

        Args:
            num_envs: images of a block, n.
            target: name of a target (`mnist-net4`), or `module:factory` or `file.py:factory` of a
                function that returns one: a callable from images `[R, C, H, W]` to scores.
            split: `test` attacks; `train` and `val` give gradient maps of white boxes.
            norm: `l2` or `linf`.
            eps: largest distance of a success: a number, a fraction (`8/255`), `inf`, or None for
                3 (L2) and .3 (linf) on grey images, 1 and 8/255 on coloured ones.
            query_budget: rows for each image.
            mode: `first` ends an image at its first success, `minimise` goes on to the budget; None
                for `first` with scores and `minimise` with labels.
            targeted: whether one given class is to be reached.
            access: `scores` (log-probabilities) or `label` (the top class alone).
            target_rule: `next`: the true class plus one; `random`: any other, by trial.
            bad_query_budget: bad answers that end an image, at least 1; None for any number.
            bad_answers: `missed`: those that miss the attack's aim (without a goal the true class,
                with one any class but the goal); `original`: the true class; or classes (`0,3`).
            defence: `none`; `noise:SIGMA` adds Gaussian noise to each query; `round:DECIMALS`
                rounds the probabilities shown; `detect:blacklight` flags queries that are much like
                earlier ones, and only successes before the first flagged query count. Rewards and
                the end of an episode don't show flags, which an attacker can't see.
            images: npz file of `x` (uint8, or floats in [0, 1], NCHW) and `y`; None for the test
                images of a named target.
            strict: run the target in another process.
            rows: rows of a fixed-size action for each image, m.
            shots: images with gradient maps in a train or val task; None for 64.
            queries: images in its query set; None for 16.
            backend: `numpy`, or `torch` for observations as tensors.
            device: where the images, and a named target, live.
            render_mode: None or `rgb_array`.
            max_episode_steps: accepted for `gymnasium.make_vec`; episodes end by themselves.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: the target isn't trained, or its images aren't installed.
            ContractError: the target fails on its first image.
        """
        del max_episode_steps
        check_one_of("split", split, SPLITS)
        check_one_of("backend", backend, ("numpy", "torch"))
        check_one_of("render_mode", render_mode, (None, "rgb_array"))
        for name, value in (("num_envs", num_envs), ("rows", rows)):
            check_whole(name, value, least=1)
        self.num_envs, self.split, self.render_mode = num_envs, split, render_mode
        self._strict, self._images = strict, images
        place = torch.device(device if backend == "torch" else "cpu")
        pictures = load_pictures(target, images)
        self._protocol = read_protocol(
            pictures.x.shape[1],
            norm=norm,
            eps=eps,
            query_budget=query_budget,
            mode=mode,
            targeted=targeted,
            access=access,
            target_rule=target_rule,
            bad_query_budget=bad_query_budget,
            bad_answers=bad_answers,
            defence=defence,
        )
        test = split == "test"
        self._target = OpenTarget(target, pictures, strict=strict and test, device=str(place))
        self._protocol.check_classes(self._target.classes)
        instance = self._target.instance
        self._block: Any
        if test:
            self._block = AttackBlock(
                self._target, self._protocol, num_envs, rows=rows, backend=backend, device=place
            )
        else:
            # Training doesn't need the target, so nothing can query it uncounted.
            self._target.close()
            self._block = GradientMaps(
                num_envs,
                target=target,
                split=split,
                shots=shots,
                queries=queries,
                backend=backend,
                device=device,
                render_mode=render_mode,
            )
        self.task = self._protocol.task(
            self._target.classes, instance, whiteboxes(target), maps_shape(instance, shots, queries)
        )
        for name in ("observation_space", "action_space"):
            setattr(self, name, getattr(self._block, name))
            setattr(self, f"single_{name}", getattr(self._block, f"single_{name}"))

    @property
    def data(self) -> dict[str, str]:
        """Name, fingerprint, preparation and source of the images and the target."""
        return dict(self._target.data)

    @property
    def protocol(self) -> dict[str, Any]:
        """Settings that define success, and the hash and accuracy of the target."""
        more = {"images": self._images, "strict": self._strict}
        return {**self._protocol.fields(), **more, **self._target.facts}

    @property
    def box(self) -> BlackBox:
        """The open attack, for adapters to other tools, whose queries are charged like any other.

        Raises:
            UsageError: none is open, or the split isn't test.
        """
        if self.split != "test":
            raise UsageError(f"split '{self.split}' attacks nothing; take split 'test'")
        found: BlackBox = self._block.box
        return found

    def whiteboxes(self) -> list[Any]:
        """Return the white boxes of the split, networks with their parameters.

        Raises:
            UsageError: on split test.
        """
        found: list[Any] = self._maps().whiteboxes()
        return found

    def examples(self) -> Any:
        """Return a training image of each class, `[classes, C, H, W]` float32.

        Raises:
            UsageError: on split test.
        """
        return self._maps().examples()

    def summary(
        self, scores: NDArray[np.float64], columns: Mapping[str, NDArray[Any]]
    ) -> dict[str, float]:
        """Return the further measures of a test, as `lazybench.envs.attack.summary` defines them.

        Args:
            scores: `[n]` success of each trial.
            columns: values of the last infos, `[n]` each.
        """
        return summary(scores, columns, self.task)

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open trials; see the class.

        Raises:
            UsageError: trials or a mask of another length or type, or trials or an option that
                aren't there.
            ContractError: the target failed.
        """
        super().reset(seed=one_seed(seed))
        opened: tuple[Observation, dict[str, Any]] = self._block.reset(seed=seed, options=options)
        return opened

    def step(self, actions: Any) -> Stepped:
        """Query the target; score finished images. On train and val: score the predicted maps.

        Raises:
            UsageError: called before the first reset.
            ContractError: an action of the wrong shape, type or range, nothing is charged; or the
                target failed, and the rows sent stay charged.
        """
        stepped: Stepped = self._block.step(actions)
        return stepped

    def render(self) -> Any:
        """Return clean, nearest adversarial and their difference for each image, or None.

        Pictures are uint8 `[height, width, 3]`; no difference is mid-grey.
        """
        return None if self.render_mode is None else self._block.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Release the target and end its process."""
        self._target.close()

    def _maps(self) -> Any:
        if self.split == "test":
            raise UsageError("white boxes and examples are for training: take split val or train")
        return self._block


class AttackEnv(SingleEnv):
    """One attacked image at a time: a block of one of `AttackVectorEnv`.

    A fixed-size action is a dict of `rows [m, C, H, W]` and `mask [m]`; `Queries` work as well.
    """

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        """Open one row; settings are those of `AttackVectorEnv`.

        Raises:
            UsageError: a setting that isn't allowed.
            DataUnavailable: the target isn't trained, or its images aren't installed.
            ContractError: the target fails on its first image.
        """
        super().__init__(AttackVectorEnv(1, render_mode=render_mode, **settings))
        self._over = True

    @property
    def task(self) -> AttackTask:
        """The task that an agent sees."""
        task: AttackTask = self._row.task
        return task

    @property
    def protocol(self) -> dict[str, Any]:
        """Settings that define success, and the hash and accuracy of the target."""
        protocol: dict[str, Any] = self._row.protocol
        return protocol

    @property
    def box(self) -> BlackBox:
        """The open attack, as `AttackVectorEnv.box`."""
        box: BlackBox = self._row.box
        return box

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open trial `seed`, the next one, or `options["trial"]`.

        Raises:
            UsageError: a trial or an option that isn't there.
            ContractError: the target failed.
        """
        opened = super().reset(seed=seed, options=options)
        self._over = False
        return opened

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Query the target; score the image once it is finished.

        Raises:
            UsageError: the episode is over already, or none was opened.
            ContractError: an action of the wrong shape, type or range; or the target failed.
        """
        if self._over:
            raise UsageError("the episode is over; call env.reset()")
        observation, rewards, terminated, truncated, info = self._row.step(_block(action))
        self._over = bool(terminated[0] or truncated[0])
        ragged = Replies._fields[:4] if isinstance(action, Queries) else ()
        values = {name: part for name, part in info.items() if not name.startswith("_")}
        return (
            first_row(observation, whole=ragged),
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _scalars(values),
        )

    def close(self) -> None:
        """Release the target and end its process."""
        self._row.close()


def _block(action: Any) -> Any:
    """The action of one image as that of a block of one."""
    if isinstance(action, Queries):
        return action
    if isinstance(action, dict):
        return {name: part[None] for name, part in action.items()}
    return np.asarray(action)[None]


def _scalars(info: dict[str, Any]) -> dict[str, Any]:
    return {name: part[0].item() for name, part in info.items()}
