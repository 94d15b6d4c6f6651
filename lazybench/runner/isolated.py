"""Runs an agent's policy in a separate process, which only gets observations and returns actions.

The child is a fresh Python process. It constructs the agent from its name and settings, gets the
trained state, and returns the actions for observations. It opens no environment, so its memory
contains neither targets nor labels. Observations, states and actions are trees of tensors and plain
values (`checkpoint.packed`), never pickles. The policy's memory between steps stays in the child.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from lazybench.agent import OpenedEnv, Policy, State
from lazybench.errors import ContractError, LazybenchError, PolicyFailed, StoreError, UsageError
from lazybench.runner import provenance
from lazybench.runner.checkpoint import packed, to_device, unpacked
from lazybench.runner.evaluate import answer_rows, check_policy, is_block, pair
from lazybench.runner.request import make
from lazybench.runner.signals import status_and_reason
from lazybench.runtime import pipes
from lazybench.runtime.precision import using_precision
from lazybench.runtime.threads import threads, using_threads
from lazybench.specs import EnvSpec
from lazybench.tasks import Answers, Queries

if TYPE_CHECKING:
    from lazybench.runner.resolve import ResolvedRun

START_S = 300.0
"""Time limit in seconds for a child to start and construct its policy."""

_SPEC = (
    "id",
    "family",
    "target",
    "vector_target",
    "data",
    "block",
    "independent_trials",
    "version",
)
"""Fields of an environment's spec that the child needs to construct its agent."""


class IsolatedPolicy:
    """The policy in a child process; called with whole blocks, or with the steps of a pass.

    Attributes:
        cpu_s: processor seconds of the child since the last `take_cpu_s`.
        peak_memory_bytes: its largest resident size.
        peak_gpu_memory_bytes: largest GPU memory of its tensors; 0 without a GPU.
    """

    vectorized = True

    def __init__(self, resolved: ResolvedRun, state: State, env: OpenedEnv) -> None:
        """Start the child, and construct its policy.

        Args:
            resolved: the run.
            state: the trained state.
            env: the opened environment; the child only gets the shape of its actions.

        Raises:
            UsageError: the child can't construct the agent, or its source differs there.
            PolicyFailed: it died or failed.
        """
        self.cpu_s, self.peak_memory_bytes, self.peak_gpu_memory_bytes = 0.0, 0, 0
        self._device = resolved.device
        self._child = pipes.Child(f"{__name__}:serve")
        self._turn = 0
        rows = env.num_envs if is_block(env) else None
        shape = env.single_action_space.shape if is_block(env) else None
        there = self._exchange(
            {
                "agent": resolved.agent.asked,
                "env": {
                    **{name: vars(resolved.spec)[name] for name in _SPEC},
                    **_mappings(resolved.spec),
                },
                "budget": resolved.request.budget,
                "config": resolved.agent.config,
                "device": resolved.device,
                "precision": resolved.request.precision,
                "threads": threads(),
                "rows": rows,
                "shape": None if shape is None else list(shape),
                "state": state,
            },
            START_S,
        )
        if (there["source"], there["version"]) != (
            resolved.agent.source,
            resolved.agent.spec.version,
        ):
            raise UsageError(
                f"agent '{resolved.agent.spec.id}' differs in its separate process (source "
                f"{there['source']}, here {resolved.agent.source}); leave its files as they are"
            )

    def __call__(self, observation: Mapping[str, Any], memory: Any = None) -> tuple[Any, Any]:
        """Return the child's action, and a number that identifies the policy's memory there.

        Raises:
            PolicyFailed: the policy failed, or its process died.
            ContractError: its action holds something that can't be sent.
        """
        asked = {"observation": dict(observation), "memory": memory}
        reply = self._exchange(asked)
        self._turn += 1
        action = to_device(reply["action"], self._device)
        if reply["kind"] == "queries":
            action = Queries(action["rows"], action["owner"])
        elif reply["kind"] == "answers":
            action = Answers(**action)
        elif reply["kind"] == "array":
            action = action.numpy()
        return action, reply["memory"]

    def take_cpu_s(self) -> float:
        """Return the child's processor seconds since the last call."""
        taken, self.cpu_s = self.cpu_s, 0.0
        return taken

    def close(self) -> None:
        """End the child at once."""
        self._child.kill()

    def _exchange(self, asked: Any, limit_s: float | None = None) -> dict[str, Any]:
        try:
            reply = unpacked(self._child.exchange(packed(_sendable(asked)), limit_s))
            if not isinstance(reply, dict):
                raise StoreError("a message isn't a dict")
            self.cpu_s += max(float(reply.pop("cpu_s")), 0.0)
            self.peak_memory_bytes = max(self.peak_memory_bytes, int(reply.pop("peak")))
            gpu_peak = int(reply.pop("gpu_peak"))
            self.peak_gpu_memory_bytes = max(self.peak_gpu_memory_bytes, gpu_peak)
            if reply.get("status") == "refused":
                raise UsageError(f"in the policy's process: {reply['reason']}")
            if "status" in reply:
                failed = PolicyFailed(str(reply["status"]), str(reply["reason"]))
                failed.add_note(f"in the policy's process:\n{reply['trace']}")
                raise failed
            wanted = {"action", "kind", "memory"} if limit_s is None else {"source", "version"}
            if set(reply) != wanted:
                raise StoreError(f"a message holds {sorted(reply)}")
        except pipes.Ended as error:
            raise PolicyFailed("failed", f"the policy's process {error}") from error
        except UsageError:
            raise
        except (StoreError, KeyError, TypeError, ValueError) as error:
            raise PolicyFailed(
                "failed", f"the policy's process sent an invalid reply ({error})"
            ) from error
        return reply


