"""`data import` and `data forget`: from your own files to a board, and what is said on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lazybench as lb
from lazybench.errors import UsageError

CLASSES, EACH = 24, 18


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Clusters that can be distinguished by their distance."""
    rng = np.random.default_rng(0)
    middle = np.repeat(rng.normal(size=(CLASSES, 16)), EACH, axis=0)
    x = middle + 0.2 * rng.normal(size=middle.shape)
    np.savez(tmp_path / "mine.npz", x=x.astype(np.float32), y=np.repeat(np.arange(CLASSES), EACH))
    return tmp_path / "mine.npz"


IMPORT = ("--name", "mine", "--fractions", ".5,.25,.25", "--licence", "CC0")


@pytest.mark.parametrize("agent", ["nearest_pixel", "protonet"])
def test_from_features_to_a_board(lazybench: Any, features: Path, agent: str) -> None:
    done = lazybench("data", "import", str(features), *IMPORT)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("mine: 12/6/6 classes of 16 features; imported from features in ")
    assert ["train", "12", "216", "18", "to", "18"] in [line.split() for line in lines]
    assert "environments: mine-5way-1shot (each also with -noniid)" in lines
    assert "any other way up to 6 and shot up to 3 works as well, on every split" in lines
    (command,) = (line.removeprefix("try: lazybench ") for line in lines if "try: " in line)
    argv = ["--threads", "1", "--limit", "8", "--json", "--quiet"]
    ran = lazybench(*command.replace("protonet", agent).split(), *argv)
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["env"]["id"] == "mine-5way-1shot"
    assert re.fullmatch("float32-1-[0-9a-f]{8}", record["data"]["prep"])
    assert record["data"]["source"].startswith("imported from features in 'mine.npz'; split re-")
    assert record["metrics"]["accuracy"]["value"] > (0.9 if agent == "nearest_pixel" else 0.3)


def test_listings_know_it(lazybench: Any, features: Path) -> None:
    lazybench("data", "import", str(features), *IMPORT)
    listed = json.loads(lazybench("list", "data", "--json").out)["data"]
    (mine,) = (each for each in listed if each["name"] == "mine")
    assert mine["installed"] is True
    assert mine["source"] == "imported: 12/6/6 classes of 16 features"
    envs = json.loads(lazybench("list", "envs", "--json").out)["envs"]
    (env,) = (each for each in envs if each["id"] == "mine-5way-1shot")
    assert (env["data_installed"], env["origin"]) == (True, "imported")
    shown = json.loads(lazybench("show", "mine", "--json").out)
    assert (shown["kind"], shown["licence"]) == ("data set", "CC0")
    assert Path(lazybench("data", "where", "mine").out.strip()).name == "mine"
    assert lazybench("data", "verify", "mine").code == 0
    part = Path(lazybench("data", "where", "mine").out.strip()) / "test.npy"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    damaged = lazybench("data", "verify")
    assert (damaged.code, "mine: " in damaged.err) == (69, True)
    part.write_bytes(whole)
    assert lazybench("data", "verify").code == 0
    assert "float32 75x16" in lazybench("show", "mine-5way-1shot").out


def test_json(lazybench: Any, features: Path) -> None:
    found = json.loads(lazybench("data", "import", str(features), *IMPORT, "--json").out)
    assert found["envs"] == ["mine-5way-1shot", "mine-5way-1shot-noniid"]
    assert found["splits"]["train"]["counts"] == [18] * 12
    assert found["shape"] == [16]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--name", "glyphs"], 2, "'glyphs' is a data set of lazybench already"),
        (["--name", "../x"], 2, "--name takes at most 40"),
        ([], 2, "Missing option '--name'"),
        (["--name", "x", "--fractions", "a,b"], 2, "such as .64,.16,.2; got 'a,b'"),
        (["--name", "x", "--fractions", "1,1,1"], 2, "sum to 1"),
        (["--name", "x", "--split", "no.json"], 69, "check --split"),
        (["--name", "x", "--size", "84"], 2, "--size and --grey go with images"),
    ],
)
def test_errors_are_one_line(
    lazybench: Any, features: Path, options: list[str], code: int, message: str
) -> None:
    done = lazybench("data", "import", str(features), *options)
    assert done.code == code
    assert message in done.err
    assert done.out == ""
    assert "Traceback" not in done.err


