"""Bad queries: counted by the ledger, and never more of them than their budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lazybench.cli import main
from lazybench.envs import CATALOGUE
from lazybench.envs.attack import ledger as ledgers
from lazybench.envs.attack.blackbox import BlackBox
from lazybench.envs.attack.oracle import Oracle
from lazybench.envs.attack.protocol import AttackProtocol, read_bad_answers
from lazybench.envs.attack.summary import BAD_COLUMNS
from lazybench.errors import ContractError, UsageError
from lazybench.records import Record, Store
from lazybench.runner.evaluate import open_env
from lazybench.runner.request import RunRequest, resolve_env, with_protocol
from lazybench.runner.run import run
from lazybench.verify.static_checks import check_numbers

CLASSES = (0.5, 0.7, 0.9)
"""A brightness that the target assigns to class 0, 1 and 2."""


class Target:
    """Class 0 up to a mean brightness of .6, class 1 beyond, class 2 from .8; counts its rows."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.rows += len(images)
        mean = images.flatten(1).mean(1)
        return torch.stack([0 * mean, 50 * (mean - 0.6), 100 * (mean - 0.7)], 1)


def box(target: Any = None, goal: list[int] | None = None, **changes: Any) -> BlackBox:
    """Three images of class 0."""
    given = {"eps": 10.0, "query_budget": 9, "mode": "minimise", **changes}
    clean, label = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    to = None if goal is None else torch.tensor(goal)
    return BlackBox(Oracle(target or Target(), 3), clean, label, to, **given)


def rows(*classes: int) -> Tensor:
    """Images that the target assigns to these classes."""
    values = torch.tensor([CLASSES[label] for label in classes])
    return values[:, None, None, None].expand(-1, 1, 2, 2).clone()


@pytest.mark.parametrize(
    ("goal", "bad_answers", "bad"),
    [
        (None, "missed", [2, 0, 0]),
        ([1, 1, 1], "missed", [2, 0, 1]),
        ([1, 1, 1], "original", [2, 0, 0]),
        (None, (1, 2), [0, 2, 1]),
        ([2, 2, 2], (2,), [0, 0, 1]),
    ],
)
def test_which_answers_are_bad(goal: Any, bad_answers: Any, bad: list[int]) -> None:
    attacked = box(goal=goal, bad_answers=bad_answers)
    attacked.query(rows(0, 1, 2, 0, 1), [0, 1, 2, 0, 1])
    assert attacked.verdict()["bad_queries"].tolist() == bad


def test_a_call_that_straddles_the_budget_is_cut_at_the_last_bad_answer() -> None:
    target = Target()
    attacked = box(target, bad_query_budget=2)
    # The second bad answer of image 0 is its fourth; what comes after it is never sent.
    result = attacked.query(rows(0, 1, 1, 0, 1, 0, 1), [0, 0, 1, 0, 0, 0, 0])
    assert result.served.tolist() == [True, True, True, True, False, False, False]
    assert result.labels.tolist() == [0, 1, 1, 0, -1, -1, -1]
    assert target.rows == 4
    assert result.done.tolist() == [True, False, False]
    assert attacked.ledger.bad.tolist() == [2, 0, 0]
    assert attacked.ledger.queries.tolist() == [3, 1, 0]
    assert not attacked.query(rows(1), [0]).served.any()


def test_one_bad_answer_less_than_the_budget_ends_nothing() -> None:
    attacked = box(bad_query_budget=2)
    assert not attacked.query(rows(0, 1), [0, 0]).done.any()
    assert attacked.query(rows(0), [0]).done.tolist() == [True, False, False]


def test_a_success_does_not_refuse_the_rows_after_it_in_a_call_that_is_sent_in_parts() -> None:
    attacked = box(mode="first", bad_query_budget=1)
    result = attacked.query(rows(1, 1, 1), [0, 0, 0])
    assert result.served.all(), "as without a budget of bad queries"
    assert attacked.verdict()["success_query"].tolist() == [1, 0, 0]


