"""One update against torch's own optimiser, and what each stage and each setting changes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta, kstest

from lazybench.agents.longtail import learner
from lazybench.agents.longtail.losses import effective_number
from lazybench.agents.longtail.settings import LongTailConfig
from lazybench.errors import Diverged, UsageError
from lazybench.runner import checkpoint
from lazybench.seeding import Rng
from lazybench.tasks import LongTailTask

PLAIN = {"pad": 0, "flip": False}


def equal(one, other):
    """Bit for bit, parameters and running statistics alike."""
    for part in ("theta", "momentum", "running"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)


@pytest.mark.parametrize("weighted", [True, False])
def test_updates_are_torchs_own(weighted, stream, make_agent, start):
    """Five, over a drop of the step size: SGD on parameters, batch norm's averages, in float64."""
    settings = {"class_weights": "effective_number"} if weighted else {}
    agent = make_agent(batch=16, drops=((0.5, 0.1),), **settings, **PLAIN)
    state = start(agent, stream.task, double=True)
    net = learner.net_of(agent.config, stream.task)
    theirs = {n: torch.nn.Parameter(v.clone()) for n, v in state["theta"].items()}
    averages = [[part.clone() for part in pair] for pair in state["running"]]
    optimiser = torch.optim.SGD(
        theirs.values(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    weights = effective_number(stream.task.class_counts, 0.9999)
    assert agent.config.updates(stream.task) == 5
    for step in range(5):
        batch = stream.batch(step, 16)
        batch["x"] = batch["x"].double() / 255
        before = copy.deepcopy((state, batch))
        after, logs = agent.update(state, batch, Rng(0))
        equal(state, before[0])
        torch.testing.assert_close(batch, before[1], rtol=0, atol=0)
        state = after

        logits = net(theirs, net.prepare(batch["x"]))
        rows = F.cross_entropy(logits, batch["y"], reduction="none")
        loss = (rows * weights[batch["y"]]).sum() / 16 if weighted else rows.mean()
        with torch.no_grad():
            _, found = net.train_features(theirs, net.prepare(batch["x"]))
        for pair, new in zip(averages, found, strict=True):
            pair[:] = [0.9 * old + 0.1 * fresh for old, fresh in zip(pair, new, strict=True)]
        optimiser.zero_grad()
        loss.backward()
        # Half of 5 updates is rounded to an even number: 2.
        optimiser.param_groups[0]["lr"] = 0.1 if step < 2 else 0.01
        optimiser.step()
        expected = {name: value.detach() for name, value in theirs.items()}
        torch.testing.assert_close(state["theta"], expected, rtol=1e-9, atol=1e-11)
        for got, pair in zip(state["running"], averages, strict=True):
            torch.testing.assert_close(list(got), pair, rtol=1e-10, atol=1e-12)
        assert logs["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
        assert (logs["image_gradients"], logs["gradient_equivalents"]) == (16, 1)


def test_drw_is_cross_entropy_until_its_weights_set_in(stream, make_agent, start, train):
    plain = make_agent()
    deferred = make_agent(class_weights="effective_number", weighted="late")
    first = start(plain, stream.task)
    one, _ = train(plain, first, stream, 8)
    other, _ = train(deferred, first, stream, 8)
    equal(one, other)
    after, _ = train(plain, one, stream, 1)
    weighed, _ = train(deferred, other, stream, 1)
    assert not torch.equal(after["theta"]["head.weight"], weighed["theta"]["head.weight"])


def test_a_new_head_learns_above_a_frozen_body(stream, make_agent, start, train):
    agent = make_agent(late_trains="fresh_head", lr=0.05)
    body, _ = train(agent, start(agent, stream.task), stream, 8)
    state, logs = train(agent, body, stream, 1)
    for name, value in state["theta"].items():
        assert torch.equal(value, body["theta"][name]) == (not name.startswith("head."))
    torch.testing.assert_close(state["running"], body["running"], rtol=0, atol=0)
    assert logs[0]["gradient_equivalents"] == pytest.approx(1 / 3)
    # By hand: one step from the drawn head, without momentum, on features of the frozen body.
    rng = Rng(0).at("update", 8)
    fresh = learner.fresh_head(agent.config, body, rng.at("head"))
    net, batch = learner.net_of(agent.config, stream.task), stream.batch(8)
    x = learner.prepared(agent.config, net, batch["x"], rng.at("augment"))
    with torch.no_grad():
        features = net.features(body["theta"], x, body["running"])
    weight, bias = fresh["theta"]["head.weight"], fresh["theta"]["head.bias"]
    assert not torch.equal(weight, body["theta"]["head.weight"])
    error = (F.linear(features, weight, bias).softmax(1) - F.one_hot(batch["y"], 4)) / 8
    lr = agent.config.rate(8, stream.task)
    # Nesterov's first step is 1.9 times the gradient.
    expected = weight - lr * 1.9 * (error.T @ features + 5e-4 * weight)
    torch.testing.assert_close(state["theta"]["head.weight"], expected, rtol=1e-5, atol=1e-6)
    # The head isn't drawn again in the next update.
    again, _ = train(agent, state, stream, 1)
    assert float((again["theta"]["head.weight"] - expected).abs().max()) < 0.1


def test_a_late_dev_set_takes_the_batchs_place(stream, make_agent, start, train):
    agent, plain = make_agent(dev="late", **PLAIN), make_agent(**PLAIN)
    state, logs = train(agent, start(agent, stream.task), stream, 10)
    assert [log["image_gradients"] for log in logs] == [8] * 10
    before, _ = train(plain, start(plain, stream.task), stream, 8)
    for step in (8, 9):
        batch = stream.batch(step, 8, 8)
        swapped = {"x": batch["dev_x"], "y": batch["dev_y"], "mask": torch.ones(8) > 0}
        before, _ = plain.update(before, swapped, Rng(0).at("update", step))
    equal(state, before)


def test_a_joined_dev_set_is_next_to_the_batch(stream, make_agent, start):
    agent, plain = make_agent(dev="joined", **PLAIN), make_agent(**PLAIN)
    task = stream.task
    # 12 dev images to 74 others: 1.3 with 8.
    assert agent.config.dev_rows(task) == 1
    assert agent.config.counts(task) == (43, 23, 13, 7)
    batch = stream.batch(0, 8, 4)
    got, logs = agent.update(start(agent, task), batch, Rng(0))
    both = {"x": torch.cat([batch["x"], batch["dev_x"]]), "mask": torch.ones(12) > 0}
    both["y"] = torch.cat([batch["y"], batch["dev_y"]])
    expected, _ = plain.update(start(plain, task), both, Rng(0))
    equal(got, expected)
    assert (logs["image_gradients"], logs["gradient_equivalents"]) == (12, 1.5)


def test_rows_that_fill_a_batch_up_count_nothing(stream, make_agent, start):
    agent = make_agent(**PLAIN)
    full, partial = stream.batch(0, 8), stream.batch(0, 8, filled=3)
    got, logs = agent.update(start(agent, stream.task), partial, Rng(0))
    five = {name: part[:5] for name, part in full.items()}
    expected, _ = agent.update(start(agent, stream.task), five, Rng(0))
    equal(got, expected)
    assert logs["image_gradients"] == 5


def test_a_training_goes_on_from_its_checkpoint(stream, make_agent, start, train, tmp_path):
    agent = make_agent(late_trains="fresh_head", loss="logit_adjust")
    whole, _ = train(agent, start(agent, stream.task), stream, 10)
    half, _ = train(agent, start(agent, stream.task), stream, 7)
    checkpoint.save(tmp_path, 7, half)
    _, read, notes = checkpoint.load(tmp_path)
    assert not notes
    rest, _ = train(agent, read, stream, 3)
    equal(rest, whole)


def test_rates_of_the_paper():
    task = LongTailTask(100, (3, 32, 32), "uint8", (100,) * 100, 1, 100, 10)
    config = LongTailConfig()
    updates = config.updates(task)
    assert updates == 20_000
    at = {0: 0.1, 15_999: 0.1, 16_000: 1e-3, 17_999: 1e-3, 18_000: 1e-5, 19_999: 1e-5}
    for step, lr in at.items():
        assert config.rate(step, task) == pytest.approx(lr, rel=1e-12)
    assert not config.is_late(15_999, task)
    assert config.is_late(16_000, task)
    rising = LongTailConfig(warmup_epochs=5)
    assert rising.rate(0, task) == pytest.approx(0.1 / 500)
    assert [rising.rate(step, task) for step in (499, 500)] == pytest.approx([0.1, 0.1])


def test_samplers_by_stage():
    def of(**settings):
        return LongTailConfig(**settings).samplers()

    assert of(sampler="sqrt") == "sqrt"
    assert of(late_sampler="class") == [("instance", 0.8), ("class", 0.2)]
    assert of(late_sampler="class", late=0.7)[1] == ("class", 0.3)
    assert of(late_sampler="class", late=1) == "instance"
    assert of(late_sampler="class", late=0) == "class"


def test_what_cannot_be_trained_is_reported(stream, make_agent, start, train):
    with pytest.raises(UsageError, match="pad must be smaller than the images"):
        start(make_agent(pad=16), stream.task)
    with pytest.raises(UsageError, match="resnet8-4 needs images of shape"):
        start(make_agent(side=8), stream.task)
    agent = make_agent(lr=1e30)
    with pytest.raises(Diverged, match="a parameter isn't finite after mini-batch"):
        train(agent, start(agent, stream.task), stream, 3)
    for settings, words in (
        ({"drops": ((0.9, 0.1), (0.8, 0.01))}, "shares ascending"),
        ({"loss": "ldam", "posthoc": "tau_norm"}, "tau_norm scales a linear head"),
        ({"loss": "sade", "posthoc": "tau_norm"}, "loss=sade has three of them"),
    ):
        with pytest.raises(ValueError, match=words):
            LongTailConfig(**settings)


@pytest.mark.parametrize("weighted", [False, True])
def test_mixed_images_have_soft_labels(weighted, stream, make_agent, start):
    """The loss is the cross-entropy of mixed images with mixed one-hot labels, of class weights."""
    settings = {"class_weights": "effective_number"} if weighted else {}
    agent = make_agent(batch=16, mixup=0.7, **settings, **PLAIN)
    state = start(agent, stream.task, double=True)
    batch = stream.batch(0, 16)
    batch["x"] = batch["x"].double() / 255
    _, logs = agent.update(state, batch, Rng(3))
    share, order = learner.mixup_draw(0.7, 16, Rng(3).at("mixup"))
    assert 0 < share < 1
    assert sorted(order.tolist()) == list(range(16))
    net = learner.net_of(agent.config, stream.task)
    x = share * batch["x"] + (1 - share) * batch["x"][order]
    one_hot = torch.eye(4, dtype=torch.float64)[batch["y"]]
    soft = share * one_hot + (1 - share) * one_hot[order]
    if weighted:
        soft = soft * effective_number(stream.task.class_counts, 0.9999)
    log_probs = net(state["theta"], net.prepare(x)).log_softmax(1)
    assert logs["loss"] == pytest.approx(float(-(soft * log_probs).sum(1).mean()), rel=1e-9)


def test_shares_are_drawn_from_beta():
    """Against scipy's distribution; the orders differ from step to step."""
    draws = [learner.mixup_draw(0.4, 8, Rng(0).at("update", i)) for i in range(400)]
    assert kstest([share for share, _ in draws], beta(0.4, 0.4).cdf).pvalue > 0.01
    assert len({tuple(order.tolist()) for _, order in draws}) > 390


def test_mixing_ends_with_the_early_stage(stream, make_agent, start, train):
    settings = {"late": 0.5, **PLAIN}
    early = make_agent(mixup=1.0, mixed="early", **settings)
    state, _ = train(early, start(early, stream.task), stream, 5)
    after, _ = train(early, state, stream, 1)
    plain, _ = train(make_agent(**settings), state, stream, 1)
    equal(after, plain)
    mixed, _ = train(make_agent(mixup=1.0, **settings), state, stream, 1)
    assert not torch.equal(mixed["theta"]["head.weight"], plain["theta"]["head.weight"])
