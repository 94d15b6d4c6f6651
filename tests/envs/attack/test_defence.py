"""Defended targets: noise, rounded scores and detection, against loops written from the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lazybench import make_env
from lazybench.envs import CATALOGUE
from lazybench.envs.attack.blackbox import BlackBox
from lazybench.envs.attack.defence import Blacklight, Defence, read_defence, window
from lazybench.envs.attack.oracle import Oracle
from lazybench.envs.attack.summary import DETECTION_COLUMNS, summary
from lazybench.errors import UsageError
from lazybench.runner.evaluate import open_env
from lazybench.runner.request import RunRequest, with_protocol
from lazybench.runner.run import run
from lazybench.tasks import Replies

SHAPE = (1, 8, 8)


def bright(images: Tensor) -> Tensor:
    """Class 1 from a mean brightness of .6; the scores show the mean."""
    mean = images.flatten(1).mean(1)
    return torch.stack([0 * mean, 200 * (mean - 0.6)], 1)


def box(defence: str = "none", images: int = 3, target: Any = bright, **changes: Any) -> BlackBox:
    """Images of class 0."""
    given = {"eps": 10.0, "query_budget": 99, "mode": "minimise", **changes}
    clean, label = torch.full((images, *SHAPE), 0.5), torch.zeros(images, dtype=torch.int64)
    return BlackBox(Oracle(target, 2), clean, label, defence=read_defence(defence), **given)


def flat(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, *SHAPE).clone()


class Kept:
    """A target that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def __call__(self, rows: Tensor) -> Tensor:
        self.rows.append(rows.clone())
        return bright(rows)


def test_noise_is_gaussian_and_of_the_given_size() -> None:
    kept = Kept()
    box("noise:0.02", 4, kept).query(flat(*[0.5] * 200), np.arange(200) % 4)
    noise = kept.rows[0].double().numpy() - 0.5
    n = noise.size
    assert abs(noise.mean()) < 4 * 0.02 / np.sqrt(n)
    assert abs(noise.std() / 0.02 - 1) < 4 / np.sqrt(2 * n)
    assert abs((noise**4).mean() / 0.02**4 - 3) < 4 * np.sqrt(96 / n), "the tails of a Gaussian"
    rows = noise.reshape(200, -1)
    alike = np.corrcoef(rows)[np.triu_indices(200, 1)]
    assert np.abs(alike).max() < 6 / 8, "each query of each image has noise of its own"
    assert abs(alike.mean()) < 4 / np.sqrt(len(alike) * 64)


def test_noise_depends_on_trial_and_query_alone() -> None:
    whole = Kept()
    box("noise:0.1", 3, whole).query(flat(*[0.5] * 6), [0, 1, 2, 0, 1, 2])
    for image in range(3):
        alone = Kept()
        one = box("noise:0.1", 1, alone, trial=np.array([image]))
        for _ in range(2):
            one.query(flat(0.5), [0])
        expected = whole.rows[0][[image, image + 3]]
        assert torch.equal(torch.cat(alone.rows[:2]), expected)
    cut = Kept()
    box("noise:0.1", 3, cut, bad_query_budget=9).query(flat(*[0.5] * 6), [0, 1, 2, 0, 1, 2])
    assert torch.equal(cut.rows[0], whole.rows[0])


def test_a_lucky_draw_is_no_success() -> None:
    """On a row a hair from the boundary half of the draws are wrong; the network itself isn't."""
    attacked = box("noise:0.5", 1, mode="first")
    first = attacked.query(flat(*[0.599] * 60), [0] * 60)
    assert 10 < int(first.labels.sum()) < 50
    assert not first.hit.any()
    assert attacked.verdict()["best_l2"][0] == -1
    replies = attacked.query(flat(*[0.601] * 30), [0] * 30)
    assert torch.equal(replies.hit, replies.labels == 1), "the answer must be wrong, too"
    assert attacked.verdict()["success"][0] == 1
    bad = int((first.labels == 0).sum()) + int((replies.labels == 0).sum())
    assert attacked.verdict()["bad_queries"][0] == bad, "bad is what the attacker sees"


@pytest.mark.parametrize("decimals", [0, 1, 2, 6])
def test_scores_are_rounded_as_numpy_rounds_probabilities(decimals: int) -> None:
    rows = flat(*np.linspace(0.57, 0.63, 25))
    exact = box(images=1).query(rows, [0] * 25)
    shown = box(f"round:{decimals}", 1).query(rows, [0] * 25)
    expected = np.round(np.exp(exact.scores.double().numpy()), decimals)
    found = np.exp(shown.scores.double().numpy())
    assert np.allclose(found, expected, atol=1e-6)
    assert bool(shown.scores.isfinite().all())
    assert torch.equal(shown.labels, exact.labels)
    assert torch.equal(shown.hit, exact.hit)