@contextmanager
def isolated(resolved: ResolvedRun, state: State, env: OpenedEnv) -> Iterator[IsolatedPolicy]:
    """Run the policy of a trained state in a separate process, which ends with the block."""
    policy = IsolatedPolicy(resolved, state, env)
    try:
        yield policy
    finally:
        policy.close()


def _mappings(spec: EnvSpec) -> dict[str, Any]:
    return {name: dict(vars(spec)[name]) for name in ("kwargs", "trials", "val_trials")}


def _sendable(value: Any) -> Any:
    """A tree with arrays converted to tensors, and mappings to dicts."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Mapping):
        return {name: _sendable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_sendable(item) for item in value]
    return value


def serve() -> NoReturn:
    """Serve one parent process until it closes the pipe, then exit; run by the child process."""
    pipes.serve(_Served)


class _Served:
    """Constructs a policy from the first message, and replies to all others with its actions."""

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._asked: dict[str, Any] = {}
        self._memory: Any = None
        self._turn = 0

    def __call__(self, message: bytes) -> bytes:
        begin_s = time.process_time()
        try:
            asked = unpacked(message)
            reply = self._make(asked) if self._policy is None else self._answer(self._policy, asked)
            return packed(reply | self._costs(begin_s))
        except (Exception, SystemExit) as error:
            if not isinstance(error, _Refused):
                status, reason = status_and_reason(error)
            else:
                status, reason = "refused", str(error)
            trace = traceback.format_exc()
            return packed(
                {"status": status, "reason": reason, "trace": trace} | self._costs(begin_s)
            )

    def _costs(self, begin_s: float) -> dict[str, Any]:
        return {
            "cpu_s": time.process_time() - begin_s,
            "peak": provenance.peak_memory_bytes(),
            "gpu_peak": provenance.peak_gpu_memory_bytes(self._asked.get("device", "cpu")),
        }

    def _make(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make the policy; return what it was made from."""
        # For as long as this process lives.
        using_threads(asked["threads"]).__enter__()
        using_precision(asked["precision"], asked["device"]).__enter__()
        try:
            agent = make(
                asked["agent"],
                EnvSpec(**asked["env"]),
                asked["budget"],
                asked["config"],
                whole=True,
            )
        except LazybenchError as error:
            raise _Refused(str(error)) from error
        self._policy = agent.instance.policy(to_device(asked.pop("state"), asked["device"]))
        check_policy(self._policy)
        self._asked = asked
        return {"source": agent.source, "version": agent.spec.version}

    def _answer(self, policy: Policy, asked: dict[str, Any]) -> dict[str, Any]:
        """One action, and the number of the memory after it."""
        observation = to_device(asked["observation"], self._asked["device"])
        if asked["memory"] is not None and asked["memory"] != self._turn:
            raise ContractError(f"no memory has number {asked['memory']}")
        memory = None if asked["memory"] is None else self._memory
        rows, shape = self._asked["rows"], self._asked["shape"]
        if rows is None:
            action, self._memory = pair(policy(observation, memory))
        else:
            wanted = None if shape is None else tuple(shape)
            action, self._memory = answer_rows(policy, observation, memory, rows, wanted)
        self._turn += 1
        kind = "tree"
        if isinstance(action, Queries):
            kind, action = "queries", action._asdict()
        elif isinstance(action, Answers):
            kind, action = "answers", {n: v for n, v in action._asdict().items() if v is not None}
        elif isinstance(action, np.ndarray):
            kind = "array"
        return {"action": _sendable(action), "kind": kind, "memory": self._turn}


class _Refused(LazybenchError):
    """The agent can't be constructed here."""
