"""Sound records are verified; records that were changed after the run are caught, and told how."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm

import lazybench
from lazybench.errors import StoreError, UnknownName, UsageError
from lazybench.records import Record, Trials, make_key
from lazybench.runner.callbacks import Callback
from lazybench.runner.transfer import TransferRequest, evaluate, transfer
from lazybench.stats import mean_interval
from lazybench.verify import StateSource, audit, find_record, verify
from lazybench.verify.rescore import Again, _blocks, compare, drifts, finds, finds_share

PLAYERS = Path(__file__).parents[1] / "runner" / "players.py"
GLYPHS, SINUS = "glyphs-5way-1shot", "sinusoid-5shot"
N = 16


@pytest.fixture(scope="module")
def floor(tmp_path_factory) -> Record:
    """A record of a floor on sixteen trials of five ways."""
    folder = tmp_path_factory.mktemp("floor")
    return lazybench.run(
        "nearest_pixel", GLYPHS, budget="smoke", limit=N, out=folder, runs=folder / "runs"
    )


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> tuple[Record, StateSource]:
    """A record of an agent that learned, and where its run is."""
    folder = tmp_path_factory.mktemp("learned")
    out, runs = folder / "store", folder / "runs"
    made = lazybench.run(f"{PLAYERS}:Movable", SINUS, budget="smoke", out=out, runs=runs)
    return made, StateSource(out=out, runs=runs)


@pytest.mark.parametrize("shift", [{"shift": 2.0}, {"test_shift": 2.0}])
def test_a_run_with_settings_of_evaluation_is_trained_again_without_them(tmp_path, shift) -> None:
    """Its curve is that of the run whose training it shares; it was refuted."""
    places = {"out": tmp_path / "store", "runs": tmp_path / "runs"}
    made = lazybench.run(f"{PLAYERS}:Movable", SINUS, budget="smoke", settings=shift, **places)
    found = verify(
        saved(tmp_path, made), source=StateSource(retrain=True, runs=tmp_path / "elsewhere")
    )
    assert found.verified, found.findings


def test_an_agent_of_another_name_is_refuted(learned, tmp_path) -> None:
    """The file of an agent passed as the built-in one whose name its record had."""
    made, source = learned
    agent = made.agent.model_copy(update={"id": "protonet"})
    found = verify(saved(tmp_path, made, keyed=True, agent=agent), source=source)
    assert found.verdict == "refuted"
    assert any("is Movable, the record says protonet" in each.detail for each in found.findings)


def test_values_in_double_precision_give_the_scores_of_the_stored_ones(tmp_path) -> None:
    rng = np.random.default_rng(0)

    def policy(observation: Any) -> Any:
        return rng.normal(size=observation["query_y"].shape)

    lazybench.evaluate(policy, SINUS, name="mine", budget="smoke", out=tmp_path)
    (record,) = lazybench.load_records(out=tmp_path)
    found = verify(saved(tmp_path, record), trials=0)
    assert found.verdict != "refuted", found.findings


LEARNED: list[Path] = []
"""Where the learner's run is."""


@pytest.fixture(scope="module")
def learner(tmp_path_factory) -> Record:
    """A record of a gradient-based agent after two meta-iterations, on sixteen trials."""
    folder = tmp_path_factory.mktemp("learner")
    settings = {"iterations": 2, "inner_steps": 1, "meta_batch": 1, "test_steps": 1}
    places = {"out": folder, "runs": folder / "runs"}
    LEARNED[:] = [folder / "runs"]
    return lazybench.run("reptile", GLYPHS, budget="smoke", limit=N, settings=settings, **places)


def saved(folder: Path, record: Record, *, keyed: bool = False, **changes: Any) -> Path:
    """Write a record with changed fields as a forger would; `keyed` with a key that fits them."""
    fields = json.loads(record.model_copy(update=changes).to_json())
    if keyed:
        draft = Record.model_validate(fields)
        fields["key"] = make_key(draft.identity())
    path = folder / "record.json"
    path.write_text(json.dumps(fields), encoding="ascii")
    return path


