"""lazybench: environments, agents and leaderboards for meta-learning.

Names are loaded at first use, so that `import lazybench` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lazybench import _moved
from lazybench._version import __version__
from lazybench.gymnasium_ids import register_when_gymnasium_is_imported

if TYPE_CHECKING:
    from lazybench.agent import Agent, Plan, Policy
    from lazybench.api import (
        board,
        compare,
        import_data,
        load_records,
        make_agent,
        make_env,
        register_agent,
        register_data,
        register_env,
        run,
    )
    from lazybench.boards.views import BoardView, ComparisonView, Records
    from lazybench.check.agent_checker import check_agent
    from lazybench.check.env_checker import check_env
    from lazybench.envs.interop import as_dataset, as_torchmeta, from_torchmeta
    from lazybench.records import Record
    from lazybench.runner.callbacks import Callback, Tracker
    from lazybench.runner.transfer import evaluate, load_policy
    from lazybench.seeding import Rng
    from lazybench.specs import AgentSpec, DataSpec, EnvSpec

_HOMES = {
    "Agent": "lazybench.agent",
    "AgentSpec": "lazybench.specs",
    "BoardView": "lazybench.boards.views",
    "Callback": "lazybench.runner.callbacks",
    "ComparisonView": "lazybench.boards.views",
    "DataSpec": "lazybench.specs",
    "EnvSpec": "lazybench.specs",
    "Plan": "lazybench.agent",
    "Policy": "lazybench.agent",
    "Record": "lazybench.records",
    "Records": "lazybench.boards.views",
    "Rng": "lazybench.seeding",
    "Tracker": "lazybench.runner.callbacks",
    "board": "lazybench.api",
    "check_agent": "lazybench.check.agent_checker",
    "check_env": "lazybench.check.env_checker",
    "compare": "lazybench.api",
    "evaluate": "lazybench.runner.transfer",
    "import_data": "lazybench.api",
    "load_policy": "lazybench.runner.transfer",
    "load_records": "lazybench.api",
    "make_agent": "lazybench.api",
    "make_env": "lazybench.api",
    "register_agent": "lazybench.api",
    "register_data": "lazybench.api",
    "register_env": "lazybench.api",
    "run": "lazybench.api",
}

__all__ = [
    "Agent",
    "AgentSpec",
    "BoardView",
    "Callback",
    "ComparisonView",
    "DataSpec",
    "EnvSpec",
    "Plan",
    "Policy",
    "Record",
    "Records",
    "Rng",
    "Tracker",
    "__version__",
    "as_dataset",
    "as_torchmeta",
    "board",
    "check_agent",
    "check_env",
    "compare",
    "evaluate",
    "from_torchmeta",
    "import_data",
    "load_policy",
    "load_records",
    "make_agent",
    "make_env",
    "register_agent",
    "register_data",
    "register_env",
    "run",
]


_INTEROP = ("as_dataset", "as_torchmeta", "from_torchmeta")


def __getattr__(name: str) -> Any:
    if name in _INTEROP:
        from lazybench.envs import interop

        return vars(interop)[name]
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lazybench' has no attribute '{name}'")
    return vars(importlib.import_module(home))[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_INTEROP])


_moved.install()
register_when_gymnasium_is_imported()
