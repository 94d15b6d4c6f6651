"""Other people's modules as networks: values, purity, statistics, threads, and clear refusals."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lazybench.errors import UsageError
from lazybench.nets import (
    MLP,
    NORM_EPS,
    Conv4,
    ModuleNet,
    backbone,
    count_parameters,
    forget_loaded,
    source_sha256,
    training_passes,
)
from lazybench.nets.module import from_factory
from lazybench.runtime import threads
from lazybench.tasks import TaskShape
from lazybench.user_code import target_sha256

TASK = TaskShape(5, 1, 1, (1, 16, 16), "uint8")
VECTORS = TaskShape(5, 1, 1, (6,), "float32")


def conv4(task: TaskShape) -> nn.Module:
    """The body of `Conv4` with four filters, as it is usually written."""
    layers: list[nn.Module] = []
    for inputs in (1, 4, 4, 4):
        layers += [
            nn.Conv2d(inputs, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4, eps=NORM_EPS),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Flatten())


def translated(params):
    """Parameters of the wrapped module under the names of `Conv4`."""
    names = {"body": "conv", "norm": "norm"}
    found = {}
    for name, value in params.items():
        match = re.fullmatch(r"(body|norm)\.(\d+)\.(\w+)", name)
        key = f"{names[match[1]]}{int(match[2]) // 4 + 1}.{match[3]}" if match else name
        found[key] = value
    return found


@pytest.fixture
def net() -> ModuleNet:
    return ModuleNet("mine.py:conv4", conv4, TASK)


@pytest.fixture(autouse=True)
def restore_threads():
    chosen = list(threads._chosen)
    yield
    threads._chosen[:] = chosen


def test_a_wrapped_conv4_is_conv4(net, drawn, exact, doubled):
    builtin = Conv4(TASK, filters=4)
    params = {name: value.requires_grad_() for name, value in doubled(net).items()}
    same = translated(params)
    assert set(same) == set(builtin.init(torch.Generator()))
    x, other = exact(drawn(TASK, 6)), exact(drawn(TASK, 7, seed=1))
    ours, theirs = net(params, net.prepare(x)), builtin(same, builtin.prepare(x))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    labels = torch.arange(6) % 5
    grads = [
        torch.autograd.grad(nn.functional.cross_entropy(out, labels), list(params.values()))
        for out in (ours, theirs)
    ]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)
    params, same = ({n: v.detach() for n, v in each.items()} for each in (params, same))
    stats = net.statistics(params, net.prepare(x))
    torch.testing.assert_close(
        stats, builtin.statistics(same, builtin.prepare(x)), rtol=1e-9, atol=1e-10
    )
    torch.testing.assert_close(
        net(params, net.prepare(other), stats),
        builtin(same, builtin.prepare(other), stats),
        rtol=1e-9,
        atol=1e-9,
    )


def test_calls_leave_no_trace(net, drawn):
    params = net.init(torch.Generator().manual_seed(0))
    x, other = net.prepare(drawn(TASK, 6)), net.prepare(drawn(TASK, 6, seed=1))
    before, random = net(params, x), torch.random.get_rng_state()
    net.statistics(params, other)
    net(params, other, net.statistics(params, x))
    assert torch.equal(net(params, x), before)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_buffers_that_a_module_changes_are_changed_in_copies():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.ones(()))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.scale * self.calls * x

    net = ModuleNet("mine:Counting", lambda task: Counting(), VECTORS)
    params, x = net.init(torch.Generator()), torch.ones(2, 6)
    assert [float(net.features(params, x)[0, 0].detach()) for _ in range(3)] == [2.0, 2.0, 2.0]


def test_init_is_the_factorys_own_under_a_seed(net):
    one, two, other = (net.init(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not torch.equal(one["body.0.weight"], other["body.0.weight"])
    random = torch.random.get_rng_state()
    net.init(torch.Generator())
    assert torch.equal(torch.random.get_rng_state(), random)
    # torch's own start of a convolution: uniform on +-1 / sqrt(fan_in).
    assert 0.25 < float(one["body.0.weight"].abs().max()) <= 1 / 3
    assert count_parameters(net) == 9 * 4 + 3 * 9 * 16 + 8 * 4 + (net.width + 1) * 5


def test_what_a_factory_freezes_stays(drawn):
    def frozen(task: TaskShape) -> nn.Module:
        body = nn.Linear(6, 3)
        nn.init.ones_(body.weight)
        return nn.Sequential(body.requires_grad_(False), nn.Linear(3, 2))

    net = ModuleNet("mine:frozen", frozen, VECTORS)
    params = net.init(torch.Generator())
    assert set(params) == {"body.1.weight", "body.1.bias", "head.weight", "head.bias"}


def test_lazy_layers_take_their_shapes():
    def lazy(task: TaskShape) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())

    net = ModuleNet("mine:lazy", lazy, VECTORS)
    one, two = (net.init(torch.Generator().manual_seed(1)) for _ in range(2))
    assert {name: tuple(value.shape) for name, value in one.items()} == {
        "body.0.weight": (4, 6),
        "body.0.bias": (4,),
        "norm.1.weight": (4,),
        "norm.1.bias": (4,),
        "head.weight": (5, 4),
        "head.bias": (5,),
    }
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_threads_do_not_meet_in_the_module(net, drawn):
    thetas = [net.init(torch.Generator().manual_seed(seed)) for seed in range(6)]
    xs = [net.prepare(drawn(TASK, 6, seed)) for seed in range(6)]

    def run(index: int) -> list[Tensor]:
        theta, x = thetas[index], xs[index]
        stats = net.statistics(theta, x)
        return [net(theta, x).detach() for _ in range(5)] + [net(theta, xs[0], stats).detach()]

    threads.set_threads(1)
    expected = threads.map_tasks(run, range(6))
    threads.set_threads(3)
    torch.testing.assert_close(threads.map_tasks(run, range(6)), expected, rtol=0, atol=0)


def test_real_valued_targets_take_their_shape():
    task = TaskShape(1, 5, 5, (6,), "float32", "array", (2, 2))
    net = ModuleNet("mine:linear", lambda task: nn.Linear(6, 3), task)
    assert net(net.init(torch.Generator()), torch.zeros(7, 6)).shape == (7, 2, 2)


def test_a_file_names_a_backbone(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n\n\ndef small(task):\n    return nn.Linear(task.instance[0], 3)\n"
    )
    name = f"{path}:small"
    net = backbone(name, VECTORS)
    assert net.name == name
    assert backbone(name, VECTORS) is net
    path.write_text(path.read_text().replace("3", "4"))
    assert backbone(name, VECTORS).features(
        backbone(name, VECTORS).init(torch.Generator()), torch.zeros(2, 6)
    ).shape == (2, 4)


def test_a_factory_may_give_a_net_which_bears_the_factorys_name():
    given = MLP(VECTORS, hidden=(3,))
    net = from_factory("mine:net", lambda task: given, VECTORS)
    # Records distinguish it from the built-in one, whose name stays.
    assert (net.name, given.name) == ("mine:net", "mlp-3")
    params = net.init(torch.Generator())
    assert torch.equal(net(params, torch.ones(2, 6)), given(params, torch.ones(2, 6)))


class Activated(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def fail(task: TaskShape) -> nn.Module:
    raise RuntimeError("no weights here")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (3, "must be a function from a TaskShape to a torch.nn.Module, got int"),
        (lambda task: 3, "must give a torch.nn.Module, or an object like lazybench.nets.Net, got "
            "int without name, init"),
        (lambda task: SimpleNamespace(name="x"), "got SimpleNamespace without init, prepare"),
        (fail, "failed on tasks with instances [6]: RuntimeError: no weights here"),
        (lambda task: nn.Linear(5, 2), "failed on instances [6]: RuntimeError"),
        (lambda task: nn.Unflatten(1, (2, 3)), "must give features [n, d] for instances [4, 6], "
            "got [4, 2, 3]"),
        (lambda task: nn.Flatten(0), "must give features [n, d] for instances [4, 6], got [24]"),
        (lambda task: nn.LSTM(6, 2), "must give features [n, d] for instances [4, 6], got tuple"),
        (lambda task: nn.Threshold(2.0, float("nan")), "aren't all finite numbers"),
        (lambda task: nn.Sequential(nn.Linear(6, 2), Activated(2)), "custom forward, Activated"),
    ],
)  # fmt: skip
def test_what_is_no_backbone_is_refused(factory, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        from_factory("mine:thing", factory, VECTORS)
    assert "\n" not in str(caught.value)
    assert "'mine:thing'" in str(caught.value)


def test_other_parameters_at_another_call_are_refused():
    widths = iter((3, 3, 4))
    net = from_factory(
        "mine:growing",
        lambda task: nn.Sequential(*[nn.Linear(6, 6) for _ in range(next(widths))]),
        VECTORS,
    )
    with pytest.raises(UsageError, match="has other parameters each time"):
        net.init(torch.Generator())


def test_statistics_that_do_not_fit_the_pass_are_refused(net, drawn):
    params, x = net.init(torch.Generator()), net.prepare(drawn(TASK, 4))
    stats = net.statistics(params, x)
    for wrong in (stats[:-1], (*stats, stats[0])):
        with pytest.raises(UsageError, match="use --set batch_norm=transductive"):
            net(params, x, wrong)


class Scaled(nn.Module):
    """A linear layer behind something that works in place."""

    def __init__(self, task: TaskShape) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.sub_(0.5).div_(0.25)).relu_()


def test_a_module_may_work_in_place_on_instances():
    net = ModuleNet("mine:Scaled", Scaled, VECTORS)
    params, x = net.init(torch.Generator().manual_seed(0)), torch.rand(4, 6)
    before = x.clone()
    one, two = net(params, x), net(params, x)
    net.statistics(params, x)
    assert torch.equal(x, before)
    assert torch.equal(one, two)
    # On a leaf of a graph as well.
    leaf = x.clone().requires_grad_()
    assert torch.equal(net(params, leaf), one)


def test_a_net_of_the_users_may_work_in_place_on_instances():
    class InPlace(MLP):
        def __call__(self, params, x, stats=None):
            return super().__call__(params, x.sub_(0.5), stats)

    net = from_factory("mine:InPlace", lambda task: InPlace(task, hidden=(3,)), VECTORS)
    params, x = net.init(torch.Generator().manual_seed(0)), torch.rand(4, 6)
    assert torch.equal(net(params, x), net(params, x))


class Noisy(nn.Module):
    """A layer whose `noise` is added where it applies."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.layer, self.when = nn.Linear(6, 40), when

    def forward(self, x: Tensor) -> Tensor:
        if self.when == "always":
            return nn.functional.dropout(self.layer(x), 0.5)
        if self.when == "numpy" and self.training:
            return self.layer(x) + float(np.random.rand())
        if self.when == "weights":
            self.layer.weight.data.mul_(0.5)
        return self.layer(x) if self.when != "pair" or not self.training else (x, x)


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("always", "is random: two passes on the same instances differ, in evaluation mode"),
        ("numpy", "is random in training mode by other numbers than torch's"),
        ("weights", "changes its parameters as it runs"),
        ("pair", "set TRAIN_MODE = False in its file"),
    ],
)
def test_a_pass_that_is_no_function_is_refused(when, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        ModuleNet("mine:noisy", lambda task: Noisy(when), VECTORS)


def test_a_net_of_the_users_that_is_random_is_refused():
    class Random(MLP):
        def __call__(self, params, x, stats=None):
            return super().__call__(params, x, stats) + torch.rand(())

    with pytest.raises(UsageError, match="two passes on the same instances differ"):
        from_factory("mine:Random", lambda task: Random(task, hidden=(3,)), VECTORS)


def dropping(task: TaskShape) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5))


