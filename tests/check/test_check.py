"""`check` names the clause of the contract that is broken, one fault at a time, with advice."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import lazybench
from lazybench.agents.attack.meta_attack import MetaAttackAgent
from lazybench.check.agent_checker import check_agent
from lazybench.check.contract import global_state_untouched
from lazybench.check.env_checker import check_env
from lazybench.envs.attack.env import AttackVectorEnv
from lazybench.envs.fewshot.env import FewShotEnv, FewShotVectorEnv
from lazybench.envs.longtail.env import LongTailEnv
from lazybench.registry import AGENTS, ENVS

PLAYERS = Path(__file__).parents[1] / "runner" / "players.py"
LEARNER = ["makes", "init", "update", "resumes", "learns", "policy"]
FLOOR = ["makes", "init", "policy"]


def failed(findings):
    return {finding.name: finding.detail for finding in findings if not finding.ok}


@pytest.mark.parametrize(
    ("agent", "names"),
    [("chance", FLOOR), ("nearest_pixel", FLOOR), ("reptile", LEARNER), ("lazy_maml", LEARNER)],
)
def test_builtin_agents_keep_the_contract(agent, names):
    findings = check_agent(agent, "sinusoid-5shot")
    assert failed(findings) == {}
    assert [finding.name for finding in findings] == names


def test_an_attacker_without_training_is_checked_on_the_test():
    findings = check_agent("square", "glyphs-net4-untargeted")
    assert failed(findings) == {}
    assert findings[-1].detail.startswith("success ")


@pytest.mark.slow
def test_a_trained_attacker_is_checked_on_attacks_too(monkeypatch):
    def attack(*_):
        raise ZeroDivisionError("the attack was never tried")

    monkeypatch.setattr(MetaAttackAgent, "attack", attack)
    found = failed(check_agent("meta_attack", "glyphs-net4-untargeted"))
    assert list(found) == ["policy"]
    assert "the attack was never tried" in found["policy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "env"),
    [
        ("protonet", "glyphs-5way-1shot"),
        ("cross_entropy", "glyphs-lt-100"),
        ("lazy_two_component", "glyphs-lt-100"),
        ("meta_attack", "glyphs-net4-untargeted"),
    ],
)
def test_builtin_learners_of_each_family_learn_within_seconds(agent, env):
    findings = check_agent(agent, env)
    assert failed(findings) == {}
    assert [finding.name for finding in findings] == LEARNER


@pytest.mark.parametrize("env", ["sinusoid-5shot", "glyphs-lt-100", "glyphs-net4-untargeted"])
def test_builtin_environments_keep_the_contract(env):
    findings = check_env(env)
    assert failed(findings) == {}
    assert len(findings) == (9 if "net4" in env else 8)


class Careless:
    """Answers with the nearest support image, and breaks one clause of the contract."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.seen = 0

    def init(self, env, rng):
        drawn = torch.zeros(1)
        if self.fault == "random init":
            own = torch.Generator()
            own.seed()
            drawn = torch.rand(1, generator=own)
        elif self.fault == "init as modules do":
            torch.nn.Linear(1, 1)
        kept = {"object": {"w": object()}, "number": {3: drawn}}
        return kept.get(self.fault, {"w": drawn, "offset": 1.0})

    def plan(self, task):
        updates = -1 if self.fault == "plan" else 5
        env = {"querys": 3} if self.fault == "unknown env" else {}
        env |= {"shot": 3} if self.fault == "other env" else {}
        if self.fault == "unknown plan":
            return lazybench.Plan(5, batch=3)
        return {"updates": 5} if self.fault == "no plan" else lazybench.Plan(updates, env=env)

    def update(self, state, batch, rng):
        self.seen += 1
        if self.fault in DRAWS:
            DRAWS[self.fault]()
        if self.fault == "state":
            state["w"] += 1
        if self.fault == "batch":
            batch["support_x"] += 1
        if self.fault == "raises":
            raise RuntimeError("out of ideas")
        step = torch.tensor([next(_COUNTER) if self.fault == "random" else 1.0])
        if self.fault == "hidden":
            # Of all updates that this object saw, only what is new at each resuming differs.
            step = step * (self.seen > 2)
        if self.fault == "no pair of update":
            return None
        loss = {"logs": "low", "nan": float("nan")}.get(self.fault, 0.5)
        return {**state, "w": state["w"] + step}, (
            [] if self.fault == "no logs" else {"loss": loss}
        )

    def policy(self, state):
        if self.fault == "policy writes state":
            return lambda o, m=None: (nearest(o, state["w"].add_(1)), m)
        if self.fault == "leaks":
            return Leaks()
        if self.fault == "no policy":
            return {"w": 3}
        return FAULTY.get(self.fault, lambda o, m=None: (nearest(o), m))


