"""Agents that misbehave on purpose, loaded as `players.py:Name`."""

from __future__ import annotations

import os
import signal
import time

import torch
from pydantic import BaseModel

from lazybench.agent import Network, Plan
from lazybench.errors import UsageError


class Learner:
    """Counts updates; its loss falls; answers zeros."""

    loss = 1.0

    def __init__(self, updates: int = 6) -> None:
        self.updates = updates

    def plan(self, task):
        return Plan(updates=self.updates, meta_batch=2, env={"queries": 3}, validate_every=2)

    def init(self, env, rng):
        return {"w": torch.rand(3, generator=rng.torch()), "n": 0}

    def update(self, state, batch, rng):
        w = state["w"] + torch.rand(3, generator=rng.torch()) + batch["support_x"].float().mean()
        return {"w": w, "n": state["n"] + 1}, {"loss": self.loss / (state["n"] + 1)}

    def policy(self, state):
        def answer(observation, memory=None):
            return torch.zeros_like(observation["query_y"]) + state["w"].sum(), memory

        return answer


class Diverges(Learner):
    """Its loss is NaN at the third update."""

    def update(self, state, batch, rng):
        state, logs = super().update(state, batch, rng)
        return state, {"loss": float("nan") if state["n"] == 3 else logs["loss"]}


class Raises(Learner):
    """Fails at the second update."""

    def update(self, state, batch, rng):
        if state["n"] == 1:
            raise RuntimeError("out of ideas")
        return super().update(state, batch, rng)


class Hungry(Learner):
    """Asks for more memory than there is."""

    def update(self, state, batch, rng):
        torch.empty(1 << 60, dtype=torch.uint8)
        return super().update(state, batch, rng)


class WrongShape(Learner):
    """Answers one value too few."""

    def policy(self, state):
        return lambda observation, memory=None: (observation["query_y"][1:], memory)


class Interrupts(Learner):
    """Sends its own process a signal at the third update, as Ctrl-C does."""

    def update(self, state, batch, rng):
        state, logs = super().update(state, batch, rng)
        if state["n"] == 3 and not os.environ.get("LAZYBENCH_TEST_CALM"):
            signal.raise_signal(signal.SIGINT)
        return state, logs


class Slow(Learner):
    """Takes its time, so that a test can kill it midway."""

    def update(self, state, batch, rng):
        time.sleep(float(os.environ.get("LAZYBENCH_TEST_PAUSE_S", "0")))
        return super().update(state, batch, rng)


class Unplanned:
    """Learns, but doesn't say how often."""

    def init(self, env, rng):
        return {}

    def update(self, state, batch, rng):
        return state, {}

    def policy(self, state):
        return lambda observation, memory=None: (observation["query_y"], memory)


class Picky(Learner):
    """Can't be made with just anything."""

    def __init__(self, updates: int = 6) -> None:
        if updates > 100:
            raise ValueError("too many updates")
        super().__init__(updates)


class Whole:
    """Trains in its own training loop: remembers the mean of all targets it has seen."""

    def fit(self, env, budget, rng):
        targets = [env.reset()[0]["support_y"] for _ in range(5)]
        mean = torch.cat(targets).mean()
        return lambda observation, memory=None: (
            torch.full_like(observation["query_y"], float(mean)),
            memory,
        )


class Talks(Learner):
    """Tells of its training."""

    def diagnostics(self, state):
        return {"seen": state["n"], "w": state["w"]}


class NotAnAgent:
    """Has nothing that an agent has."""


class Settings(BaseModel):
    updates: int = 6
    shift: float = 0.0
    test_shift: float = 0.0


class Movable(Learner):
    """Offers all that an agent may: one fit for two evaluations, given weights, other tasks."""

    Config = Settings
    EVAL_ONLY = ("shift", "test_shift")

    def __init__(self, config):
        super().__init__(config.updates)
        self.config = config

    def init(self, env, rng):
        state = super().init(env, rng)
        return {"theta": {"w": state["w"]}, "n": 0, "task": env.task.fields()}

    def update(self, state, batch, rng):
        fresh, logs = super().update({"w": state["theta"]["w"], "n": state["n"]}, batch, rng)
        return {**state, "theta": {"w": fresh["w"]}, "n": fresh["n"]}, logs

    def policy(self, state):
        shift = self.config.shift + self.config.test_shift + state["theta"]["w"].sum()
        return lambda observation, memory=None: (
            torch.zeros_like(observation["query_y"]) + shift,
            memory,
        )

    def describe_network(self, task):
        return Network("three-numbers", 3)

    def load_weights(self, state, weights):
        return {**state, "theta": {"w": weights["w"].clone()}}

    def transfer(self, state, task):
        if task.way != 1:
            raise UsageError(f"trained on 1 way, got {task.way}")
        return {**state, "task": task.fields()}


class Segfaults(Learner):
    """Is ended by a signal at its first update."""

    def update(self, state, batch, rng):
        os.kill(os.getpid(), signal.SIGSEGV)


class KillsWorker(Learner):
    """Takes the process that began it along at its first update."""

    def update(self, state, batch, rng):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)


class Leaves(Learner):
    """Ends its process as if all were well, once a child of it has done so."""

    def update(self, state, batch, rng):
        if (child := os.fork()) == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        os._exit(0)


class Steady(Learner):
    """Learns one number, and answers zeros."""

    def init(self, env, rng):
        return {"w": torch.zeros(3)}

    def update(self, state, batch, rng):
        return {"w": state["w"] + 1}, {"loss": 1.0, "w": state["w"]}

    def policy(self, state):
        return lambda observation, memory=None: (torch.zeros_like(observation["query_y"]), memory)


class InPlace(Steady):
    """The same, in the tensors that it is handed; its policy spoils them."""

    def update(self, state, batch, rng):
        batch["support_x"].zero_()
        before = state["w"].clone()
        state["w"].add_(1)
        return state, {"loss": 1.0, "w": before}

    def policy(self, state):
        def answer(observation, memory=None):
            state["w"].fill_(7)
            zeros = torch.zeros_like(observation["query_y"])
            observation["query_x"].zero_()
            return zeros, memory

        return answer


class Spoils:
    """A tracker that changes its arguments."""

    def begin(self, run):
        run.clear()

    def log(self, step, values):
        values["w"].fill_(9)

    def evaluated(self, step, split, values):
        values.clear()

    def end(self, status):
        pass