def scored(record: Record, scores: Any, answers: Any) -> dict[str, Any]:
    """Trials with these scores and answers, and the number that follows from them."""
    mean, low, high = mean_interval(np.asarray(scores, np.float64))
    old = record.metrics[record.env.metric]
    metric = old.model_copy(update={"value": mean, "ci95": (low, high)})
    return {
        "trials": Trials.of(scores, predictions=answers),
        "metrics": {record.env.metric: metric},
    }


class Counted(Callback):
    """Counts the trials that a verification shows."""

    total = done = 0

    def stage(self, name: str, total: int, done: int = 0) -> None:
        self.total = total

    def advance(self, amount: int, values: Any) -> None:
        self.done += amount


def wrong(found: Any) -> dict[str, str]:
    return {each.name: each.detail for each in found.findings if each.ok is False}


def test_a_floor_is_verified_in_full(tmp_path, floor):
    found = verify(saved(tmp_path, floor))
    assert (found.verified, found.trials, found.exact, found.seed) == (True, N, True, None)
    assert (found.verdict, found.equal, found.finds) == ("reproduced", True, 1 / N)
    assert found.unchecked == ("times, memory and machine",)
    assert [each.name for each in found.findings] == [
        *("file", "key", "environment", "data", "trials", "answers", "numbers", "settings"),
        "scores",
    ]
    assert {each.ok for each in found.findings} == {True}


def test_a_sample_has_as_many_trials_as_asked_for_and_can_be_repeated(tmp_path, floor):
    path = saved(tmp_path, floor)
    found = verify(path, trials=3)
    assert (found.trials, found.verdict) == (3, "reproduced")
    assert found.seed is not None
    assert found.finds == finds_share(N, 3)
    assert found.unchecked[-1] == "the agent's results on the other 13 trials"
    assert verify(path, trials=3, seed=found.seed).seed == found.seed
    counted = Counted()
    verify(path, trials=3, watch=counted)
    # A block has more rows than the sample has trials.
    assert (counted.total, counted.done) == (3, 3)
    found = verify(path, trials=0)
    assert (found.trials, found.verdict) == (0, "not reproducible here")
    assert "what its agent does" in found.unchecked[-1]


