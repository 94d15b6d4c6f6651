"""`lazybench show ID --png FILE`: what is drawn, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lazybench import make_env
from lazybench.records import Store, Trials


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are written, as matplotlib has them."""
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")
    from lazybench.boards import plots

    seen: list[Any] = []
    real = plots.as_bytes

    def keep(figure: Any, form: str) -> bytes:
        seen.append(figure)
        return real(figure, form)

    monkeypatch.setattr("lazybench.boards.plots.as_bytes", keep)
    monkeypatch.setattr("lazybench.cli.env_picture.as_bytes", keep)
    return seen


def test_record_shows_learning_gammas_and_trials(
    lazybench: Any, make_record: Any, drawn: list[Any]
) -> None:
    curve = [{"step": 5, "val": 0.25}, {"step": 10, "val": 0.5}, {"step": 10, "loss": 1.0}]
    histogram = {"gamma_histogram": {"0.75": 3, "0.95": 1}}
    record = make_record("lazy_reptile", curve=curve, diagnostics=histogram)
    Store("leaderboards").publish(record)
    done = lazybench("show", record.key12, "--png", "run.png")
    assert done.code == 0, done.err
    assert Path("run.png").read_bytes().startswith(b"\x89PNG")
    assert done.out == "run.png: drawn\n"
    assert lazybench("show", record.key12, "--png", "run.png").code == 0
    Path("photo.png").write_bytes(b"\x89PNG of a user")
    done = lazybench("show", record.key12, "--png", "photo.png")
    assert (done.code, "has no mark of lazybench" in done.err) == (73, True)
    assert Path("photo.png").read_bytes() == b"\x89PNG of a user"
    learning, gammas, trials = drawn[0].axes
    assert learning.lines[0].get_xydata().tolist() == [[5, 25], [10, 50]]
    assert [bar.get_height() for bar in gammas.patches] == [75, 25]
    assert [label.get_text() for label in gammas.get_xticklabels()] == ["0.75", "0.95"]
    assert sum(bar.get_height() for bar in trials.patches) == 4


def test_record_without_a_training_shows_its_trials(
    lazybench: Any, make_record: Any, drawn: list[Any]
) -> None:
    record = make_record("chance", trials=Trials.of([1, 0, 0, 1, 1]))
    Store("leaderboards").publish(record)
    assert lazybench("show", record.key12, "--png", "run.png").code == 0
    (trials,) = drawn[0].axes
    assert [bar.get_height() for bar in trials.patches] == [2, 3]


def test_failed_record_has_nothing_to_draw(lazybench: Any, make_record: Any) -> None:
    record = make_record("maml", status="failed", reason="it broke")
    Store("leaderboards").publish(record)
    done = lazybench("show", record.key12, "--png", "run.png")
    assert done.code == 2
    assert "neither a learning curve nor trials" in done.err
    assert not Path("run.png").exists()


def test_finished_run_is_drawn_and_an_unfinished_one_reported(
    lazybench: Any, make_record: Any, drawn: list[Any]
) -> None:
    record = make_record("reptile")
    folder = Path("runs/reptile-x")
    folder.mkdir(parents=True)
    config = {
        "key": "ab" * 32, "agent": "reptile", "env": "x", "budget": "small", "seed": 3,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    done = lazybench("show", "ababab", "--png", "run.png")
    assert done.code == 2
    assert "has no record yet: it is interrupted" in done.err
    path = Store("elsewhere").publish(record)
    reported = {"status": "ok", "record": str(path.resolve())}
    (folder / "done.json").write_text(json.dumps(reported))
    assert lazybench("show", "ababab", "--png", "run.png").code == 0
    assert "reptile on glyphs-5way-1shot" in drawn[0].get_suptitle()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("reptile", "--png", "x.png"), "is an agent, which has no image"),
        (("glyphs", "--png", "x.png"), "is a data set; draw one of its environments"),
        (("glyphs-5way", "--png", "x.pdf"), "ends in .png, got 'x.pdf'"),
        (("glyphs-5way-1shot", "--trial", "3"), "--trial and --agent go with --png"),
        (("maml", "--env", "glyphs-5way", "--png", "x.png"), "leave out --env and --json"),
        (("glyphs-lt-100", "--png", "x.png", "--trial", "3"), "leave --trial out"),
        (("glyphs-5way", "--png", "x.png", "--agent", "square"), "--agent goes with attacks"),
        (("abcdef12", "--png", "x.png"), "no record in leaderboards and no run in runs"),
        (("abcdef12", "--png", "x.png", "--trial", "3"), "go with environments"),
        (("glyphs-net5-untargeted", "--png", "x.png"), "Did you mean: glyphs-net4-untargeted"),
        (
            ("glyphs-net4-untargeted", "--png", "x.png", "--agent", "meta_attack"),
            "must be trained first",
        ),
    ],
)
def test_bad_requests(lazybench: Any, argv: tuple[str, ...], message: str) -> None:
    done = lazybench("show", *argv)
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert not Path("x.png").exists()


