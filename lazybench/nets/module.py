"""Torch modules of other people as networks."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lazybench.errors import LazybenchError, UsageError
from lazybench.nets.net import Moments, Net, Pick, Stats, head, head_outputs, measured, own, scaled
from lazybench.nets.norms import BatchStatistics, paths, with_batch_statistics
from lazybench.params import Params
from lazybench.plugins import contained, describe
from lazybench.precision import at_precision
from lazybench.task import TaskShape

Factory = Callable[[TaskShape], Any]

_NET = ("name", "init", "prepare", "features", "statistics")

_SEED_BOUND = 1 << 62


class ModuleNet:
    """A torch module's features, then a linear layer, as a pure function.

    The module takes prepared instances `[n, *instance]` (images in [0, 1]; vectors as they are) and
    gives features `[n, d]`. It runs in evaluation mode, so that dropout is off and no random number
    is drawn, but its batch norms use the statistics of the batch, or those handed in, in the order
    in which they run; running averages aren't kept. Buffers are constants. So are parameters that
    don't ask for gradients: a factory freezes what it has pre-trained by `requires_grad_(False)`.

    Parameters: `norm.<path>` for those of batch norm, `body.<path>` for all others, and
    `head.weight|bias`.

    Each thread runs a copy of the module, since `functional_call` puts the parameters into it.
    """

    def __init__(self, name: str, factory: Factory, task: TaskShape) -> None:
        """Make the module once, to learn its parameters and the width of its features.

        Args:
            name: the target that `factory` was loaded from.
            factory: gives a fresh module for tasks of a shape; called again for each `init`.
            task: shape of the tasks.

        Raises:
            UsageError: the factory fails or gives no module, or the module gives no features
                `[n, d]`, or such that aren't finite, for instances of this shape.
        """
        self.name = name
        self.outputs = task.outputs
        self._factory, self._task = factory, task
        self._module = self._made(0)
        self._paths = paths(self._module)
        self._copies = _Copies()
        self.width = self._probed()

    def init(self, generator: torch.Generator) -> Params:
        """Return the parameters of a module that the factory makes anew, and a fresh head.

        The factory's random numbers come from torch's generator on the CPU, seeded from
        `generator` and put back after.
        """
        seed = int(torch.randint(_SEED_BOUND, (), generator=generator))
        module = self._made(seed)
        if paths(module) != self._paths:
            raise UsageError(
                f"backbone '{self.name}' has other parameters each time; make it depend on the "
                "task alone"
            )
        found = dict(module.named_parameters())
        params = {name: found[path].detach().clone() for name, path in self._paths.items()}
        return params | head(self.width, self.outputs, generator)

    def prepare(self, x: Tensor) -> Tensor:
        """Return float32 images in [0, 1], or vectors as they are."""
        return scaled(x)

    @at_precision
    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return logits `[n, way]`, or predictions `[n, *target_shape]`."""
        return head_outputs(params, self.features(params, x, stats), self._task.target_shape)

    @at_precision
    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return features `[n, d]`.

        Raises:
            UsageError: other statistics than the module has batch norms.
        """
        given = list(stats) if stats is not None else None

        def pick(inputs: Tensor) -> Moments | None:
            if given is None:
                return None
            if not given:
                raise self._uneven()
            return given.pop(0)

        features = self._run(params, x, pick)
        if given:
            raise self._uneven()
        return features

    @at_precision
    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return mean and (biased) variance of each batch norm on `x`, in the order they run."""
        return measured(lambda pick: self._run(params, x, pick))

    def _run(self, params: Params, x: Tensor, pick: Pick) -> Tensor:
        module, norms = self._copy(x.device)
        entries = {path: params[name] for name, path in self._paths.items()}
        # Buffers that a module changes as it runs are changed in copies.
        entries |= {name: value.clone() for name, value in module.named_buffers()}
        for norm in norms:
            norm.pick = pick
        try:
            out: Tensor = torch.func.functional_call(module, entries, (x,))
        finally:
            # What `pick` holds would keep this pass's graph alive.
            for norm in norms:
                norm.pick = own
        return out

    def _copy(self, device: torch.device) -> tuple[nn.Module, list[BatchStatistics]]:
        """This thread's module on that device, and its batch norms."""
        copies = self._copies.by_device
        if device not in copies:
            module = copy.deepcopy(self._module).to(device)
            norms = [part for part in module.modules() if isinstance(part, BatchStatistics)]
            copies[device] = module, norms
        return copies[device]

    def _made(self, seed: int) -> nn.Module:
        """A module of the factory's under a seed, its batch norms replaced."""
        with _seeded(seed):
            module = _called(self.name, self._factory, self._task)
            if not isinstance(module, nn.Module):
                raise UsageError(
                    f"backbone '{self.name}' gave a torch.nn.Module before, now a "
                    f"{type(module).__name__}; make it depend on the task alone"
                )
            module = module.cpu().float().eval()
            if any(isinstance(part, UninitializedParameter) for part in module.parameters()):
                # Lazy layers take their shapes, and draw their weights, in a first pass.
                self._forward(lambda: module(self._instances()))
        return with_batch_statistics(self.name, module)

    def _probed(self) -> int:
        """The width of the features of four made-up instances."""
        params = dict(self._module.named_parameters())
        mine = {name: params[path].detach() for name, path in self._paths.items()}
        x = self._instances()
        got = self._forward(lambda: self._run(mine, x, own))
        if not isinstance(got, Tensor) or got.dim() != 2 or len(got) != len(x) or not got.shape[1]:
            shape = list(got.shape) if isinstance(got, Tensor) else type(got).__name__
            raise UsageError(
                f"backbone '{self.name}' must give features [n, d] for instances {list(x.shape)}, "
                f"got {shape}; flatten them, and leave out the last layer: lazybench adds it"
            )
        if not (got.is_floating_point() and bool(torch.isfinite(got).all())):
            raise UsageError(
                f"backbone '{self.name}' gives features of {got.dtype} that aren't all finite "
                "numbers; instances are images in [0, 1], or float32 vectors"
            )
        return got.shape[1]

    def _forward(self, run: Callable[[], Any]) -> Any:
        try:
            with torch.no_grad():
                return run()
        except Exception as error:
            raise UsageError(
                f"backbone '{self.name}' failed on instances {list(self._task.instance)}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _instances(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand((4, *self._task.instance), generator=generator)

    def _uneven(self) -> UsageError:
        return UsageError(
            f"backbone '{self.name}' runs another number of batch norms from call to call, so it "
            "can't be judged with the statistics of the support set; use --set "
            "batch_norm=transductive"
        )


def from_factory(name: str, factory: Any, task: TaskShape) -> Net:
    """Return the network that a factory gives: its `Net`, or its module wrapped as one.

    It is named by its target, so that no record takes it for a built-in network.

    Args:
        name: the target that `factory` was loaded from.
        factory: a function from a `TaskShape` to a `torch.nn.Module` or a `Net`.
        task: shape of the tasks.

    Raises:
        UsageError: the factory fails or gives neither, or the module doesn't suit the tasks.
    """
    if not callable(factory):
        raise UsageError(
            f"backbone '{name}' must be a function from a TaskShape to a torch.nn.Module, got "
            f"{type(factory).__name__}"
        )
    with _seeded(0):
        made = _called(name, factory, task)
    if isinstance(made, nn.Module):
        return ModuleNet(name, factory, task)
    missing = [part for part in _NET if not hasattr(made, part)]
    if missing or not callable(made):
        raise UsageError(
            f"backbone '{name}' must give a torch.nn.Module, or an object like lazybench.nets.Net, "
            f"got {type(made).__name__} without {', '.join(missing) or '__call__'}"
        )
    # A copy, since the factory may give a network that others have, too.
    net: Net = copy.copy(made)
    net.name = name
    return net


class _Copies(threading.local):
    """Modules with their batch norms, by device; every thread sees its own."""

    def __init__(self) -> None:
        self.by_device: dict[torch.device, tuple[nn.Module, list[BatchStatistics]]] = {}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from torch's own generator on the CPU as if it had this seed; put it back after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _called(name: str, factory: Factory, task: TaskShape) -> Any:
    try:
        with contained():
            return factory(task)
    except LazybenchError:
        raise
    except Exception as error:
        raise UsageError(
            f"backbone '{name}' failed on tasks with instances {list(task.instance)}: "
            f"{describe(error)}"
        ) from error
