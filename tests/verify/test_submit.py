"""Trials go out as a file, predictions come back, and a submitted record stands on the board."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lazybench
from lazybench import boards
from lazybench.data.fingerprint import instance_hash
from lazybench.errors import OutputUnavailable, RecordConflict, UnknownName, UsageError
from lazybench.verify import export_trials, score, verify

GLYPHS, SINUS = "glyphs-5way-1shot", "sinusoid-5shot"
N = 16


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Sixteen exported trials with their images."""
    path = tmp_path_factory.mktemp("trials") / "trials.npz"
    export_trials(GLYPHS, path, limit=N, arrays=True)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def nearest(trials):
    """What nearest_pixel answers, from exported arrays alone."""
    support, query = (trials[k].reshape(N, -1, 784).astype(np.float64) for k in _SIDES)
    apart = ((query[:, :, None] - support[:, None]) ** 2).sum(-1)
    return np.take_along_axis(trials["support_y"], apart.argmin(2), 1)


_SIDES = ("support_x", "query_x")


def test_exported_trials_are_those_that_agents_face(trials):
    env = lazybench.make_env(GLYPHS, num_envs=N)
    seen, _ = env.reset(options={"trials": np.arange(N)})
    for name in ("support_x", "query_x", "support_y"):
        assert (trials[name] == seen[name]).all()
    assert trials["index"].tolist() == list(range(N))
    hashed = instance_hash(seen["query_x"][3, 7]).hex().encode()
    assert trials["query_sha256"][3, 7] == hashed
    assert trials["query_sha256"].shape == (N, 75)
    assert trials["support_sha256"].shape == (N, 5)


def test_no_query_label_is_exported(trials):
    assert set(trials) == {
        *("about", "index", "support_y", "support_x", "query_x"),
        *("support_sha256", "query_sha256"),
    }
    about = json.loads(str(trials["about"]))
    assert about["predictions"] == [N, 75]
    assert (about["env"], about["data"]["name"]) == (GLYPHS, "glyphs")


def test_lines_hold_what_the_arrays_hold(tmp_path, trials):
    done = export_trials(GLYPHS, tmp_path / "trials.jsonl", limit=3)
    about, *lines = map(json.loads, done.path.read_text().splitlines())
    assert about["predictions"] == [3, 75]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert lines[2]["query_sha256"] == [h.decode() for h in trials["query_sha256"][2]]
    assert set(lines[0]) == {"index", "support_y", "support_sha256", "query_sha256"}


def test_answers_of_another_framework_score_what_the_agent_scores(tmp_path, trials):
    path = tmp_path / "predictions.npz"
    np.savez(path, predictions=nearest(trials), about=trials["about"])
    mine = score(path, GLYPHS, name="theirs", budget="smoke", out=tmp_path / "store")
    agent = lazybench.run(
        *("nearest_pixel", GLYPHS), budget="smoke", limit=N, out=tmp_path, runs=tmp_path / "runs"
    )
    assert mine.trials.scores_array().tolist() == agent.trials.scores_array().tolist()
    assert (mine.kind, mine.agent.trained_by, mine.limited) == ("submitted", "external", True)
    assert mine.cost.wall_s is None
    (kept,) = lazybench.load_records(out=tmp_path / "store")
    assert kept == mine
    (board,) = boards.build([kept])
    assert "submitted" in board.rows[0].marks
    (file,) = (tmp_path / "store").rglob("*.json")
    assert verify(file).verdict == "not reproducible here"


def test_rows_may_come_in_any_order_with_their_index(tmp_path, trials):
    np.save(tmp_path / "straight.npy", nearest(trials))
    order = np.random.default_rng(0).permutation(N)
    np.savez(tmp_path / "mixed.npz", predictions=nearest(trials)[order], index=order)
    straight, mixed = (
        score(tmp_path / name, GLYPHS, name="theirs", budget="smoke")
        for name in ("straight.npy", "mixed.npz")
    )
    assert mixed.trials == straight.trials
    assert mixed.key == straight.key


def test_all_official_trials_are_no_limit(tmp_path):
    np.save(tmp_path / "zeros.npy", np.zeros((40, 75), np.int64))
    record = score(tmp_path / "zeros.npy", GLYPHS, name="zeros", budget="smoke")
    assert (record.limited, record.metrics["accuracy"].value) == (False, pytest.approx(0.2))


def test_regression_takes_values(tmp_path):
    done = export_trials(SINUS, tmp_path / "t.npz", budget="smoke")
    np.save(tmp_path / "p.npy", np.zeros(done.about["predictions"], np.float32))
    record = score(tmp_path / "p.npy", SINUS, name="zeros", budget="smoke")
    assert record.metrics["mse"].value > 0.5


def test_the_same_name_with_other_answers_is_refused(tmp_path):
    np.save(tmp_path / "p.npy", np.zeros((8, 75), np.int64))
    options = {"name": "theirs", "budget": "smoke", "out": tmp_path / "store"}
    score(tmp_path / "p.npy", GLYPHS, **options)
    score(tmp_path / "p.npy", GLYPHS, **options)
    answers = np.zeros((8, 75), np.int64)
    answers[0] = 1 + np.arange(75) % 4
    np.save(tmp_path / "p.npy", answers)
    with pytest.raises(RecordConflict):
        score(tmp_path / "p.npy", GLYPHS, **options)
    assert score(tmp_path / "p.npy", GLYPHS, **options, config={"lr": 1}).config == {"lr": 1}


