"""Long-tailed streams: the environment, and its training batches as a PyTorch data set."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from lazybench import seeding
from lazybench.arguments import check_one_of, check_options, check_whole
from lazybench.data.pool import SPLITS, Split, data_facts, open_labelled
from lazybench.data.splits import DEV_PER_CLASS
from lazybench.envs.interop import CountedBatches
from lazybench.envs.longtail.metrics import HiddenPass, as_answer
from lazybench.envs.longtail.stream import (
    NATURAL,
    Schedule,
    Stream,
    class_counts,
    images_at,
    largest_head,
    natural_counts,
    stages,
    stream_spaces,
)
from lazybench.envs.observations import grid, vector_rows
from lazybench.errors import UsageError
from lazybench.runtime.threads import one_thread_after_fork
from lazybench.tasks import LongTailTask, Track


class LongTailDataset(CountedBatches):
    """The training batches of one run, in order: `x`, `y`, `index` and dev images where set.

    Give it to a `DataLoader` with `batch_size=None`; workers share the batches out, and the
    loader's order is the same for any number of them.

    Example:
        >>> env = lazybench.make_env("glyphs-lt-100", split="train", epochs=30)
        >>> loader = DataLoader(LongTailDataset(env, seed=0), batch_size=None, num_workers=2)
    """

    def __init__(self, env: LongTailEnv, *, seed: int = 0, batches: int | None = None) -> None:
        """Choose the run.

        Args:
            env: a stream of the train split with numpy observations; it is the data set's own from
                now on.
            seed: the run's seed.
            batches: how many, at most those of the stream; None for all.

        Raises:
            UsageError: an environment of another split or backend, or more batches than it has.
        """
        if env.split != "train" or env.backend != "numpy":
            raise UsageError(
                f"a data set needs a stream with split='train' and backend='numpy', got split "
                f"'{env.split}' and backend '{env.backend}'"
            )
        steps = env.task.steps
        if batches is not None and check_whole("batches", batches, least=None) > steps:
            raise UsageError(f"the stream has {steps} batches, got batches={batches}; set epochs=…")
        super().__init__(env, seed=seed, batches=steps if batches is None else batches)

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the images, labels and numbers of a batch, without what only an agent needs."""
        return {name: batch[name] for name in _SHOWN if name in batch}


_SHOWN = ("x", "y", "index", "dev_x", "dev_y")


one_thread_after_fork()

TRAIN, EVAL = 0, 1

Observation = dict[str, Any]

_COLUMNS = 20
_VALIDATIONS = 20