def test_twice_needs_replace(lazybench: Any, features: Path) -> None:
    assert lazybench("data", "import", str(features), *IMPORT).code == 0
    again = lazybench("data", "import", str(features), *IMPORT)
    assert again.code == 2
    assert "add --replace (replace=True in Python), or choose another name" in again.err
    assert lazybench("data", "import", str(features), *IMPORT, "--replace").code == 0


def test_forgetting_asks_first(lazybench: Any, features: Path) -> None:
    lazybench("data", "import", str(features), *IMPORT)
    kept = lazybench("data", "forget", "mine")
    assert kept.code == 2
    assert "add --yes to do it" in kept.err
    assert lazybench("data", "where", "mine").code == 0
    assert lazybench("data", "forget", "mine", "--yes").out.startswith("removed ")
    assert lazybench("data", "where", "mine").code == 2
    assert lazybench("data", "forget", "mine", "--yes").code == 2
    assert lazybench("data", "forget", "glyphs", "--yes").code == 2


@pytest.mark.parametrize(("each", "most"), [(22, 8), (16, 3)])
def test_the_largest_imbalance_of_an_import_is_printed(
    lazybench: Any, tmp_path: Path, each: int, most: int
) -> None:
    """A fifth of the smallest class is for the test, ten images for the dev set."""
    x = np.random.default_rng(0).integers(0, 256, (9 * each, 1, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x=x, y=np.repeat(np.arange(9), each))
    done = lazybench("data", "import", "few.npz", "--name", "few", "--fractions", ".4,.3,.3")
    assert done.code == 0, done.err
    assert f"long tails: few-lt-{most}, and any other imbalance up to {most}\n" in done.out
    lb.make_env(f"few-lt-{most}")
    with pytest.raises(UsageError, match=f"the largest one here is {most}"):
        lb.make_env(f"few-lt-{most + 1}")
    with pytest.raises(UsageError, match=f"use an imbalance, as in few-lt-{most}"):
        lb.make_env("few-lt-natural")


def test_a_smallest_class_with_one_image_left_has_a_natural_tail_only(
    lazybench: Any, tmp_path: Path
) -> None:
    """Ten images of each class are for the dev set."""
    rng = np.random.default_rng(0)
    for split, sizes in (("train", (11, 20)), ("test", (3, 3))):
        for name, n in zip("ab", sizes, strict=True):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number, pixels in enumerate(rng.integers(0, 256, (n, 4, 4), dtype=np.uint8)):
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    done = lazybench("data", "import", "photos", "--name", "photos")
    assert done.code == 0, done.err
    assert "environments: photos-lt-natural, which keeps the classes' own counts\n" in done.out
    assert "--env photos-lt-natural --budget smoke" in done.out
    env = lb.make_env("photos-lt-natural").unwrapped
    assert env.task.class_counts == (1, 10)


@pytest.mark.parametrize(("train", "most"), [(20, 10), (11, 0)])
def test_a_folder_for_classification_names_its_streams(
    lazybench: Any, tmp_path: Path, train: int, most: int
) -> None:
    rng = np.random.default_rng(0)
    for split, n in (("train", train), ("test", 3)):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number, pixels in enumerate(rng.integers(0, 256, (n, 4, 4), dtype=np.uint8)):
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    done = lazybench("data", "import", "photos", "--name", "photos")
    assert done.code == 0, done.err
    if not most:
        assert "environments: none, since the smallest class has 11 training images" in done.out
        assert "try:" not in done.out
        return
    assert "environments: photos-lt-10, and any other imbalance up to 10\n" in done.out
    assert "--env photos-lt-10 --budget smoke" in done.out
    lb.make_env("photos-lt-10")
    with pytest.raises(UsageError, match=r"leaves 1 of 2 classes without an image.+here is 10"):
        lb.make_env("photos-lt-11")
    assert [line.split()[:3] for line in done.out.splitlines() if line.startswith("te")] == [
        ["test", "2", "6"]
    ]
    assert lazybench("data", "verify", "photos").code == 0
    assert "2/2 classes" in lazybench("data", "list").out
