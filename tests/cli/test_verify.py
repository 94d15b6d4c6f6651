"""`verify`, `audit`, `trials` and `score` from the command line: exit codes and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench.cli.verify import EXIT_CODES
from lazybench.records import Store

ENV = "sinusoid-5shot"


@pytest.fixture
def key(lazybench: Any) -> str:
    done = lazybench("run", "-a", "chance", "-e", ENV, "-b", "smoke", "--quiet", "--json")
    assert done.code == 0
    return str(json.loads(done.out)["key"])[:12]


def test_a_record_is_verified_by_its_key(lazybench: Any, key: str) -> None:
    done = lazybench("verify", key, "--quiet")
    assert done.code == 0
    assert done.out.startswith(f"chance on {ENV}, {key}")
    assert done.out.rstrip().endswith(
        "reproduced: 40 trials evaluated again are equal to the last bit"
    )
    assert "unchecked: times, memory and machine\n" in done.out
    done = lazybench("verify", key, "--quiet", "--json", "--trials", "8")
    reported = json.loads(done.out)
    assert (reported["verdict"], reported["verified"]) == ("reproduced", True)
    assert (reported["trials"], reported["exact"]) == (8, True)
    # 12 of 40 are the fewest of which a sample of 8 holds one with 95 %.
    assert reported["finds"] == 12 / 40
    done = lazybench("verify", key, "--quiet", "-n", "8", "--seed", str(reported["seed"]))
    assert f"--seed {reported['seed']}" in done.out
    assert (
        "if 30 % of its trials were forged, this sample would find one with 95 % probability"
        in done.out
    )


def test_a_doctored_record_ends_with_1(lazybench: Any, key: str) -> None:
    (path,) = Path("leaderboards/records").rglob("*.json")
    fields = json.loads(path.read_text())
    fields["metrics"]["mse"]["value"] /= 2
    path.write_text(json.dumps(fields))
    done = lazybench("verify", str(path), "--quiet")
    assert done.code == 1
    assert "refuted: mse is" in done.out
    assert json.loads(lazybench("verify", key, "--quiet", "--json").out)["verified"] is False
    path.write_text(path.read_text()[:-40])
    done = lazybench("verify", str(path), "--quiet")
    assert (done.code, "refuted: not a record" in done.out) == (1, True)


def test_each_verdict_has_its_exit_code(lazybench: Any, key: str) -> None:
    (path,) = Path("leaderboards/records").rglob("*.json")
    done = lazybench("verify", key, "--quiet", "--trials", "0")
    assert done.code == 3
    assert "not reproducible here: no contradiction found; no trial was" in done.out
    assert "unchecked: times, memory and machine; what its agent does" in done.out
    fields = json.loads(path.read_text())
    fields["machine"]["processor"] = "another"
    Path("there.json").write_text(json.dumps(fields))
    done = lazybench("verify", "there.json", "--quiet")
    assert done.code == 0
    assert "reproduced: " in done.out, "equal to the last bit, whatever the platform"
    assert EXIT_CODES == {
        "reproduced": 0,
        "consistent": 0,
        "refuted": 1,
        "not reproducible here": 3,
    }


def test_an_audit_reports_both_scores(lazybench: Any, key: str) -> None:
    done = lazybench("audit", key, "--trials", "40", "--seed", "1", "--quiet")
    assert done.code == 0
    assert "fresh - stored: " in done.out
    assert done.out.rstrip().endswith("consistent")
    reported = json.loads(lazybench("audit", key, "--seed", "1", "--quiet", "--json").out)
    assert (reported["trials"], reported["consistent"]) == (200, True)
    assert reported["stored"]["lo"] < reported["stored"]["mean"] < reported["stored"]["hi"]


def test_trials_go_out_and_answers_come_back(lazybench: Any) -> None:
    done = lazybench("trials", ENV, "-b", "smoke", "--quiet")
    assert done.code == 0
    assert done.out.startswith(f"trials-{ENV}-smoke.npz: {ENV}")
    reported = json.loads(
        lazybench("trials", ENV, "-b", "smoke", "--to", "t.jsonl", "--json", "--quiet").out
    )
    reported_shape = reported["predictions"]
    np.save("p.npy", np.zeros(reported_shape, np.float32))
    asked = ("score", "p.npy", "--env", ENV, "--name", "zeros", "-b", "smoke")
    done = lazybench(*asked, "--quiet")
    assert done.code == 0
    assert done.out.startswith(f"zeros, submitted, on {ENV}: ")
    assert not Store("leaderboards").records()
    done = lazybench(*asked, "--store")
    assert done.code == 0
    assert "submitted" in done.out.partition("\n")[2]
    (record,) = Store("leaderboards").records()
    done = lazybench(*asked, "--quiet", "--json", "--set", "lr=0.1")
    reported = json.loads(done.out)
    assert (reported["kind"], reported["config"]) == ("submitted", {"lr": 0.1})
    # What is there isn't overwritten, as anywhere else.
    np.save("p.npy", np.ones(reported_shape, np.float32))
    done = lazybench(*asked, "--store", "--quiet")
    assert (done.code, "other answers need another name" in done.err) == (73, True)
    done = lazybench(*(word.replace("zeros", "maml") for word in asked), "--store")
    assert (done.code, "'maml' is an agent of lazybench" in done.err) == (2, True)
    assert [each.key for each in Store("leaderboards").records()] == [record.key]
    done = lazybench("verify", record.key12, "--quiet")
    assert done.code == 3
    assert "not reproducible here: " in done.out
    assert "no contradiction found; no trial was evaluated again" in done.out


@pytest.mark.parametrize("name", ["t.npz", "t.jsonl"])
def test_trials_replace_trials_and_no_other_file(lazybench: Any, name: str) -> None:
    asked = ("trials", ENV, "-b", "smoke", "--limit", "1", "--quiet", "--to", name)
    np.savez("mine.npz", x=np.zeros(3))
    mine = Path("mine.npz").read_bytes()
    Path(name).write_bytes(mine)
    done = lazybench(*asked)
    assert (done.code, "has no mark of lazybench" in done.err) == (73, True)
    assert Path(name).read_bytes() == mine
    Path(name).unlink()
    assert [lazybench(*asked).code for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("verify", "abcdef"), 2, "no record 'abcdef'"),
        (("verify", "x.json", "--retrain", "--checkpoint", "."), 2, "either --checkpoint or"),
        (("verify", "x.json", "--init", "w.safetensors"), 2, "--init goes with --retrain"),
        (("audit", "x.json", "--checkpoint", "gone"), 2, "no --checkpoint gone"),
        (("score", "gone.npz", "-e", ENV, "--name", "x"), 2, "can't read predictions"),
        (("score", "p.npy", "-e", "glyphs-net4-untargeted", "--name", "x"), 2, "can't prove"),
        (("trials", "nothing"), 2, "nothing"),
        (("trials", "omniglot-5way-1shot"), 69, "omniglot"),
        (("trials", ENV, "--to", "t.txt"), 2, "written to .npz or .jsonl"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    lazybench: Any, argv: tuple[str, ...], code: int, words: str
) -> None:
    done = lazybench(*argv)
    assert done.code == code
    assert words in done.err
    assert "bug" not in done.err