def test_a_failure_of_the_target_is_no_bad_answer() -> None:
    def fails(images: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    attacked = box(fails, bad_query_budget=2)
    with pytest.raises(ContractError):
        attacked.query(rows(0, 0, 0), [0, 0, 0])
    assert attacked.ledger.bad.tolist() == [0, 0, 0]
    assert attacked.ledger.queries.tolist() == [2, 0, 0], "the third row would have been too much"


CALLS = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12), min_size=1, max_size=6
)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    calls=CALLS,
    budget=st.integers(1, 12),
    bad_budget=st.none() | st.integers(1, 6),
    mode=st.sampled_from(["first", "minimise"]),
    goal=st.none() | st.just([1, 2, 1]),
    bad_answers=st.sampled_from(["missed", "original", (1,), (0, 2)]),
)
def test_rows_sent_one_by_one_say_the_same(
    calls: Any, budget: int, bad_budget: int | None, mode: Any, goal: Any, bad_answers: Any
) -> None:
    target = Target()
    attacked = box(
        target,
        goal,
        query_budget=budget,
        bad_query_budget=bad_budget,
        mode=mode,
        bad_answers=bad_answers,
    )
    sent: list[list[int]] = [[], [], []]
    bad: list[list[bool]] = [[], [], []]
    hits: list[list[bool]] = [[], [], []]
    done = [False] * 3
    for call in calls:
        result = attacked.query(rows(*(label for _, label in call)), [of for of, _ in call])
        for place, (of, label) in enumerate(call):
            spent = bad_budget is not None and sum(bad[of]) >= bad_budget
            fits = not done[of] and not spent and len(sent[of]) < budget
            assert bool(result.served[place]) is fits
            if not fits:
                continue
            hit = label != 0 if goal is None else label == goal[of]
            sent[of].append(label)
            hits[of].append(hit)
            if isinstance(bad_answers, tuple):
                bad[of].append(label in bad_answers)
            else:
                bad[of].append(label == 0 if bad_answers == "original" else not hit)
        for of in range(3):
            done[of] |= len(sent[of]) >= budget or (mode == "first" and any(hits[of]))
            done[of] |= bad_budget is not None and sum(bad[of]) >= bad_budget
        assert result.done.tolist() == done
        assert attacked.ledger.bad.tolist() == [sum(each) for each in bad]
    assert target.rows == sum(map(len, sent))
    verdict = attacked.verdict()
    for of in range(3):
        first = hits[of].index(True) if any(hits[of]) else None
        expected = -1 if first is None else sum(bad[of][:first])
        assert verdict["success_bad_queries"][of] == expected