def test_training_passes_are_in_training_mode():
    net = ModuleNet("mine:dropping", dropping, VECTORS)
    params, x = net.init(torch.Generator().manual_seed(0)), torch.rand(4, 6)
    other = {name: value + 0.01 for name, value in params.items()}
    plain, random = net.features(params, x), torch.random.get_rng_state()
    with training_passes():
        dropped = net.features(params, x)
        # A function of parameters and instances: replayed steps see the same masks.
        assert torch.equal(net.features(params, x), dropped)
        elsewhere = net.features(other, x)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(net.features(params, x), plain)
    assert not (plain == 0).any()
    masks = [(each == 0) for each in (dropped, elsewhere)]
    assert 0.3 < float(masks[0].float().mean()) < 0.7
    assert not torch.equal(*masks)
    kept = ~masks[0]
    torch.testing.assert_close(dropped[kept], 2 * plain[kept])
    quiet = ModuleNet("mine:dropping", dropping, VECTORS, train_mode=False)
    with training_passes():
        assert torch.equal(quiet.features(params, x), plain)


def test_threads_do_not_draw_each_others_numbers():
    net = ModuleNet("mine:dropping", dropping, VECTORS)
    thetas = [net.init(torch.Generator().manual_seed(seed)) for seed in range(8)]
    x = torch.rand(4, 6)
    with training_passes():
        threads.set_threads(1)
        expected = threads.map_tasks(lambda theta: net(theta, x), thetas)
        threads.set_threads(4)
        got = threads.map_tasks(lambda theta: net(theta, x), thetas)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_file_may_keep_its_module_in_evaluation_mode(tmp_path):
    text = (
        "from torch import nn\ndef f(task):\n"
        "    return nn.Sequential(nn.Linear(6, 64), nn.Dropout())\n"
    )
    path = tmp_path / "mine.py"
    for said, acts in (("", True), ("TRAIN_MODE = False\n", False)):
        path.write_text(text + said)
        net = backbone(f"{path}:f", VECTORS)
        params, x = net.init(torch.Generator().manual_seed(0)), torch.rand(4, 6)
        with training_passes():
            assert bool((net.features(params, x) == 0).any()) is acts
    path.write_text(text + "TRAIN_MODE = 'no'\n")
    with pytest.raises(UsageError, match="TRAIN_MODE in the file of"):
        backbone(f"{path}:f", VECTORS)


