"""Embedding agents: ProtoNet by hand, and what all heads have in common."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.agents.fewshot.embedding import EmbeddingAgent, EmbeddingConfig
from lazybench.agents.fewshot.presets import embedding_preset
from lazybench.api import make_agent, make_env, run
from lazybench.errors import UsageError
from lazybench.nets import backbone
from lazybench.nets.params import Params
from lazybench.registry import ENVS
from lazybench.runner.request import make
from lazybench.seeding import Rng
from lazybench.tasks import TaskShape

NAMES = ("protonet", "matching_net", "relation_net", "r2d2")
HEADS = ("prototypes", "matching", "relation", "ridge")


def protonet(**settings: Any) -> EmbeddingAgent:
    return EmbeddingAgent(EmbeddingConfig.model_validate(settings))


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


@pytest.mark.parametrize("head", HEADS[:3])
def test_regression_is_refused_where_a_head_cannot_serve_it(head: str, tasks: Any) -> None:
    agent = protonet(head=head)
    with pytest.raises(UsageError, match=f"a head of {head} classifies: it needs tasks with class"):
        agent.init(SimpleNamespace(task=tasks.sine), Rng(0))
    with pytest.raises(UsageError, match="lazybench list envs"):
        agent.plan(tasks.sine)


def test_ridge_learns_sine_waves(tasks: Any, draw: Any, start: Any) -> None:
    agent = protonet(head="ridge", lr=0.01, iterations=150, anneal="none")
    state, block = start(agent, tasks.sine), draw(tasks.sine, 50, seed=99)
    errors = []
    for step in range(150):
        if step in (0, 149):
            answers, _ = agent.policy(state)(block)
            assert answers.shape == block["query_y"].shape
            errors.append(float((answers - block["query_y"]).square().mean()))
        state, _ = agent.update(state, draw(tasks.sine, 4, seed=step), Rng(step))
    nothing = float(block["query_y"].square().mean())
    assert errors[1] < 0.5 * min(errors[0], nothing)


def test_real_valued_maps_keep_their_shape(tasks: Any, draw: Any, start: Any) -> None:
    agent = protonet(head="ridge", backbone="mlp")
    answers, _ = agent.policy(start(agent, tasks.maps))(draw(tasks.maps, 2))
    assert answers.shape == (2, 3, 2)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_one_update_moves_every_parameter_and_leaves_its_arguments(
    head: str, loss: str, tasks: Any, draw: Any, start: Any
) -> None:
    agent = protonet(head=head, loss=loss, backbone="conv4-32", iterations=4)
    state, batch = start(agent, tasks.blobs), draw(tasks.blobs, 2)
    held_state, held_batch = copy.deepcopy(state), copy.deepcopy(batch)
    got, logs = agent.update(state, batch, Rng(0))
    torch.testing.assert_close(batch, held_batch, rtol=0, atol=0)
    torch.testing.assert_close(state["theta"], held_state["theta"], rtol=0, atol=0)
    again, _ = agent.update(state, batch, Rng(0))
    torch.testing.assert_close(again["theta"], got["theta"], rtol=0, atol=0)
    # An offset that all classes share changes no softmax.
    still = {"head.ridge.bias"} | ({"head.relation3.bias"} if loss == "cross_entropy" else set())
    for name, value in got["theta"].items():
        moved = not torch.equal(value, state["theta"][name])
        assert moved or name in still, name
    assert logs["image_gradients"] == 2 * (6 + 6)


def test_mse_is_taken_of_the_sigmoid_against_the_one_hot_labels(
    tasks: Any, draw: Any, start: Any
) -> None:
    agent = protonet(head="relation", loss="mse", backbone="mlp")
    state, batch = start(agent, tasks.blobs), draw(tasks.blobs, 1)
    _, logs = agent.update(state, batch, Rng(0))
    row = {name: part[0] for name, part in batch.items()}
    support, query = embed(backbone("mlp", tasks.blobs), state["theta"], row)
    expected = 0.0
    for at, label in enumerate(row["query_y"].tolist()):
        for c in range(3):
            of_class = torch.eye(3)[row["support_y"]]
            score = agent.head.outputs(state["theta"], support, of_class, query)[at, c]
            expected += (float(score.sigmoid()) - (label == c)) ** 2 / 18
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_state_read_back_with_lists_goes_on(tasks: Any, draw: Any, start: Any) -> None:
    agent = protonet(backbone="conv4-32")
    state, batch = start(agent, tasks.blobs), draw(tasks.blobs, 2)
    fields = {n: list(v) if isinstance(v, tuple) else v for n, v in state["task"].items()}
    read = {**state, "task": fields}
    expected, _ = agent.update(state, batch, Rng(0))
    got, _ = agent.update(read, batch, Rng(0))
    torch.testing.assert_close(got["theta"], expected["theta"], rtol=0, atol=0)
    assert torch.equal(agent.policy(read)(batch)[0], agent.policy(state)(batch)[0])


@pytest.mark.parametrize("head", HEADS)
def test_a_trained_state_answers_any_number_of_ways(
    head: str, tasks: Any, draw: Any, start: Any
) -> None:
    agent = protonet(head=head, backbone="mlp")
    wide = TaskShape(7, 1, 3, (1, 16, 16), "uint8")
    state = agent.transfer(start(agent, tasks.blobs), wide)
    answers, _ = agent.policy(state)(draw(wide, 2))
    assert answers.shape == (2, 21)
    assert set(answers.unique().tolist()) <= set(range(7))
    with pytest.raises(UsageError, match="instance"):
        agent.transfer(state, TaskShape(7, 1, 3, (1, 20, 20), "uint8"))


@pytest.mark.parametrize("head", HEADS)
def test_weights_from_elsewhere_go_into_the_embedding(head: str, tasks: Any, start: Any) -> None:
    agent = protonet(head=head, backbone="mlp")
    state = start(agent, tasks.blobs)
    given = backbone("mlp", tasks.blobs).init(Rng(9).torch())
    loaded = agent.load_weights(state, given)["theta"]
    assert list(loaded) == list(state["theta"])
    for name, value in loaded.items():
        expected = state["theta"] if name.startswith("head.") else given
        assert torch.equal(value, expected[name])
    with pytest.raises(UsageError, match="backbone"):
        agent.load_weights(state, {})


def test_the_network_counts_the_parameters_of_embedding_and_head(tasks: Any, start: Any) -> None:
    for head in HEADS:
        agent = protonet(head=head, backbone="conv4-32")
        network = agent.describe_network(tasks.blobs)
        theta = start(agent, tasks.blobs)["theta"]
        assert network.name == "conv4-32"
        assert network.parameters == sum(value.numel() for value in theta.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("env", "way", "shot", "budget"),
    [("omniglot-5way-1shot", 5, 1, 200_000), ("glyphs-20way-5shot", 20, 5, 180_000)],
)
def test_small_spends_the_same_on_every_head(
    name: str, env: str, way: int, shot: int, budget: int
) -> None:
    spec = ENVS.resolve(env).spec
    config = EmbeddingConfig(**embedding_preset(name, spec, "small"))
    task = TaskShape(way, shot, 15, (1, 28, 28), "uint8", classes=300)
    plan = EmbeddingAgent(config).plan(task)
    images = plan.meta_batch * way * (plan.env["shots"] + plan.env["queries"])
    assert 0.97 * budget < plan.updates * images <= budget


def test_paper_has_the_papers_own_settings() -> None:
    def paper(name: str, env: str) -> EmbeddingConfig:
        return EmbeddingConfig(**embedding_preset(name, ENVS.resolve(env).spec, "paper"))

    relation = paper("relation_net", "omniglot-5way-1shot")
    assert (relation.train_queries, relation.iterations, relation.loss) == (19, 1_000_000, "mse")
    assert paper("relation_net", "omniglot-20way-5shot").train_queries == 5
    ridge = paper("r2d2", "omniglot-20way-5shot")
    assert (ridge.lr, ridge.ridge_lambda, ridge.ridge_scale) == (5e-3, 5000.0, 10.0)
    assert paper("matching_net", "omniglot-5way-1shot").temperature == 1.0
    proto = paper("protonet", "omniglot-5way-1shot")
    assert (proto.train_queries, proto.train_ways) == (5, 60)
    assert paper("protonet", "miniimagenet-5way-1shot").train_ways == 30
    proto = paper("protonet", "miniimagenet-5way-5shot")
    assert (proto.train_queries, proto.train_ways) == (15, 20)
    assert paper("r2d2", "omniglot-20way-5shot").train_ways == 60


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one hidden layer"):
        EmbeddingConfig(relation_hidden=())
    with pytest.raises(ValueError, match="a head of ridge has none, got cosine"):
        EmbeddingConfig(head="ridge", metric="cosine")
    with pytest.raises(ValueError, match="temperature"):
        EmbeddingConfig(temperature=0)


def test_parameters_that_a_module_does_not_use_stay(
    tmp_path: Any, tasks: Any, draw: Any, start: Any
) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n\nclass Half(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.used, self.idle = nn.Linear(256, 3), nn.Linear(2, 2)\n\n"
        "    def forward(self, x):\n        return self.used(x.flatten(1))\n\n\n"
        "def half(task):\n    return Half()\n"
    )
    agent = protonet(backbone=f"{file}:half", iterations=1)
    state = start(agent, tasks.blobs)
    after, _ = agent.update(state, draw(tasks.blobs, 2), Rng(0))
    changed = {n for n, v in state["theta"].items() if not torch.equal(v, after["theta"][n])}
    assert "body.used.weight" in changed
    assert not {"body.idle.weight", "body.idle.bias"} & changed


def test_training_tasks_have_train_ways_and_cost_what_they_hold() -> None:
    given = {"train_ways": 7, "train_queries": 3, "image_gradients": 10_000, "meta_batch": 1}
    made = make_agent("protonet", "glyphs-5way-1shot", **given)
    env = make_env("glyphs-5way-1shot", split="val", num_envs=1, backend="torch")
    plan = made.plan(env.task)
    assert plan.env["way"] == 7
    assert plan.updates == 10_000 // (7 * (1 + 3))
    train = make_env(
        "glyphs-5way-1shot", split="train", num_envs=1, backend="torch", **dict(plan.env)
    )
    batch, _ = train.reset(seed=0)
    assert batch["support_y"].unique().numel() == 7
    state, logs = made.update(made.init(env, Rng(0)), batch, Rng(1))
    assert logs["image_gradients"] == 7 * (1 + 3)
    # The state is that of the environment's tasks: validation has five ways.
    answers, _ = made.policy(state)(env.reset(seed=0)[0])
    assert set(answers.unique().tolist()) <= set(range(5))


def test_train_ways_at_their_default_leave_older_keys_alone() -> None:
    plain = make_agent("protonet", "glyphs-5way-1shot", budget="small").config
    assert plain.train_ways == 0
    assert "train_ways" not in plain.model_dump(mode="json")
    assert plain.model_copy(update={"train_ways": 9}).model_dump(mode="json")["train_ways"] == 9
    spec = ENVS.resolve("omniglot-5way-1shot").spec
    medium = make("protonet", spec, "medium", {})
    assert medium.config["train_ways"] == 60
    # All settings of a run from before there was this one, at a budget whose preset has it now.
    old = {name: value for name, value in medium.config.items() if name != "train_ways"}
    again = make("protonet", spec, "medium", old, whole=True)
    assert again.instance.config.train_ways == 0
    assert again.config == old


@pytest.mark.parametrize("agent", ["maml", "baseline_finetune"])
def test_a_head_of_fixed_size_refuses_train_ways(agent: str) -> None:
    with pytest.raises(UsageError, match="last layer has a fixed size; got train_ways=20"):
        make_agent(agent, "glyphs-5way-1shot", train_ways=20)
    with pytest.raises(UsageError, match="at least 2, got 1"):
        make_agent("protonet", "glyphs-5way-1shot", train_ways=1)


def test_a_run_trains_on_more_ways_than_it_is_tested_on(tmp_path: Any) -> None:
    stores = {"out": tmp_path / "store", "runs": tmp_path / "runs"}
    given = {"train_ways": 20, "image_gradients": 1200}
    record = run("protonet", "glyphs-5way-1shot", budget="smoke", settings=given, **stores)
    assert record.overrides["train_ways"] == 20
    assert record.cost.image_gradients == 5 * 2 * 20 * 6
    trap = ENVS.resolve("glyphs-5way-1shot-noniid").spec
    assert "train_ways" not in embedding_preset("protonet", trap, "medium")
    assert embedding_preset("protonet", trap, "paper").get("train_ways", 0) == 0
