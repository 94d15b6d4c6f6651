"""Tasks in torchmeta's form, both ways, by shape: torchmeta itself is never imported.

A batch is `{"train": (x, y), "test": (x, y)}` with `x [tasks, rows, *instance]` and labels (or
real-valued targets) `y [tasks, rows, …]`: `train` is the support set, `test` the query set. Labels
are any integers from 0 on, or one-hot; in each task they become 0 to way - 1 in their order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.arguments import check_one_of, check_whole
from lazybench.data.pool import SPLITS, Split
from lazybench.envs.fewshot.episodes import Block
from lazybench.envs.fewshot.trial_sampler import TrialSampler
from lazybench.envs.interop import TrainingBatches
from lazybench.envs.single_step import Backend, SingleStepVectorEnv
from lazybench.errors import UsageError
from lazybench.tasks import TaskShape

TorchmetaBatch = dict[str, tuple[Tensor, Tensor]]

_MOST = 100_000
_FORM = "a batch in torchmeta's form is {'train': (x, y), 'test': (x, y)}"


class TorchmetaBatches:
    """Training batches of an environment in torchmeta's form, as its `BatchMetaDataLoader` gives.

    Images are float32 in [0, 1]. Each iteration begins with the stream's first batch.
    """

    def __init__(self, env: Any, *, seed: int = 0, batches: int | None = None) -> None:
        """Choose the stream, as `TrainingBatches` does.

        Raises:
            UsageError: an environment of another split or without support and query sets, or fewer
                than 1 batch.
        """
        self._batches = TrainingBatches(env, seed=seed, batches=batches)
        if "support_x" not in getattr(env.observation_space, "spaces", ()):
            raise UsageError("only few-shot tasks have a train and a test part in torchmeta's form")

    def __iter__(self) -> Iterator[TorchmetaBatch]:
        """Yield the batches."""
        for batch in self._batches:
            yield {
                "train": (_unit(batch["support_x"]), batch["support_y"]),
                "test": (_unit(batch["query_x"]), batch["query_y"]),
            }


class TorchmetaVectorEnv(SingleStepVectorEnv):
    """The tasks of batches in torchmeta's form, scored as few-shot episodes."""

    def __init__(  # noqa: PLR0913 - what is taken, how much of it, and how it is shown
        self,
        batches: Iterable[Any],
        *,
        num_envs: int = 1,
        split: Split = "test",
        tasks: int | None = None,
        name: str = "torchmeta",
        backend: Backend = "numpy",
        device: str = "cpu",
    ) -> None:
        """Take the tasks into memory; see `lazybench.from_torchmeta`.

        Raises:
            UsageError: batches of another form, no task, tasks of different shapes, or too many.
        """
        trials = TorchmetaTrials(batches, split=split, tasks=tasks, name=name)
        super().__init__(num_envs, trials, backend=backend, device=device, render_mode=None)


class TorchmetaTrials(TrialSampler):
    """Tasks that were taken from batches; trial i is the i-th of them.

    On train they begin again after the last one.
    """

    def __init__(self, batches: Iterable[Any], *, split: Split, tasks: int | None, name: str):
        """Take the tasks.

        Raises:
            UsageError: batches of another form, no task, tasks of different shapes, labels that
                don't name as many rows of each class, or too many tasks.
        """
        check_one_of("split", split, SPLITS)
        if not isinstance(batches, Iterable):
            raise UsageError(
                f"batches must be an iterable of torchmeta's batches, got {type(batches).__name__}"
            )
        if tasks is not None and check_whole("tasks", tasks, least=None) < 1:
            raise UsageError(f"tasks must be at least 1, got {tasks}")
        block = _taken(batches, tasks)
        self.split = split
        self.sampler = _TaskList(block)
        self.data = {
            "name": name,
            "fingerprint": _fingerprint(block),
            "prep": "as given",
            "source": f"{len(block.query_y)} tasks given in torchmeta's form",
        }
        self._names = self.task.way

    @property
    def train_classes(self) -> int:
        """0: which classes the tasks were drawn from isn't known."""
        return 0

    def keys(self, trials: NDArray[np.int64], stream: int) -> NDArray[np.uint64]:
        """Return the tasks' places.

        Raises:
            UsageError: a trial past the last task, on val and test.
        """
        many = len(self.sampler.block.query_y)  # type: ignore[attr-defined]
        if self.split != "train" and int(trials.max(initial=0)) >= many:
            raise UsageError(
                f"there are {many} tasks, so trials go up to {many - 1}; got {trials.max()}"
            )
        # Streams of other seeds start elsewhere among the same tasks.
        shift = stream if self.split == "train" else 0
        return ((trials + shift) % many).astype(np.uint64)