def test_distances_until_so_many_bad_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image by image, against one list of its rows."""
    monkeypatch.setattr(ledgers, "BAD_CHECKPOINTS", (1, 2, 4, 7))
    rng = np.random.default_rng(3)
    ledger = ledgers.Ledger(4, 40, ends_at_success=False)
    ledger.open(np.ones(4, np.bool_))
    kept: list[list[tuple[bool, float]]] = [[] for _ in range(4)]
    for _ in range(6):
        owner = rng.integers(0, 4, 9)
        bad, far = rng.random(9) < 0.4, rng.random(9)
        charged = ledger.charge(owner)
        good = np.flatnonzero(~bad)
        near = np.zeros(len(good), np.bool_)
        ledger.record(owner[good], charged.position[good], near, far[good], far[good])
        ledger.count(owner, charged.position, bad)
        for of, is_bad, distance in zip(owner, bad, far, strict=True):
            kept[of].append((bool(is_bad), float(distance)))
    for checkpoint in (1, 2, 4, 7):
        found = ledger.least_l2_at_bad(checkpoint)
        for of, own in enumerate(kept):
            least, seen = np.inf, 0
            for is_bad, distance in own:
                seen += is_bad
                if seen >= checkpoint:
                    break
                least = least if is_bad else min(least, distance)
            assert found[of] == least
    ledger.open(np.array([True, False, False, False]))
    assert ledger.least_l2_at_bad(1)[0] == np.inf
    assert ledger.bad[0] == 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("missed", "missed"),
        ("original", "original"),
        (3, (3,)),
        ("7, 0", (0, 7)),
        ([2, 2], (2,)),
    ],
)
def test_settings_of_bad_answers_are_read(given: Any, kept: Any) -> None:
    assert read_bad_answers(given) == kept


@pytest.mark.parametrize("given", ["all", "", "1,", "-1", 1.5, [], None, True])
def test_other_settings_of_bad_answers_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="classes such as 0,3"):
        read_bad_answers(given)


def test_defaults_stay_out_of_protocol_and_key() -> None:
    spec = next(spec for spec in CATALOGUE if spec.id == "glyphs-net4-untargeted-label")
    fields = AttackProtocol.__dataclass_fields__
    assert {name: fields[name].default for name in spec.left_out} == dict(spec.left_out)
    assert with_protocol(spec, {"bad_query_budget": "null", "bad_answers": "missed"}) is spec
    env = open_env(spec, 1, "test")
    assert not env.protocol.keys() & spec.left_out.keys()
    changed = with_protocol(spec, {"bad_query_budget": "7", "bad_answers": "3,1"})
    env = open_env(changed, 1, "test")
    assert env.protocol["bad_query_budget"] == env.task.bad_query_budget == 7
    assert env.protocol["bad_answers"] == [1, 3]
    with pytest.raises(UsageError, match="bad_query_budget"):
        open_env(with_protocol(spec, {"bad_query_budget": "0"}), 1, "test")


def play(folder: Path, **more: Any) -> Record:
    """Two images of glyphs, attacked until each has had 12 bad answers."""
    protocol = {"query_budget": 60, "bad_query_budget": 12}
    options: Any = {"budget": "smoke", "limit": 2, "out": folder / "store", "runs": folder / "runs"}
    env = "glyphs-net4-untargeted-label"
    return run(RunRequest("hopskipjump", env, protocol=protocol, **options, **more))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A run's folder and its record."""
    folder = tmp_path_factory.mktemp("played")
    return folder, play(folder)


def test_a_run_keeps_the_budget_in_a_separate_process_and_after_a_break(
    tmp_path: Path, played: tuple[Path, Record]
) -> None:
    folder, record = played
    assert record.status == "ok", record.reason
    columns = {name: part.unpack() for name, part in record.trials.columns.items()}
    assert columns["bad_queries"].max() == 12
    assert (columns["queries"] < 60).any()
    assert record.metrics["mean_bad_queries"].unit == "bad queries"
    apart = play(tmp_path, isolated=True)
    assert apart.comparable() == record.comparable()
    # What an earlier version evaluated lacks these numbers, and is evaluated again.
    (lines,) = (folder / "runs").rglob("episodes*.jsonl")
    earlier = json.loads(lines.read_text())
    for name in BAD_COLUMNS:
        del earlier["columns"][name]
    lines.write_text(json.dumps(earlier) + "\n")
    Store(folder / "store").path(record).unlink()
    assert play(folder).comparable() == record.comparable()


def test_a_record_without_the_numbers_stays_valid_and_one_with_some_is_not(
    played: tuple[Path, Record],
) -> None:
    record = played[1]
    spec = resolve_env(record.env.id)[0]
    env = open_env(with_protocol(spec, {"query_budget": 60, "bad_query_budget": 12}), 2, "test")
    assert check_numbers(record, spec, env, None).ok
    columns = record.trials.columns
    for missing, valid in ((BAD_COLUMNS, True), (BAD_COLUMNS[:1], False), (("queries",), False)):
        kept = {name: part for name, part in columns.items() if name not in missing}
        trials = record.trials.model_copy(update={"columns": kept})
        measures = {
            name: part for name, part in record.metrics.items() if not valid or "bad" not in name
        }
        earlier = record.model_copy(update={"trials": trials, "metrics": measures})
        assert check_numbers(earlier, spec, env, None).ok is valid


def test_the_command_line_takes_the_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "-a", "boundary", "-e", "glyphs-net4-untargeted-label", "--budget", "smoke"]
    words += ["--limit", "1", "--query-budget", "40", "--bad-query-budget", "3", "--json"]
    where = ["--quiet", "--no-boards", "--out", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main([*words, *where]) == 0
    protocol = json.loads(capsys.readouterr().out)["env"]["protocol"]
    assert (protocol["query_budget"], protocol["bad_query_budget"]) == (40, 3)
