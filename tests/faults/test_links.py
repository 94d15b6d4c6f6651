"""Links that somebody planted where lazybench writes: nothing outside is touched."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lazybench
from lazybench.cli import main
from lazybench.errors import LazybenchError, OutputUnavailable, StoreError
from lazybench.records import Store, append_line, write_json

PLAYERS = Path(__file__).parents[1] / "runner" / "players.py"
SECRET = b"mine\n"
Act = Callable[[Path], Any]


def run(place: Path) -> Any:
    where = {"out": place / "store", "runs": place / "runs"}
    return lazybench.run(f"{PLAYERS}:Learner", "sinusoid-5shot", budget="smoke", **where)


def tune(place: Path) -> Any:
    words = ["tune", f"{PLAYERS}:Learner", "-e", "sinusoid-5shot", "-b", "smoke", "-q"]
    words += ["--search", "updates=2,4", "--trials", "2", "--runs", str(place / "runs")]
    if main(words):
        raise OutputUnavailable("told in a line")


def attack(place: Path) -> Any:
    import numpy as np

    np.savez(
        place / "x.npz",
        x=(np.arange(2 * 64) % 256).reshape(2, 8, 8).astype(np.uint8),
        y=np.zeros(2, np.int64),
    )
    (place / "m.py").write_text(
        "import torch\n\ndef predict(x):\n"
        "    m = x.mean((1, 2, 3))\n    return torch.stack([m + 1, m * 0], 1)\n"
    )
    words = ["attack", "--images", f"{place}/x.npz", "--target", f"{place}/m.py:predict", "-q"]
    words += ["--attacks", "square", "--query-budget", "2", "--out", f"{place}/report"]
    if main(words):
        raise OutputUnavailable("told in a line")


def files_of(place: Path) -> list[str]:
    """What is below a folder: files and folders, and what comes and goes next to them."""
    return sorted(
        str(path.relative_to(place))
        for path in place.rglob("*")
        if path.parts[len(place.parts)] in ("runs", "store", "report") and path.parent != place
    )


@pytest.mark.parametrize("act", [run, tune, attack])
def test_a_link_in_the_place_of_anything_that_is_written(act: Act, tmp_path: Path) -> None:
    """Each file and folder in turn is a link to one outside; that stays what it was."""
    (tmp_path / "first").mkdir()
    act(tmp_path / "first")
    written = files_of(tmp_path / "first")
    assert len(written) >= 5
    # Written and removed again, or written by turns.
    written += [f"{Path(name).parent}/lock.json" for name in written if name.endswith("/lock")]
    for number, name in enumerate(written):
        place, outside = tmp_path / f"p{number}", tmp_path / f"outside{number}"
        there = tmp_path / "first" / name
        folder = there.is_dir()
        outside.mkdir()
        (outside / "file").write_bytes(SECRET)
        link = place / name
        link.parent.mkdir(parents=True)
        link.symlink_to(outside if folder else outside / "file")
        with contextlib.suppress(OutputUnavailable, StoreError):
            act(place)
        assert sorted(os.listdir(outside)) == ["file"], name
        assert (outside / "file").read_bytes() == SECRET, name


def test_a_dangling_link_makes_no_file_outside(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    run(tmp_path / "first")
    for name in files_of(tmp_path / "first"):
        place = tmp_path / "again"
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(tmp_path / "new")
        with contextlib.suppress(OutputUnavailable, StoreError):
            run(place)
        assert not (tmp_path / "new").exists(), name
        os.rename(place, tmp_path / f"done-{abs(hash(name))}")


def test_a_folder_that_the_user_chose_may_be_a_link(tmp_path: Path) -> None:
    for name in ("store", "runs"):
        (tmp_path / f"big-{name}").mkdir()
        (tmp_path / name).symlink_to(f"big-{name}")
    assert run(tmp_path).status == "ok"
    assert list((tmp_path / "big-store" / "records").rglob("*.json"))


def test_lines_and_files_follow_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(SECRET)
    (tmp_path / "lines").symlink_to(outside)
    with pytest.raises(OutputUnavailable, match="lines is a symbolic link"):
        append_line(tmp_path / "lines", {"a": 1})
    (tmp_path / "whole.json").symlink_to(outside)
    write_json(tmp_path / "whole.json", {"a": 1})
    assert json.loads((tmp_path / "whole.json").read_bytes()) == {"a": 1}
    assert not (tmp_path / "whole.json").is_symlink()
    assert outside.read_bytes() == SECRET


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_store_publishes_through_no_link(tmp_path: Path, depth: int) -> None:
    record = run(tmp_path / "made")
    store = Store(tmp_path / "store")
    path = store.path(record)
    place = store.root.joinpath(*path.relative_to(store.root).parts[:depth])
    outside = tmp_path / "outside"
    outside.mkdir()
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / "new.json" if depth == 4 else outside)
    with pytest.raises(LazybenchError, match="is a symbolic link"):
        store.publish(record)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_what_has_the_locks_name_is_reported_in_a_line(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    lock = folder / "lock"
    lock.unlink()
    lock.mkdir() if what == "folder" else os.mkfifo(lock)
    for path in (tmp_path / "store").rglob("records/*/*/*.json"):
        path.unlink()
    with pytest.raises(OutputUnavailable, match=r"can't be locked \(lock is"):
        run(tmp_path)
    assert main(["list", "runs", "--runs", str(tmp_path / "runs")]) == 0
    assert folder.name in capsys.readouterr().out
