"""Evaluation of policies trained elsewhere: any callable gets the official trials and a record."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lazybench.agent import is_vectorized
from lazybench.arguments import check_path, check_settings, check_whole
from lazybench.errors import ContractError, UsageError
from lazybench.files import plain
from lazybench.records import AgentFacts, Record, Store
from lazybench.runner import provenance
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.evaluate import Clock, evaluate_all, open_env
from lazybench.runner.record import evaluation_record
from lazybench.runner.request import chosen_trials, resolve_env
from lazybench.runner.run_dir import writable
from lazybench.runtime.threads import using_threads


def evaluate(  # noqa: PLR0913 - public arguments
    policy: Any,
    env: str,
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    budget: str = "small",
    limit: int | None = None,
    out: str | Path | None = None,
    threads: int | None = None,
    watch: Callback = SILENT,
) -> Record:
    """Evaluate a policy on the official test trials of `env`, and return the record.

    Args:
        policy: `policy(observation, memory) -> (action, memory)`. It gets one trial at a time:
            tensors `support_x [rows, *instance]`, `support_y [rows]`, `query_x`; its action are
            the predictions for `query_x`. With `policy.vectorized = True` observations have a
            leading axis over the trials of a block. A function `policy(observation) -> action` of
            one argument is accepted, too.
        env: environment id or alias.
        name: agent name for the board.
        config: settings that distinguish variants of the same name; part of the key.
        seed: the seed of its training; part of the key.
        budget: sets the number of test trials, and the board.
        limit: evaluate only the first `limit` trials; the record is marked and never ranked.
        out: store for the record; None saves nothing.
        threads: tasks in parallel, for vectorised built-in policies.
        watch: called with the progress.

    Raises:
        UsageError: an unknown environment or budget, a limit below 1, or an empty name.
        ContractError: the policy isn't callable or its answers have a wrong shape, type or range.
        DataUnavailable: the data isn't installed or is damaged.
        OutputUnavailable: the store can't be written; checked before evaluating.
        RecordConflict: the store holds the same name, config and seed with other scores.
    """
    if not callable(policy):
        raise ContractError(f"a policy is called with an observation, got {type(policy).__name__}")
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"name must say who is evaluated, got {name!r}")
    seed, config = check_whole("seed", seed), check_settings("config", config)
    out = None if out is None else check_path("out", out)
    spec, note = resolve_env(env)
    if note:
        watch.note(note)
    trials, limited = chosen_trials(spec, budget, limit)
    if out is not None:
        writable(out)
    provenance.reset_peak_memory()
    started, clock = provenance.now(), Clock()
    opened = open_env(spec, spec.rows(trials), "test")
    with using_threads(threads):
        evaluation = evaluate_all(opened, _two_arguments(policy), spec, trials, watch, clock)
    record = evaluation_record(
        spec,
        opened,
        trials,
        evaluation,
        agent=AgentFacts(id=name, origin="external", trained_by="external", resumable=False),
        config=dict(plain(config)),
        preset="external",
        budget=budget,
        limited=limited,
        untuned=True,
        seed=seed,
        started=started,
    )
    if out is not None:
        Store(out).publish(record)
    return record


def _two_arguments(policy: Any) -> Any:
    """A policy of the contract around one that takes the observation alone."""
    # A torch module's own call takes anything; what it hands on to is `forward`.
    called = policy.forward if isinstance(policy, torch.nn.Module) else policy
    try:
        parameters = [
            parameter
            for parameter in inspect.signature(called).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return policy
    if len(parameters) != 1:
        return policy

    def with_memory(observation: Any, memory: Any = None) -> tuple[Any, Any]:
        return policy(observation), None

    with_memory.vectorized = is_vectorized(policy)  # type: ignore[attr-defined]
    return with_memory