class Leaks:
    """Remembers the trials that it saw."""

    def __init__(self):
        self.seen = {}

    def __call__(self, observation, memory=None):
        first = len(self.seen) == 0 or observation["query_x"].sum().item() in self.seen
        self.seen[observation["query_x"].sum().item()] = True
        answer = nearest(observation)
        return (answer if first else torch.zeros_like(answer)), memory


def nearest(observation, _=None):
    x, q = (observation[name].flatten(1).float() for name in ("support_x", "query_x"))
    return observation["support_y"][torch.cdist(q, x).argmin(1)]


def writes(observation, memory=None):
    answer = nearest(observation)
    observation["query_x"].zero_()
    return answer, memory


def unsteady(observation, memory=None):
    return (nearest(observation) + next(_COUNTER)) % 5, memory


_COUNTER = iter(range(10_000))
DRAWS = {
    "torch": lambda: torch.rand(1),
    "numpy": lambda: np.random.rand(),
    "python": lambda: random.random(),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
}
FAULTY = {
    "nothing": lambda o, m=None: (torch.zeros_like(o["query_y"]), m),
    "shape": lambda o, m=None: (nearest(o)[1:], m),
    "range": lambda o, m=None: (nearest(o) + 9, m),
    "type": lambda o, m=None: (nearest(o).float(), m),
    "no pair": lambda o, m=None: nearest(o),
    "writes": writes,
    "unsteady": unsteady,
    "policy torch": lambda o, m=None: ((nearest(o) + torch.randint(0, 1, ())) % 5, m),
}
AGENT_FAULTS = {
    "": None,
    "random init": ("init", "init returns different states for the same rng"),
    "init as modules do": None,
    "object": ("init", "tensors, numbers, text and None, got object at state/w"),
    "number": ("init", "keys of an agent's state must be text"),
    "plan": ("makes", "updates of a plan must be a whole number of at least 0, got -1"),
    "no plan": ("makes", "must return a lazybench.agent.Plan or None, got dict"),
    "unknown plan": ("makes", "plan of agent 'careless' failed: TypeError: "),
    "unknown env": ("makes", "has no setting 'querys', which an agent's plan asks for. Did you"),
    "other env": ("makes", "an agent's plan can't set 'shot' of its training environment"),
    "no pair of update": ("update", "update must return (state, logs), logs a dict that may be"),
    "no policy": ("policy", "must return a function that takes (observation, memory) and returns"),
    "torch": ("update", "touches torch's global generator"),
    "numpy": ("update", "touches numpy's global generator"),
    "python": ("update", "touches Python's global generator"),
    "dtype": ("update", "touches torch's default dtype"),
    "state": ("update", "update changes the given state; return a new one"),
    "batch": ("update", "update changes support_x of its batch; copy"),
    "random": ("update", "update returns different states for the same rng; draw only"),
    "raises": ("update", "raised RuntimeError: out of ideas (test_check.py:"),
    "logs": ("update", "logs of update must be numbers, got {'loss': 'low'}"),
    "nan": ("update", "logs must be finite numbers, got 'loss': nan"),
    "no logs": ("update", "update must return (state, logs), logs a dict"),
    "hidden": ("resumes", "keep everything that updates depend on in state, nothing on the agent"),
    "nothing": ("learns", "nothing is learned at smoke budget: accuracy on 64 validation trials"),
    "shape": ("policy", "got [74]"),
    "range": ("policy", "labels must lie in [0, 5)"),
    "type": ("policy", "labels must be integers"),
    "no pair": ("policy", "a policy must return (action, memory), got Tensor"),
    "writes": ("policy", "the policy changes query_x of its observation; copy"),
    "unsteady": ("policy", "answers to the same trials vary; seed it by the trial"),
    "policy torch": ("policy", "touches torch's global generator, which others depend on"),
    "policy writes state": ("policy", "the policy changes the agent's state"),
    "leaks": ("policy", "an answer depends on the trials before it"),
}


