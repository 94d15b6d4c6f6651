"""A policy in a process of its own: the same results, and no environment in its memory."""

from __future__ import annotations

import json
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_tensors

import lazybench
from lazybench.errors import StoreError, UsageError
from lazybench.records import Store
from lazybench.runner.checkpoint import digest, packed, unpacked
from lazybench.runtime import pipes

AGENTS = '''
import gc, os, sys, time
import torch
from lazybench.tasks import Queries

class Echo:
    """Answers from what it sees and remembers, and says where it is."""
    families = ("fewshot", "attack", "longtail")
    def __init__(self, does: str = "answers", where: str = ""):
        self.does, self.where = does, where
    def init(self, env, rng):
        return {"w": torch.rand(3, generator=rng.torch())}
    def policy(self, state):
        if self.does == "cannot start":
            raise RuntimeError("no policy today")
        def answer(seen, memory=None):
            if self.does == "raises":
                raise RuntimeError("out of ideas")
            if self.does == "exits":
                os._exit(0)
            if self.does == "hangs":
                open(self.where + "/begun", "w").close()
                time.sleep(600)
            if self.does == "hungry":
                raise MemoryError("too much")
            if self.does == "objects":
                return object(), None
            if self.does == "prints":
                print("x" * 100); os.write(1, b"garbage")
            if self.does == "looks":
                kinds = {type(each) for each in gc.get_objects()}
                # The catalogue's ids are there: they name environments and open none.
                bad = [
                    str(k) for k in kinds
                    if str(k.__module__).startswith("lazybench.envs")
                    and k.__module__ != "lazybench.envs"
                ]
                assert not bad, bad
            return torch.zeros_like(seen["query_y"]) + state["w"].sum(), memory
        return answer
'''


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents") / "agents.py"
    path.write_text(AGENTS)
    return path


def play(folder: Path, agent: Any, env: str = "sinusoid-5shot", **more: Any) -> lazybench.Record:
    options = {"budget": "smoke", "out": folder / "store", "runs": folder / "runs", **more}
    return lazybench.run(agent, env, **options)


FAMILIES = {
    "few-shot": ("protonet", "glyphs-5way-1shot", {"limit": 16, "settings": {"iterations": 4}}),
    "attack": ("square", "glyphs-net4-untargeted", {"limit": 4, "seed": 1}),
    "labels": ("boundary", "glyphs-net4-untargeted-label", {"limit": 2}),
    "long tail": ("cross_entropy", "glyphs-lt-100", {"settings": {"epochs": 1}}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.slow] * (each == "labels")) for each in FAMILIES]
)
def test_results_are_equal_and_the_record_says_so(tmp_path: Path, name: str) -> None:
    agent, env, more = FAMILIES[name]
    plain = play(tmp_path, agent, env, **more)
    apart = play(tmp_path / "apart", agent, env, isolated=True, **more)
    assert plain.status == "ok", plain.reason
    assert apart.comparable() == plain.comparable()
    assert (plain.isolated, apart.isolated) == (False, True)
    assert apart.key == plain.key


def test_no_environment_is_in_its_memory(tmp_path: Path, agents: Path) -> None:
    settings = {"does": "looks"}
    apart = play(tmp_path, f"{agents}:Echo", isolated=True, limit=8, settings=settings)
    assert apart.status == "ok", apart.reason
    inside = play(tmp_path / "inside", f"{agents}:Echo", limit=8, settings=settings)
    assert inside.status == "failed", "the look would see one"


def test_a_record_made_without_it_is_made_again_and_says_more(tmp_path: Path, agents: Path) -> None:
    plain = play(tmp_path, f"{agents}:Echo", limit=8)
    apart = play(tmp_path, f"{agents}:Echo", limit=8, isolated=True)
    (kept,) = Store(tmp_path / "store").records()
    assert kept.isolated
    assert kept.started == apart.started
    assert kept.comparable() == plain.comparable()
    # It isn't lost again.
    assert play(tmp_path, f"{agents}:Echo", limit=8).isolated
    Store(tmp_path / "store").publish(plain)
    assert Store(tmp_path / "store").records()[0].isolated


