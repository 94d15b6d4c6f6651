"""More agents that misbehave on purpose, loaded as `players.py:Name`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

from lazybench.tasks import Queries
from lazybench.user_code import load

Learner = load(f"{Path(__file__).parents[1] / 'runner' / 'players.py'}:Learner")


class Steady(Learner):
    """Learns as it should, slowly where LAZYBENCH_TEST_PAUSE_S says so."""

    def update(self, state, batch, rng):
        time.sleep(float(os.environ.get("LAZYBENCH_TEST_PAUSE_S", "0")))
        return super().update(state, batch, rng)

    def policy(self, state):
        answer = super().policy(state)

        def slow(observation, memory=None):
            time.sleep(float(os.environ.get("LAZYBENCH_TEST_ANSWER_S", "0")))
            return answer(observation, memory)

        return slow


class Growing(Steady):
    """Each checkpoint is larger than the one before."""

    def update(self, state, batch, rng):
        state, logs = super().update(state, batch, rng)
        return {**state, "ballast": torch.zeros(1000 * state["n"])}, logs


class Loop:
    """Trains in its own training loop that takes an hour."""

    def fit(self, env, budget, rng):
        Path("begun").touch()
        time.sleep(3600)


class Mute(Learner):
    """Takes an hour for its first answer to an official trial."""

    def policy(self, state):
        answer = super().policy(state)

        def slow(observation, memory=None):
            # Validation comes first, and there is no label to be seen on either.
            if Path("validated").exists():
                Path("answering").touch()
                time.sleep(3600)
            return answer(observation, memory)

        return slow

    def diagnostics(self, state):
        Path("validated").touch()
        return {}


class Large(Learner):
    """Its state takes a megabyte from the start."""

    def init(self, env, rng):
        return {**super().init(env, rng), "ballast": torch.zeros(1 << 18)}

    def update(self, state, batch, rng):
        fresh, logs = super().update(state, batch, rng)
        return {**state, **fresh}, logs


class NumpyHungry(Learner):
    """Asks numpy for more memory than there is."""

    def update(self, state, batch, rng):
        np.zeros(1 << 58, np.uint8)
        return super().update(state, batch, rng)


class Filling(Learner):
    """Fills what memory there is, piece by piece."""

    def update(self, state, batch, rng):
        held = []
        while True:
            held.append(torch.ones(1 << 22, device=batch["support_x"].device))


class Hangs(Learner):
    """Hangs at its second update, deaf to signals, with a child of its own that hangs as well."""

    def update(self, state, batch, rng):
        if state["n"] == 2:
            subprocess.Popen(["sleep", "3600"])
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        return super().update(state, batch, rng)


class Dozes(Learner):
    """Takes an hour for an update, or for an answer once it is trained, as the test says."""

    def update(self, state, batch, rng):
        if state["n"] == 3 and os.environ["LAZYBENCH_TEST_DOZES"] == "update":
            time.sleep(3600)
        return super().update(state, batch, rng)

    def policy(self, state):
        answer = super().policy(state)
        begins = {"answer": Path("validated"), "validation": Path()}
        dozes = begins.get(os.environ["LAZYBENCH_TEST_DOZES"])

        def slow(observation, memory=None):
            if dozes is not None and dozes.exists():
                time.sleep(3600)
            return answer(observation, memory)

        return slow

    def diagnostics(self, state):
        Path("validated").touch()
        return {}


class Killed(Learner):
    """Is killed at its third update, as by the system when memory runs out."""

    number = signal.SIGKILL

    def update(self, state, batch, rng):
        if state["n"] == 3:
            os.kill(os.getpid(), self.number)
        return super().update(state, batch, rng)


class KilledOnce(Killed):
    """Is killed at its third update the first time only."""

    def update(self, state, batch, rng):
        if state["n"] == 3 and not Path("killed").exists():
            Path("killed").touch()
            return super().update(state, batch, rng)
        return Learner.update(self, state, batch, rng)


class Segfault(Killed):
    """Ends as a fault in compiled code does."""

    number = signal.SIGSEGV


class Exits(Learner):
    """Ends Python during an update, as if all were well."""

    def update(self, state, batch, rng):
        raise SystemExit


class Interrupts(Learner):
    """Raises what a Ctrl-C raises, though no one pressed it."""

    def update(self, state, batch, rng):
        raise KeyboardInterrupt


class LeavesGenerators(Learner):
    """Raises what closes a generator at its first answer."""

    def policy(self, state):
        def answer(observation, memory=None):
            raise GeneratorExit

        return answer


class Explodes(Learner):
    """Its loss grows without end, and then is infinite."""

    def update(self, state, batch, rng):
        state, _ = super().update(state, batch, rng)
        return state, {"loss": float(f"1e{100 * state['n']}")}


class RaisesInPolicy(Learner):
    """Fails at its first answer."""

    def policy(self, state):
        def answer(observation, memory=None):
            raise ValueError("no answer")

        return answer


class Overwrites(Learner):
    """Writes into all it is shown, and answers from what it kept."""

    def update(self, state, batch, rng):
        answer = super().update(state, batch, rng)
        spoil(batch)
        return answer

    def policy(self, state):
        inner = super().policy(state)

        def answer(observation, memory=None):
            reported = inner(observation, memory)
            spoil(observation)
            return reported

        return answer


def spoil(observation):
    for part in observation.values():
        part.fill_(0)


class Seeds(Learner):
    """Sets and uses every global source of randomness."""

    def update(self, state, batch, rng):
        self.draw()
        return super().update(state, batch, rng)

    def policy(self, state):
        inner = super().policy(state)

        def answer(observation, memory=None):
            self.draw()
            return inner(observation, memory)

        return answer

    def draw(self):
        number = int(os.environ.get("LAZYBENCH_TEST_SEED", "0"))
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number)
        torch.rand(number + 1), random.random(), np.random.random(number + 1)


class Labels(Learner):
    """Answers label 0 to every query of a classification task; the shape is right."""

    def policy(self, state):
        return lambda observation, memory=None: (self.change(observation["query_y"] * 0), memory)

    def change(self, labels):
        return labels


class TooFew(Labels):
    def change(self, labels):
        return labels[1:]


class Fractions(Labels):
    def change(self, labels):
        return labels + 0.5


class OutOfRange(Labels):
    def change(self, labels):
        return labels + 99


class Negative(Labels):
    def change(self, labels):
        return labels - 1


class Nothing(Labels):
    def change(self, labels):
        return None


class NoPair(Labels):
    def policy(self, state):
        return lambda observation, memory=None: observation["query_y"] * 0


class NoPolicy(Learner):
    def policy(self, state):
        return None


class NoFit:
    """Returns its weights where its own loop must return a policy."""

    def fit(self, env, budget, rng):
        return {"w": torch.zeros(3)}


class NotANumber(Learner):
    """Answers NaN to a regression task."""

    def policy(self, state):
        inner = super().policy(state)
        return lambda observation, memory=None: (inner(observation)[0] * float("nan"), memory)


class BareState(Learner):
    def update(self, state, batch, rng):
        return super().update(state, batch, rng)[0]


class WordyLogs(Learner):
    def update(self, state, batch, rng):
        return super().update(state, batch, rng)[0], {"loss": "low"}


class StrangeState(Learner):
    def init(self, env, rng):
        return {"w": object()}


class Overspends:
    """Attacks with more queries than it has, in every way that might cost nothing."""

    families = ("attack",)

    def init(self, env, rng):
        return {}

    def policy(self, state):
        def answer(observation, memory=None):
            x = observation["x"].clone().requires_grad_(True)
            rows = x.repeat(7, 1, 1, 1)
            owner = torch.arange(len(observation["x"])).repeat(7)
            reported = {
                name: bool(getattr(observation[name], "requires_grad", False))
                for name in observation
            }
            with Path("told.jsonl").open("a") as file:
                left = observation["left"].tolist()
                print(json.dumps({"left": left, "gradients": any(reported.values())}), file=file)
            return Queries(rows, owner), memory

        answer.vectorized = True
        return answer
