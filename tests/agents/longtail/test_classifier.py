"""What classifiers answer, plan, and refuse; corrections after training by hand."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lazybench.agents import CATALOGUE
from lazybench.agents.longtail.classifier import ClassifierAgent
from lazybench.agents.longtail.learner import net_of
from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.errors import UsageError
from lazybench.nets import backbone, count_parameters
from lazybench.runner.request import make, resolve_env
from lazybench.seeding import Rng
from lazybench.tasks import LongTailTask, TaskShape

CIFAR = LongTailTask(
    100, (3, 32, 32), "uint8", tuple(int(490 * 0.01 ** (c / 99)) for c in range(100)), 1, 100, 10
)
NAMES = [spec.id for spec in CATALOGUE if spec.target.endswith("classifier:ClassifierAgent")]


@pytest.fixture
def trained(stream, make_agent, start, train):
    """A state after two updates, so that running statistics are off their start."""
    agent = make_agent()
    return train(agent, start(agent, stream.task), stream, 2)[0]


def answers(agent, state, batch):
    action, memory = agent.policy(state)(batch)
    assert memory is None
    return action


def features(agent, state, x):
    net = net_of(agent.config, LongTailTask(**state["task"]))
    with torch.no_grad():
        return net.features(state["theta"], net.prepare(x), state["running"])


def test_answers_are_the_softmax_with_running_statistics(stream, make_agent, trained):
    agent, batch = make_agent(), stream.batch(50, 12)
    action = answers(agent, trained, batch)
    theta = trained["theta"]
    logits = features(agent, trained, batch["x"]) @ theta["head.weight"].T + theta["head.bias"]
    torch.testing.assert_close(action["probs"], logits.softmax(1))
    assert torch.equal(action["labels"], logits.argmax(1))
    assert (action["labels"].dtype, action["probs"].dtype) == (torch.int64, torch.float32)
    arrays = {name: np.asarray(part) for name, part in batch.items()}
    torch.testing.assert_close(answers(agent, trained, arrays), action, rtol=0, atol=0)
    alone = answers(agent, trained, {"x": batch["x"][3:4]})
    torch.testing.assert_close(alone["probs"], action["probs"][3:4], rtol=1e-4, atol=1e-6)


def test_log_priors_are_taken_off_afterwards(stream, make_agent, trained):
    batch = stream.batch(50, 12)
    plain = answers(make_agent(), trained, batch)["probs"]
    got = answers(make_agent(posthoc="logit_adjust", posthoc_tau=1.5), trained, batch)["probs"]
    # p / prior^1.5, made to sum to 1 again.
    expected = plain / torch.tensor([40.0, 20.0, 10.0, 4.0]) ** 1.5
    torch.testing.assert_close(got, expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)
    none = answers(make_agent(posthoc="logit_adjust", posthoc_tau=0), trained, batch)["probs"]
    torch.testing.assert_close(none, plain)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_rows_of_the_head_come_to_one_norm(tau, stream, make_agent, trained):
    agent, batch = make_agent(posthoc="tau_norm", posthoc_tau=tau), stream.batch(50, 12)
    trained["theta"]["head.weight"] = trained["theta"]["head.weight"] * torch.tensor(
        [[8.0], [4.0], [2.0], [1.0]]
    )
    weight = trained["theta"]["head.weight"]
    got = answers(agent, trained, batch)
    seen = features(agent, trained, batch["x"])
    columns = [seen @ row / row.square().sum() ** (tau / 2) for row in weight]
    torch.testing.assert_close(got["probs"], torch.stack(columns, 1).softmax(1))
    assert torch.equal(trained["theta"]["head.weight"], weight)


def test_margins_go_with_cosines(stream, make_agent, start, train):
    agent = make_agent(loss="ldam", cosine_scale=20.0)
    state, _ = train(agent, start(agent, stream.task), stream, 2)
    assert "head.bias" not in state["theta"]
    batch = stream.batch(50, 12)
    seen = features(agent, state, batch["x"])
    cosines = F.cosine_similarity(seen[:, None], state["theta"]["head.weight"][None], dim=2)
    torch.testing.assert_close(
        answers(agent, state, batch)["probs"], (20 * cosines).softmax(1), rtol=1e-4, atol=1e-6
    )
    usual = make_agent().describe_network(stream.task)
    lost = agent.describe_network(stream.task).parameters - usual.parameters
    assert lost == -4


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.0, 1.0, 3.0)])
def test_experts_answer_by_the_mean_of_their_logits(weights, stream, make_agent, start, train):
    agent = make_agent(loss="sade")
    state, _ = train(agent, start(agent, stream.task), stream, 2)
    batch = stream.batch(50, 12)
    seen = features(agent, state, batch["x"]).numpy()
    weight = state["theta"]["head.weight"].numpy().reshape(3, 4, -1)
    assert np.abs(weight[0] - weight[1]).max() > 1e-2
    bias = state["theta"]["head.bias"].numpy().reshape(3, 4)
    logits = sum(
        share / sum(weights) * (seen @ weight[each].T + bias[each])
        for each, share in enumerate(weights)
    )
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    got = answers(make_agent(loss="sade", expert_weights=weights), state, batch)
    assert got["probs"].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    usual = make_agent().describe_network(stream.task).parameters
    assert agent.describe_network(stream.task).parameters == usual + 2 * weight[0].size + 8


def test_defaults_of_later_settings_are_not_part_of_a_key():
    assert not {"mixup", "mixed", "inverse_tau", "expert_weights"} & set(
        LongTailConfig().model_dump()
    )
    assert LongTailConfig(mixup=0.4).model_dump()["mixup"] == 0.4


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -1, 1)])
def test_expert_weights_are_shares(weights):
    with pytest.raises(ValueError, match="three numbers of at least 0"):
        LongTailConfig(expert_weights=weights)


@pytest.mark.parametrize("budget", ["smoke", "small", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_presets_make_agents_of_one_budget(name, budget):
    spec, _ = resolve_env("glyphs-lt-100")
    config = make(name, spec, budget, {}).instance.config
    plain = make("cross_entropy", spec, budget, {}).instance.config
    for setting in ("backbone", "side", "epochs", "batch", "lr", "weight_decay", "late"):
        assert getattr(config, setting) == getattr(plain, setting)
    assert not config.flip
    agent = ClassifierAgent(config)
    plan = agent.plan(CIFAR)
    assert plan.updates == -(-int(config.epochs * 10_626) // 100)
    assert (plan.select, plan.meta_batch, plan.env["batch"]) == ("last", 1, 100)
    expected = {"dev_finetune": 100, "balanced_softmax_dev": 9}.get(name, 0)
    assert plan.env["dev_batch"] == expected


@pytest.mark.parametrize(("budget", "alpha"), [("smoke", 0.2), ("small", 0.2), ("paper", 1.0)])
def test_short_trainings_mix_less(budget, alpha):
    spec, _ = resolve_env("glyphs-lt-100")
    assert make("mixup", spec, budget, {}).instance.config.mixup == alpha


def test_there_are_fourteen_classifiers():
    assert len(NAMES) == 14


def test_small_is_resnet8_on_16_pixels():
    agent = ClassifierAgent(LongTailConfig(backbone="resnet8", side=16))
    found = agent.describe_network(CIFAR)
    net = backbone("resnet8", TaskShape(100, 1, 1, (3, 16, 16), "uint8"))
    assert (found.name, found.parameters) == ("resnet8", count_parameters(net))
    state = agent.init(SimpleNamespace(task=CIFAR), Rng(0))
    x = torch.randint(256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    got = answers(agent, state, {"x": x.to(torch.uint8)})["probs"]
    small = F.avg_pool2d(x.float() / 255, 2)
    with torch.no_grad():
        logits = net(state["theta"], net.prepare(small), state["running"])
    torch.testing.assert_close(got, logits.softmax(1), rtol=1e-4, atol=1e-6)


def test_weights_from_elsewhere_and_other_streams(stream, make_agent, trained, start):
    agent = make_agent()
    loaded = agent.load_weights(start(agent, stream.task), trained["theta"])
    torch.testing.assert_close(loaded["theta"], trained["theta"], rtol=0, atol=0)
    flatter = dataclasses.replace(stream.task, class_counts=(30, 25, 20, 15))
    # Corrections need the counts of the training, not of the stream that it is evaluated on.
    assert agent.transfer(trained, flatter)["task"]["class_counts"] == (40, 20, 10, 4)
    for change, words in (
        ({"classes": 5, "class_counts": (9,) * 5}, "classes 4, which its network"),
        ({"instance": (3, 32, 32)}, r"instance \(3, 16, 16\)"),
    ):
        with pytest.raises(UsageError, match=words):
            agent.transfer(trained, dataclasses.replace(stream.task, **change))


@pytest.mark.parametrize("late_trains", ["head", "fresh_head"])
def test_a_frozen_body_from_elsewhere_has_measured_statistics(
    stream, make_agent, start, train, late_trains
):
    """Weights come without running statistics; with their start values all answers were noise."""
    long = {"epochs": 100, "drops": (), "lr": 0.05}
    first_agent = make_agent(**long, late=1)
    source = train(first_agent, start(first_agent, stream.task), stream, 100)[0]
    agent = make_agent(**long, late=0.0, late_trains=late_trains)
    first = agent.load_weights(start(agent, stream.task), source["theta"])
    probe = train(agent, first, stream, 60)[0]
    for name, value in source["theta"].items():
        assert name.startswith("head") or torch.equal(probe["theta"][name], value), name
    for (mean, variance), (there, _) in zip(probe["running"], source["running"], strict=True):
        assert torch.corrcoef(torch.stack([mean, there]))[0, 1] > 0.9
        assert not torch.equal(variance, torch.ones_like(variance))
    batch = stream.batch(1000, 64)
    right = [
        float((answers(made, state, batch)["labels"] == batch["y"]).float().mean())
        for made, state in ((first_agent, source), (agent, probe))
    ]
    assert right[0] > 0.8
    assert right[1] > right[0] - 0.1


def test_diagnostics_tell_weights_and_norms(stream, make_agent, trained):
    found = make_agent(class_weights="effective_number", beta=0.0).diagnostics(trained)
    assert found["class_weights"] == [1.0, 1.0]
    norms = trained["theta"]["head.weight"].square().sum(1).sqrt()
    assert found["head_norms"] == pytest.approx([float(norms.min()), float(norms.max())])
