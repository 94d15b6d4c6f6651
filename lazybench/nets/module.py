"""Users' torch modules as networks: pure functions whose batch norms take given statistics."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from lazybench.errors import LazybenchError, UsageError
from lazybench.nets.net import (
    Moments,
    Net,
    Pick,
    Stats,
    batch_moments,
    batch_norm,
    head,
    head_outputs,
    measured,
    scaled,
)
from lazybench.nets.params import Params
from lazybench.plugins import contained, describe
from lazybench.runtime.precision import at_precision
from lazybench.tasks import TaskShape
from lazybench.user_code import target_sha256


class BatchStatistics(nn.Module):
    """A batch norm that uses the moments that `pick` returns."""

    def __init__(self, norm: _BatchNorm) -> None:
        """Take over a batch norm's parameters."""
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.pick: Pick = batch_moments

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised inputs."""
        return batch_norm(x, self.weight, self.bias, self.pick(x), self.eps)


def with_batch_statistics(name: str, module: nn.Module) -> nn.Module:
    """Return the module with each batch norm in it replaced.

    Raises:
        UsageError: a batch norm that does more than normalise; `name` is the backbone's.
    """
    if isinstance(module, _BatchNorm):
        if type(module).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
            # Its further operations, such as an activation, would be lost.
            raise UsageError(
                f"backbone '{name}' has a batch norm with a custom forward, "
                f"{type(module).__name__}; use torch's BatchNorm1d, 2d or 3d"
            )
        return BatchStatistics(module)
    for child, part in list(module.named_children()):
        setattr(module, child, with_batch_statistics(name, part))
    return module


def paths(module: nn.Module) -> dict[str, str]:
    """Return the names that nets give to the parameters to train, and their paths in the module."""
    kinds = (BatchStatistics, _BatchNorm)
    norms = {name for name, part in module.named_modules() if isinstance(part, kinds)}
    return {
        f"{'norm' if path.rpartition('.')[0] in norms else 'body'}.{path}": path
        for path, value in module.named_parameters()
        if value.requires_grad
    }


Factory = Callable[[TaskShape], Any]


class Passes(NamedTuple):
    """Trained parts and modes of a user's or pre-trained module.

    Attributes:
        frozen: keep its weights as its factory gives them; only what an agent adds is trained.
        norm: batch norm takes the statistics of the `batch`, or those that the module was trained
            with, `running`.
        dropout: `on` in an agent's updates, or `off` everywhere.
        size: edge in pixels that a pre-trained backbone resizes images to; 0 for its own.
    """

    frozen: bool = False
    norm: Literal["batch", "running"] = "batch"
    dropout: Literal["on", "off"] = "on"
    size: int = 0


PLAIN = Passes()

EFFNET_LITE0 = "effnet-lite0"
PACKAGES = ("timm", "torchvision", "open_clip")


def is_pretrained(name: str) -> bool:
    """Return whether a name is that of a pre-trained backbone (`lazybench.nets.pretrained`)."""
    return name == EFFNET_LITE0 or name.partition(":")[0] in PACKAGES


_NET = ("name", "init", "prepare", "features", "statistics")

_NO_KERNEL = ("No available kernel", "No viable backend")
"""How torch says that none of the allowed kernels of attention is there."""

_SEED_BOUND = 1 << 62

_ONE_DRAWS = threading.RLock()
"""Lock of torch's global generators while lazybench sets their seed."""