def test_isolated_and_other_evaluations_of_a_run_count_each_trial_once(
    tmp_path: Path, agents: Path
) -> None:
    agent = f"{agents}:Echo"
    plain = play(tmp_path, agent)
    play(tmp_path, agent, isolated=True)
    again = play(tmp_path, agent, out=tmp_path / "another store")
    assert again.trials.n == plain.trials.n
    assert again.comparable() == plain.comparable()
    # As two interrupted evaluations leave the file: the same trials twice, in blocks of any order.
    (path,) = (tmp_path / "runs").glob("*/episodes.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    half = len(lines) // 2
    path.write_bytes(b"".join([*lines[1:half], lines[0], *lines[1:half], *lines[half:]]))
    again = play(tmp_path, agent, out=tmp_path / "a third store")
    assert again.comparable() == plain.comparable()


@pytest.mark.parametrize(
    ("does", "status", "reason"),
    [
        ("raises", "failed", r"RuntimeError: out of ideas \(agents.py:"),
        ("cannot start", "failed", r"RuntimeError: no policy today \(agents.py:"),
        ("exits", "failed", r"the policy's process died \(exit code 0\)"),
        ("hungry", "oom", "MemoryError: too much; peak memory"),
        ("objects", "failed", "ContractError: a policy's action must be a tensor"),
    ],
)
def test_a_policy_that_fails_there_has_failed(
    tmp_path: Path, agents: Path, does: str, status: str, reason: str
) -> None:
    settings = {"does": does}
    made = play(tmp_path, f"{agents}:Echo", isolated=True, limit=8, settings=settings)
    assert made.status == status
    assert re.match(reason, made.reason or ""), made.reason
    assert not made.isolated


def test_what_it_prints_is_no_answer(
    tmp_path: Path, agents: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"does": "prints"}
    made = play(tmp_path, f"{agents}:Echo", isolated=True, limit=8, settings=settings)
    assert made.status == "ok", made.reason
    assert "garbage" not in capfd.readouterr().out


def test_a_policy_that_hangs_is_stopped_with_its_process(tmp_path: Path, agents: Path) -> None:
    words = ["run", "-a", f"{agents}:Echo", "-e", "sinusoid-5shot", "-b", "smoke", "--limit", "8"]
    words += ["--set", "does=hangs", "--set", f"where={tmp_path}", "--isolated", "--quiet"]
    words += ["--out", str(tmp_path / "s"), "--runs", str(tmp_path / "r")]
    command = [sys.executable, "-m", "lazybench", *words]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 240
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    (child,) = children.read_text().split()
    run.send_signal(signal.SIGINT)
    reported = run.communicate(timeout=60)[1]
    assert run.returncode == 130, reported
    assert "interrupted at test trial 0" in reported
    assert not Path(f"/proc/{child}").exists()
    late = subprocess.run(
        [*command, "--timeout-per-episode", "0.2"], capture_output=True, text=True, timeout=240
    )
    assert late.returncode == 3
    assert "timeout: the block of test trials from 0 took longer than" in late.stderr


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom lazybench.runtime import pipes\n"
        "def serve(): pipes.serve(lambda: lambda message: time.sleep(600))\n"
    )
    (tmp_path / "sleeper.py").write_text(code)
    begin = (
        "import threading, time; from lazybench.runtime import pipes;"
        "c = pipes.Child('sleeper:serve');"
        "threading.Thread(target=c.exchange, args=(b'',), daemon=True).start();"
        "print(c._process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", begin], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(1)
        parent.kill()
    until = time.monotonic() + 60
    while _runs(pid):
        assert time.monotonic() < until
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_who_can_have_no_process_of_its_own(tmp_path: Path) -> None:
    class Whole:
        def fit(self, env: Any, budget: str, rng: Any) -> Any:
            raise AssertionError("trained in vain")

    with pytest.raises(UsageError, match="has its own training loop, so its policy can't be sent"):
        play(tmp_path, Whole, isolated=True)
    names: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile(AGENTS, "<prompt>", "exec"), names)
    with pytest.raises(UsageError, match="is in no file that another process could load"):
        play(tmp_path, names["Echo"], isolated=True)
    assert not list(tmp_path.iterdir())


def test_boards_can_ask_for_it(tmp_path: Path, agents: Path) -> None:
    play(tmp_path, f"{agents}:Echo", limit=8, isolated=True)
    play(tmp_path, "chance", limit=8)
    words = ["leaderboard", "--out", str(tmp_path / "store"), "--format", "json"]
    shown = []
    for more in ([], ["--isolated-only"]):
        done = subprocess.run(
            [sys.executable, "-m", "lazybench", *words, *more], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        shown.append("chance" in done.stdout)
    assert shown == [True, False]


TREES = [
    {"a": torch.arange(6).reshape(2, 3).T, "b": [1, 2.5, None, "x", True], "c": (torch.ones(()),)},
    {"empty": torch.zeros(0, 3), "bool": torch.tensor([True, False])},
    torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
]


@pytest.mark.parametrize("tree", TREES)
def test_messages_keep_trees_as_they_are(tree: Any) -> None:
    again = unpacked(packed(tree))
    assert digest(again) == digest(tree)
    if isinstance(tree, torch.Tensor):
        assert again.stride() == tree.stride()


def _message(text: Any, tensors: bytes = b"") -> bytes:
    body = json.dumps(text).encode()
    return struct.pack("<q", len(body)) + body + (tensors or save_tensors({}))


ONE = save_tensors({"a": torch.zeros(2)})
HOSTILE = {
    "empty": b"",
    "long text": struct.pack("<q", 1 << 60) + b"{}",
    "negative": struct.pack("<q", -5) + b"{}",
    "no json": struct.pack("<q", 2) + b"{{" + ONE,
    "deep": struct.pack("<q", 200_000) + b"[" * 200_000 + ONE,
    "no tensors": _message({}, b"\xff" * 64),
    "missing": _message({"$tensor": "b", "stride": [1]}, ONE),
    "wide": _message({"$tensor": "a", "stride": [1 << 40]}, ONE),
    "stride": _message({"$tensor": "a", "stride": ["1"]}, ONE),
    "strides": _message({"$tensor": "a", "stride": [1, 1]}, ONE),
    "no stride": _message({"$tensor": "a"}, ONE),
    "pickle": b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_from_anybody_is_refused_in_a_line(name: str) -> None:
    with pytest.raises(StoreError, match="isn't a valid tree"):
        unpacked(HOSTILE[name])


@pytest.mark.parametrize(
    ("sends", "words"),
    [
        ("struct.pack('<q', 1 << 40)", "sent an invalid message"),
        ("struct.pack('<q', -1)", "sent an invalid message"),
        ("struct.pack('<q', 100) + b'short'", r"died \(exit code 5\)"),
        ("b''", r"died \(exit code 5\)"),
    ],
)
def test_a_child_that_sends_garbage_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: str, words: str
) -> None:
    (tmp_path / "liar.py").write_text(
        f"import os, struct, time\ndef serve():\n    os.write(1, {sends}); time.sleep(0.5)\n"
        "    os._exit(5)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    child = pipes.Child("liar:serve")
    with pytest.raises(pipes.Ended, match=words):
        child.exchange(b"hello", 60)