class _TaskList:
    """Tasks in memory, drawn by their places."""

    def __init__(self, block: Block) -> None:
        self.block = block
        labels = not block.support_y.is_floating_point()
        way = int(block.support_y.max()) + 1 if labels else 1
        rows, queries = block.support_y.shape[1], block.query_y.shape[1]
        self.task = TaskShape(
            way=way,
            shot=rows // way,
            query=queries // way,
            instance=tuple(block.support_x.shape[2:]),
            dtype="uint8" if block.support_x.dtype == torch.uint8 else "float32",
            target="class" if labels else "array",
            target_shape=() if labels else tuple(block.support_y.shape[2:]),
        )

    def draw(self, keys: NDArray[np.uint64]) -> Block:
        """Return the tasks of these places."""
        places = torch.from_numpy(keys.astype(np.int64))
        return Block(*(part[places] for part in self.block))

    def answers(self, keys: NDArray[np.uint64]) -> NDArray[Any]:
        """Return their query targets."""
        return self.block.query_y[torch.from_numpy(keys.astype(np.int64))].numpy()


def _taken(batches: Iterable[Any], tasks: int | None) -> Block:
    """The first tasks of the batches, as one block."""
    found: list[Block] = []
    many = 0
    for number, batch in enumerate(batches):
        part = _read(batch, number)
        found.append(part)
        many += len(part.query_y)
        if tasks is not None and many >= tasks:
            break
        if many > _MOST:
            raise UsageError(
                f"the batches hold more than {_MOST} tasks, or have no end; say how many to take "
                "with tasks=…"
            )
    if not many:
        raise UsageError("the batches hold no task")
    shapes = {tuple((*part.shape[1:], part.dtype) for part in block): None for block in found}
    if len(shapes) > 1:
        first, other = islice(shapes, 2)
        raise UsageError(f"tasks must all have one shape and type, got {first} and {other}")
    whole = (torch.cat(parts)[:tasks] for parts in zip(*found, strict=True))
    block = Block(*whole)
    for values in block:
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise UsageError("instances and targets must be finite; a task holds NaN or infinity")
    return _relabelled(block)


def _relabelled(block: Block) -> Block:
    """The block with labels 0 to way - 1 in every task, where its targets are classes.

    Any integers from 0 on may name the classes of a task, such as 1 to 5 or the classes' numbers in
    a data set, and so may one-hot rows.

    Raises:
        UsageError: labels that don't name as many rows of each class, or targets that are labels
            stored as floats.
    """
    support, query = block.support_y, block.query_y
    if support.is_floating_point() != query.is_floating_point():
        raise UsageError(
            f"targets must be of one kind, got {support.dtype} in train and {query.dtype} in test"
        )
    if _one_hot(support) and _one_hot(query):
        support, query = support.argmax(-1), query.argmax(-1)
    elif support.ndim == query.ndim == 3 and support.shape[-1] == query.shape[-1] == 1:
        support, query = support[..., 0], query[..., 0]
    if support.is_floating_point():
        if support.ndim == query.ndim == 2 and _are_labels(support, query):
            raise UsageError(
                f"targets are {block.support_y.dtype} and all of them name classes, as in "
                f"{sorted(set(support[0].tolist()))[:5]}; give labels as integers: y.long()"
            )
        return block
    if support.ndim != 2 or query.ndim != 2:
        raise UsageError(
            "labels must be one integer a row, or one-hot; got shapes "
            f"{list(block.support_y.shape)} in train and {list(block.query_y.shape)} in test"
        )
    lowest = int(min(support.min(), query.min()))
    if lowest < 0:
        raise UsageError(f"labels must be 0 or more, got {lowest}; leave such rows out")
    classes = _classes(support)
    return block._replace(
        support_y=torch.searchsorted(classes, support), query_y=_places(classes, query)
    )


def _one_hot(y: Tensor) -> bool:
    """Whether each row holds a single 1 among zeros."""
    return (
        y.ndim == 3
        and y.shape[-1] > 1
        and bool(((y == 0) | (y == 1)).all())
        and bool((y.sum(-1) == 1).all())
    )