ZEROS = np.zeros((8, 75), np.int64)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"answers": ZEROS}, "has no 'predictions', it holds answers"),
        ({"predictions": ZEROS[:, 1:]}, r"answers must be \[trials, 75\], got \[8, 74\]"),
        ({"predictions": ZEROS[0, :8]}, r"answers must be \[trials, 75\], got \[8\]"),
        ({"predictions": ZEROS[:0]}, "without trials"),
        ({"predictions": np.int64(3)}, "without trials"),
        ({"predictions": ZEROS + 5}, r"labels must lie in \[0, 5\)"),
        ({"predictions": ZEROS - 1}, r"labels must lie in \[0, 5\)"),
        ({"predictions": ZEROS + 0.5}, "must be integer labels, got float64"),
        ({"predictions": np.tile(ZEROS, (6, 1))}, "has 48 trials; .* has 40 at budget smoke"),
        ({"predictions": ZEROS, "index": np.arange(8) + 1}, "index must name each trial from 0"),
        ({"predictions": ZEROS, "index": np.zeros(8, int)}, "index must name each trial from 0"),
        ({"predictions": ZEROS, "index": np.arange(7)}, "index must name each trial from 0"),
        ({"predictions": ZEROS, "index": np.int64(0)}, "index must name each trial from 0"),
        ({"predictions": ZEROS, "index": np.zeros(0)}, "index must name each trial from 0"),
        ({"predictions": ZEROS, "about": np.array("{")}, "'about' isn't what"),
        ({"predictions": np.array([["a"] * 75] * 8)}, "must be integer labels"),
    ],
)
def test_bad_predictions_are_refused_with_what_is_wrong(tmp_path, arrays, words):
    path = tmp_path / "p.npz"
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match=words):
        score(path, GLYPHS, name="theirs", budget="smoke")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_files_that_are_no_arrays_are_reported(tmp_path, content):
    path = tmp_path / "p.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="can't read predictions from"):
        score(path, GLYPHS, name="theirs")


def test_python_objects_are_never_read(tmp_path):
    np.savez(tmp_path / "p.npz", predictions=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="can't read predictions from"):
        score(tmp_path / "p.npz", GLYPHS, name="theirs")


def test_predictions_for_other_trials_are_refused(tmp_path, trials):
    about = json.loads(str(trials["about"]))
    other = {**about, "data": {**about["data"], "fingerprint": "cd" * 32}}
    for reported, env in ((about, "glyphs-5way-5shot"), (other, GLYPHS)):
        np.savez(tmp_path / "p.npz", predictions=ZEROS, about=np.array(json.dumps(reported)))
        with pytest.raises(UsageError, match="these predictions are for"):
            score(tmp_path / "p.npz", env, name="theirs", budget="smoke")


def test_a_long_tailed_test_set_is_answered_image_by_image(tmp_path):
    done = export_trials("glyphs-lt-100", tmp_path / "t.npz", budget="smoke", arrays=True)
    with np.load(done.path) as file:
        hashes, x = file["image_sha256"], file["x"]
    assert done.about["predictions"] == [len(hashes)]
    assert instance_hash(x[5]).hex().encode() == hashes[5]
    answers = np.zeros(len(hashes), np.int64)
    np.save(tmp_path / "p.npy", answers)
    record = score(tmp_path / "p.npy", "glyphs-lt-100", name="zeros", budget="smoke", seed=3)
    correct = record.trials.scores_array()
    # Class after class: the first class alone is right.
    assert correct[: int(correct.sum())].all()
    assert record.metrics["accuracy"].value == pytest.approx(correct.sum() / len(correct))
    np.save(tmp_path / "p.npy", answers[1:])
    with pytest.raises(UsageError, match="one for each image of the test set"):
        score(tmp_path / "p.npy", "glyphs-lt-100", name="zeros", budget="smoke")


def test_answers_to_the_same_image_must_be_the_same(tmp_path, monkeypatch):
    from lazybench.verify import submit

    real = submit.part_hashes
    monkeypatch.setattr(submit, "part_hashes", lambda part: [b"same"] * len(real(part)))
    done = export_trials("glyphs-lt-100", tmp_path / "t.npz", budget="smoke")
    np.save(tmp_path / "p.npy", np.arange(done.about["predictions"][0]) % 2)
    with pytest.raises(UsageError, match="image 1 of the test set is identical to an earlier one"):
        score(tmp_path / "p.npy", "glyphs-lt-100", name="zeros", budget="smoke")


def test_attacks_are_refused_with_the_reason(tmp_path):
    env = "glyphs-net4-untargeted"
    np.save(tmp_path / "p.npy", ZEROS)
    with pytest.raises(UsageError, match="can't prove how many queries were sent"):
        score(tmp_path / "p.npy", env, name="theirs")
    with pytest.raises(UsageError, match="can't prove how many queries were sent"):
        export_trials(env, tmp_path / "t.npz")


def test_what_cannot_be_exported_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    for path, options, error, words in (
        ("t.csv", {}, UsageError, "written to .npz or .jsonl"),
        ("t.jsonl", {"arrays": True}, UsageError, "--arrays goes with .npz"),
        ("file/t.npz", {"limit": 1}, OutputUnavailable, "output's folder .* is a file"),
        ("t.npz", {"limit": 0}, UsageError, "limit must be at least 1"),
    ):
        with pytest.raises(error, match=words):
            export_trials(GLYPHS, tmp_path / path, **options)
    with pytest.raises(UnknownName):
        export_trials("nothing", tmp_path / "t.npz")