def plain_flags(images: list[np.ndarray], salt: np.ndarray, size: int) -> list[bool]:
    """Section 4 of the paper as a loop over tuples; the fingerprint takes this hash's order."""
    mixed = Blacklight(1, images[0].shape)
    earlier: list[set[tuple[int, ...]]] = []
    flags = []
    for image in images:
        order = mixed.hashes(torch.from_numpy(image[None]))[0]
        sequence = []
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                for channel in range(image.shape[0]):
                    value = float(image[channel, row, column]) * 255 + salt[len(sequence)]
                    sequence.append(round((value % 255) / 50) * 50)
        windows = [tuple(sequence[at : at + size]) for at in range(len(sequence) - size + 1)]
        assert len(windows) == len(order)
        by_hash = dict(zip(order.tolist(), windows, strict=True))
        assert len(set(windows)) == len(by_hash), "equal windows, and these alone, are equal hashes"
        kept = {by_hash[each] for each in sorted(by_hash, reverse=True)[:50]}
        flags.append(any(len(kept & other) > 25 for other in earlier))
        earlier.append(kept)
    return flags


@pytest.mark.parametrize("shape", [(1, 20, 20), (3, 9, 9)])
def test_detection_is_that_of_a_plain_loop(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    base = rng.random(shape)
    images = [base]
    for rows_changed in (1, 2, 4, 6, 7, 20) * 3:
        changed = np.arange(shape[1])[:, None] < rows_changed
        source = images[rng.integers(len(images))]
        images.append(np.where(changed, rng.random(shape), source))
    rows = [image.astype(np.float32) for image in images]
    detector = Blacklight(2, shape)
    expected = plain_flags(rows, detector._salt, window(shape))
    assert 3 < sum(expected) < len(rows) - 3, "both answers occur"
    stacked = torch.from_numpy(np.stack(rows))
    found = detector.flags(stacked.repeat_interleave(2, 0), np.tile([0, 1], len(rows)))
    assert found[::2].tolist() == found[1::2].tolist() == expected
    parts = Blacklight(1, shape)
    one = [parts.flags(stacked[at : at + 1], np.zeros(1, np.int64))[0] for at in range(len(rows))]
    assert one == expected, "sent one by one"
    parts.open(np.array([True]))
    assert not parts.flags(stacked[:1], np.zeros(1, np.int64))[0], "an image opened again"


def test_windows_reach_the_last_value_and_none_beyond() -> None:
    shape = (1, 10, 10)
    detector = Blacklight(1, shape)
    image = torch.zeros(1, *shape)
    clean = detector.hashes(image)[0]
    assert len(clean) == 100 - 50 + 1
    for place, changed in ((99, {50}), (0, {0}), (49, set(range(50))), (50, set(range(1, 51)))):
        other = image.clone()
        other.flatten()[place] = 0.5
        differs = np.flatnonzero(detector.hashes(other)[0] != clean)
        assert set(differs.tolist()) == changed
    assert Blacklight(1, (1, 2, 2)).hashes(torch.zeros(1, 1, 2, 2)).shape == (1, 1)
    assert (window((1, 28, 28)), window((3, 32, 32)), window((3, 224, 224))) == (50, 20, 50)


def noisy(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def attacked_images(defence: str, **more: Any) -> BlackBox:
    given = {"eps": 100.0, "query_budget": 99, "mode": "minimise", **more}
    clean = noisy(2) * 0.5
    return BlackBox(
        Oracle(bright, 2),
        clean,
        torch.zeros(2, dtype=torch.int64),
        defence=read_defence(defence),
        **given,
    )


@pytest.mark.parametrize("mode", ["first", "minimise"])
def test_nothing_that_an_attacker_sees_depends_on_detection(mode: Any) -> None:
    """Two attacks of the same queries, of which one is detected: equal replies, byte for byte."""
    plain, watched = (attacked_images(each, mode=mode) for each in ("none", "detect:blacklight"))
    for step in range(6):
        rows = torch.cat([plain.x, plain.x + 0.1 * step, noisy(2, step)])
        replies = [one.query(rows, [0, 1, 0, 1, 0, 1]) for one in (plain, watched)]
        for name, first, second in zip(Replies._fields, *replies, strict=True):
            assert torch.equal(first, second), name
        assert torch.equal(plain.best, watched.best)
        assert np.array_equal(plain.ledger.nearest, watched.ledger.nearest)
    assert (watched.ledger.detected > 0).all()
    assert not (plain.ledger.detected > 0).any()


def test_a_success_counts_before_the_first_flagged_query_alone() -> None:
    attacked = attacked_images("detect:blacklight")
    far, near = attacked.x + 0.6, attacked.x + 0.4
    attacked.query(torch.cat([far[:1], noisy(1, 8) * 0.5]), [0, 1])
    # The second query of each image repeats one of its own, and the third is a success of both.
    attacked.query(torch.cat([far[:1], noisy(1, 8) * 0.5]), [0, 1])
    attacked.query(near, [0, 1])
    verdict = attacked.verdict()
    assert verdict["detected"].tolist() == [2, 2]
    assert verdict["flagged"][0] >= 1
    assert verdict["success"].tolist() == [1, 0]
    expected = (far[0].clamp(0, 1) - attacked.x[0]).norm()
    assert verdict["best_l2"][0] == pytest.approx(float(expected), rel=1e-5)
    assert verdict["best_l2"][1] == -1
    assert attacked.ledger.nearest[0] < verdict["best_l2"][0], "the attacker sees its own distance"
    attacked.open(np.array([True, False]), attacked.x[:1], attacked.label[:1], None)
    assert attacked.verdict()["detected"].tolist() == [0, 2]


def corner(images: Tensor) -> Tensor:
    """Class 1 where the first pixel is bright."""
    first = images[:, 0, 0, 0]
    return torch.stack([0 * first, 200 * (first - 0.6)], 1)


@pytest.mark.parametrize(("before", "success"), [(0, 1), (1, 0)])
def test_a_flagged_success_does_not_count(before: int, success: int) -> None:
    """It is much like the query before it, where there is one."""
    clean = noisy(1) * 0.5
    wrong = clean.clone()
    wrong[0, 0, 0, 0] = 1.0
    for defence, expected in (("none", 1), ("detect:blacklight", success)):
        attacked = BlackBox(
            Oracle(corner, 2),
            clean,
            torch.zeros(1, dtype=torch.int64),
            eps=9.0,
            query_budget=9,
            defence=read_defence(defence),
        )
        rows = torch.cat([clean] * before + [wrong])
        assert attacked.query(rows, [0] * len(rows)).hit[-1]
        verdict = attacked.verdict()
        assert verdict["success"][0] == expected
        assert verdict["success_query"][0] == expected * (before + 1)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("none", "none"),
        (None, "none"),
        ("noise:.020", "noise:0.02"),
        ("noise:1", "noise:1"),
        ("round:2", "round:2"),
        ("round:0", "round:0"),
        ("detect:blacklight", "detect:blacklight"),
    ],
)
def test_settings_are_read(given: Any, kept: str) -> None:
    assert str(read_defence(given)) == kept
    assert read_defence(kept) == read_defence(given)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "noise",
        "noise:0",
        "noise:-1",
        "noise:nan",
        "noise:2",
        "round:16",
        "round:1.5",
        "detect",
        "detect:other",
        3,
        True,
        "noise:1e-999",
    ],
)
def test_other_settings_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"defence must be none, noise:SIGMA"):
        read_defence(given)


