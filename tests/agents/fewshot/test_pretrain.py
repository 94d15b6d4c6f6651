"""Pre-training on all classes, and the head that a task learns, by hand."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.fewshot.presets import pretrain_preset
from lazybench.agents.fewshot.pretrain import PretrainConfig, PretrainedAgent
from lazybench.envs.fewshot.env import FewShotVectorEnv
from lazybench.errors import UsageError
from lazybench.nets import backbone
from lazybench.registry import ENVS
from lazybench.seeding import Rng
from lazybench.tasks import TaskShape

CLASSES = 11


def agent_of(**settings: Any) -> PretrainedAgent:
    return PretrainedAgent(PretrainConfig.model_validate({"backbone": "mlp", **settings}))


def begin(agent: PretrainedAgent, task: TaskShape, *, double: bool = False) -> dict[str, Any]:
    state = agent.init(SimpleNamespace(task=task, train_classes=CLASSES), Rng(0))
    if double:
        theta = {name: value.double() for name, value in state["theta"].items()}
        state = {**state, "theta": theta, "outer": agent.outer.init(theta)}
    return state


def with_class_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tasks whose labels are those of a split: task t has classes 3t, 3t + 1, 3t + 2."""
    offset = 3 * torch.arange(len(batch["support_y"]))[:, None]
    return {n: part + offset if n.endswith("_y") else part for n, part in batch.items()}


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_one_update_is_adams_on_the_whole_mini_batch(head: str, tasks: Any, draw: Any) -> None:
    agent = agent_of(head=head, temperature=0.2, lr=0.01, iterations=4)
    state = {**begin(agent, tasks.blobs, double=True), "step": 1}
    batch = with_class_labels(draw(tasks.blobs, 3))
    batch |= {name: batch[name].double() / 255 for name in ("support_x", "query_x")}
    held_state, held_batch = copy.deepcopy(state), copy.deepcopy(batch)
    got, logs = agent.update(state, batch, Rng(0))
    torch.testing.assert_close(batch, held_batch, rtol=0, atol=0)
    torch.testing.assert_close(state["theta"], held_state["theta"], rtol=0, atol=0)

    net = backbone("mlp", tasks.blobs)
    weights = {name: torch.nn.Parameter(v.clone()) for name, v in state["theta"].items()}
    total = torch.zeros((), dtype=torch.float64)
    for part in ("support", "query"):
        for x, y in zip(batch[f"{part}_x"], batch[f"{part}_y"], strict=True):
            features = net.features(weights, net.prepare(x))
            if head == "linear":
                logits = features @ weights["head.weight"].T + weights["head.bias"]
            else:
                units = weights["head.weight"].T / weights["head.weight"].norm(dim=1)
                logits = features / features.norm(dim=1, keepdim=True) @ units / 0.2
            total = total - logits.log_softmax(1)[torch.arange(len(y)), y].sum()
    rows = 3 * 12
    torch.autograd.backward(total / rows)
    torch.optim.Adam(weights.values(), lr=0.01 * 0.75).step()
    expected = {name: weight.detach() for name, weight in weights.items()}
    torch.testing.assert_close(got["theta"], expected, rtol=1e-7, atol=1e-9)
    assert logs["loss"] == pytest.approx(float(total.detach()) / rows, rel=1e-9)
    assert logs["image_gradients"] == rows