def _are_labels(support: Tensor, query: Tensor) -> bool:
    """Whether floats are whole numbers that name as many rows of each of several classes."""
    if not all(bool((part == part.round()).all()) for part in (support, query)):
        return False
    try:
        _places(_classes(support.long()), query.long())
    except UsageError:
        return False
    return True


def _classes(support: Tensor) -> Tensor:
    """The labels of each task's classes, sorted, int64 `[tasks, way]`.

    Raises:
        UsageError: tasks of different ways or of one, or classes of unequal size.
    """
    ordered = support.sort(1).values
    ways = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    way, rows = int(ways[0]), support.shape[1]
    odd = torch.nonzero(ways != way)
    if len(odd):
        task = int(odd[0])
        raise UsageError(
            f"tasks need as many rows of each class, and all of them as many classes; task 0 has "
            f"{way} classes in train, task {task} has {int(ways[task])}"
        )
    if way < 2:
        raise UsageError(
            f"tasks need as many rows of each class, of at least 2; task 0 has {rows} rows of one "
            "class in train"
        )
    if rows % way == 0:
        shaped = ordered.reshape(len(ordered), way, rows // way)
        uneven = torch.nonzero((shaped != shaped[:, :, :1]).any(2).any(1))
        if not len(uneven):
            return shaped[:, :, 0].contiguous()
    task = int(uneven[0]) if rows % way == 0 else 0
    raise UsageError(_counts("train", task, support[task]))


def _places(classes: Tensor, query: Tensor) -> Tensor:
    """Places of the query labels among the classes of their task.

    Raises:
        UsageError: a label that no support row has, or classes of unequal size.
    """
    way = classes.shape[1]
    places = torch.searchsorted(classes, query).clamp(max=way - 1)
    unknown = torch.nonzero(classes.gather(1, places) != query)
    if len(unknown):
        task, row = unknown[0].tolist()
        raise UsageError(
            f"test rows need labels that train rows have; in task {task} test has label "
            f"{int(query[task, row])}, train has {classes[task].tolist()[:10]}"
        )
    counts = torch.zeros(classes.shape, dtype=torch.long)
    counts.scatter_add_(1, places, torch.ones_like(places))
    uneven = torch.nonzero((counts * way != query.shape[1]).any(1))
    if len(uneven):
        task = int(uneven[0])
        raise UsageError(_counts("test", task, query[task]))
    return places


def _counts(part: str, task: int, labels: Tensor) -> str:
    counts = sorted(Counter(labels.tolist()).items())[:10]
    held = ", ".join(f"{count} of label {label}" for label, count in counts)
    return f"tasks need as many rows of each class; in task {task} {part} has {held}"


def _read(batch: Any, number: int) -> Block:
    """One batch as a block.

    Raises:
        UsageError: it has another form.
    """
    try:
        parts = [torch.as_tensor(part) for name in ("train", "test") for part in batch[name]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        kind = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise UsageError(f"{_FORM}; batch {number} is {kind}") from error
    if len(parts) != 4 or any(part.ndim < 2 for part in parts):
        shapes = [list(part.shape) for part in parts]
        raise UsageError(f"{_FORM}, tasks first and rows second; batch {number} has {shapes}")
    support_x, support_y, query_x, query_y = parts
    for x, y in ((support_x, support_y), (query_x, query_y)):
        if x.shape[:2] != y.shape[:2]:
            raise UsageError(
                f"{_FORM}; in batch {number} x has {list(x.shape[:2])} tasks and rows, y "
                f"{list(y.shape[:2])}"
            )
    return Block(_instances(support_x), _targets(support_y), _instances(query_x), _targets(query_y))


def _instances(x: Tensor) -> Tensor:
    return x if x.dtype == torch.uint8 else x.float()


def _targets(y: Tensor) -> Tensor:
    return y.float() if y.is_floating_point() else y.long()


def _unit(x: Tensor) -> Tensor:
    return x.float() / 255.0 if x.dtype == torch.uint8 else x


def _fingerprint(block: Block) -> str:
    digest = hashlib.sha256(b"lazybench tasks 1\n")
    for part in block:
        digest.update(f"{part.dtype} {list(part.shape)}\n".encode())
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
