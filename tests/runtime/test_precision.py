"""Precision: what changes and what doesn't, in the caller's thread and in tasks' threads."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazybench.errors import DeviceUnavailable, UsageError
from lazybench.learning import sgd, student
from lazybench.nets import MLP, ModuleNet, ResNet12, backbone
from lazybench.runtime import threads
from lazybench.runtime.precision import PRECISIONS, precision, using_precision
from lazybench.tasks import TaskShape

TASK = TaskShape(3, 4, 4, (1, 16, 16), "uint8")
LABELS = torch.arange(12) % 3


@pytest.fixture(autouse=True)
def restore_threads():
    chosen = list(threads._chosen)
    yield
    threads._chosen[:] = chosen


@pytest.fixture
def x() -> Tensor:
    """Rows of three kinds that a network can separate: noise on one of three patterns."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(256, (3, 1, 16, 16), generator=generator)
    noise = torch.randint(256, (12, 1, 16, 16), generator=generator)
    return ((patterns[LABELS] + noise) // 2).to(torch.uint8)


def wrapped(task: TaskShape) -> ModuleNet:
    def factory(task: TaskShape) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())

    return ModuleNet("mine:factory", factory, task)


NETS = {
    "conv4, fused": lambda: backbone("conv4-32", TASK),
    "conv4, layers": lambda: backbone("conv4-32", TASK, second_order=True),
    "resnet12": lambda: ResNet12(TASK, widths=(4, 4, 4, 4)),
    "mlp": lambda: MLP(TASK),
    "module": lambda: wrapped(TASK),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_bf16_is_near_and_gives_float32(make, x):
    net = make()
    theta = net.init(torch.Generator().manual_seed(0))
    theta = {name: value.requires_grad_() for name, value in theta.items()}
    prepared = net.prepare(x)

    def found():
        logits = net(theta, prepared)
        loss = F.cross_entropy(logits, LABELS)
        grads = torch.autograd.grad(loss, list(theta.values()))
        with torch.no_grad():
            stats = net.statistics(theta, prepared)
            evaluated = net(theta, prepared, stats)
        return {"logits": logits.detach(), "grads": grads, "stats": stats, "evaluated": evaluated}

    plain = found()
    with using_precision("fp32"):
        torch.testing.assert_close(found(), plain, rtol=0, atol=0)
    with using_precision("bf16"):
        coarse = found()
    assert not torch.equal(coarse["logits"], plain["logits"])
    # bfloat16 keeps 8 bits; a few layers of rounding stay within 10 % of the largest entry.
    for name in ("logits", "evaluated"):
        limit = 0.1 * float(plain[name].abs().max())
        torch.testing.assert_close(coarse[name], plain[name], rtol=0, atol=limit)
    for ours, theirs in zip(coarse["stats"], plain["stats"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.05)
    flat = [torch.cat([grad.flatten() for grad in each["grads"]]) for each in (coarse, plain)]
    # Two entries that round alike trade places in max-pool, and their gradients with them.
    assert float(F.cosine_similarity(*flat, dim=0)) > 0.95
    torch.testing.assert_close(found(), plain, rtol=0, atol=0)


def test_bf16_holds_in_the_threads_of_tasks(x):
    net = backbone("conv4-32", TASK, second_order=True)
    theta, prepared = net.init(torch.Generator().manual_seed(0)), net.prepare(x)
    threads.set_threads(2)

    def logits(item: int) -> Tensor:
        return net(theta, prepared)

    plain = logits(0)
    with using_precision("bf16"):
        alone, (one, two) = logits(0), threads.map_tasks(logits, range(2))
    assert torch.equal(one, two)
    assert torch.equal(one, alone)
    assert not torch.equal(one, plain)
    assert torch.equal(threads.map_tasks(logits, range(2))[1], plain)


def test_a_student_learns_in_bf16_on_float32_parameters(x):
    net = backbone("conv4-32", TASK)
    theta, prepared = net.init(torch.Generator().manual_seed(0)), net.prepare(x)

    def loss(params):
        found = F.cross_entropy(net(params, prepared), LABELS)
        assert found.dtype == torch.float32
        return found

    with using_precision("bf16"):
        trail = student(theta, [loss] * 10, rule=sgd(0.1))
    assert trail.losses[-1] < 0.3 * trail.losses[0]
    assert {value.dtype for value in trail.end.values()} == {torch.float32}


@pytest.mark.parametrize("name", ["conv4, fused", "conv4, layers", "resnet12", "module"])
def test_bf16_can_be_differentiated_twice(name, x):
    net = NETS[name]()
    theta = net.init(torch.Generator().manual_seed(0))
    theta = {name: value.requires_grad_() for name, value in theta.items()}
    prepared = net.prepare(x)

    def twice() -> Tensor:
        loss = F.cross_entropy(net(theta, prepared), LABELS)
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        moved = {
            name: value - 0.01 * grad
            for (name, value), grad in zip(theta.items(), grads, strict=True)
        }
        after = F.cross_entropy(net(moved, prepared), LABELS)
        meta = torch.autograd.grad(after, list(theta.values()))
        return torch.cat([grad.flatten() for grad in meta])

    plain = twice()
    with using_precision("bf16"):
        coarse = twice()
    assert coarse.dtype == torch.float32
    # Curvature feels max-pool's trades more; in as many dimensions chance gives 0.
    assert float(F.cosine_similarity(coarse, plain, dim=0)) > 0.6


def test_the_choice_ends_with_the_block():
    assert precision() == "fp32"
    with using_precision("bf16"):
        with using_precision("fp32"):
            assert precision() == "fp32"
        assert precision() == "bf16"
    assert precision() == "fp32"
    with pytest.raises(RuntimeError, match="inside"), using_precision("bf16"):
        raise RuntimeError("inside")
    assert precision() == "fp32"


def test_a_net_of_its_own_forward_is_refused_in_bf16(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from lazybench.nets import MLP\n\n\ndef make(task):\n    return MLP(task)\n")
    name = f"{path}:make"
    assert backbone(name, TASK).name == name
    with using_precision("bf16"), pytest.raises(UsageError, match="use --precision fp32"):
        backbone(name, TASK)


@pytest.mark.parametrize(
    ("wrong", "device", "kind", "message"),
    [
        ("fp16", "cpu", UsageError, "precision must be one of fp32, tf32, bf16, got 'fp16'"),
        ("tf32", "cpu", DeviceUnavailable, "tf32 is a format of CUDA devices, got device cpu"),
        ("bf16", "mps", DeviceUnavailable, "bf16 needs device cpu or cuda, got device mps"),
    ],
)
def test_what_a_device_lacks_is_refused(wrong, device, kind, message):
    with pytest.raises(kind, match=re.escape(message)), using_precision(wrong, device):
        pass
    assert precision() == "fp32"


@pytest.mark.parametrize("chosen", PRECISIONS)
def test_tf32_flags_are_set_on_cuda_and_put_back(chosen):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    with using_precision(chosen, "cuda:0"):
        # The flags can be set without a device, which is all that is looked at here.
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (chosen == "tf32",) * 2
    assert (matmul.allow_tf32, cudnn.allow_tf32) == before
