"""Command lines in this process, and a harness that answers at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lazybench.cli import main
from lazybench.records import Record, Store, Trials

MakeRecord = Callable[..., Record]


class Done(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


Lazybench = Callable[..., Done]


@pytest.fixture
def lazybench(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Lazybench:
    """A function from arguments to exit code and output, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "no-data"))

    def run(*argv: str) -> Done:
        code = main(argv)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def make_record(record_fields: Callable[..., dict[str, Any]]) -> MakeRecord:
    """A function from an agent, a seed and changed fields to a record of four trials."""

    def make(agent: str = "reptile", seed: int = 0, **changes: Any) -> Record:
        fields = record_fields(changes, agent__id=agent, seed=seed)
        if fields["status"] == "ok":
            fields.setdefault("trials", Trials.of([0.5, 0.25, 1, 0]))
        return Record.keyed(**fields)

    return make


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, make_record: MakeRecord) -> list[Any]:
    """The requests that reach a harness which publishes a made-up record for each."""
    seen: list[Any] = []

    def run(request: Any, *, watch: Any, tracker: Any) -> Record:
        seen.append(request)
        watch.note("a note")
        watch.stage("train", 2)
        watch.advance(2, {"loss": 0.5})
        watch.finished()
        histogram = {"gamma_histogram": {"0.75": 3, "0.95": 1}, "gamma_edge_share": 1.0}
        record = make_record(
            request.agent, request.seed, diagnostics={**histogram, "mean_leap": 0.2}
        )
        Store(request.out).publish(record)
        return record

    monkeypatch.setattr("lazybench.runner.run.run", run)
    return seen