def test_rounding_needs_scores() -> None:
    with pytest.raises(UsageError, match="shows labels alone"):
        read_defence("round:2", "label")


def test_the_default_stays_out_of_protocol_key_and_columns() -> None:
    spec = next(spec for spec in CATALOGUE if spec.id == "glyphs-net4-untargeted")
    assert with_protocol(spec, {"defence": "none"}) is spec
    assert not set(spec.columns) & set(DETECTION_COLUMNS)
    changed = with_protocol(spec, {"defence": "noise:.02"})
    assert changed.columns == (*spec.columns, *DETECTION_COLUMNS)
    env = open_env(changed, 1, "test")
    assert env.protocol["defence"] == env.task.defence == "noise:0.02"
    assert "defence" not in open_env(spec, 1, "test").protocol
    assert Defence() == read_defence("none")


def test_trials_opened_alone_together_or_again_have_the_same_noise() -> None:
    """Scores of three queries of trials 3 and 5, whatever else is open and was open before."""

    def scores(*blocks: list[int]) -> dict[int, Tensor]:
        found = {}
        for trials in blocks:
            env = make_env(
                "glyphs-net4-untargeted",
                num_envs=len(trials),
                backend="torch",
                defence="noise:0.2",
                query_budget=9,
            )
            for _ in range(2):
                seen, _ = env.reset(options={"trials": np.array(trials)})
                replies = [env.box.query(seen["x"], np.arange(len(trials))) for _ in range(3)]
            for place, trial in enumerate(trials):
                found[trial] = torch.stack([each.scores[place] for each in replies])
        return found

    alone, together, other = scores([3], [5]), scores([3, 5]), scores([5, 0, 3])
    for trial in (3, 5):
        assert torch.allclose(alone[trial], together[trial], atol=1e-4)
        assert torch.allclose(alone[trial], other[trial], atol=1e-4)
    assert not torch.allclose(alone[3][0], alone[3][1], atol=1e-2)


def test_a_detected_run_has_its_columns_and_measures(tmp_path: Path) -> None:
    options: Any = {"budget": "smoke", "limit": 2, "out": tmp_path, "runs": tmp_path / "runs"}
    protocol = {"query_budget": 40, "defence": "detect:blacklight"}
    record = run(
        RunRequest("boundary", "glyphs-net4-untargeted-label", protocol=protocol, **options)
    )
    assert record.status == "ok", record.reason
    columns = {name: part.unpack() for name, part in record.trials.columns.items()}
    assert (columns["detected"] > 0).all()
    assert record.metrics["detection_rate"].value == 1
    share = columns["flagged"].sum() / columns["queries"].sum()
    assert record.metrics["flagged_queries"].value == pytest.approx(share)
    env = open_env(CATALOGUE[-1], 1, "test")
    task = env.task
    measures = summary(np.zeros(2), columns, task)
    assert np.isnan(measures["detection_rate"]), "an undefended target detects nothing"
