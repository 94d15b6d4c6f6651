"""`lazybench attack`: reports that add up, exit codes, and a run that is killed and goes on."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from lazybench import files
from lazybench.cli import main
from lazybench.envs.attack.oracle import Oracle
from lazybench.envs.attack.protocol import read_protocol
from lazybench.envs.own_target.form import TargetForm, in_form
from lazybench.envs.own_target.report import markdown
from lazybench.envs.own_target.user_target import EightBit, inner_eps
from lazybench.errors import ContractError, UsageError

SOURCE = '''
import numpy as np
import torch


def bright(rows):
    """Class 0 up to a mean brightness of .6, class 1 beyond, class 2 never."""
    mean = rows.flatten(1).mean(1)
    return torch.stack([0 * mean, 50 * (mean - 0.6), 0 * mean - 90], 1)


def bytes_last(images):
    assert isinstance(images, np.ndarray) and images.shape[3] == 1
    mean = images.mean(axis=(1, 2, 3)) / 255
    high = 1 / (1 + np.exp(-50 * (mean - 0.6)))
    return np.stack([1 - high, high, 0 * high], 1)


def one_logit(rows):
    return 50 * (rows.flatten(1).mean(1) - 0.6)


def one(rows):
    return torch.sigmoid(one_logit(rows))[:, None]


def purifies(rows):
    with torch.enable_grad():
        wanted = rows.detach().requires_grad_()
        (slope,) = torch.autograd.grad((wanted**2).sum(), wanted)
    return bright(rows - 0 * slope)


def noisy(rows):
    return bright(rows) + torch.rand(len(rows), 3)


def batchy(rows):
    return bright(rows) + rows.shape[0] * torch.tensor([0.0, 0.1, 0.0])


def decides(rows):
    return (rows.flatten(1).mean(1) > 0.6).long()


def stubborn(rows):
    return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(rows), -1)


def broken(rows):
    raise RuntimeError("no such layer")


def ends(rows):
    raise SystemExit(0)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.noise = torch.nn.Dropout(0.9)

    def forward(self, rows):
        return bright(self.noise(rows))
'''
BRIGHTNESS = (100, 120, 140, 149, 152, 160)
"""Of six images of four pixels; the target takes the last one for another class than its label."""


class Own(NamedTuple):
    """A target file, an npz file of images and the folder of the report."""

    file: Path
    images: Path
    out: Path


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    monkeypatch.chdir(tmp_path)
    found = Own(tmp_path / "mine.py", tmp_path / "images.npz", tmp_path / "report")
    found.file.write_text(SOURCE)
    x = np.repeat(np.array(BRIGHTNESS, np.uint8), 4).reshape(6, 1, 2, 2)
    np.savez(found.images, x=x, y=np.zeros(6, np.int64))
    (tmp_path / "nine.txt").write_text("9\n" * 6)
    return found


def words(own: Own, *more: str, target: str = "bright", budget: int = 60) -> list[str]:
    where = target if ":" in target else f"{own.file}:{target}"
    given = ["attack", "--target", where, "--images", str(own.images), "--out", str(own.out)]
    return [*given, "--query-budget", str(budget), "--quiet", *more]


def report_facts(own: Own) -> Any:
    return json.loads((own.out / "report.json").read_text())


def test_a_report_adds_up(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    # Four pixels up by eps: 153 / 255 is the border, so 120 is .26 away in L2, 100 is .42 away.
    argv = words(own, "--eps", "0.3", "--attacks", "square,hopskipjump", "--fail-under", "0.5")
    assert main(argv) == 3
    shown = capsys.readouterr()
    assert "worst case" in shown.out
    assert "below --fail-under 0.5" in shown.err
    facts = report_facts(own)
    assert facts["images"] == 6
    assert facts["clean_accuracy"]["accuracy"] == pytest.approx(5 / 6)
    assert [each["attack"] for each in facts["attacks"]] == ["square", "hopskipjump"]
    assert facts["asked"] is None
    rows = list(csv.DictReader((own.out / "images.csv").read_text().splitlines()))
    assert [row["right"] for row in rows] == ["1"] * 5 + ["0"]
    for each in facts["attacks"]:
        won = [row[f"{each['attack']}_success"] == "1" for row in rows]
        assert each["accuracy"] == pytest.approx((5 - sum(won)) / 6)
        for row, success in zip(rows, won, strict=True):
            if success:
                assert 0 < float(row[f"{each['attack']}_distance"]) <= 0.3 + 1e-6
                assert 0 < int(row[f"{each['attack']}_success_query"]) <= 60
    assert rows[0]["robust"] == "1"
    worst = [row["robust"] == "1" for row in rows]
    assert facts["worst_case"]["accuracy"] == pytest.approx(sum(worst) / 6)
    assert worst == [
        row["right"] == "1" and row["square_success"] == row["hopskipjump_success"] == "0"
        for row in rows
    ]
    with np.load(own.out / "adversarials.npz") as held:
        assert len(held["x"]) == sum(
            row[f"{name}_success"] == "1" for row in rows for name in ("square", "hopskipjump")
        )
        mean = torch.from_numpy(held["x"]).flatten(1).mean(1)
        assert (mean > 0.6).all()
        far = np.sqrt(((held["x"] - held["clean"]) ** 2).sum((1, 2, 3)))
        np.testing.assert_allclose(far, held["distance"], rtol=1e-5)
        # Two classes: whatever leaves class 0 is taken for class 1.
        assert held["class"].tolist() == [1] * len(held["x"])
    for row in rows:
        taken = {"1": "1", "0": "", "": ""}
        assert row["square_class"] == taken[row["square_success"]]
    turned = sum("1" in (row["square_success"], row["hopskipjump_success"]) for row in rows)
    assert facts["changes"] == [{"label": 0, "class": 1, "images": turned}]
    assert "Classes, by" not in (own.out / "report.md").read_text()
    assert f"| 0 | 1 | {turned} |" in (own.out / "report.md").read_text()
    with Image.open(own.out / "sheet.png") as sheet:
        # Two pixels a side, enlarged to 96, in lines of two images with the classes below.
        lines = -(-turned // 2)
        assert sheet.size == (6 * 97 + 1, lines * (98 + 13))
        assert np.asarray(sheet)[98:111].max() > 200
        assert len(np.unique(np.asarray(sheet)[1:97, 1:97].reshape(-1, 3), axis=0)) == 1
    assert "upper bounds of robustness" in (own.out / "report.md").read_text()


def test_a_target_that_nothing_turns(own: Own) -> None:
    argv = words(own, "--attacks", "square", "--fail-under", "1", "--json", target="stubborn")
    # A folder of somebody's own isn't written to; an earlier report's is.
    own.out.mkdir()
    for name in ("sheet.png", "report.md", "images.csv"):
        mine = own.out / name
        mine.write_text("my own")
        assert main(argv) == 73
        assert mine.read_text() == "my own"
        assert list(own.out.iterdir()) == [mine]
        mine.unlink()
    assert main(argv) == 0
    (own.out / "sheet.png").write_text("of an earlier report")
    assert main(argv) == 0
    facts = report_facts(own)
    assert facts["worst_case"]["accuracy"] == 1
    assert facts["attacks"][0]["mean_queries"] == 60
    assert facts["attacks"][0]["median_distance"] is None
    assert not (own.out / "sheet.png").exists()


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("bytes_last", ("--layout", "nhwc", "--bounds", "0,255", "--answers", "probs")),
        ("decides", ("--answers", "label", "--classes", "3")),
        ("Net", ()),
        ("purifies", ()),
    ],
)
def test_layouts_bounds_and_answers(own: Own, target: str, options: tuple[str, ...]) -> None:
    arrays = ("--arrays", "numpy") if target == "bytes_last" else ()
    argv = words(own, *options, *arrays, "--eps", "1", "--attacks", "hopskipjump", target=target)
    assert main(argv) == 0
    assert report_facts(own)["clean_accuracy"]["accuracy"] == pytest.approx(5 / 6)
    assert report_facts(own)["worst_case"]["accuracy"] < 5 / 6


@pytest.mark.parametrize(
    ("more", "target", "code", "message"),
    [
        (("--attacks", "squar"), "bright", 2, "square"),
        (("--attacks", "square,square"), "bright", 2, "given twice"),
        (("--attacks", "meta_attack"), "bright", 2, "must be trained"),
        (("--attacks", "reptile"), "bright", 2, "isn't an attack agent"),
        (("--attacks", "surrogate_prior"), "bright", 2, "such as square"),
        (
            ("--answers", "label", "--classes", "3", "--attacks", "surrogate_prior"),
            *("decides", 2, "a target that shows scores"),
        ),
        (("--answers", "label"), "decides", 2, "needs classes"),
        (("--classes", "9", "--labels", "nine.txt"), "broken", 2, "[0, 9), the target's"),
        (("--eps", "inf", "--attacks", "square"), "bright", 2, "such as hopskipjump"),
        (("--answers", "label", "--classes", "3", "--attacks", "square"), "decides", 2, "scores"),
        (("--answers", "probs"), "bright", 3, "declare answers 'scores'"),
        (("--eps", "-1"), "bright", 2, "eps must be"),
        (("--eps", "0.001", "--norm", "linf", "--eight-bit"), "bright", 2, "one brightness"),
        (("--query-budget", "0"), "bright", 2, "query_budget"),
        (("--bounds", "1"), "bright", 2, "--bounds"),
        (("--bounds", "1,0"), "bright", 2, "the lower first"),
        (("--fail-under", "60"), "bright", 2, "--fail-under"),
        (("--header", "secret"), "bright", 2, "--header takes"),
        ((), "broken", 3, "no such layer"),
        ((), "ends", 3, "rows: SystemExit: 0"),
        ((), "nothing", 2, "has no 'nothing'"),
    ],
)
def test_mistakes_end_in_one_line(
    own: Own,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    target: str,
    code: int,
    message: str,
) -> None:
    assert main(words(own, *more, target=target)) == code
    err = capsys.readouterr().err
    assert message in err
    assert "secret" not in err
    assert err.startswith("error: ")
    assert not (own.out / "report.json").exists()


def test_rounding_to_eight_bits_stays_inside_the_ball() -> None:
    def protocol(norm: Any, eps: str) -> EightBit:
        result = read_protocol(
            1,
            norm=norm,
            eps=eps,
            query_budget=1,
            mode=None,
            targeted=False,
            access="scores",
            target_rule="next",
        )
        return EightBit(**vars(result))

    assert inner_eps(protocol("linf", "8/255"), 784) == pytest.approx(8 / 255)
    assert inner_eps(protocol("linf", "0.033"), 784) == pytest.approx(8 / 255)
    assert inner_eps(protocol("l2", "inf"), 784) == float("inf")
    with pytest.raises(UsageError, match="one brightness"):
        inner_eps(protocol("linf", "0.003"), 784)
    for pixels, eps in ((784, 3.0), (3072, 0.5)):
        inner = inner_eps(protocol("l2", str(eps)), pixels)
        assert 0.95 * eps < inner < eps
        clean = torch.randint(60, 200, (500, pixels)) / 255
        apart = torch.nn.functional.normalize(torch.randn(500, pixels)) * inner
        sent = ((clean + apart) * 255).round() / 255
        assert ((sent - clean).norm(dim=1) <= eps).float().mean() > 0.99


def test_probabilities_and_labels_become_scores() -> None:
    probs = TargetForm(answers="probs")
    result = in_form(lambda rows: [[0.25, 0.75, 0.0]] * len(rows), probs)(torch.zeros(2, 1, 1, 1))
    assert result[0].exp().tolist() == pytest.approx([0.25, 0.75, 0])
    for answer in ([[0.5, 1.5]], [[1, 2, 3], [1]], [0.5, 0.5], "cat"):
        with pytest.raises(ContractError):
            probs.scores(answer, 1)
    labels = TargetForm(answers="label", classes=3)
    assert labels.scores([2], 1).argmax(1).tolist() == [2]
    for answer in ([3], [-1], [0.0], [[0]], [0, 1]):
        with pytest.raises(ContractError):
            labels.scores(answer, 1)


def test_one_number_is_two_classes_where_it_is_declared(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    probability = TargetForm(answers="binary")
    result = probability.scores(torch.tensor([[0.25], [1.0]]), 2)
    assert result[0].exp().tolist() == pytest.approx([0.75, 0.25])
    assert result[1].argmax() == 1
    logit = TargetForm(answers="binary_logits").scores(np.array([-2.0, 30.0]), 2)
    expected = torch.sigmoid(torch.tensor([-2.0, 30.0]))
    torch.testing.assert_close(logit.softmax(1)[:, 1], expected)
    for answer, match in (([[0.5, 0.5]], "one number each"), ([1.5], "binary_logits"), ([], "one")):
        with pytest.raises(ContractError, match=match):
            probability.scores(answer, 1)
    with pytest.raises(UsageError, match="has 2 classes"):
        TargetForm(answers="binary", classes=3)
    # Found, not declared: a single class can't be left, so nothing would be attacked.
    for form in (TargetForm(), TargetForm(answers="probs")):
        for found in ([[0.5]], [0.5], np.zeros((1, 0))):
            with pytest.raises(ContractError, match="at least 2 classes"):
                form.scores(found, 1)
            with pytest.raises(ContractError, match=r"declare --answers label --classes N"):
                form.scores(np.array([1]), 1)
    with pytest.raises(ContractError, match="at least 2 classes"):
        Oracle(lambda rows: torch.zeros(len(rows), 1), None)(torch.zeros(2, 1, 1, 1))

    assert main(words(own, target="one")) == 3
    assert "declare --answers binary" in capsys.readouterr().err
    assert not (own.out / "report.json").exists()
    for target, answers in (("one", "binary"), ("one_logit", "binary_logits")):
        argv = words(own, "--answers", answers, "--attacks", "square", "--eps", "1", target=target)
        assert main([*argv, "--out", str(own.out / target)]) == 0
        facts = json.loads((own.out / target / "report.json").read_text())
        assert facts["clean_accuracy"]["accuracy"] == pytest.approx(5 / 6)
        assert facts["worst_case"]["accuracy"] < 5 / 6


def test_targeted_attacks_work_as_they_are(own: Own) -> None:
    x = np.repeat(np.array([40, 60, 220, 240, 128], np.uint8), 4).reshape(5, 1, 2, 2)
    np.savez(own.images, x=x, y=np.array([0, 0, 1, 1, 0]))
    two = ("--targeted", "--eps", "2", "--norm", "l2")
    for target, more in (("one", ("--answers", "binary")), ("decides", ("--answers", "label"))):
        classes = ("--classes", "2") if target == "decides" else ()
        out = own._replace(out=own.out / target)
        assert main(words(out, *two, *more, *classes, target=target)) == 0
        facts = report_facts(out)
        assert facts["protocol"]["targeted"] is True
        assert {each["attack"] for each in facts["attacks"]} >= {"hopskipjump"}
        # An image of the class is the first query of an attacker that starts from one.
        by_label = next(each for each in facts["attacks"] if each["attack"] == "hopskipjump")
        assert by_label["success"] == by_label["mean_queries"] == 1
        assert facts["notes"] == []
    with np.load(own.out / "decides" / "adversarials.npz") as held:
        mean = held["x"].mean((1, 2, 3))
        assert ((mean > 0.6) == (held["label"] == 0)).all()


def test_a_targeted_attack_says_which_class_it_has_no_image_of(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(own, "--targeted", "--eps", "inf", "--attacks", "hopskipjump,boundary", budget=200)
    argv.remove("--quiet")
    assert main(argv) == 0
    err = capsys.readouterr().err
    assert "no image is assigned to class 1 (1 of 1 goal classes have none)" not in err
    np.savez(own.images, x=np.full((2, 1, 2, 2), 100, np.uint8), y=np.zeros(2, np.int64))
    assert main([*argv, "--out", str(own.out / "two")]) == 0
    assert "no image is assigned to class 1 (1 of 1 goal classes have none)" in (
        capsys.readouterr().err
    )
    # Found by search all the same, and every query of it is charged.
    facts = json.loads((own.out / "two" / "report.json").read_text())
    for each in facts["attacks"]:
        assert each["success"] == 1
        assert each["mean_queries"] > 1


def test_random_answers_and_those_that_depend_on_the_batch_are_said(
    own: Own, loopback: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, random, batch in (("bright", 0, 0), ("noisy", 4, 0), ("batchy", 0, 4)):
        out = own._replace(out=own.out / target)
        argv = words(out, "--attacks", "square", target=target, budget=2)
        argv.remove("--quiet")
        assert main(argv) == 0
        facts, err = report_facts(out), capsys.readouterr().err
        assert facts["probes"] == {
            **{"images": 4, "queries": 8, "random": random, "batch": batch},
            "probable": 0,
        }
        assert ("answers are random: 4 of 4" in err) == (target == "noisy")
        assert ("depend on the batch: 4 of 4" in err) == (target == "batchy")
        assert len(facts["notes"]) == (target != "bright")
        page = (out.out / "report.md").read_text()
        assert "with 8 queries that aren't charged to any attack" in page
        assert all(note in page for note in facts["notes"])
    loopback.before = lambda number: (
        (200, {}, json.dumps({"predictions": [[0.5 + number, 0]]}).encode()) if number else None
    )
    argv = words(own, "--limit", "1", "--attacks", "square", target=loopback.url, budget=1)
    assert main(argv) == 0
    (note,) = report_facts(own)["notes"]
    assert "--repeats" in note
    asked = len(loopback.requests)
    assert main(argv) == 0
    # Probes are in the journal too; whoever declares random answers isn't probed.
    assert len(loopback.requests) == asked
    assert main([*argv, "--fresh", "--repeats"]) == 0
    assert report_facts(own)["probes"] is None


@pytest.mark.parametrize(
    ("option", "name"),
    [
        (("--rate", "5"), "--rate"),
        (("--timeout", "5"), "--timeout"),
        (("--header", "X-Key: abc"), "--header"),
        (("--repeats",), "--repeats"),
        (("--fresh",), "--fresh"),
    ],
)
def test_settings_of_requests_go_with_an_address(
    own: Own, option: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(own, *option)) == 2
    said = capsys.readouterr().err
    assert f"{name}: only for a target behind an address" in said
    assert "abc" not in said


def test_probabilities_that_were_declared_as_logits_are_said(own: Own) -> None:
    base = ("--layout", "nhwc", "--bounds", "0,255", "--arrays", "numpy", "--attacks", "square")
    for answers, notes in (("scores", 1), ("probs", 0)):
        out = own._replace(out=own.out / answers)
        assert main(words(out, *base, "--answers", answers, target="bytes_last", budget=2)) == 0
        assert len(report_facts(out)["notes"]) == notes
    assert "--answers probs" in report_facts(own._replace(out=own.out / "scores"))["notes"][0]


def test_a_full_disk_ends_with_74(
    own: Own, loopback: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = words(own, "--attacks", "square", target=loopback.url, budget=5)

    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def before(number: int) -> None:
        monkeypatch.setattr(files.os, "write", full)

    loopback.before = before
    assert main(argv) == 74
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(own.file.parent)
    loopback.before = lambda number: None
    assert main(argv) == 0


def test_an_earlier_report_of_other_results_is_kept(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(own, "--attacks", "square", budget=5)
    assert main(argv) == 0
    first = (own.out / "report.json").read_bytes()
    assert main(argv) == 0
    assert "the earlier report" not in capsys.readouterr().err
    assert not (own.out / "earlier-1").exists()
    before = (own.out / "report.json").read_bytes()
    assert main([*argv, "--seed", "1"]) == 0
    assert f"it was moved to {own.out / 'earlier-1'}" in capsys.readouterr().err
    assert (own.out / "earlier-1" / "report.json").read_bytes() == before
    assert json.loads(first)["protocol"]["seed"] == 0
    assert report_facts(own)["protocol"]["seed"] == 1
    assert main(argv) == 0
    assert sorted(path.name for path in own.out.glob("earlier-*")) == ["earlier-1", "earlier-2"]


def test_no_name_of_an_image_is_a_formula(own: Own) -> None:
    folder = own.file.parent / "pictures" / "0"
    folder.mkdir(parents=True)
    for name in ("=1+1.png", "-2.png", "@x.png", "+3.png", "a\tb.png"):
        Image.new("L", (2, 2), 100).save(folder / name)
    argv = words(own, "--labels", str(own.file.parent / "labels.txt"), budget=2)
    (own.file.parent / "labels.txt").write_text("0\n" * 5)
    argv[argv.index("--images") + 1] = str(folder)
    assert main([*argv, "--attacks", "square"]) == 0
    cells = [
        cell
        for row in csv.reader((own.out / "images.csv").read_text().splitlines())
        for cell in row
        # No nearest image has a distance of -1.
        if cell != "-1"
    ]
    assert "'=1+1.png" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "-", "+", "@", "\t", "\r"))]


def test_folders_that_are_fewer_than_the_targets_classes_are_said(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, level in (("dark", 90), ("light", 200)):
        (own.file.parent / "pictures" / name).mkdir(parents=True)
        Image.new("L", (2, 2), level).save(own.file.parent / "pictures" / name / "a.png")
    argv = words(own, "--attacks", "square", budget=2)
    argv[argv.index("--images") + 1] = str(own.file.parent / "pictures")
    assert main(argv) == 0
    (note,) = report_facts(own)["notes"]
    assert "the target has 3 classes and there are 2 class folders" in note
    # Also where no progress is shown, and next to JSON.
    assert note in capsys.readouterr().err
    assert main([*argv, "--json"]) == 0
    shown = capsys.readouterr()
    assert note in shown.err
    assert json.loads(shown.out)["notes"] == [note]
    assert report_facts(own)["classes"] == ["dark", "light"]


def test_a_report_names_the_classes_of_folders(own: Own) -> None:
    for name, level in (("dark", 120), ("light", 200)):
        (own.file.parent / "pictures" / name).mkdir(parents=True)
        Image.new("L", (2, 2), level).save(own.file.parent / "pictures" / name / "a.png")
    argv = words(own, "--attacks", "square", "--eps", "2")
    argv[argv.index("--images") + 1] = str(own.file.parent / "pictures")
    assert main(argv) == 0
    text = (own.out / "report.md").read_text()
    assert "Classes, by the folders of the images: 0 dark, 1 light.\n" in text
    assert "| 0 dark | 1 light | 1 |" in text
    # Names of folders may hold anything, and there may be many.
    results = report_facts(own)
    page = markdown(results | {"classes": ["a | b\n# c", "<b>x</b>"]})
    assert r"0 a \| b \# c, 1 &lt;b&gt;x&lt;/b&gt;." in page
    assert r"| 0 a \| b \# c | 1 &lt;b&gt;x&lt;/b&gt; | 1 |" in page
    many = markdown(results | {"classes": [f"n{number}" for number in range(1000)]})
    assert "99 n99, and 900 others: see `classes` in report.json." in many
    assert "n100" not in many


@pytest.mark.parametrize(
    "wrong",
    [
        ("--eps", "inf"),
        ("--norm", "linf", "--eps", "0.003"),
        ("--attacks", "square,surrogate_prior"),
        ("--answers", "label", "--classes", "3", "--attacks", "square"),
        ("--white-box",),
    ],
)
def test_a_wrong_setting_costs_no_query_and_no_journal(
    own: Own, loopback: Any, capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...]
) -> None:
    argv = words(own, "--attacks", "square", "--limit", "2", target=loopback.url, budget=5)
    assert main(argv) == 0
    paid, journal = len(loopback.answered), (own.out / "queries.jsonl").read_bytes()
    argv = words(own, *wrong, "--limit", "2", "--fresh", target=loopback.url, budget=5)
    assert main(argv) == 2
    assert "error: " in capsys.readouterr().err
    assert len(loopback.answered) == paid
    assert (own.out / "queries.jsonl").read_bytes() == journal
    assert not (own.out / "queries-1.jsonl").exists()


def test_an_address_that_stays_away_is_unavailable(
    own: Own, loopback: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    loopback.before = lambda number: (404, {}, b"no such model")
    assert main(words(own, target=loopback.url)) == 3
    loopback.before = lambda number: (503, {}, b"")
    assert main(words(own, "--retries", "0", target=loopback.url)) == 69
    assert "the same command resumes" in capsys.readouterr().err


def test_a_finished_run_asks_nothing_again_until_it_is_asked_to(
    own: Own, loopback: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(own, "--attacks", "square", "--limit", "2", target=loopback.url, budget=5)
    argv.remove("--quiet")
    assert main(argv) == 0
    paid = len(loopback.answered)
    assert main(argv) == 0
    assert len(loopback.answered) == paid
    assert f"{paid} answers are in" in capsys.readouterr().err
    journal = own.out / "queries.jsonl"
    kept = journal.read_bytes()
    assert main([*argv, "--fresh", "--quiet"]) == 0
    assert len(loopback.answered) == 2 * paid
    # Answers cost money: a mistake or a server that is down loses none of them.
    assert main([*argv, "--fresh", "--quiet", "--eps", "nonsense"]) == 2
    assert kept in [path.read_bytes() for path in own.out.glob("queries-*.jsonl")]


def test_a_report_counts_images_that_were_sent_without_an_answer(own: Own, loopback: Any) -> None:
    """A service may charge them, and the same command reports the same results without them."""
    loopback.before = lambda number: (503, {}, b"") if number == 1 else None
    argv = words(own, "--attacks", "square", "--batch", "2", target=loopback.url, budget=5)
    assert main([*argv, "--concurrency", "1", "--limit", "4"]) == 0
    assert report_facts(own)["unanswered"] == 2
    assert "Another 2 images were sent without an answer" in (own.out / "report.md").read_text()
    assert len(loopback.answered) == report_facts(own)["asked"]
    assert main([*argv, "--concurrency", "1", "--limit", "4"]) == 0
    assert (report_facts(own)["asked"], report_facts(own)["unanswered"]) == (0, 0)
    assert "Another" not in (own.out / "report.md").read_text()
    assert not list(own.out.glob("earlier*"))


def test_killed_midway_and_resumed_no_image_is_paid_twice(own: Own, loopback: Any) -> None:
    argv = words(own, "--eps", "0.3", "--concurrency", "1", "--batch", "3", target=loopback.url)
    whole = Own(own.file, own.images, own.out.with_name("whole"))
    assert main(words(whole, "--eps", "0.3", "--batch", "64", target=loopback.url)) == 0
    paid = len(loopback.answered)
    # Four images are asked again twice, as probes.
    assert paid == len(set(loopback.answered)) + 8 == report_facts(whole)["asked"]

    del loopback.requests[:], loopback.answered[:]
    held, release = threading.Event(), threading.Event()

    def stall(number: int) -> Any:
        if number < 12:
            return None
        held.set()
        release.wait(300)
        return (503, {}, b"")

    loopback.before = stall
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", "lazybench", *argv], env=env) as process:
        try:
            # With one request after another, all answers before this one are on the disk.
            assert held.wait(300)
        finally:
            process.send_signal(signal.SIGKILL)
    release.set()
    before = len(loopback.answered)
    assert 0 < before < paid
    loopback.before = lambda number: None
    assert main(argv) == 0
    assert len(loopback.answered) == len(set(loopback.answered)) + 8 == paid
    resumed, once = report_facts(own), report_facts(whole)
    assert resumed["asked"] == paid - before
    for facts in (resumed, once):
        for each in facts["attacks"]:
            del each["wall_s"]
        del facts["asked"], facts["unanswered"], facts["replayed"]
    assert resumed == once
    # What was sent has 8 bits, and distances are those of what was sent.
    with np.load(own.out / "adversarials.npz") as found:
        assert found["x"].dtype == np.uint8
        apart = (found["x"].astype(float) - found["clean"]) / 255
        np.testing.assert_allclose(np.sqrt((apart**2).sum((1, 2, 3))), found["distance"], rtol=1e-5)


def test_bad_queries_end_an_attack_over_http_and_after_a_break(own: Own, loopback: Any) -> None:
    """The address never answers a row beyond the budget, however its requests are cut."""
    loopback.label = True
    label = ("--answers", "label", "--classes", "2", "--attacks", "hopskipjump")
    options = (*label, "--bad-query-budget", "4", "--limit", "2", "--mode", "minimise")
    argv = words(own, *options, "--batch", "3", target=loopback.url, budget=80)
    assert main(argv) == 0
    facts, answered = report_facts(own), len(loopback.answered)
    assert facts["protocol"]["bad_query_budget"] == 4
    rows = list(csv.DictReader((own.out / "images.csv").read_text().splitlines()))
    assert [int(row["hopskipjump_bad_queries"]) for row in rows] == [4, 4]
    assert facts["attacks"][0]["bad_queries"] == 8
    # Each image also once, and probes of it twice, which no attacker is charged for.
    dark = sum(np.mean(json.loads(each)) <= 0.6 for each in loopback.answered)
    assert dark <= 8 + 2 + 4
    assert "of which at most 4 bad" in (own.out / "report.md").read_text()
    journal = own.out / "queries.jsonl"
    journal.write_text("\n".join(journal.read_text().splitlines()[: answered // 2]) + "\n")
    assert main(argv) == 0
    assert report_facts(own)["attacks"][0] | {"wall_s": 0} == facts["attacks"][0] | {"wall_s": 0}


def test_a_guard_flags_classes(own: Own) -> None:
    options = ("--attacks", "hopskipjump", "--bad-answers", "1", "--limit", "1")
    assert main(words(own, *options)) == 0
    facts = report_facts(own)
    assert facts["protocol"]["bad_answers"] == [1]
    # Every adversarial answer is flagged here, and nothing else is.
    assert 0 < facts["attacks"][0]["bad_queries"] < facts["attacks"][0]["queries"]
    assert "an answer among the classes 1" in (own.out / "report.md").read_text()
    assert main(words(own, "--bad-answers", "some")) == 2


def test_a_guard_of_classes_that_the_target_lacks_is_refused(
    own: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(own, "--bad-answers", "1,3")) == 2
    assert "classes of the target, from 0 to 2, got 3" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [("KeyboardInterrupt", 130), ("RuntimeError", 3)])
def test_the_attacks_before_one_that_stops_are_reported(
    own: Own, capsys: pytest.CaptureFixture[str], error: str, code: int
) -> None:
    stops = f"""

SENT = 0


def stops(rows):
    global SENT
    SENT += len(rows)
    if SENT > 150:
        raise {error}("stop")
    return bright(rows)
"""
    own.file.write_text(SOURCE + stops)
    options = ("--attacks", "square,simba", "--eps", "0.001")
    assert main(words(own, *options, target="stops", budget=20)) == code
    facts = report_facts(own)
    assert [each["attack"] for each in facts["attacks"]] == ["square"]
    assert facts["notes"][-1] == "Stopped: there are no results of simba."
    assert "there are no results of simba" in (own.out / "report.md").read_text()