def test_trial_of_a_few_shot_environment(lazybench: Any, drawn: list[Any]) -> None:
    for trial in ("0", "1"):
        argv = ("show", "glyphs-5way-1shot", "--png", f"{trial}.png", "--trial", trial)
        assert lazybench(*argv).code == 0
    sheets = [figure.axes[0].images[0].get_array() for figure in drawn]
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).any()


def test_stream_shows_the_images_of_each_class(lazybench: Any, drawn: list[Any]) -> None:
    assert lazybench("show", "glyphs-lt-100", "--png", "x.png").code == 0
    heights = [bar.get_height() for bar in drawn[0].axes[0].patches]
    assert len(heights) == 60
    assert (heights[0], heights[-1]) == (200, 2)
    assert heights == sorted(heights, reverse=True)


def test_attack_shows_what_was_made_of_four_images(lazybench: Any, drawn: list[Any]) -> None:
    assert lazybench("show", "glyphs-net4-untargeted", "--png", "x.png").code == 0
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert len(titles) == 4
    assert all(f"image {i}: success at query" in title for i, title in enumerate(titles))
    assert "glyphs-net4-untargeted, square" in drawn[0].get_suptitle()
    assert all(
        re.search(r"L2 distance \d\.\d\d\nclass \d+, taken for \d+$", title) for title in titles
    )
    below = [[text.get_text() for text in axes.texts] for axes in drawn[0].axes]
    assert below == [["clean", "nearest adversarial (L2)", "difference"]] * 4


def test_sheet_of_a_targeted_attack_names_the_wanted_class(
    lazybench: Any, drawn: list[Any]
) -> None:
    assert lazybench("show", "glyphs-net4-targeted", "--png", "x.png").code == 0
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    found = [re.search(r"class (\d+), wanted (\d+)(?:, taken for \2)?$", title) for title in titles]
    assert all(match is not None and match[1] != match[2] for match in found)


def test_regression_shows_its_points_and_no_answer(lazybench: Any, drawn: list[Any]) -> None:
    assert lazybench("show", "sinusoid-5shot", "--png", "x.png", "--trial", "2").code == 0
    (axes,) = drawn[0].axes
    support, queries = axes.lines
    env = make_env("sinusoid-5shot", split="test")
    task, _ = env.reset(options={"trial": 2})
    assert support.get_xdata() == pytest.approx(np.ravel(task["support_x"]))
    assert support.get_ydata() == pytest.approx(np.ravel(task["support_y"]))
    assert queries.get_xdata() == pytest.approx(np.ravel(task["query_x"]))
    assert len(set(queries.get_ydata())) == 1
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")


def test_file_that_cannot_be_written(lazybench: Any, drawn: list[Any]) -> None:
    Path("file").write_text("x")
    done = lazybench("show", "glyphs-lt-100", "--png", "file/x.png")
    assert done.code == 73
    assert "file" in done.err
