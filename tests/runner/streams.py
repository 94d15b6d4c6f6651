"""A single environment judged in one pass: the parity of numbers, streamed."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium
import numpy as np
import torch

TEST = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])


class ParityEnv(gymnasium.Env):
    """TRAIN batches by index; EVAL is one pass; the score weighs both classes alike."""

    num_envs = 1
    task = SimpleNamespace(classes=2)

    def __init__(self, *, split, backend="torch", device="cpu", silent=False):
        self.split, self.silent, self.protocol = split, silent, {"batch": 4}
        self.data = {"name": "parity", "fingerprint": "ab" * 32, "prep": "1", "source": "numbers"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.split == "train":
            trial = 0 if options is None else int(options["trials"][0])
            x = torch.arange(4) + trial
            return {"x": x, "y": x % 2}, {}
        self.seed, self.at, self.said = seed, 0, []
        return self._observe(), {}

    def _observe(self):
        return {"x": torch.from_numpy(TEST[self.at : self.at + 4].copy())}

    def step(self, action):
        self.said += list(np.asarray(action))
        self.at += 4
        if self.at < len(TEST):
            return self._observe(), 0.0, False, False, {}
        said = np.array(self.said)
        correct = said == TEST % 2
        recalls = [float(correct[label == TEST % 2].mean()) for label in (0, 1)]
        info = {
            "accuracy": float(np.mean(recalls)),
            "correct": correct.astype(np.uint8),
            "predictions": said,
            "metrics": {"recalls": recalls, "seed": self.seed},
        }
        return self._observe(), info["accuracy"], True, False, {} if self.silent else info


class Learner:
    """Learns by heart which numbers are odd; what it hasn't seen is odd, too."""

    def __init__(self, updates=3):
        self.updates = updates

    def plan(self, task):
        from lazybench.agent import Plan

        return Plan(updates=self.updates, validate_every=2, select="last")

    def init(self, env, rng):
        return {"even": []}

    def update(self, state, batch, rng):
        even = [int(n) for n, odd in zip(batch["x"], batch["y"], strict=True) if not odd]
        logs = {"loss": 1.0, "image_gradients": 4.0, "gradient_equivalents": 1.5}
        return {"even": sorted({*state["even"], *even})}, logs

    def policy(self, state):
        def answer(observation, memory=None):
            return torch.tensor([int(int(n) not in state["even"]) for n in observation["x"]]), None

        return answer


class Movable(Learner):
    """Describes its network and can be evaluated again; its tasks aren't few-shot ones."""

    def init(self, env, rng):
        return {**super().init(env, rng), "task": {"classes": env.task.classes}}

    def update(self, state, batch, rng):
        fresh, logs = super().update(state, batch, rng)
        return {**state, **fresh}, logs

    def describe_network(self, task):
        from lazybench.agent import Network

        return Network("table", task.classes, batch_norm=False)

    def transfer(self, state, task):
        return state
