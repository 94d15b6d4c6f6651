"""The batches of the environment, through torch's own loader."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lazybench.envs import interop
from lazybench.envs.longtail.env import LongTailDataset, LongTailEnv
from lazybench.errors import UsageError


def make(**settings: Any) -> LongTailEnv:
    return LongTailEnv(data="glyphs", imbalance=100, batch=500, dev_batch=60, **settings)


def test_a_loader_gives_the_environments_batches() -> None:
    env = make()
    obs, _ = env.reset(seed=3)
    loader = DataLoader(LongTailDataset(make(), seed=3), batch_size=None)
    assert len(loader) == env.task.steps == 6
    seen = list(loader)
    assert len(seen) == 6
    for batch in seen:
        assert set(batch) == {"x", "y", "index", "dev_x", "dev_y"}
        for name, part in batch.items():
            np.testing.assert_array_equal(part.numpy(), obs[name])
        obs = env.step(0)[0]


def test_workers_share_the_batches_out(monkeypatch: pytest.MonkeyPatch) -> None:
    data = LongTailDataset(make(), seed=3)
    whole = [batch["index"] for batch in data]
    for worker in range(4):
        info = SimpleNamespace(id=worker, num_workers=4)
        monkeypatch.setattr(interop, "get_worker_info", lambda info=info: info)
        share = [batch["index"] for batch in data]
        assert len(share) == len(whole[worker::4])
        for one, two in zip(share, whole[worker::4], strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("settings", [{"split": "test"}, {"backend": "torch"}])
def test_only_a_training_stream_of_arrays(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="split='train' and backend='numpy'"):
        LongTailDataset(make(**settings), seed=0)
