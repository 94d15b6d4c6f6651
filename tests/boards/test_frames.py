from __future__ import annotations

import sys
from typing import Any

import pytest

import lazybench
from lazybench.errors import LazybenchError, UnknownName, UsageError
from lazybench.records import Store, Trials
from lazybench.specs import EnvSpec


@pytest.fixture
def records(store: Any, make_run: Any) -> Any:
    """The store's three records, a failed one, and one with settings and a column of trials."""
    store.publish(make_run("c", status="diverged", reason="loss is nan"))
    store.publish(
        make_run(
            "d",
            seed=2,
            overrides={"lr": 0.5, "batch_norm": "inductive"},
            config={"lr": 0.5, "batch_norm": "inductive"},
            metrics={
                "accuracy": {
                    "value": 0.25, "ci95": (0.125, 0.5), "n": 2, "unit": "fraction",
                    "better": "higher",
                },
                "mean_queries": {"value": 7.0, "n": 2, "unit": "queries", "better": "lower"},
            },
            trials=Trials.of([0.5, 0.0], columns={"queries": [6, 8]}),
        )
    )  # fmt: skip
    return lazybench.load_records(out=store.root)


def test_a_frame_has_one_row_a_record(records: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = records.to_frame()
    assert list(frame["key"]) == [record.key12 for record in records]
    assert list(frame["agent"]) == ["a", "b", "b", "c", "d"]
    row = frame[frame["agent"] == "d"].iloc[0]
    want = {
        "settings": "lr=0.5", "set_lr": 0.5, "batch_norm": "inductive", "env": "glyphs-5way-1shot",
        "env_version": 1, "budget": "small", "seed": 2, "metric": "accuracy", "score": 0.25,
        "lo": 0.125, "hi": 0.5, "unit": "fraction", "trials": 2, "metric_mean_queries": 7.0,
        "train_wall_s": 12.0, "data": "glyphs", "version": "0.1.0",
    }  # fmt: skip
    assert {name: row[name] for name in want} == want
    assert row["date"] == pandas.Timestamp("2026-01-01", tz="UTC")
    failed = frame[frame["status"] == "diverged"].iloc[0]
    assert failed["reason"] == "loss is nan"
    assert pandas.isna(failed["score"])
    means = frame.groupby("agent")["score"].mean()
    assert means["b"] == pytest.approx(
        sum(r.trials.scores_array().mean(dtype=float) for r in records[1:3]) / 2
    )


def test_a_frame_has_one_row_a_trial(records: Any) -> None:
    pytest.importorskip("pandas")
    frame = records.to_frame(per_trial=True)
    assert len(frame) == sum(record.trials.n for record in records) == 122
    part = frame[frame["agent"] == "d"]
    assert list(part["trial"]) == [0, 1]
    assert list(part["score"]) == [0.5, 0.0]
    assert list(part["trial_queries"]) == [6, 8]
    assert set(part["settings"]) == {"lr=0.5"}
    # Seeds of one agent side by side, trial by trial.
    wide = frame[frame["agent"] == "b"].pivot(index="trial", columns="seed", values="score")
    assert wide.shape == (40, 2)
    assert list(wide[1]) == list(records[2].trials.scores_array())


def test_an_empty_store_gives_an_empty_frame(records: Any, tmp_path_factory: Any) -> None:
    pytest.importorskip("pandas")
    none = lazybench.load_records(out=tmp_path_factory.mktemp("empty"))
    for per_trial in (False, True):
        frame = none.to_frame(per_trial=per_trial)
        assert frame.empty
        filled = records.to_frame(per_trial=per_trial).columns
        further = [name for name in filled if name.startswith(("metric_", "set_", "trial_"))]
        assert list(frame.columns) == [name for name in filled if name not in further]
    assert len(none.to_frame()[lambda frame: frame["date"] > "2026"]) == 0


def test_names_that_nothing_has_are_refused(records: Any, tmp_path: Any) -> None:
    """A mistyped name would give an empty list, as if nothing had been run."""
    folder = tmp_path / "leaderboards"
    assert {record.agent.id for record in lazybench.load_records(agent="a", out=folder)} == {"a"}
    assert lazybench.load_records(agent="protonet", out=folder) == []
    with pytest.raises(UnknownName, match=r"unknown agent 'protonett'.+protonet"):
        lazybench.load_records(agent="protonett", out=folder)
    with pytest.raises(UsageError, match=r"there is no folder '.+nowhere'"):
        lazybench.load_records(out=tmp_path / "nowhere")


def test_without_pandas_the_error_names_the_extra(
    records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LazybenchError, match=r"pip install 'lazybench\[frames\]'"):
        records.to_frame()


def test_records_stay_a_list(records: Any, store: Any) -> None:
    assert isinstance(records, list)
    assert records == list(Store(store.root).records())
    (store.root / "records" / "glyphs-5way-1shot-v1" / "a" / "0.json").write_text("{")
    (skipped,) = lazybench.load_records(out=store.root).skipped
    assert skipped.path.name == "0.json"


def test_notebooks_show_tables_with_escaped_text(records: Any, make_run: Any) -> None:
    text = records._repr_html_()
    assert text.count("<tr>") == 6
    assert "5 records" in text
    assert "d (lr=0.5)" in text
    assert "0.125 to 0.5" in text
    wicked = make_run("a", overrides={"path": "<script>"}, metrics=records[-1].metrics)
    shown = wicked._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "0.25 (0.125 to 0.5)" in shown
    spec = EnvSpec("x", "fewshot", "m:C", None, "d", about="a <b>", trials={"small": 7})
    assert "a &lt;b&gt;" in spec._repr_html_()
    assert "small 7" in spec._repr_html_()
    many = lazybench.Records([wicked] * 61)
    assert "1 more; to_frame() has all of them." in many._repr_html_()
