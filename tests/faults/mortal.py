"""An agent one of whose ranks dies: Reptile, whose rank 1 is killed in its fifth update."""

import os
import signal

from lazybench.agents.fewshot.gradient import GradientAgent, preset


class Mortal(GradientAgent):
    """Reptile; rank 1 dies once where the environment says so, before the group is restarted."""

    @staticmethod
    def preset(algorithm, env, budget):
        return preset("reptile", env, budget)

    def update(self, state, batch, rng):
        dies = os.environ.get("LAZYBENCH_TEST_KILL_RANK") == os.environ.get("RANK")
        if dies and state["step"] == 4 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().update(state, batch, rng)
