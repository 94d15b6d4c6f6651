"""What others may have put in a path's place: pipes, devices, giants and links."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lazybench.errors import Busy, LazybenchError, OutputUnavailable
from lazybench.files import open_file, read_file, refuse_links
from lazybench.runtime.locks import alone, is_held

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
GIANT = 1 << 42


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """What blocks is ended, and fails."""

    def late(*_: Any) -> None:
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def giant(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(GIANT)


def folder(path: Path) -> None:
    path.mkdir()


KINDS = pytest.mark.parametrize("make", [pipe, zero, giant, folder])


@KINDS
def test_only_a_regular_file_within_a_size_is_read(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "x"
    make(path)
    with pytest.raises(OSError, match=r"pipe|device|4398046511104 bytes, more than|directory"):
        read_file(path)
    if make is not giant:
        with pytest.raises(OSError, match=r"pipe|device|directory"):
            open_file(path, None)


def test_a_socket_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as held:
        held.bind("x")
        with pytest.raises(OSError):  # noqa: PT011 - systems word it differently
            read_file("x")


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a\r\nb")
    (tmp_path / "link").symlink_to(path)
    assert read_file(path) == read_file(str(tmp_path / "link"), 4) == b"a\r\nb"
    with pytest.raises(OSError, match="it has 4 bytes, more than the limit of 3"):
        read_file(path, 3)
    assert b"Name:" in read_file("/proc/self/status"), "files without a size are read to their end"
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_file("/proc/self/status", 10)


def _attack(path: Path) -> Any:
    from lazybench.envs.own_target.images import read_user_images

    return read_user_images(path)


def _labels(path: Path) -> Any:
    import numpy as np

    from lazybench.envs.own_target.images import read_user_images

    images = path.with_name("images.npz")
    np.savez(images, x=np.zeros((1, 8, 8), np.uint8), y=np.zeros(1, np.int64))
    return read_user_images(images, path)


def _image(path: Path) -> Any:
    from lazybench.data.importing.folder import read_image_folder
    from lazybench.data.importing.split import Preparation

    place = path.with_name("folder") / "class"
    place.mkdir(parents=True)
    path.rename(place / "x.png")
    return read_image_folder(place.parent, Preparation(8))


def _record(path: Path) -> Any:
    from lazybench.verify.static_checks import read_record

    return read_record(path)


def _standing(path: Path) -> Any:
    from lazybench.records import Store

    place = path.with_name("store") / "records" / "e-v1" / "a"
    place.mkdir(parents=True)
    path.rename(place / "0123456789ab.json")
    (skipped,) = Store(path.with_name("store")).records().skipped
    raise LazybenchError(str(skipped))


def _lines(path: Path) -> Any:
    from lazybench.records import read_lines

    return read_lines(path)


def _append(path: Path) -> Any:
    from lazybench.records import append_line

    if path.stat().st_size == GIANT:
        path.unlink()
        path.mkdir()
    return append_line(path, {"a": 1})


def _suite(path: Path) -> Any:
    from lazybench.sweep.suite import read_suite

    path.rename(path.with_suffix(".toml"))
    return read_suite(str(path.with_suffix(".toml")))


def _split(path: Path) -> Any:
    from lazybench.data.splits import listed_split

    return listed_split(path, {})


def _weights(path: Path) -> Any:
    from lazybench.runner.trained import read_weights

    path.rename(path.with_suffix(".safetensors"))
    return read_weights(str(path.with_suffix(".safetensors")), path.parent)


def _checkpoint(path: Path) -> Any:
    from lazybench.runner import checkpoint

    checkpoint.save(path.with_name("ckpt"), 1, {"a": 1})
    state = path.with_name("ckpt") / "step-1" / "state.json"
    state.unlink()
    path.rename(state)
    return checkpoint.read(state.parent)


def _manifest(path: Path) -> Any:
    from lazybench.runner import checkpoint

    place = path.with_name("ckpt") / "step-1"
    place.mkdir(parents=True)
    path.rename(place / "manifest.json")
    return checkpoint.read(place)


def _zip(path: Path) -> Any:
    from lazybench.data.archives import ZipTree

    return ZipTree(path)


def _tar(path: Path) -> Any:
    from lazybench.data.archives import read_members

    return read_members(path, ["x"])


def _pickle(path: Path) -> Any:
    from lazybench.data.pickles import load_pickle

    return load_pickle(path)


def _idx(path: Path) -> Any:
    from lazybench.envs.datasets.mnist import read_idx

    return read_idx(path)


def _networks(path: Path) -> Any:
    from lazybench.envs.targets.nets import read_nets

    return read_nets(path, remedy="train it")


def _agent(path: Path) -> Any:
    from lazybench.user_code import load

    path.rename(path.with_suffix(".py"))
    return load(f"{path.with_suffix('.py')}:Agent")


READERS = (
    *(_attack, _labels, _image, _record, _standing, _lines, _append, _suite, _split, _weights),
    *(_checkpoint, _manifest, _zip, _tar, _pickle, _idx, _networks, _agent),
)


@KINDS
@pytest.mark.parametrize("read", READERS)
def test_every_reader_refuses_what_is_no_file_of_a_usable_size(
    tmp_path: Path, make: Callable[[Path], None], read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "x"
    make(path)
    with pytest.raises(LazybenchError) as caught:
        read(path)
    assert len(str(caught.value)) < 1000


def test_a_pipe_that_takes_a_files_place_later_does_not_block(tmp_path: Path) -> None:
    """What was opened is looked at, not what stood there before."""
    path = tmp_path / "x"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            path.unlink(missing_ok=True)
            os.mkfifo(path)
            path.unlink()
            path.write_bytes(b"x")

    path.write_bytes(b"x")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2000):
            # Whatever it finds: what matters is that it ends.
            with contextlib.suppress(OSError):
                assert read_file(path) in (b"x", b"")
    finally:
        stop.set()
        thread.join()


def closed(error: Exception) -> str:
    return f"no lock: {error}"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EPERM, errno.EIO])
def test_a_lock_that_the_system_refuses_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputUnavailable, match="no lock: "), alone(tmp_path / "l", "busy", closed):
        raise AssertionError("it was held")
    with pytest.raises(OSError, match=r"\[Errno"):
        is_held(tmp_path / "l")


@pytest.mark.parametrize("make", [folder, pipe, zero])
def test_a_lock_whose_name_is_taken_is_a_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "lock")
    with pytest.raises(OutputUnavailable, match="no lock: "), alone(tmp_path / "lock", "", closed):
        raise AssertionError("it was held")
    with pytest.raises(OSError, match="lock is"):
        is_held(tmp_path / "lock")


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with alone(tmp_path / "deep" / "lock", "busy", closed):
        assert is_held(tmp_path / "deep" / "lock")
        with (
            pytest.raises(Busy, match="so busy"),
            alone(tmp_path / "deep" / "lock", lambda: "so busy", closed),
        ):
            raise AssertionError("it was held twice")
    assert not is_held(tmp_path / "deep" / "lock")


def test_links_below_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "chosen").symlink_to("real")
    refuse_links(tmp_path / "chosen", tmp_path / "chosen" / "a" / "new.json")
    refuse_links(tmp_path / "real")
    refuse_links(tmp_path / "absent")
    with pytest.raises(OutputUnavailable, match="chosen is a symbolic link"):
        refuse_links(tmp_path / "chosen")
    (tmp_path / "real" / "a" / "b").symlink_to(tmp_path / "nowhere")
    for wrong in ("a/b", "a/b/c/new.json"):
        with pytest.raises(OutputUnavailable, match="b is a symbolic link"):
            refuse_links(tmp_path / "chosen", tmp_path / "chosen" / wrong)
    with pytest.raises(OutputUnavailable, match="b is a symbolic link"):
        refuse_links(tmp_path / "real")