def test_each_trial_is_drawn_by_itself_and_keeps_its_row():
    rng = np.random.default_rng(0)
    for n, wanted in ((600, 50), (16, 3), (40, 40), (13, 13), (9, 8)):
        drawn = np.sort(rng.choice(n, wanted, replace=False))
        blocks = list(_blocks(drawn, 8, n, any_row=False))
        assert set(drawn) <= set(np.concatenate(blocks))
        assert all((block % 8 == np.arange(8)).all() for block in blocks)
        held = np.concatenate(list(_blocks(drawn, 5, n, any_row=True)))
        assert set(held) == set(drawn)
    # One block of 75 that was forged: drawn in whole blocks, a sample found it in 7 of 75 cases.
    found = [(rng.choice(600, 50, replace=False) // 8 == 40).any() for _ in range(400)]
    assert np.mean(found) > 0.4


def test_an_agent_whose_answers_depend_on_its_neighbours_is_reproduced(tmp_path):
    (tmp_path / "odd.py").write_text(NEIGHBOURS)
    record = lazybench.run(
        f"{tmp_path / 'odd.py'}:Odd", GLYPHS, budget="smoke", out=tmp_path, runs=tmp_path / "runs"
    )
    found = verify(saved(tmp_path, record), trials=7, seed=1)
    assert (found.verdict, found.trials) == ("reproduced", 7)


NEIGHBOURS = """
class Odd:
    def init(self, env, rng):
        return {}

    def policy(self, state):
        def answer(seen, memory=None):
            mark = int(seen["query_x"].long().sum()) % 5
            return seen["query_y"] * 0 + mark, memory

        answer.vectorized = True
        return answer
"""


def test_an_agent_that_learned_is_verified_from_its_run_or_trained_again(tmp_path, learned):
    record, source = learned
    path = saved(tmp_path, record)
    for way in (
        source,
        StateSource(checkpoint=next(source.runs.iterdir())),
        StateSource(checkpoint=next(source.runs.glob("*/ckpt/step-6"))),
        StateSource(checkpoint=next(source.runs.glob("*/ckpt/step-6")) / "manifest.json"),
        StateSource(retrain=True, runs=tmp_path / "elsewhere"),
    ):
        found = verify(path, source=way, trials=8)
        assert wrong(found) == {}
        assert (found.trials, found.verdict) == (8, "reproduced")
        training = [each for each in found.unchecked if each.startswith("the training: length")]
        assert len(training) == (not way.retrain)
        assert {"updates", "counters", "checkpoint"} <= {each.name for each in found.findings}
        assert "checkpoint" in [each.name for each in found.findings]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_evaluation_of_a_run_is_verified_like_the_run(tmp_path, learned):
    record, source = learned
    request = TransferRequest(record.key12, env="sinusoid-10shot", out=source.out, runs=source.runs)
    evaluated = transfer(request).record
    assert evaluated is not None
    path = saved(tmp_path, evaluated)
    assert verify(path, source=source).verified
    again = StateSource(retrain=True, out=source.out, runs=tmp_path / "new")
    assert verify(path, source=again).verified
    with pytest.raises(UsageError, match="can't be trained again; give --checkpoint"):
        verify(path, source=StateSource(retrain=True, out=tmp_path, runs=tmp_path / "new"))


def test_a_missing_run_is_reported_with_what_to_do(tmp_path, learned):
    path = saved(tmp_path, learned[0])
    with pytest.raises(UnknownName, match=r"--checkpoint, train it again with --retrain \(the run"):
        verify(path, source=StateSource(runs=tmp_path))
    with pytest.raises(UsageError, match="neither a run's folder nor one of its ckpt/step-N"):
        verify(path, source=StateSource(checkpoint=tmp_path))
    assert wrong(verify(path, source=StateSource(runs=tmp_path), trials=0)) == {}


def test_an_agent_with_a_loop_of_its_own_is_trained_again(tmp_path):
    record = lazybench.run(
        f"{PLAYERS}:Whole", SINUS, budget="smoke", out=tmp_path, runs=tmp_path / "runs"
    )
    path = saved(tmp_path, record)
    with pytest.raises(UsageError, match="keeps no state; train it again with --retrain"):
        verify(path)
    assert verify(path, source=StateSource(retrain=True)).verified


def test_what_was_trained_elsewhere_is_evaluated_by_its_answers_alone(tmp_path):
    def first(observation):
        return observation["query_y"] * 0

    record = evaluate(first, GLYPHS, name="first", budget="smoke", limit=8)
    found = verify(saved(tmp_path, record))
    assert (found.verdict, found.trials, wrong(found)) == ("not reproducible here", 0, {})
    assert found.findings[-1].ok is None
    assert found.unchecked[-1] == "the model, and whether it gave these answers"


def raised_number(record):
    metric = record.metrics["accuracy"]
    return {"metrics": {"accuracy": metric.model_copy(update={"value": metric.value + 0.01})}}


def narrowed_interval(record):
    metric = record.metrics["accuracy"]
    return {"metrics": {"accuracy": metric.model_copy(update={"ci95": (0.49, 0.51)})}}


def raised_score(record):
    scores = record.trials.scores_array().copy()
    scores[3] += 1 / 75
    return scored(record, scores, record.trials.predictions.unpack())


def swapped_trials(record):
    scores, answers = record.trials.scores_array().copy(), record.trials.predictions.unpack().copy()
    best, worst = int(scores.argmax()), int(scores.argmin())
    for part in (scores, answers):
        part[[best, worst]] = part[[worst, best]]
    return scored(record, scores, answers)


def doubled_trial(record):
    scores, answers = record.trials.scores_array().copy(), record.trials.predictions.unpack().copy()
    best, worst = int(scores.argmax()), int(scores.argmin())
    scores[worst], answers[worst] = scores[best], answers[best]
    return scored(record, scores, answers)


def fewer_trials(record):
    answers = record.trials.predictions.unpack()
    return scored(record, record.trials.scores_array()[:8], answers[:8])


def another_setting(record):
    return {"config": {**record.config, "lr": 0.5}}


def another_seed(record):
    return {"seed": record.seed + 1}


def other_data(record):
    return {"data": record.data.model_copy(update={"fingerprint": "cd" * 32})}


def unlimited(record):
    return {"limited": False}


def other_queries(record):
    protocol = {**record.env.protocol, "query": 5}
    return {"env": record.env.model_copy(update={"protocol": protocol})}


@pytest.mark.parametrize(
    ("forge", "keyed", "check", "words"),
    [
        (raised_number, False, "numbers", "accuracy is .* in the record, its trials give"),
        (narrowed_interval, False, "numbers", "ci95 of accuracy is"),
        (raised_score, False, "answers", "1 of 16 scores .*; trial 3: "),
        (swapped_trials, False, "answers", "scores differ from those of their answers"),
        (doubled_trial, False, "answers", "scores differ from those of their answers"),
        (fewer_trials, False, "trials", "scores of 8 trials are stored, the protocol says 16"),
        (another_setting, False, "key", "one of them was changed after the run"),
        (another_seed, False, "key", "one of them was changed after the run"),
        (other_data, False, "key", "one of them was changed after the run"),
        (other_data, True, "data", "fingerprint is cdcd"),
        (unlimited, True, "trials", "16 trials, not marked as limited; smoke has 40 official ones"),
        (other_queries, True, "environment", "protocol.query is 5 in the record and 15 here"),
    ],
)
def test_a_doctored_record_is_refuted(tmp_path, floor, forge, keyed, check, words):
    found = verify(saved(tmp_path, floor, keyed=keyed, **forge(floor)))
    assert not found.verified
    assert found.trials == 0
    (name,) = wrong(found)
    assert name == check
    assert re.search(words, wrong(found)[name])


def test_a_changed_answer_that_scores_the_same_is_caught_by_evaluating_again(tmp_path, floor):
    env = lazybench.make_env(GLYPHS, num_envs=1)
    truth = env.trials.sampler.answers(env.trials.keys(np.array([2]), 0))[0]
    answers = floor.trials.predictions.unpack().copy()
    at = int(np.flatnonzero(answers[2] != truth)[0])
    answers[2, at] = next(k for k in range(5) if k not in (answers[2, at], truth[at]))
    forged = scored(floor, floor.trials.scores_array(), answers)
    path = saved(tmp_path, floor, **forged)
    assert wrong(verify(path, trials=0)) == {}
    assert wrong(verify(path)) == {
        "answers": "answers of 1 of 16 trials evaluated again differ; first trial 2: 1 of 75 differ"
    }


def test_scores_without_answers_are_caught_by_evaluating_again(tmp_path, floor):
    scores = floor.trials.scores_array().copy()
    scores[11] = 1.0
    path = saved(tmp_path, floor, **scored(floor, scores, None))
    found = verify(path)
    assert list(wrong(found)) == ["scores"]
    assert "first trial 11: 1 stored" in wrong(found)["scores"]


@pytest.mark.parametrize(("rise", "verified"), [(0.0, True), (0.04, True), (0.3, False)])
def test_elsewhere_scores_may_differ_by_the_tolerance(tmp_path, floor, rise, verified):
    scores = floor.trials.scores_array().copy()
    scores[5] += rise
    other = floor.machine.model_copy(update={"processor": "another"})
    path = saved(tmp_path, floor, machine=other, **scored(floor, scores, None))
    found = verify(path)
    assert (found.verified, found.exact) == (verified, False)
    assert "on another platform" in found.findings[-1].detail
    words = {0.0: "reproduced", 0.04: "consistent", 0.3: "refuted"}
    assert found.verdict == words[rise]


@pytest.mark.parametrize("by", [1 / 75, -1 / 75])
def test_scores_that_all_lean_one_way_are_refuted_elsewhere(tmp_path, floor, by):
    scores = floor.trials.scores_array() + by
    other = floor.machine.model_copy(update={"processor": "another"})
    path = saved(tmp_path, floor, machine=other, **scored(floor, scores * 1.0, None))
    found = verify(path)
    assert found.verdict == "refuted"
    assert re.search("of 2 tests the least p is 3e-05, of the scores", wrong(found)["drift"])
    few = verify(path, trials=8)
    assert few.verdict in ("refuted", "not reproducible here")
    assert list(wrong(few)) in (["scores"], [])
    assert "scores of trials that weren't evaluated again" in few.unchecked[-1]
    assert "scores of trials that weren't" in verify(path, trials=0).unchecked[-1]


def test_scores_that_lean_both_ways_are_consistent_elsewhere(tmp_path, floor):
    scores = floor.trials.scores_array() + np.tile([1, -1], N // 2) / 75
    other = floor.machine.model_copy(update={"processor": "another"})
    found = verify(saved(tmp_path, floor, machine=other, **scored(floor, scores, None)))
    assert (found.verdict, found.equal) == ("consistent", False)
    assert {each.name: each.ok for each in found.findings}["drift"]


def elsewhere(record, stored, now):
    """What is found of a record of hits and queries whose trials give others elsewhere."""
    trials = Trials.of(stored[0], columns={"queries": stored[1]})
    hits = now[0].astype(np.float32)
    again = Again(np.arange(len(hits)), hits, np.empty((len(hits), 0)), {"queries": now[1]})
    return compare(record.model_copy(update={"trials": trials}), again, exact=False)


def test_queries_are_compared_as_distributions_elsewhere(floor):
    rng = np.random.default_rng(0)
    hits, queries = rng.integers(0, 2, 50).astype(float), rng.geometric(0.01, 50)
    # Another path for every image, as another rounding gives it: no tolerance for one of them.
    other, others = rng.permuted(hits), rng.geometric(0.01, 50)
    reported = elsewhere(floor, (hits, queries), (other, others))
    assert {each.name: each.ok for each in reported} == {"scores": True, "drift": True}
    assert "scores, queries alike as distributions" in reported[0].detail
    for forged in (np.maximum(2, queries // 10), queries + 300, np.full(50, 100)):
        (bad,) = elsewhere(floor, (hits, forged), (other, others))
        assert (bad.name, bad.ok) == ("drift", False)
        assert "of the queries" in bad.detail
    (bad,) = elsewhere(floor, (np.ones(50), queries), (other, queries))
    assert (bad.name, bad.ok) == ("drift", False)
    (few,) = elsewhere(floor, (hits[:8], queries[:8] // 10), (hits[:8], queries[:8]))
    assert few.ok is None
    assert "too few to show" in few.detail
    same = elsewhere(floor, (hits, queries), (hits, queries))
    assert [(each.name, each.ok) for each in same] == [("scores", True)]


def test_a_hit_may_flip_elsewhere(floor):
    hits = np.tile([1.0, 0.0], 500)
    now = hits.copy()
    now[[3, 8]] = 1 - now[[3, 8]]
    record = floor.model_copy(update={"trials": Trials.of(hits)})
    again = Again(np.arange(1000), now.astype(np.float32), np.empty((1000, 0)), {})
    assert {each.ok for each in compare(record, again, exact=False)} == {True}
    assert finds(record, again) is None
    same = replace(again, scores=hits.astype(np.float32))
    assert finds(record, same) == 1 / 1000
    raised = np.maximum(hits, np.arange(1000) < 60)
    record = floor.model_copy(update={"trials": Trials.of(raised)})
    assert {each.name for each in compare(record, again, exact=False) if each.ok is False} == {
        "scores",
        "drift",
    }


def test_the_tests_of_drift_have_their_ps():
    one, zero = np.ones(12), np.zeros(12)
    found = drifts(one, zero)
    assert found["of one sign"] == pytest.approx(2 * 0.5**12)
    assert found["summed"] == pytest.approx(2 * 0.5**12, rel=0.5)
    # Of the 8 ways to sign 3, 2 and 1, four sums are as far from 0 as 4.
    assert drifts(np.array([3.0, 2.0, -1.0]), np.zeros(3))["summed"] == pytest.approx(0.5, abs=0.01)
    assert drifts(np.array([np.nan, 1.0]), np.array([1.0, 1.0])) == {"of one sign": 1, "summed": 1}
    many = np.random.default_rng(0).normal(0.1, 1, 500)
    z = many.sum() / np.sqrt((many**2).sum())
    assert drifts(many, np.zeros(500))["summed"] == pytest.approx(2 * norm.sf(abs(z)))
    # Scipy's exact p fails for these and warns, which isn't for the user.
    tied = np.repeat([5.0, 1000.0], [4, 26])
    assert drifts(tied, tied[::-1], distribution=True)["as a distribution"] == pytest.approx(1)
    assert drifts(one, zero, distribution=True)["as a distribution"] == pytest.approx(
        ks_2samp(one, zero).pvalue
    )


def test_rounding_is_seldom_called_drift():
    rng = np.random.default_rng(0)
    level = 0.05
    refuted = {"of one sign": 0, "as a distribution": 0}
    for _ in range(120):
        paths = rng.geometric(rng.uniform(0.002, 0.05, 30), (2, 30))
        found = drifts(*paths[:, :30], distribution=True)
        for name in refuted:
            refuted[name] += found[name] < level
    assert max(refuted.values()) <= 12


@pytest.mark.parametrize(("n", "m"), [(1000, 50), (600, 7), (40, 39), (40, 40), (8, 1)])
def test_the_share_that_a_sample_finds(n, m):
    forged = round(finds_share(n, m) * n)

    def missed(count):
        return math.comb(n - count, m) / math.comb(n, m)

    assert missed(forged) <= 0.05
    assert forged == 1 or missed(forged - 1) > 0.05


def test_a_state_that_was_trained_for_longer_than_stated_is_refuted(tmp_path, learner):
    settings = {"iterations": 8, "inner_steps": 1, "meta_batch": 1, "test_steps": 1}
    places = {"out": tmp_path / "store", "runs": tmp_path / "runs"}
    longer = lazybench.run("reptile", GLYPHS, budget="smoke", limit=N, settings=settings, **places)
    reported = {name: getattr(learner, name) for name in ("config", "overrides", "curve")}
    path = saved(tmp_path, longer, keyed=True, **reported)
    source = StateSource(checkpoint=next((tmp_path / "runs").glob("*/ckpt/step-8")))
    found = verify(path, source=source)
    assert wrong(found) == {"updates": "the record has 8 updates; its settings plan 2"}
    cost = longer.cost.model_copy(update={"outer_steps": 2})
    path = saved(tmp_path, longer, keyed=True, **reported, cost=cost)
    found = verify(path, source=source)
    assert "the checkpoint of the record has 8 updates" in wrong(found)["updates"]
    state = longer.checkpoint.model_copy(update={"step": 2})
    path = saved(tmp_path, longer, keyed=True, **reported, cost=cost, checkpoint=state)
    found = verify(path, source=source)
    assert wrong(found) == {"counters": "updates are 2 in the record, and 8 in the training"}
    work = learner.cost.model_copy(update={"image_gradients": 7})
    source = StateSource(checkpoint=next(LEARNED[0].glob("*/ckpt/step-2")))
    found = verify(saved(tmp_path, learner, cost=work), source=source)
    assert "image_gradients is 7.0 in the record" in wrong(found)["counters"]
    point = [{**learner.curve[-1], "val": 0.9}]
    found = verify(saved(tmp_path, learner, curve=point), source=source)
    assert "curve" in wrong(found)["counters"]
    found = verify(saved(tmp_path, learner, checkpoint=None), source=source)
    assert {each.name: each.ok for each in found.findings}["checkpoint"] is None


@pytest.mark.parametrize(("rise", "ok"), [(0.0, True), (0.005, True), (0.05, None), (0.3, False)])
@pytest.mark.parametrize("why", ["processor", "processes"])
def test_a_model_trained_again_elsewhere_is_compared_by_its_mean(
    tmp_path, learner, why, rise, ok
) -> None:
    scores = np.clip(learner.trials.scores_array() + rise, 0, 1)
    changes = scored(learner, scores, None)
    state = learner.checkpoint.model_copy(update={"sha256": "ab" * 32})
    if why == "processes":
        changes["world_size"] = 2
    else:
        changes["machine"] = learner.machine.model_copy(update={"processor": "another"})
    path = saved(tmp_path, learner, keyed=True, checkpoint=state, **changes)
    found = verify(path, source=StateSource(retrain=True, runs=tmp_path / "runs"))
    reported = {each.name: each for each in found.findings}
    assert reported["checkpoint"].ok is None
    assert reported["scores"].ok is ok
    assert "trained on another platform" in reported["scores"].detail
    words = {True: "consistent", None: "not reproducible here", False: "refuted"}
    assert (found.verdict, found.exact, found.finds) == (words[ok], False, None)


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"overrides": {"inner_lr": 3.0}}, "settings", r"smoke with inner_lr=3\.0 gives 3\.0"),
        ({"preset": "paper"}, "settings", "preset is paper in the record, whose budget is smoke"),
        ({"parameters": 3}, "network", "parameters is 3 in the record; the agent has "),
    ],
)
def test_what_boards_say_of_a_row_is_checked_too(tmp_path, learner, changes, check, words) -> None:
    more = changes.pop("parameters", None)
    if more is not None:
        changes = {"network": learner.network.model_copy(update={"parameters": more})}
    found = verify(saved(tmp_path, learner, **changes))
    assert list(wrong(found)) == [check]
    assert re.search(words, wrong(found)[check])


@pytest.mark.parametrize("trials", ["x", None, -1, 1e400, True])
def test_a_number_of_trials_that_is_none_is_refuted(tmp_path, learner, trials) -> None:
    protocol = {**learner.env.protocol, "trials": trials}
    changed = learner.env.model_copy(update={"protocol": protocol})
    found = verify(saved(tmp_path, learner, env=changed, keyed=True))
    assert "must be a whole number, got" in wrong(found)["trials"]


def test_no_answers_at_all_are_refuted(tmp_path, learner) -> None:
    empty = Trials.of(np.zeros(0), predictions=np.zeros((0, 75), np.int8))
    found = verify(saved(tmp_path, learner, trials=empty, keyed=True))
    assert found.verdict == "refuted"


def test_a_state_of_another_run_is_refuted(tmp_path, learned):
    record, _ = learned
    options = {"budget": "smoke", "out": tmp_path / "store", "runs": tmp_path / "runs"}
    lazybench.run(f"{PLAYERS}:Movable", SINUS, seed=1, **options)
    path = saved(tmp_path, record)
    folder = next((tmp_path / "runs").iterdir())
    found = verify(path, source=StateSource(checkpoint=folder))
    assert "seed is 0 in the record and 1 there" in wrong(found)["checkpoint"]
    found = verify(path, source=StateSource(checkpoint=folder / "ckpt" / "step-6"))
    assert "sha256 is" in wrong(found)["checkpoint"]


def test_a_changed_setting_with_a_fitting_key_is_caught_by_its_run(tmp_path, learned):
    record, source = learned
    config = {**record.config, "shift": 1.0}
    path = saved(tmp_path, record, keyed=True, config=config)
    assert "smoke with no setting gives 0.0" in wrong(verify(path, source=source))["settings"]
    path = saved(tmp_path, record, keyed=True, config=config, overrides={"shift": 1.0})
    found = verify(path, source=StateSource(checkpoint=next(source.runs.iterdir())))
    assert "config.shift is 1.0 in the record and 0.0 there" in wrong(found)["checkpoint"]


def test_files_that_hold_no_whole_record_are_refuted(tmp_path, floor):
    path = saved(tmp_path, floor)
    text = path.read_bytes()
    for part in (text[: len(text) // 2], b"", b"[1, 2]", b"\xff\xfe"):
        path.write_bytes(part)
        found = verify(path)
        assert list(wrong(found)) == ["file"]
        assert "not a record of schema 1" in wrong(found)["file"]
        with pytest.raises(StoreError, match="see: lazybench verify"):
            audit(path)


def test_what_cannot_be_verified_is_reported(tmp_path, floor):
    with pytest.raises(UsageError, match="trials must be at least 0"):
        verify(saved(tmp_path, floor), trials=-1)
    bad = saved(tmp_path, floor, status="diverged", reason="nan", metrics={})
    with pytest.raises(UsageError, match="no scores to verify"):
        verify(bad)
    old = floor.env.model_copy(update={"version": 7})
    with pytest.raises(
        UsageError, match="has version 1 here, but the record was made on version 7"
    ):
        verify(saved(tmp_path, floor, keyed=True, env=old))
    agent = floor.agent.model_copy(update={"version": 7})
    with pytest.raises(UsageError, match="this run is of version 7"):
        verify(saved(tmp_path, floor, keyed=True, agent=agent))


def test_records_are_found_by_path_or_key(tmp_path, learned):
    record, source = learned
    place = source.out / "records" / f"{SINUS}-v1" / record.agent.id.lower()
    found = find_record(record.key12, source.out)
    assert find_record(str(found), tmp_path) == find_record(record.key, source.out) == found
    assert found.name == f"{record.key12}.json"
    assert found.parent.name.startswith(place.name)
    for name in ("ffffff", "abc", "nothing.json"):
        with pytest.raises(UnknownName, match=f"no record '{name}'"):
            find_record(name, source.out)
