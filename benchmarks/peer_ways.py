"""Meta-gradients by other libraries, each in its documented way, for `peers.py`.

The network is a plain `nn.Sequential` of torch's own modules that computes the same function as
`lazybench.nets.Conv4`: no bias before batch norm (it would have no effect), the same epsilon, batch
statistics. First-order methods take each library's first-order path, which builds no graph of the
inner loop. Nothing is computed that the method doesn't need.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazybench.learning import GAMMAS
from lazybench.nets import NORM_EPS

Forward = Callable[[Tensor], Tensor]
Task = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support images, support labels, query images, query labels."""


@dataclass(frozen=True)
class Adapted:
    """A network after the inner loop.

    Attributes:
        forward: the adapted network.
        params: its parameters.
        at: the same network at other parameters.
    """

    forward: Forward
    params: list[Tensor]
    at: Callable[[list[Tensor]], Forward]


Adapt = Callable[[nn.Module, Tensor, Tensor, int, float, bool], Adapted]
"""From network, inputs, labels, inner steps, inner rate and whether to keep a graph."""


def conv4(channels: int, filters: int, edge_px: int, way: int) -> nn.Sequential:
    """Return body and head of conv4 as plain torch modules."""
    layers: list[nn.Module] = []
    inputs = channels
    for _ in range(4):
        layers += [
            nn.Conv2d(inputs, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters, eps=NORM_EPS, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        inputs = filters
    body = nn.Sequential(*layers, nn.Flatten())
    return nn.Sequential(body, nn.Linear(filters * (edge_px // 16) ** 2, way))


def by_higher() -> Adapt:
    """Return the inner loop by `higher.innerloop_ctx`."""
    import higher

    def adapt(
        model: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float, graph: bool
    ) -> Adapted:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        context = higher.innerloop_ctx(
            model, optimizer, copy_initial_weights=False, track_higher_grads=graph
        )
        with context as (functional, stepper):
            for _ in range(steps):
                stepper.step(F.cross_entropy(functional(x), y))

        def at(params: list[Tensor]) -> Forward:
            return lambda inputs: functional(inputs, params=params)

        return Adapted(functional, list(functional.parameters()), at)

    return adapt


def by_torchopt() -> Adapt:
    """Return the inner loop by TorchOpt's functional SGD."""
    import torchopt

    def adapt(
        model: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float, graph: bool
    ) -> Adapted:
        names = [name for name, _ in model.named_parameters()]
        params = tuple(model.parameters())
        optimizer = torchopt.sgd(lr)
        state = optimizer.init(params)

        def at(values: list[Tensor]) -> Forward:
            named = dict(zip(names, values, strict=True))
            return lambda inputs: torch.func.functional_call(model, named, (inputs,))

        for _ in range(steps):
            loss = F.cross_entropy(at(list(params))(x), y)
            grads = torch.autograd.grad(loss, params, create_graph=graph)
            updates, state = optimizer.update(grads, state, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
            if not graph:
                params = tuple(value.detach().requires_grad_() for value in params)
        return Adapted(at(list(params)), list(params), at)

    return adapt


def by_learn2learn() -> Adapt:
    """Return the inner loop by `learn2learn.algorithms.MAML`, for whoever has it installed."""
    import learn2learn as l2l

    def adapt(
        model: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float, graph: bool
    ) -> Adapted:
        learner = l2l.algorithms.MAML(model, lr=lr, first_order=not graph).clone()
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(x), y))
        names = [name for name, _ in model.named_parameters()]

        def at(values: list[Tensor]) -> Forward:
            named = dict(zip(names, values, strict=True))
            return lambda inputs: torch.func.functional_call(model, named, (inputs,))

        return Adapted(learner, list(learner.parameters()), at)

    return adapt


PEERS: dict[str, Callable[[], Adapt]] = {
    "higher": by_higher,
    "torchopt": by_torchopt,
    "learn2learn": by_learn2learn,
}


def installed() -> tuple[str, ...]:
    """Return the peers that can be imported here."""
    return tuple(name for name in PEERS if importlib.util.find_spec(name) is not None)


def module_of(name: str) -> ModuleType:
    """Return a peer's module, for its version."""
    return importlib.import_module(name)


def meta_gradient(
    adapt: Adapt, model: nn.Sequential, algorithm: str, task: Task, steps: int, lr: float
) -> list[Tensor]:
    """Return one task's meta-gradient, in the order of `model.parameters()`."""
    x, y, query, query_y = task
    theta = list(model.parameters())
    if algorithm == "anil":
        body, head = model[0], model[1]
        end = adapt(head, body(x), y, steps, lr, True)
        loss = F.cross_entropy(end.forward(body(query)), query_y)
        return list(torch.autograd.grad(loss, theta))
    end = adapt(model, x, y, steps, lr, algorithm == "maml")
    if algorithm == "reptile":
        pairs = zip(theta, end.params, strict=True)
        return [(start - value).detach() for start, value in pairs]
    if algorithm == "lazy_maml":
        return _lazy(end, theta, query, query_y)
    loss = F.cross_entropy(end.forward(query), query_y)
    wanted = theta if algorithm == "maml" else end.params
    return list(torch.autograd.grad(loss, wanted))


def _lazy(end: Adapted, theta: list[Tensor], query: Tensor, query_y: Tensor) -> list[Tensor]:
    """The best of five leaps on the query rows, then gamma times the gradient there."""
    best: tuple[tuple[float, float], float, list[Tensor]] | None = None
    with torch.no_grad():
        for gamma in GAMMAS:
            pairs = zip(theta, end.params, strict=True)
            point = [torch.lerp(value, start, gamma) for start, value in pairs]
            logits = end.at(point)(query)
            hits = float((logits.argmax(1) == query_y).float().mean())
            score = (hits, -float(F.cross_entropy(logits, query_y)))
            if best is None or score > best[0]:
                best = (score, gamma, point)
    assert best is not None
    _, gamma, values = best
    values = [value.requires_grad_() for value in values]
    loss = F.cross_entropy(end.at(values)(query), query_y)
    return [gamma * grad for grad in torch.autograd.grad(loss, values)]