@pytest.mark.parametrize("fault", AGENT_FAULTS)
def test_check_names_the_clause_that_an_agent_breaks(fault):
    lazybench.register_agent(
        lazybench.AgentSpec("careless", ("fewshot",), f"{__name__}:Careless", {"fault": fault})
    )
    try:
        broken = failed(check_agent("careless", "glyphs-5way-1shot"))
    finally:
        AGENTS.forget("careless")
        torch.set_default_dtype(torch.float32)
    expected = AGENT_FAULTS[fault]
    if expected is None:
        assert broken == {}
    else:
        name, words = expected
        assert words in broken[name]


class WholeNearest:
    """Trains in its own loop."""

    def fit(self, env, budget, rng):
        env.reset()
        return lambda o, m=None: (nearest(o), m)


class WholeRandom(WholeNearest):
    """Its loop comes to something else each time."""

    def fit(self, env, budget, rng):
        shift = next(_COUNTER)
        return lambda o, m=None: ((nearest(o) + shift) % 5, m)


def test_an_agent_with_a_loop_of_its_own_is_checked_as_such():
    findings = check_agent(f"{__file__}:WholeNearest", "glyphs-5way-1shot")
    assert failed(findings) == {}
    assert [finding.name for finding in findings] == ["makes", "fit", "policy", "learns"]
    broken = failed(check_agent(f"{__file__}:WholeRandom", "glyphs-5way-1shot"))
    assert broken == {"fit": "fit returns different policies for the same rng; draw only from rng"}
    # It learns the mean of all targets, which is no better than 0.
    broken = failed(check_agent(f"{PLAYERS}:Whole", "sinusoid-5shot"))
    assert list(broken) == ["learns"]


class FaultyVectorEnv(FewShotVectorEnv):
    """Breaks one clause of the contract."""

    def __init__(self, num_envs=1, *, fault="", split="test", **settings):
        super().__init__(num_envs, split=split, **settings)
        self._fault, self._split = fault, split
        self._shown = {}

    @property
    def data(self):
        reported = dict(super().data)
        if self._fault == "no fingerprint":
            del reported["fingerprint"]
        return reported

    def reset(self, *, seed=None, options=None):
        fault = self._fault
        if fault == "global":
            np.random.rand()
        if fault == "one trial" and options:
            options = {"trials": np.zeros(self.num_envs, int)}
        observation, info = super().reset(seed=seed, options=options)
        observation = dict(observation)
        x = observation["query_x"]
        if fault == "row":
            observation["query_x"] = x + 0.1 * torch.arange(len(x))[:, None, None]
        if fault == "history" or (fault == "stream" and self._split == "train"):
            observation["query_x"] = x + np.float32(next(_COUNTER))
        if fault == "space":
            observation["query_x"] = x[:, 1:]
        if fault == "answers" and self._split != "train":
            observation["query_y"] = -x
        if fault == "tensor in info":
            info = {**info, "x": torch.zeros(1)}
        if fault == "shared":
            trial = tuple(info["trial"].tolist())
            observation = self._shown.setdefault((seed is None, trial), observation)
        return observation, info

    def step(self, actions):
        if self._fault == "takes all":
            actions = torch.zeros(self.num_envs, self.task.query_rows, 1)
        if self._fault == "crash" and torch.as_tensor(actions).shape[1] != self.task.query_rows:
            raise KeyError("no")
        observation, rewards, done, cut, info = super().step(actions)
        if self._fault == "judge":
            info["mse"] = 1 - info["mse"]
        if self._fault == "no metric":
            del info["mse"]
        if self._fault == "moody":
            info["mse"] = info["mse"] * (1 + next(_COUNTER) * 1e-6)
        return observation, rewards, done, cut, info


