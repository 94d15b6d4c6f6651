"""ProtoNet by hand: prototypes, distances, one Adam step, batch statistics."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.agents.fewshot.protonet import ProtoNet, ProtoNetConfig
from lazybench.errors import UsageError
from lazybench.nets import backbone
from lazybench.params import Params
from lazybench.rng import Rng


def protonet(**settings: Any) -> ProtoNet:
    return ProtoNet(ProtoNetConfig.model_validate(settings))


def logits(support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
    """Negative squared distances, pair by pair."""
    means = [support[labels == label].mean(0) for label in range(way)]
    return torch.stack([torch.stack([-(q - m).square().sum() for m in means]) for q in query])


def embed(net: Any, theta: Params, row: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    both = torch.cat([net.prepare(row["support_x"]), net.prepare(row["query_x"])])
    features = net.features(theta, both)
    return features[: len(row["support_x"])], features[len(row["support_x"]) :]


@pytest.mark.parametrize("net_name", ["mlp", "conv4-32"])
def test_answers_by_hand(net_name: str, tasks: Any, draw: Any, start: Any) -> None:
    agent = protonet(backbone=net_name)
    state, block = start(agent, tasks.blobs), draw(tasks.blobs, 3)
    assert not any(name.startswith("head") for name in state["theta"])
    policy = agent.policy(state)
    got, _ = policy(block)
    net = backbone(net_name, tasks.blobs)
    for index in range(3):
        row = {name: part[index] for name, part in block.items()}
        support, query = embed(net, state["theta"], row)
        expected = logits(support, row["support_y"], query, 3).argmax(1)
        assert torch.equal(got[index], expected)
        alone, _ = policy({name: part[None] for name, part in row.items()})
        assert torch.equal(alone[0], got[index])


def test_one_update_by_hand(tasks: Any, draw: Any, start: Any) -> None:
    agent = protonet(backbone="mlp", lr=0.01, iterations=4, meta_batch=2)
    state = {**start(agent, tasks.blobs, double=True), "step": 1}
    batch = draw(tasks.blobs, 2)
    batch |= {name: batch[name].double() / 255 for name in ("support_x", "query_x")}
    held_batch, held_state = copy.deepcopy(batch), copy.deepcopy(state)
    before = torch.get_rng_state()
    got, logs = agent.update(state, batch, Rng(0))
    torch.testing.assert_close(batch, held_batch, rtol=0, atol=0)
    for part in ("theta", "outer"):
        torch.testing.assert_close(state[part], held_state[part], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    again, logs_again = agent.update(state, batch, Rng(0))
    torch.testing.assert_close(again["theta"], got["theta"], rtol=0, atol=0)
    assert (again["step"], logs_again) == (2, logs)

    net = backbone("mlp", tasks.blobs)
    weights = {name: torch.nn.Parameter(v.clone()) for name, v in state["theta"].items()}
    losses = []
    for index in range(2):
        row = {name: part[index] for name, part in batch.items()}
        support, query = embed(net, dict(weights), row)
        scores = logits(support, row["support_y"], query, 3)
        chosen = scores.log_softmax(1)[torch.arange(6), row["query_y"]]
        losses.append(-chosen.mean())
    loss = torch.stack(losses).mean()
    torch.autograd.backward(loss)
    torch.optim.Adam(weights.values(), lr=0.01 * 0.75).step()
    expected = {name: weight.detach() for name, weight in weights.items()}
    torch.testing.assert_close(got["theta"], expected, rtol=1e-8, atol=1e-10)
    assert logs["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    assert logs["image_gradients"] == 2 * (6 + 6)


def test_inductive_answers_do_not_depend_on_the_other_queries(
    tasks: Any, draw: Any, start: Any
) -> None:
    block = draw(tasks.blobs, 8)
    changed = {**block, "query_x": block["query_x"].clone()}
    changed["query_x"][:, 1:] = 255
    same = {}
    for mode in ("transductive", "inductive"):
        agent = protonet(backbone="conv4-32", batch_norm=mode)
        policy = agent.policy(start(agent, tasks.blobs))
        same[mode] = torch.equal(policy(block)[0][:, 0], policy(changed)[0][:, 0])
    assert same == {"transductive": False, "inductive": True}


def test_regression_is_refused(tasks: Any) -> None:
    agent = protonet()
    with pytest.raises(UsageError, match="protonet classifies: it needs tasks with classes"):
        agent.init(SimpleNamespace(task=tasks.sine), Rng(0))
    with pytest.raises(UsageError, match="lazybench list envs"):
        agent.plan(tasks.sine)