class LongTailEnv(gymnasium.Env[Observation, Any]):
    """A long-tailed stream; `split` chooses the whole episode, or only an evaluation pass.

    `reset(seed=s)` chooses the run: its dev set, its tail and the order of its batches; `reset()`
    starts the same run again. On `train`, `options={"trials": [i]}` opens training batch i, which
    is a function of data, imbalance, settings, seed and i alone; an episode opened in its middle is
    truncated where its training ends. `val` is a pass over the run's dev set, `test` one over the
    test set, in an order drawn from the system's entropy each time; `eval_split` says which
    of them follows the training on `train`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    num_envs = 1

    def __init__(  # noqa: PLR0913 - Gymnasium hands settings over by name
        self,
        *,
        data: str,
        imbalance: float | Literal["natural"],
        split: Split = "train",
        head: int | None = None,
        dev_per_class: int = DEV_PER_CLASS,
        batch: int = 100,
        epochs: float = 1,
        sampler: Schedule = "instance",
        dev_batch: int = 0,
        subset: int | None = None,
        eval_split: Literal["val", "test"] = "test",
        backend: Literal["numpy", "torch"] = "numpy",
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        """Open the data and fix the shape of the stream.

        Args:
            data: data set id.
            imbalance: images of the largest class over those of the smallest, at least 1; or
                `natural` for all images that each class has outside the dev set.
            split: `train`, `val` or `test`.
            head: training images of the largest class; None for all that each class has outside the
                dev set. Not for `natural`.
            dev_per_class: images of each class in the dev set, 0 for none.
            batch: images of a batch, B.
            epochs: passes over the training images, may be a fraction.
            sampler: `instance`, `class` or `sqrt`, or a list of these with their shares of the
                steps.
            dev_batch: images of the dev set that come with every training batch, drawn without
                replacement and as evenly over the classes as it goes; more than 0 puts the run on
                the track `LT+dev`.
            subset: seed of the dev set and the tail alone; None for the run's.
            eval_split: on split train, the set that is evaluated after training. Agents in training
                get `val`: on the track `LT` such a pass reports the balanced accuracy alone, and
                after 20 passes (or without a dev set) episodes end with their training.
            backend: `numpy`, or `torch` for observations as tensors.
            device: where torch observations live.
            render_mode: None or `rgb_array`.

        Raises:
            UsageError: a setting that isn't allowed, or a long tail that the data can't serve.
            DataUnavailable: the data set isn't installed or is damaged.
        """
        check_one_of("split", split, SPLITS)
        check_one_of("eval_split", eval_split, ("val", "test"))
        check_one_of("backend", backend, ("numpy", "torch"))
        check_one_of("render_mode", render_mode, (None, "rgb_array"))
        check_whole("batch", batch, least=1)
        if not (isinstance(epochs, int | float) and math.isfinite(epochs) and epochs > 0):
            raise UsageError(f"epochs must be a number above 0, got {epochs!r}")
        check_whole("dev_per_class", dev_per_class)
        if subset is not None:
            check_whole("subset", subset)
        if head is not None:
            check_whole("head", head, least=None)
        self._labelled = open_labelled(data)
        largest = largest_head(self._labelled, dev_per_class)
        if imbalance == NATURAL and head is not None:
            raise UsageError(
                f"imbalance={NATURAL} keeps the images of each class; leave head={head} out, or "
                "give the imbalance as a number"
            )
        if head is not None and not 1 <= head <= largest:
            raise UsageError(
                f"head must lie in [1, {largest}] for {data} with {dev_per_class} dev images a "
                f"class, got {head}"
            )
        if split == "val" and not dev_per_class:
            raise UsageError("the val split is the dev set, so dev_per_class must be at least 1")
        classes = len(self._labelled.classes)
        counts = (
            natural_counts(self._labelled, dev_per_class)
            if imbalance == NATURAL
            else class_counts(largest if head is None else head, imbalance, classes)
        )
        self._head = max(counts)
        check_whole("dev_batch", dev_batch, most=classes * dev_per_class)
        task = LongTailTask(
            classes=classes,
            instance=tuple(self._labelled.train.x.shape[1:]),
            dtype="uint8" if self._labelled.train.x.dtype == np.uint8 else "float32",
            class_counts=counts,
            steps=1,
            batch=batch,
            dev_per_class=dev_per_class,
        )
        steps = task.train_steps(epochs, batch)
        self.task = LongTailTask(**{**task.fields(), "steps": steps})
        self.split, self.backend = split, backend
        self.render_mode = render_mode
        most = max(steps, len(self._labelled.test.rows))
        self.observation_space, self.action_space = stream_spaces(self.task, dev_batch, most)
        self._stages = stages(sampler, steps)
        self._dev_batch, self._subset = dev_batch, subset
        self._eval_split = eval_split if split == "train" else split
        self._validations = 0
        self._device = torch.device(device) if backend == "torch" else None
        self._stream: Stream | None = None
        self._pass: HiddenPass | None = None
        self._step = 0
        self._sought = False
        self._shown: NDArray[np.generic] | None = None

    @property
    def track(self) -> Track:
        """`LT+dev` where training sees dev images, else `LT`."""
        return "LT+dev" if self._dev_batch else "LT"

    @property
    def data(self) -> dict[str, str]:
        """Name, fingerprint, preparation and source of the data."""
        return data_facts(self._labelled)

    @property
    def protocol(self) -> dict[str, Any]:
        """Settings of the protocol that aren't part of the environment's id."""
        dev = self.task.dev_per_class
        return {"head": self._head, "dev_per_class": dev, "subset": self._subset}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open an episode; see the class.

        Info has `class_counts [C]` and `steps`, and on train and the track `LT+dev` the dev set,
        `dev_x` and `dev_y`. With `options["trials"]` it has the number of the batch alone.

        Raises:
            UsageError: trials on another split than train, or not one number of at least 0; or an
                option that isn't there.
        """
        super().reset(seed=seed)
        stream = self._open_stream(seed)
        if self.split != "train":
            if isinstance(options, Mapping) and "trials" in options:
                raise UsageError(f"{self.split} is one pass without trials; leave options out")
            check_options(options, ())
            self._open_pass(stream)
            return self._observe(), self._facts()
        step = check_options(options, ("trials",)).get("trials")
        self._pass = None
        self._sought = step is not None
        self._step = 0 if step is None else _one_trial(step)
        if self._sought:
            return self._observe(), {"trial": self._step}
        dev = stream.dev_set() if self.track == "LT+dev" else {}
        return self._observe(), self._facts() | dev

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Go on to the next batch; in EVAL, take the labels of the current one.

        With the last answer come the reward, the balanced accuracy, and an info of `accuracy`,
        `correct` and `predictions` (each test image's, in the data set's order) and `metrics`.

        Raises:
            UsageError: no episode is open, or it is over.
            ContractError: in EVAL, an action of the wrong shape, type or range.
        """
        if self._stream is None:
            raise UsageError("step was called before reset; call env.reset() first")
        if self._pass is None:
            ends = self._sought or not self._has_pass
            if ends and self._step + 1 >= self.task.steps:
                return self._observe(), 0.0, False, True, {}
            self._step += 1
            if self._step >= self.task.steps:
                self._open_pass(self._stream)
            return self._observe(), 0.0, False, False, {}
        if self._pass.done:
            raise UsageError("the pass is over; call env.reset() for another")
        if not self._pass.answer(as_answer(action, self.task.batch, self.task.classes)):
            return self._observe(), 0.0, False, False, {}
        result = self._pass.verdict()
        accuracy = float(result["accuracy"])
        if self.split == "train" and self._eval_split == "val":
            self._validations += 1
            if self.track == "LT":
                # Which images were right would be their labels.
                result = {"accuracy": accuracy}
        return self._observe(), accuracy, True, False, result

    def render(self) -> NDArray[np.uint8] | None:
        """Return the current batch as a picture, uint8 `[height, width, 3]`, or None.

        Vectors are the rows of it.
        """
        if self.render_mode is None or self._shown is None:
            return None
        return vector_rows(self._shown) if self._shown.ndim == 2 else grid(self._shown, _COLUMNS)

    @property
    def _has_pass(self) -> bool:
        """Whether a pass follows the training.

        Each pass leaks a few bits of the labels to a track that mustn't see them, so the number of
        passes is limited.
        """
        if self._eval_split == "test":
            return True
        few = self.track == "LT+dev" or self._validations < _VALIDATIONS
        return self.task.dev_per_class > 0 and few

    def _open_stream(self, seed: int | None) -> Stream:
        if self._stream is None or seed not in (None, self._stream.seed):
            self._stream = Stream(
                self._labelled, self.task, self._stages, seed=seed or 0, subset=self._subset
            )
        return self._stream

    def _open_pass(self, stream: Stream) -> None:
        self._part, key = self._labelled.test, secrets.randbits(64)
        if self._eval_split == "val":
            self._part = stream.dev
            key = int(seeding.mix(self._labelled.name, "dev order 1", stream.seed))
        counts = np.array(self.task.class_counts)
        self._pass = HiddenPass(self._part, counts, batch=self.task.batch, key=key)

    def _facts(self) -> dict[str, Any]:
        return {"class_counts": np.array(self.task.class_counts), "steps": self.task.steps}

    def _observe(self) -> Observation:
        if self._stream is None:
            raise UsageError("no episode is open; call env.reset() first")
        found = self._train(self._stream) if self._pass is None else self._eval(self._pass)
        self._shown = None if self.render_mode is None else found["x"].copy()
        if self._device is None:
            return found | {
                "phase": np.int64(found["phase"]),
                "remaining": np.array([found["remaining"]]),
            }
        return {
            name: torch.from_numpy(part).to(self._device) if isinstance(part, np.ndarray) else part
            for name, part in found.items()
        }

    def _train(self, stream: Stream) -> Observation:
        batch = stream.batch(self._step)
        dev = stream.dev_batch(self._step, self._dev_batch) if self._dev_batch else {}
        return {
            **batch,
            **dev,
            "mask": np.ones(self.task.batch, np.bool_),
            "phase": TRAIN,
            "remaining": max(0, self.task.steps - self._step),
        }

    def _eval(self, hidden: HiddenPass) -> Observation:
        batch, instance = self.task.batch, self.task.instance
        places = hidden.places()
        x = np.zeros((batch, *instance), self.task.dtype)
        x[: len(places)] = images_at(self._part, places)
        found = {
            "x": x,
            "y": np.full(batch, -1),
            "index": np.full(batch, -1),
            "mask": np.arange(batch) < len(places),
            "phase": EVAL,
            "remaining": hidden.batches - hidden.at,
        }
        if self._dev_batch:
            found["dev_x"] = np.zeros((self._dev_batch, *instance), self.task.dtype)
            found["dev_y"] = np.full(self._dev_batch, -1)
        return found


def _one_trial(trials: Any) -> int:
    array = np.asarray(trials)
    if array.shape != (1,) or array.dtype.kind not in "iu" or int(array[0]) < 0:
        raise UsageError(
            f"options['trials'] must be one number of at least 0, the training batch; got {trials}"
        )
    return int(array[0])