class FaultyEnv(FewShotEnv):
    """Gymnasium's check finds that it gives no float."""

    def __init__(self, *, fault="", **settings):
        super().__init__(**settings)
        self._fault = fault

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, (str(reward) if self._fault == "reward" else reward), *rest


ENV_FAULTS = {
    "": None,
    "no fingerprint": ("opens", "missing: fingerprint"),
    "global": ("opens", "touches numpy's global generator"),
    "row": ("trials by index", "query_x of a trial depends on its row"),
    "history": ("trials by index", "query_x of a trial depends on"),
    "one trial": ("trials by index", "trials 3 and 4 are the same"),
    "stream": ("training by index", "query_x of a batch depends on what came before"),
    "space": ("spaces", "an observation on train is outside of observation_space: query_x"),
    "answers": ("hidden answers", "query_y shows answers on val; hide them"),
    "tensor in info": ("hidden answers", "info of val has tensors: x"),
    "shared": ("own copies", "writing into support_x of an observation on train"),
    "judge": ("scores", "correct answers to training tasks get mse 1.000"),
    "no metric": ("scores", "the info of a trial's last step must have mse"),
    "moody": ("scores", "equal answers to the same trial get different scores"),
    "takes all": ("scores", "isn't better than predicting 0"),
    "crash": ("scores", "end in KeyError: 'no'; raise lazybench.errors.ContractError"),
    "reward": ("gymnasium", "Gymnasium's own check of"),
}


@pytest.mark.parametrize("fault", ENV_FAULTS)
def test_check_names_the_clause_that_an_environment_breaks(fault):
    spec = lazybench.EnvSpec(
        "faulty",
        "fewshot",
        f"{__name__}:FaultyEnv",
        f"{__name__}:FaultyVectorEnv",
        "sinusoid",
        {"data": "sinusoid", "way": 1, "shot": 5, "fault": fault},
        trials={"smoke": 4},
        val_trials={"smoke": 4},
        metric="mse",
        better="lower",
    )
    ENVS.register(spec)
    try:
        broken = failed(check_env("faulty"))
    finally:
        ENVS.forget("faulty")
    expected = ENV_FAULTS[fault]
    if expected is None:
        assert broken == {}
    else:
        name, words = expected
        assert words in broken[name]


class Generous(AttackVectorEnv):
    """Its queries cost nothing."""

    def step(self, actions):
        observation, *rest = super().step(actions)
        return {**observation, "left": torch.full((self.num_envs,), 60)}, *rest


class Short(LongTailEnv):
    """Takes answers of any length."""

    def step(self, action):
        return super().step(np.zeros(self.task.batch, np.int64))


def test_faults_of_the_other_families_are_found():
    attack = ENVS.resolve("glyphs-net4-untargeted").spec
    stream = ENVS.resolve("glyphs-lt-100").spec
    for spec, name, words in (
        (
            lazybench.EnvSpec(**{**vars(attack), "vector_target": f"{__name__}:Generous"}),
            "counts",
            "costs [2940, 2940] queries",
        ),
        (
            lazybench.EnvSpec(**{**vars(stream), "trials": {"smoke": 5, "small": 5, "paper": 5}}),
            "scores",
            "scores 1800 trials, but the EnvSpec has 5",
        ),
        (
            lazybench.EnvSpec(**{**vars(stream), "target": f"{__name__}:Short"}),
            "scores",
            "answers to all but one row are accepted",
        ),
    ):
        ENVS.register(lazybench.EnvSpec(**{**vars(spec), "id": "faulty-other"}))
        try:
            broken = failed(check_env("faulty-other"))
        finally:
            ENVS.forget("faulty-other")
        assert words in broken[name]


def test_a_block_that_leaves_global_state_alone_is_fine():
    with global_state_untouched():
        torch.rand(1, generator=torch.Generator().manual_seed(0))
        np.random.default_rng(0).random()
        random.Random(0).random()
