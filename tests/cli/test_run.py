"""`lazybench run`: what reaches the harness, what is shown, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lazybench.boards import check
from lazybench.errors import Busy, Interrupted
from lazybench.records import Store

BASE = ("run", "--agent", "reptile", "--env", "glyphs-5way-1shot")


def test_request_carries_every_option(lazybench: Any, requests: list[Any]) -> None:
    options = "--budget paper --seed 4 --set a=1 --set b=x=y --device auto --threads 3 --limit 5"
    assert lazybench(*BASE, *options.split(), "--out", "o", "--runs", "r", "--force").code == 0
    (request,) = requests
    assert (request.agent, request.env) == ("reptile", "glyphs-5way-1shot")
    assert (request.budget, request.seed, request.device) == ("paper", 4, "auto")
    assert request.overrides == {"a": "1", "b": "x=y"}
    assert (request.threads, request.limit, request.force) == (3, 5, True)
    assert (request.out, request.runs) == (Path("o"), Path("r"))


def test_defaults(lazybench: Any, requests: list[Any]) -> None:
    assert lazybench(*BASE).code == 0
    (request,) = requests
    assert (request.budget, request.seed, request.device) == ("small", 0, "cpu")
    assert (request.threads, request.limit, request.force) == (None, None, False)
    assert (request.out, request.runs) == (Path("leaderboards"), Path("runs"))


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", [0, 1, 2]), ("0,3,5", [0, 3, 5]), ("7,0-1,1", [7, 0, 1])]
)
def test_seeds(lazybench: Any, requests: list[Any], text: str, seeds: list[int]) -> None:
    assert lazybench(*BASE, "--seeds", text).code == 0
    assert [request.seed for request in requests] == seeds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "2-0"], "--seeds takes numbers and ranges"),
        (["--seeds", "a"], "got 'a'"),
        (["--seeds", "1,"], "such as 0-2 or 0,3,5"),
        (["--seeds", "0-999999999"], "at most 1000"),
        (["--seed", "1", "--seeds", "0-2"], "not both"),
        (["--set", "lr"], "--set takes name=value, such as --set inner_lr=0.01; got 'lr'"),
        (["--set", "=3"], "got '=3'"),
        (["--set", "a=1", "--set", "a=2"], "--set gives 'a' twice"),
        (["--limit", "0"], "--limit"),
        (["--threads", "0"], "--threads"),
        (["--timeout-per-episode", "inf"], "must be a positive number, got inf"),
        (["--seed", "-1"], "--seed"),
        (["--sede", "1"], "No such option"),
    ],
)
def test_bad_options(lazybench: Any, requests: list[Any], options: list[str], message: str) -> None:
    done = lazybench(*BASE, *options)
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert done.out == ""
    assert requests == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--agent", "reptil", "--env", "glyphs-5way-1shot"), "Did you mean: reptile"),
        (("--agent", "reptile", "--env", "glyphs-5way-1sot"), "Did you mean: glyphs-5way-1shot"),
        ((*BASE[1:], "--budget", "smal"), "got 'smal'. Did you mean: small"),
        ((*BASE[1:], "--device", "tpu"), "device must be one of"),
        ((*BASE[1:], "--set", "inner_ler=1"), "Did you mean: inner_lr"),
    ],
)
def test_bad_names_are_reported_by_the_real_harness(
    lazybench: Any, argv: tuple[str, ...], message: str
) -> None:
    done = lazybench("run", *argv)
    assert done.code == 2
    what, error = done.err.splitlines()
    assert what.startswith("run: ")
    assert error.startswith("error: ")
    assert message in error
    assert not list(Path().iterdir()), "a refused run leaves nothing behind"


@pytest.mark.parametrize("option", ["--out", "--runs"])
def test_folder_below_a_file(lazybench: Any, requests: list[Any], option: str) -> None:
    Path("file").write_text("")
    done = lazybench(*BASE, option, "file/below/it")
    assert done.code == 73
    assert f"error: {option} file/below/it can't be a folder: file is a file" in done.err
    assert requests == []


def test_board_marks_the_new_row(lazybench: Any, requests: list[Any], make_record: Any) -> None:
    Store("leaderboards").publish(make_record("chance"))
    done = lazybench(*BASE)
    assert " chance " in done.out
    marked = [line for line in done.out.splitlines() if line.startswith(">")]
    assert "reptile" in marked[0]
    assert "chance" not in marked[0]
    assert "gammas chosen: 0.75 75 %, 0.95 25 %; 100 % at the grid's edge" in done.out
    path = Store("leaderboards").path(make_record("reptile"))
    assert path.name in done.out


def test_the_first_line_says_what_runs(lazybench: Any, requests: list[Any]) -> None:
    done = lazybench(*BASE, "--seeds", "0-1", "--budget", "smoke", "--threads", "2")
    assert done.err.splitlines()[0].startswith("run: ")
    assert done.err.splitlines()[0].endswith("budget smoke, seeds 0, 1, device cpu, 2 threads")


def test_board_files_are_regenerated(lazybench: Any, requests: list[Any]) -> None:
    lazybench(*BASE)
    assert check(Store("leaderboards")) == []


def test_boards_left_for_later_are_mended_by_the_next_run(
    lazybench: Any, requests: list[Any]
) -> None:
    """As by the children of a sweep that was killed before it wrote the boards."""
    assert lazybench(*BASE, "--seed", "0").code == 0
    assert lazybench(*BASE, "--seed", "1", "--no-boards").code == 0
    assert check(Store("leaderboards"))
    assert lazybench(*BASE, "--seed", "1", "--quiet").code == 0
    assert check(Store("leaderboards")) == []


def test_progress_goes_to_stderr_and_json_alone_to_stdout(
    lazybench: Any, requests: list[Any]
) -> None:
    done = lazybench(*BASE, "--json", "--seeds", "0-1")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["seed"] for record in records] == [0, 1]
    assert "a note" in done.err
    assert "train: 2/2" in done.err


def test_quiet_says_nothing(lazybench: Any, requests: list[Any]) -> None:
    assert lazybench(*BASE, "--quiet") == (0, "", "")
    assert len(requests) == 1


def harness(monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    def run(request: Any, *, watch: Any, tracker: Any) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr("lazybench.runner.run.run", run)


@pytest.mark.parametrize("status", ["diverged", "failed", "oom"])
def test_bad_status_exits_3(
    lazybench: Any, make_record: Any, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    record = make_record(status=status, reason="the loss is nan")
    Store("leaderboards").publish(record)
    harness(monkeypatch, record)
    done = lazybench(*BASE)
    assert done.code == 3
    assert f"seed 0: {status}: the loss is nan" in done.err
    assert f"{status}: the loss is nan" in done.out


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_interrupted(
    lazybench: Any, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    harness(monkeypatch, Interrupted(number, "interrupted at meta-iteration 3 of 9"))
    done = lazybench(*BASE, "--seeds", "0-2")
    assert done.code == code
    assert done.err.splitlines()[-1] == (
        "interrupted at meta-iteration 3 of 9; the same command continues"
    )
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Busy("another process is at this run"), 75, "error: another process is at this run\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(28, "No space left on device"), 74, "free some space"),
        (OSError(30, "Read-only file system"), 74, "system; check the disk"),
        (PermissionError(13, "Permission denied", "runs/a"), 74, "'runs/a'; check its permissions"),
        (OSError(36, "File name too long", "runs"), 74, "'runs'; give a shorter path"),
        (PermissionError(13, "Permission denied"), 1, "error: this is a bug in lazybench"),
        (PermissionError(13, "Permission denied", "/proc/x"), 1, "this is a bug in lazybench"),
        (ZeroDivisionError("x"), 1, "error: this is a bug in lazybench"),
    ],
)
def test_errors(
    lazybench: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    harness(monkeypatch, error)
    done = lazybench(*BASE)
    assert done.code == code
    assert message in done.err
    assert ("Traceback" in done.err) == (code == 1)
    assert done.out == ""


def test_a_real_run_and_its_repetition(lazybench: Any) -> None:
    argv = ("run", "-a", "chance", "-e", "glyphs-5way-1shot", "-b", "smoke", "--limit", "8")
    first = lazybench(*argv, "--threads", "1", "--json")
    assert first.code == 0, first.err
    record = json.loads(first.out)
    assert (record["agent"]["id"], record["limited"], record["budget"]) == ("chance", True, "smoke")
    again = lazybench(*argv, "--json")
    assert json.loads(again.out) == record
    assert "recorded already" in again.err
    (line,) = (line for line in lazybench(*argv).out.splitlines() if line.startswith("seed 0: acc"))
    value = f"{100 * record['metrics']['accuracy']['value']:.4g}"
    assert re.search(rf"accuracy {value} %, 95 % interval over trials [\d.]+ to [\d.]+$", line)
    shown = lazybench("leaderboard").out
    assert "limited" in shown
    assert "smoke" in shown


def test_a_data_set_is_no_environment(lazybench: Any) -> None:
    done = lazybench("run", "--agent", "chance", "--env", "glyphs")
    assert done.code == 2
    assert "'glyphs' is a data set; its environments are glyphs-5way-1shot" in done.err


CONFIG = str(Path(__file__).parents[1] / "fixtures" / "run.toml")


def test_a_file_gives_options(lazybench: Any, requests: list[Any]) -> None:
    done = lazybench("run", "--config", CONFIG)
    assert done.code == 0, done.err
    (request,) = requests
    assert (request.agent, request.env, request.budget) == ("reptile", "glyphs-5way-1shot", "smoke")
    assert (request.seed, request.out, request.runs) == (3, Path("o"), Path("runs"))
    assert request.overrides == {"inner_lr": 0.01, "backbone": "conv4-32"}
    assert request.protocol == {"strict": False}


def test_options_given_win_over_the_file(lazybench: Any, requests: list[Any]) -> None:
    more = ("-a", "maml", "--seeds", "0-1", "--set", "inner_lr=0.5", "--out", "p")
    assert lazybench("run", *more, "--config", CONFIG).code == 0
    assert [request.seed for request in requests] == [0, 1]
    assert {request.agent for request in requests} == {"maml"}
    assert requests[0].overrides == {"inner_lr": "0.5", "backbone": "conv4-32"}
    assert (requests[0].budget, requests[0].out) == ("smoke", Path("p"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agnet = 'maml'", "unknown key 'agnet'; allowed keys: agent, env, budget"),
        ("seed = 'x'", "seed: Input should be a valid integer"),
        ("[set", "isn't a readable TOML file"),
        ("env = 'sinusoid-5shot'", "Missing option '--agent'"),
        ("agent = 'maml'\nenv = 'sinusoid-5shot'\nseed = 1\nseeds = '0-2'", "not both"),
        ("agent = 'maml'\nenv = 'sinusoid-5shot'\nlimit = 0", "'--limit'"),
    ],
)
def test_wrong_files_are_refused(
    lazybench: Any, requests: list[Any], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "run.toml").write_text(text)
    done = lazybench("run", "--config", "run.toml")
    assert done.code == 2
    assert message in " ".join(done.err.replace("\u2502", " ").split())
    assert requests == []


def test_a_run_writes_the_file_that_repeats_it(lazybench: Any, tmp_path: Path) -> None:
    agent = Path(__file__).parents[1] / "runner" / "players.py"
    options = ("--budget", "smoke", "--seed", "7", "--limit", "5", "--set", "updates=4")
    first = lazybench("run", "-a", f"{agent}:Learner", "-e", "sinusoid-5shot", *options, "--json")
    assert first.code == 0, first.err
    (file,) = tmp_path.glob("runs/*/run.toml")
    again = lazybench("run", "--config", str(file), "--json")
    assert "recorded already" in again.err
    assert json.loads(again.out)["key"] == json.loads(first.out)["key"]
    fresh = lazybench("run", "--config", str(file), "--out", "o2", "--runs", "r2", "--json")
    one, two = (json.loads(done.out) for done in (first, fresh))
    assert [one[name] for name in ("key", "trials")] == [two[name] for name in ("key", "trials")]
    assert len([*tmp_path.glob("r2/*/run.toml")]) == 1
