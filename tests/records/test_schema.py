from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pydantic
import pytest

from lazybench.errors import StoreError, UsageError
from lazybench.records import KEY_FIELDS, Metric, Packed, Record, Trials, make_key


def test_a_record_survives_json(make_record: Any) -> None:
    record = make_record(diagnostics={"gamma": [0.75, float("nan")]}, config={"steps": (1, 2)})
    again = Record.from_json(record.to_json())
    assert again == record
    assert again.to_json() == record.to_json()
    assert record.diagnostics == {"gamma": [0.75, None]}
    assert '"schema": 1' in record.to_json()
    assert record.key12 == record.key[:12]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"schema": 0}, "schema"),
        ({"kind": "guessed"}, "kind"),
        ({"surprise": 1}, "surprise"),
        ({"env__protocol": {"a": [1]}}, "env"),
        ({"cost": {"wall_s": -1}}, "wall_s"),
        ({"cost": {"queries": 1.5}}, "queries"),
        ({"metrics": {"a": {"value": "72.91", "n": 1, "unit": "%", "better": "higher"}}}, "value"),
    ],
)
def test_what_a_record_refuses(make_record: Any, change: dict[str, Any], place: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=place):
        make_record(**change)


def test_another_schema_says_what_to_do(make_record: Any) -> None:
    text = make_record().to_json().replace('"schema": 1', '"schema": 2')
    with pytest.raises(StoreError, match=r"schema 1: schema: .* use the version of lazybench"):
        Record.from_json(text)


def test_comparable_leaves_out_times_and_machine_only(make_record: Any) -> None:
    one = make_record()
    other = make_record(
        cost__wall_s=99.0,
        cost__peak_memory_bytes=7,
        machine__threads=8,
        code__dirty=True,
        started="2027-01-01T00:00:00Z",
        curve=[{"step": 1, "accuracy": 0.3, "wall_s": 7}],
    )
    assert one.comparable() == other.comparable()
    assert one.comparable() != make_record(cost__inner_steps=11).comparable()
    assert one.comparable() != make_record(trials=Trials.of([0.5, 0.25, 1, 0.125])).comparable()


def test_comparable_ignores_how_an_array_was_compressed(make_record: Any) -> None:
    import base64
    import zlib

    packed = Packed.of(np.zeros(4, np.float32))
    loose = base64.b64encode(zlib.compress(bytes(16), 0)).decode()
    assert loose != packed.data
    same = Packed(dtype="<f4", shape=(4,), data=loose)
    left = make_record(trials=Trials(scores=packed))
    assert left.comparable() == make_record(trials=Trials(scores=same)).comparable()


def test_every_field_of_the_identity_changes_the_key() -> None:
    identity: dict[str, Any] = dict.fromkeys(KEY_FIELDS, "x")
    keys = {make_key(identity)} | {make_key(identity | {name: "y"}) for name in KEY_FIELDS}
    keys.add(make_key(identity | {"trained_on": "elsewhere"}))
    assert len(keys) == len(KEY_FIELDS) + 2
    assert all(len(key) == 64 for key in keys)
    assert make_key(dict(reversed(identity.items()))) == make_key(identity)


def test_a_key_needs_exactly_its_fields() -> None:
    identity: dict[str, Any] = dict.fromkeys(KEY_FIELDS, "x")
    with pytest.raises(UsageError, match=r"unknown: \['machine'\]"):
        make_key(identity | {"machine": 1})
    del identity["seed"]
    with pytest.raises(UsageError, match=r"missing: \['seed'\]"):
        make_key(identity)


def test_a_metric_that_is_not_finite_becomes_none() -> None:
    metric = Metric(value=float("inf"), ci95=(float("nan"), 1), n=1, unit="%", better="lower")
    assert metric.value is None
    assert metric.ci95 == (None, 1.0)
    half: Any = np.float32(0.5)
    assert Metric(value=half, n=1, unit="%", better="lower").value == 0.5


def test_trials_come_back_as_they_went_in() -> None:
    scores = np.random.default_rng(0).random(5).astype(np.float32)
    answers = np.array([[1, -1], [3, 0], [300, 2], [0, 0], [0, 7]])
    trials = Trials.of(scores, answers, {"queries": np.arange(5) * 100_000})
    assert trials.n == 5
    np.testing.assert_array_equal(trials.scores_array(), scores)
    for got, want in zip(trials.predictions_list(), answers, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(trials.columns["queries"].unpack(), np.arange(5) * 100_000)
    regular = Trials.of(scores, np.arange(10).reshape(5, 2))
    assert regular.lengths is None
    assert regular.predictions is not None
    assert regular.predictions.dtype == "|u1"
    np.testing.assert_array_equal(regular.predictions_list()[3], [6, 7])
    assert Trials().predictions_list() == []


def test_trials_of_different_numbers_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="predictions must have 2 rows"):
        Trials.of([0.5, 1], [[1], [2], [3]])
    with pytest.raises(UsageError, match="must hold numbers"):
        Trials.of(["high"])
    with pytest.raises(UsageError, match="must have rows of one length"):
        Trials.of([0.5, 1], [[1], [2, 3]])
    fields = Trials.of([0.5, 1], [[1], [2]]).model_dump()
    assert fields["lengths"] is None, "a name that the files of all records have"
    with pytest.raises(pydantic.ValidationError, match="lengths"):
        Trials.model_validate(fields | {"lengths": fields["predictions"]})


def test_packed_data_that_lies_about_its_size_is_refused() -> None:
    honest = Packed.of(np.zeros(1000, np.float32))
    for change in ({"shape": (999,)}, {"shape": (1001,)}, {"shape": (1 << 40,)}, {"data": "!"}):
        with pytest.raises(pydantic.ValidationError):
            Packed.model_validate(honest.model_dump() | change)


def test_importing_records_and_boards_loads_no_array_library() -> None:
    code = (
        "import sys, lazybench.records, lazybench.boards, lazybench.stats\n"
        "print([m for m in ('numpy', 'scipy', 'torch', 'tabulate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
