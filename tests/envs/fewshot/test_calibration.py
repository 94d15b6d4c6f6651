"""How well an agent knows what it knows: by plain loops, and from a policy to the record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import lazybench
from lazybench.envs.fewshot.env import FewShotEnv, FewShotVectorEnv
from lazybench.envs.fewshot.trial_sampler import calibration, summary
from lazybench.errors import ContractError
from lazybench.runner.request import resolve_env
from lazybench.tasks import PADDING, Answers

SETTINGS = {"data": "glyphs", "way": 5, "shot": 1}


def guesses(tasks: int, queries: int, way: int) -> tuple[np.ndarray, Any]:
    """Truth, a last row of each task that isn't scored, and unsure answers."""
    rng = np.random.default_rng(0)
    truth = rng.integers(way, size=(tasks, queries))
    truth[:, -1] = PADDING
    p = rng.dirichlet(np.full(way, 0.4), size=(tasks, queries))
    return truth, Answers(*map(torch.from_numpy, (p.argmax(2), p, rng.random(tasks))))


def test_by_plain_loops() -> None:
    truth, given = guesses(7, 9, 4)
    got = summary(calibration(given, truth, 4))
    p, labels = given.probabilities.numpy(), given.labels.numpy()
    bins: dict[int, list[tuple[bool, float]]] = {}
    squares, errors = [], []
    for task in range(7):
        right = []
        for query in range(8):
            confidence = p[task, query, labels[task, query]]
            right.append(labels[task, query] == truth[task, query])
            bins.setdefault(min(int(confidence * 15), 14), []).append((right[-1], confidence))
            squares.append(
                sum((p[task, query, k] - (k == truth[task, query])) ** 2 for k in range(4))
            )
        errors.append(abs(np.mean(right) - float(given.accuracy[task])))
    ece = sum(
        len(held) / 56 * abs(np.mean([r for r, _ in held]) - np.mean([c for _, c in held]))
        for held in bins.values()
    )
    assert got["ece"] == pytest.approx(ece)
    assert got["brier"] == pytest.approx(np.mean(squares))
    assert got["self_estimate_error"] == pytest.approx(np.mean(errors))


def test_without_an_estimate_it_is_the_mean_confidence() -> None:
    truth, given = guesses(5, 9, 4)
    p = given.probabilities.numpy()
    right = (given.labels.numpy() == truth)[:, :8].mean(1)
    expected = np.abs(p.max(2)[:, :8].mean(1) - right).mean()
    got = summary(calibration(given._replace(accuracy=None), truth, 4))
    assert got["self_estimate_error"] == pytest.approx(expected)
    alone = calibration(given._replace(probabilities=None), truth, 4)
    assert set(summary(alone)) == {"self_estimate_error"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": torch.full((3, 75, 5), 0.3)}, "sum to 1"),
        ({"probabilities": torch.full((3, 75, 4), 0.25)}, "of shape"),
        ({"probabilities": torch.full((3, 75, 5), float("nan"))}, "must be finite"),
        ({"accuracy": torch.tensor([0.5, 1.2, 0.1])}, "must lie in"),
        ({"accuracy": torch.tensor([0.5])}, "of shape"),
    ],
)
def test_what_is_no_probability_is_refused(change: dict[str, Any], message: str) -> None:
    env = FewShotVectorEnv(3, **SETTINGS)
    env.reset(seed=0)
    sure = Answers(torch.zeros(3, 75, dtype=torch.int64), torch.full((3, 75, 5), 0.2))
    with pytest.raises(ContractError, match=message):
        env.step(sure._replace(**change))


def test_single_and_vector_environments_agree() -> None:
    env, single = FewShotVectorEnv(2, **SETTINGS), FewShotEnv(**SETTINGS)
    env.reset(seed=4)
    p = torch.rand(2, 75, 5, generator=torch.manual_seed(0)).softmax(2)
    sure = Answers(p.argmax(2), p)
    _, rewards, _, _, info = env.step(sure)
    for row in range(2):
        single.reset(seed=4 + row)
        _, reward, _, _, _ = single.step(Answers(sure.labels[row], p[row]))
        assert reward == rewards[row]
    assert info["calibration_gaps"].shape == (2, 15)
    assert env.summary(rewards, info).keys() == {"ece", "brier", "self_estimate_error"}
    assert env.summary(rewards, {}) == {}


class Sure:
    """Certain of class 0 in every task, one task at a time."""

    def __call__(self, observation: Any, memory: Any = None) -> tuple[Answers, Any]:
        labels = torch.zeros(len(observation["query_y"]), dtype=torch.int64)
        p = torch.nn.functional.one_hot(labels, 5).float()
        return Answers(labels, p, torch.tensor(0.25)), memory


def test_a_record_has_them_beside_the_score(tmp_path: Any) -> None:
    record = lazybench.evaluate(
        Sure(), "glyphs-5way-1shot", name="sure", budget="smoke", out=tmp_path, config={}
    )
    values = {name: metric.value for name, metric in record.metrics.items()}
    # A fifth of balanced queries is of class 0: one right answer in five, all with confidence 1.
    assert values == pytest.approx(
        {"accuracy": 0.2, "ece": 0.8, "brier": 1.6, "self_estimate_error": 0.05}
    )
    assert record.trials.predictions is not None
    assert record.trials.columns == {}


@pytest.mark.parametrize("env", ["glyphs-5way-1shot", "glyphs-anyway"])
def test_an_agent_on_features_says_how_sure_it_is(env: str, tmp_path: Any) -> None:
    settings = {"agent": "knn", "env": env, "budget": "smoke", "out": tmp_path}
    asked = {**settings, "runs": tmp_path / "runs"}
    plain = lazybench.run(**asked)
    sure = lazybench.run(**asked, settings={"probabilities": True})
    assert plain.key != sure.key
    assert set(plain.metrics) == {"accuracy"}
    assert set(sure.metrics) == {"accuracy", "ece", "brier", "self_estimate_error"}
    assert sure.metrics["accuracy"].value == plain.metrics["accuracy"].value
    if env == "glyphs-5way-1shot":
        asked["out"] = tmp_path / "isolated"
        apart = lazybench.run(**asked, settings={"probabilities": True}, isolated=True, force=True)
        assert apart.metrics == sure.metrics


def test_the_measures_are_those_of_the_listing() -> None:
    spec = resolve_env("glyphs-5way-1shot")[0]
    assert [measure.name for measure in spec.measures] == ["ece", "brier", "self_estimate_error"]
    assert {measure.better for measure in spec.measures} == {"lower"}