@pytest.mark.parametrize("features", ["plain", "standardised"])
def test_the_head_of_a_task_is_that_of_a_hand_written_descent(
    features: str, tasks: Any, draw: Any
) -> None:
    agent = agent_of(start="support", test_lr=0.3, test_steps=7, test_batch=0, features=features)
    state, block = begin(agent, tasks.blobs), draw(tasks.blobs, 2)
    got, _ = agent.policy(state)(block)
    net = backbone("mlp", tasks.blobs)
    for index in range(2):
        row = {name: part[index] for name, part in block.items()}
        x = torch.cat([net.prepare(row["support_x"]), net.prepare(row["query_x"])])
        seen = net.features(state["theta"], x)
        if features == "standardised":
            seen = (seen - seen.mean(0)) / (seen.var(0, correction=0) + 1e-3).sqrt()
        support, query = seen[:6].double(), seen[6:].double()
        weight, bias = torch.zeros(3, 40, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for _ in range(7):
            share = (support @ weight.T + bias).softmax(1) - F.one_hot(row["support_y"], 3)
            weight = weight - 0.3 * share.T @ support / 6
            bias = bias - 0.3 * share.mean(0)
        logits = query @ weight.T + bias
        gap = logits.topk(2, dim=1).values
        clear = gap[:, 0] - gap[:, 1] > 1e-4
        assert clear.any()
        assert torch.equal(got[index][clear], logits.argmax(1)[clear])


def test_a_random_start_is_the_same_in_every_trial(tasks: Any, draw: Any) -> None:
    agent = agent_of(test_batch=2, test_steps=5)
    policy, block = agent.policy(begin(agent, tasks.blobs)), draw(tasks.blobs, 3)
    before = torch.get_rng_state()
    together, _ = policy(block)
    for index in range(3):
        alone, _ = policy({name: part[index : index + 1] for name, part in block.items()})
        assert torch.equal(alone[0], together[index])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_whole_network_moves_where_asked(tasks: Any, draw: Any) -> None:
    """On its own support set: the network fits what a head on frozen features doesn't."""
    block = draw(tasks.blobs, 2)
    block = {**block, "query_x": block["support_x"], "query_y": block["support_y"]}
    right = {}
    for adapts in ("head", "all"):
        agent = agent_of(adapts=adapts, test_lr=0.05, test_steps=15, test_batch=0, start="support")
        answers, _ = agent.policy(begin(agent, tasks.blobs))(block)
        right[adapts] = float((answers == block["query_y"]).float().mean())
    assert right["all"] > right["head"]


@pytest.mark.parametrize("features", ["plain", "standardised"])
@pytest.mark.parametrize("adapts", ["head", "all"])
def test_inductive_answers_do_not_depend_on_the_other_queries(
    features: str, adapts: str, tasks: Any, draw: Any
) -> None:
    block = draw(tasks.blobs, 6)
    changed = {**block, "query_x": block["query_x"].clone()}
    changed["query_x"][:, 1:] = 255
    same = {}
    for mode in ("transductive", "inductive"):
        agent = agent_of(
            backbone="conv4-32", batch_norm=mode, features=features, adapts=adapts, test_steps=3
        )
        policy = agent.policy(begin(agent, tasks.blobs))
        same[mode] = torch.equal(policy(block)[0][:, 0], policy(changed)[0][:, 0])
    assert same == {"transductive": False, "inductive": True}


def test_a_trained_state_serves_other_ways_and_takes_weights(tasks: Any, draw: Any) -> None:
    agent = agent_of(test_steps=3)
    state = begin(agent, tasks.blobs)
    wide = TaskShape(7, 1, 3, (1, 16, 16), "uint8")
    answers, _ = agent.policy(agent.transfer(state, wide))(draw(wide, 2))
    assert answers.shape == (2, 21)
    given = backbone("mlp", tasks.blobs).init(Rng(9).torch())
    loaded = agent.load_weights(state, given)["theta"]
    assert torch.equal(loaded["layer1.weight"], given["layer1.weight"])
    assert torch.equal(loaded["head.weight"], state["theta"]["head.weight"])
    assert loaded["head.weight"].shape == (CLASSES, 40)
    assert agent.describe_network(tasks.blobs).parameters == 256 * 40 + 40 + 40 * 41 + 3 * 41


def test_the_plan_asks_for_class_labels_and_the_environment_gives_them() -> None:
    spec = ENVS.resolve("glyphs-5way-1shot").spec
    agent = PretrainedAgent(PretrainConfig(**{**pretrain_preset(spec, "smoke"), "backbone": "mlp"}))
    val = FewShotVectorEnv(1, **spec.kwargs, split="val", backend="torch")
    plan = agent.plan(val.task)
    assert plan.env["labels"] == "class"
    train = FewShotVectorEnv(
        plan.meta_batch, **spec.kwargs, split="train", backend="torch", **plan.env
    )
    batch, _ = train.reset(seed=0)
    state = agent.init(val, Rng(0))
    assert len(state["theta"]["head.weight"]) == train.task.classes
    after, logs = agent.update(state, batch, Rng(0))
    moved = (after["theta"]["head.bias"] != state["theta"]["head.bias"]).sum()
    assert moved == train.task.classes
    assert logs["image_gradients"] == plan.meta_batch * 10


@pytest.mark.parametrize(
    ("env", "budget"), [("omniglot-5way-1shot", 200_000), ("glyphs-20way-5shot", 180_000)]
)
def test_small_spends_what_every_agent_spends(env: str, budget: int) -> None:
    spec = ENVS.resolve(env).spec
    way = spec.kwargs["way"]
    task = TaskShape(way, spec.kwargs["shot"], 15, (1, 28, 28), "uint8", classes=300)
    plan = PretrainedAgent(PretrainConfig(**pretrain_preset(spec, "small"))).plan(task)
    images = plan.meta_batch * way * (plan.env["shots"] + plan.env["queries"])
    assert 0.97 * budget < plan.updates * images <= budget


def test_paper_has_mini_batches_of_about_16() -> None:
    for env in ("omniglot-5way-1shot", "glyphs-20way-5shot"):
        spec = ENVS.resolve(env).spec
        config = PretrainConfig(**pretrain_preset(spec, "paper"))
        rows = spec.kwargs["way"] * (config.train_shots + config.train_queries)
        assert rows in (15, 40)
        assert config.iterations * rows == pytest.approx(5 * 82_240, rel=1e-3)
        assert (config.test_steps, config.test_batch, config.test_lr) == (100, 4, 0.01)


def test_what_pre_training_cannot_serve_is_reported(tasks: Any) -> None:
    agent = agent_of()
    with pytest.raises(UsageError, match="pre-training classifies: it needs tasks with classes"):
        agent.plan(tasks.sine)
    with pytest.raises(UsageError, match="got real-valued targets"):
        agent.init(SimpleNamespace(task=tasks.sine, train_classes=0), Rng(0))
    with pytest.raises(UsageError, match="takes labels='class', got 0 classes"):
        agent.init(SimpleNamespace(task=tasks.blobs), Rng(0))