class ModuleNet:
    """A torch module's features, then a linear layer, as a pure function.

    The module takes prepared instances `[n, *instance]` (images in [0, 1]; vectors unchanged) and
    returns features `[n, d]`. Its batch norms use the statistics of the batch, or given ones in the
    order in which they run; there are no running averages. Buffers are constants, and so are
    parameters that don't require gradients: a factory freezes pre-trained parts by
    `requires_grad_(False)`.

    In an agent's updates it runs in training mode, unless `train_mode` is False, otherwise in
    evaluation mode. Random numbers of a pass (dropout) are a function of the parameters and the
    instances, so a repeated pass gives the same result, whatever runs in parallel.

    Parameters: `norm.<path>` for those of batch norm, `body.<path>` for all others, and
    `head.weight|bias`.

    Each thread runs a copy of the module, since `functional_call` puts the parameters into it, on a
    copy of the instances, since a module may work in place.
    """

    def __init__(
        self,
        name: str,
        factory: Factory,
        task: TaskShape,
        *,
        train_mode: bool = True,
        second_order: bool = False,
        passes: Passes = PLAIN,
    ) -> None:
        """Build the module once, to find its parameters and the width of its features.

        Args:
            name: the target from which `factory` was loaded.
            factory: returns a new module for tasks of a shape; called again for each `init`.
            task: shape of the tasks.
            train_mode: whether the module is in training mode in an agent's updates.
            second_order: whether gradients will be differentiated again, which attention's fast
                kernels don't allow, so the plain one is used.
            passes: what of it is trained, and how its batch norm and dropout act.

        Raises:
            UsageError: the factory fails or doesn't return a module; or the module doesn't return
                finite features `[n, d]` for instances of this shape, changes its parameters when it
                runs, or is random outside of training.
        """
        self.name = name
        plain: AbstractContextManager[None] = _PLAIN_ATTENTION if second_order else nullcontext()
        self._attention = plain
        self._train_mode = train_mode and passes.dropout == "on"
        self._passes = passes
        self._draws = dict.fromkeys((False, True), False)
        self.outputs = task.outputs
        self._factory, self._task = factory, task
        self._module = self._new(0)
        self._paths = paths(self._module)
        self._copies = _Copies()
        self.width = self._probed()
        self._acts = self._is_sound()

    @property
    def batch_statistics(self) -> bool:
        """Whether some batch norm of it takes the statistics of the batch."""
        return any(isinstance(part, BatchStatistics) for part in self._module.modules())

    @cached_property
    def source_sha256(self) -> str | None:
        """The sha256 of its code and of the state that doesn't depend on the seed.

        Raises:
            UsageError: the factory returns different states for the same seed.
        """
        states = [dict(_state(each)) for each in (self._module, self._new(0), self._new(1))]
        # Earlier versions ignored training mode, so a module that depends on it needs another key.
        return _sourced(self.name, states, ["train mode 1"] if self._acts else [])

    def init(self, generator: torch.Generator) -> Params:
        """Return the parameters of a new module of the factory, and a fresh head.

        The factory's random numbers come from torch's generator on the CPU, which is seeded from
        `generator` and restored afterwards.
        """
        seed = int(torch.randint(_SEED_BOUND, (), generator=generator))
        module = self._new(seed)
        if paths(module) != self._paths:
            raise UsageError(
                f"backbone '{self.name}' has other parameters each time; make it depend on the "
                "task alone"
            )
        by_path = dict(module.named_parameters())
        params = {name: by_path[path].detach().clone() for name, path in self._paths.items()}
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

    def _run(self, params: Params, x: Tensor, pick: Pick, *, train: bool | None = None) -> Tensor:
        """The module's output in training or evaluation mode; None for the current mode."""
        train = self._train_mode and _in_training() if train is None else train
        module, norms = self._copy(x.device)
        if module.training is not train:
            module.train(train)
            for part in module.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()
        entries = {path: params[name] for name, path in self._paths.items()}
        # Copies, since a module may change its buffers when it runs.
        entries |= {name: value.clone() for name, value in module.named_buffers()}
        for norm in norms:
            norm.pick = pick
        drawing = _drawing(params, x) if self._draws[train] else nullcontext()
        try:
            with drawing, self._attention:
                out: Tensor = torch.func.functional_call(module, entries, (x.clone(),))
        finally:
            # A reference to `pick` would keep this pass's graph alive.
            for norm in norms:
                norm.pick = batch_moments
        return out

    def _copy(self, device: torch.device) -> tuple[nn.Module, list[BatchStatistics]]:
        """This thread's module on that device, and its batch norms."""
        copies = self._copies.by_device
        if device not in copies:
            module = copy.deepcopy(self._module).to(device)
            norms = [part for part in module.modules() if isinstance(part, BatchStatistics)]
            copies[device] = module, norms
        return copies[device]

    def _new(self, seed: int) -> nn.Module:
        """A new module of the factory for a seed, with its batch norms replaced."""
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
        if self._passes.frozen:
            module.requires_grad_(False)
        if self._passes.norm == "running":
            self._need_averages(module)
            return module
        return with_batch_statistics(self.name, module)

    def _need_averages(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        if not norms or any(part.running_mean is None for part in norms):
            raise UsageError(
                f"backbone '{self.name}' has no batch norm with running averages, which "
                "norm=running takes; leave norm out"
            )

    def _probed(self) -> int:
        """The width of the features of four made-up instances."""
        params = dict(self._module.named_parameters())
        mine = {name: params[path].detach() for name, path in self._paths.items()}
        x = self._instances()
        got = self._forward(lambda: self._run(mine, x, batch_moments, train=False))
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

    def _is_sound(self) -> bool:
        """Whether training mode changes the module's output; also checks that passes are pure.

        Raises:
            UsageError: two passes on the same instances differ, or one changes the parameters.
        """
        held = dict(self._module.named_parameters())
        mine = {name: held[path].detach().clone() for name, path in self._paths.items()}
        before = {name: value.clone() for name, value in mine.items()}
        x = self._instances()

        def one(seed: int, *, train: bool) -> tuple[Any, bool]:
            with _seeded(seed):
                start = torch.default_generator.get_state()
                got = self._forward(lambda: self._run(mine, x, batch_moments, train=train))
                drawn = not torch.equal(start, torch.default_generator.get_state())
            if any(not torch.equal(value, before[name]) for name, value in mine.items()):
                raise UsageError(
                    f"backbone '{self.name}' changes its parameters as it runs; work on a copy: "
                    "weight = self.weight.clamp(-1, 1), say, and not self.weight.clamp_(-1, 1)"
                )
            return got, drawn

        (plain, draws), (again, _) = one(0, train=False), one(1, train=False)
        if not torch.equal(plain, again):
            raise UsageError(
                f"backbone '{self.name}' is random: two passes on the same instances differ, in "
                "evaluation mode; draw in training alone, as torch.nn.Dropout does, or "
                "F.dropout(x, p, self.training)"
            )
        self._draws[False], acts = draws, False
        if self._train_mode:
            (first, draws), (second, _) = one(0, train=True), one(0, train=True)
            if not isinstance(first, Tensor) or first.shape != plain.shape:
                raise UsageError(
                    f"backbone '{self.name}' gives no features {list(plain.shape)} in training "
                    "mode, as it does in evaluation mode; set TRAIN_MODE = False in its file"
                )
            if not torch.equal(first, second):
                raise UsageError(
                    f"backbone '{self.name}' is random in training mode by other numbers than "
                    "torch's: two passes under one seed differ; draw from torch's generator"
                )
            self._draws[True] = draws
            acts = draws or not torch.equal(first, plain)
        return acts

    def _forward(self, run: Callable[[], Any]) -> Any:
        try:
            with torch.no_grad():
                return run()
        except Exception as error:
            hint = ""
            no_kernel = any(words in str(error) for words in _NO_KERNEL)
            if no_kernel and self._attention is _PLAIN_ATTENTION:
                hint = (
                    " This agent differentiates twice, which only math attention allows: leave the "
                    "module's own choice of a kernel out, or take a first-order agent (fomaml)."
                )
            raise UsageError(
                f"backbone '{self.name}' failed on instances {list(self._task.instance)}: "
                f"{type(error).__name__}: {error}{hint}"
            ) from error

    def _instances(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand((4, *self._task.instance), generator=generator)

    def _uneven(self) -> UsageError:
        return UsageError(
            f"backbone '{self.name}' runs another number of batch norms from call to call, so it "
            "can't be evaluated with the statistics of the support set; use --set "
            "batch_norm=transductive"
        )


class GivenNet:
    """A user's `Net` under the name of its target; it gets copies of instances."""

    def __init__(self, name: str, net: Net, make: Callable[[], Net], x: Tensor) -> None:
        """Take over a net.

        Args:
            name: the target of its factory.
            net: what the factory gave.
            make: calls the factory again.
            x: made-up instances.

        Raises:
            UsageError: two passes on the same instances differ.
        """
        self.name, self._net, self._make = name, net, make
        params = net.init(torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                one, two = (self(params, self.prepare(x)) for _ in range(2))
        except Exception as error:
            raise UsageError(
                f"backbone '{name}' failed on instances {list(x.shape[1:])}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not torch.equal(one, two):
            raise UsageError(
                f"backbone '{name}' is random: two passes on the same instances differ; a Net is a "
                "function of its parameters and the instances"
            )

    @cached_property
    def source_sha256(self) -> str | None:
        """The sha256 of its code and of the parameters that don't depend on the seed.

        Raises:
            UsageError: it returns different parameters for the same seed.
        """
        nets = (self._net, self._make(), self._make())
        seeds = (0, 0, 1)
        states = [
            dict(net.init(torch.Generator().manual_seed(seed)))
            for net, seed in zip(nets, seeds, strict=True)
        ]
        return _sourced(self.name, states, [])

    def init(self, generator: torch.Generator) -> Params:
        """Return fresh parameters."""
        return self._net.init(generator)

    def prepare(self, x: Tensor) -> Tensor:
        """Return instances as the net wants them."""
        return self._net.prepare(x.clone())

    def __call__(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return outputs `[n, outputs]` for prepared instances."""
        return self._net(params, x.clone(), stats)

    def features(self, params: Params, x: Tensor, stats: Stats | None = None) -> Tensor:
        """Return the inputs of the last layer, `[n, d]`."""
        return self._net.features(params, x.clone(), stats)

    def statistics(self, params: Params, x: Tensor) -> Stats:
        """Return the batch statistics of every normalisation layer on `x`."""
        return self._net.statistics(params, x.clone())


def from_factory(
    name: str,
    factory: Any,
    task: TaskShape,
    *,
    train_mode: bool = True,
    second_order: bool = False,
    passes: Passes = PLAIN,
) -> ModuleNet | GivenNet:
    """Return the network of a factory: its `Net`, or its module wrapped as one.

    It is named by its target, so that records distinguish it from built-in networks.

    Args:
        name: the target that `factory` was loaded from.
        factory: a function from a `TaskShape` to a `torch.nn.Module` or a `Net`.
        task: shape of the tasks.
        train_mode: as `ModuleNet` has it.
        second_order: as `ModuleNet` has it.
        passes: as `ModuleNet` has it.

    Raises:
        UsageError: the factory fails or gives neither, or the module doesn't suit the tasks.
    """
    if not callable(factory):
        raise UsageError(
            f"backbone '{name}' must be a function from a TaskShape to a torch.nn.Module, got "
            f"{type(factory).__name__}"
        )
    with _seeded(0):
        network = _called(name, factory, task)
    if isinstance(network, nn.Module):
        return ModuleNet(
            name, factory, task, train_mode=train_mode, second_order=second_order, passes=passes
        )
    need_plain(name, passes)
    if not isinstance(network, Net):
        missing = [part for part in _NET if part not in dir(network)]
        raise UsageError(
            f"backbone '{name}' must give a torch.nn.Module, or an object like lazybench.nets.Net, "
            f"got {type(network).__name__} without {', '.join(missing) or '__call__'}"
        )
    x = torch.rand((4, *task.instance), generator=torch.Generator().manual_seed(0))
    if task.dtype == "uint8":
        x = x.mul_(255).to(torch.uint8)
    return GivenNet(name, network, lambda: _called(name, factory, task), x)


def need_plain(name: str, passes: Passes) -> None:
    """Check that only torch modules are used for what only they can do.

    Raises:
        UsageError: it is.
    """
    if passes != PLAIN:
        wrong = next(n for n, value in passes._asdict().items() if value != PLAIN._asdict()[n])
        raise UsageError(
            f"{wrong} is for pre-trained backbones and torch modules of your own, got backbone "
            f"'{name}'; leave {wrong} out"
        )


@contextmanager
def training_passes() -> Iterator[None]:
    """Put users' modules into training mode for all passes inside the block."""
    _training.append(None)
    try:
        yield
    finally:
        _training.pop()


_training: list[None] = []


def _in_training() -> bool:
    return bool(_training)


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _sourced(name: str, states: list[dict[str, Tensor]], more: list[str]) -> str | None:
    """The sha256 of a target's code and of the entries that no seed changes; of a file alone, its.

    Args:
        name: the target.
        states: under one seed, under it again, and under another.
        more: further lines to hash.

    Raises:
        UsageError: the first two differ.
    """
    # The name of a package's network represents its tensors.
    code = None if is_pretrained(name) else target_sha256(name)
    first, again, other = states
    if first.keys() != again.keys() or any(
        not torch.equal(value, again[entry]) for entry, value in first.items()
    ):
        raise UsageError(
            f"backbone '{name}' gives other parameters each time, whatever the seed; draw them "
            "from torch's generator"
        )
    kept = [entry for entry in sorted(first) if entry in other]
    lines = [_line(entry, first[entry]) for entry in kept if _same(first[entry], other[entry])]
    lines += more
    if not lines:
        return code
    return hashlib.sha256("\n".join([str(code), *lines]).encode()).hexdigest()


def module_sha256(module: nn.Module) -> str:
    """Return 64 hex digits over names, types, shapes and content of a module's tensors."""
    lines = sorted(_line(name, value) for name, value in _state(module))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _line(name: str, value: Tensor) -> str:
    """A tensor's name, type, shape and content."""
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{name} {value.dtype} {list(value.shape)} {hashlib.sha256(data).hexdigest()}"


@contextmanager
def _drawing(params: Params, x: Tensor) -> Iterator[None]:
    """Seed torch's generators by parameters and instances for one pass, and restore them.

    Passes take turns, since the generators are global and threads would draw from each other's
    numbers.
    """
    digest = hashlib.blake2b(digest_size=7)
    for value in (*params.values(), x):
        digest.update(value.detach().cpu().contiguous().numpy().data)
    seed = int.from_bytes(digest.digest(), "big")
    cuda = x.device.type == "cuda"
    with _ONE_DRAWS, torch.random.fork_rng(devices=[x.device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(x.device):
                torch.cuda.manual_seed(seed)
        yield


class _PlainAttention:
    """Attention by products that can be differentiated twice, while any thread is inside.

    Which kernels are allowed is a setting of the process.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._open = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._open.enter_context(sdpa_kernel(SDPBackend.MATH))
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._open.close()


_PLAIN_ATTENTION = _PlainAttention()


class _Copies(threading.local):
    """Modules with their batch norms, by device; separate for every thread."""

    def __init__(self) -> None:
        self.by_device: dict[torch.device, tuple[nn.Module, list[BatchStatistics]]] = {}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator on the CPU inside the block, and restore it afterwards."""
    with _ONE_DRAWS, torch.random.fork_rng(devices=[]):
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
