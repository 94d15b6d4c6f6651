"""Forked children of a process that has computed on several threads don't wait for its threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "4")
LIMIT_S = 120

BEGIN = """
import multiprocessing
from functools import partial

import gymnasium
import torch
from gymnasium.vector import AsyncVectorEnv

import lazybench
from lazybench.runtime import threads

IDS = {
    "fewshot": "glyphs-5way-1shot",
    "longtail": "glyphs-lt-100",
    "attack": "glyphs-net4-untargeted",
}

def work(*_):
    # Large enough for torch to share it out over its threads.
    square = torch.ones(1024, 1024)
    return float(square.add(1).sum() + (square @ square)[0, 0])

def on_one_thread(name):
    env = lazybench.make_env(name)
    env.reset(seed=0)
    return work(), torch.get_num_threads(), threads.map_tasks(work, range(2))

torch.set_num_threads(4)
"""

AS_VECTOR = """
for name in IDS.values():
    make = partial(gymnasium.make, f"lazybench:lazybench/{name}-v1")
    make().reset(seed=0)
    work()
    envs = AsyncVectorEnv([make, make])
    envs.reset(seed=[0, 100])
    envs.step(envs.action_space.sample())
    envs.close()
"""

AS_POOL = """
names = list(IDS.values())
with threads.using_threads(2):
    # The threads of this pool are in no child.
    threads.map_tasks(work, range(2))
here = [on_one_thread(name) for name in names]
with multiprocessing.get_context("fork").Pool(2) as pool:
    result = pool.map(on_one_thread, names)
assert result == [(worked, 1, mapped) for worked, _, mapped in here], result
assert torch.get_num_threads() == 4
"""

AS_LOADER = """
from torch.utils.data import DataLoader

settings = {
    "fewshot": {"num_envs": 2},
    "longtail": {},
    "attack": {"num_envs": 2, "shots": 4, "queries": 2},
}
for family, given in settings.items():
    env = lazybench.make_env(IDS[family], split="train", **given)
    env.reset(seed=0)
    work()
    held = lazybench.as_dataset(env, seed=1, batches=4)
    alone = list(DataLoader(held, batch_size=None))
    shared = DataLoader(held, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
"""


def ends(code: str) -> None:
    """Run code in a separate process with four threads; fail where it doesn't end by itself."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        env=os.environ | THREADS | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("code", [AS_VECTOR, AS_POOL, AS_LOADER], ids=["vector", "pool", "loader"])
def test_forked_children_answer(code: str) -> None:
    ends(BEGIN + code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_page_on_gymnasium_runs_in_one_process() -> None:
    page = (ROOT / "docs" / "gymnasium.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 3
    assert any("AsyncVectorEnv(" in block for block in blocks)
    ends("\n".join(blocks))