class Attending(nn.Module):
    def __init__(self, task: TaskShape) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.reshape(len(x), -1, 4)).mean(1)


def test_attention_is_differentiated_twice():
    task = TaskShape(5, 1, 1, (8,), "float32")
    net = ModuleNet("mine:Attending", Attending, task, second_order=True)
    once = ModuleNet("mine:Attending", Attending, task)
    held = net.init(torch.Generator().manual_seed(0))
    params = {name: value.requires_grad_() for name, value in held.items()}
    x = torch.rand(6, 8)
    torch.testing.assert_close(net(params, x), once(params, x))

    def twice(theta: dict[str, Tensor]) -> tuple[Tensor, ...]:
        loss = net(theta, x).square().mean()
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        return torch.autograd.grad(sum(s.square().sum() for s in slopes), list(theta.values()))

    assert all(bool(part.isfinite().all()) for part in twice(params))
    wide = {n: v.detach().double().requires_grad_() for n, v in params.items()}
    name = "body.block.self_attn.in_proj_weight"

    def slope(weight: Tensor) -> Tensor:
        loss = net({**wide, name: weight}, x.double()).square().mean()
        return torch.autograd.grad(loss, weight, create_graph=True)[0]

    torch.autograd.gradcheck(slope, (wide[name],), fast_mode=True)


def test_a_key_covers_the_state_that_no_seed_changes(tmp_path):
    (tmp_path / "w.txt").write_text("1")
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom pathlib import Path\nfrom torch import nn\n"
        "def fresh(task):\n    return nn.Linear(6, 3)\n"
        "def trained(task):\n    made = nn.Linear(6, 3)\n"
        "    value = float((Path(__file__).parent / 'w.txt').read_text())\n"
        "    return nn.Sequential(nn.init.constant_(made.weight, value) is None or made)\n"
        "class Wild:\n    def __new__(cls, task):\n        import random\n"
        "        made = nn.Linear(6, 3)\n        nn.init.constant_(made.weight, random.random())\n"
        "        return made\n"
    )
    code = target_sha256(f"{path}:fresh")
    assert source_sha256(backbone(f"{path}:fresh", VECTORS)) == code
    before = source_sha256(backbone(f"{path}:trained", VECTORS))
    (tmp_path / "w.txt").write_text("2")
    assert source_sha256(backbone(f"{path}:trained", VECTORS)) == before, "one run, one network"
    forget_loaded()
    after = source_sha256(backbone(f"{path}:trained", VECTORS))
    assert len({code, before, after}) == 3
    with pytest.raises(UsageError, match="gives other parameters each time, whatever the seed"):
        source_sha256(backbone(f"{path}:Wild", VECTORS))
