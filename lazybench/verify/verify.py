"""Verify a record: its format, its answers, and a sample of its trials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lazybench.errors import UsageError
from lazybench.findings import Finding, refuted
from lazybench.records import Record
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.evaluate import open_env
from lazybench.runner.request import check_device
from lazybench.runtime.precision import using_precision
from lazybench.runtime.threads import using_threads
from lazybench.specs import EnvSpec
from lazybench.verify.load_policy import (
    StateSource,
    check_network,
    check_settings,
    check_updates,
    remade,
    trained_policy,
)
from lazybench.verify.rescore import (
    compare,
    compare_trained,
    differing,
    draw_seed,
    evaluate_sample,
    finds,
    same_platform,
)
from lazybench.verify.static_checks import (
    Verification,
    check_answers,
    check_environment,
    check_numbers,
    read_record,
    spec_of,
)

TRIALS = 50
"""Default number of trials that are evaluated again."""


def verify(  # noqa: PLR0913 - a public function
    path: Path,
    *,
    trials: int = TRIALS,
    source: StateSource | None = None,
    seed: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    watch: Callback = SILENT,
) -> Verification:
    """Verify a record; return the findings and the verdict.

    The checks, up to the first that fails: the file is a valid record; its key; its environment,
    data and number of trials; its answers, scored again, give its scores; its numbers follow from
    its trials; and, for a sample of trials, its agent gives the recorded results. The last check
    needs the trained state, which is in the run's folder or is trained again; baselines need none.

    Args:
        path: the record's file.
        trials: number of trials to evaluate again.
        source: source of the trained state.
        seed: seed of the sample; None for the system's entropy.
        device: device of the computations; None for the record's.
        threads: tasks in parallel; None for all available cores.
        watch: called with the progress.

    Raises:
        UsageError: a record without scores, a number of trials below 0, a missing state, or code
            of another version.
        DataUnavailable: the data isn't installed or is damaged.
        StoreError: the file can't be read.
        Interrupted: a signal stopped a training at a checkpoint; the same call resumes it.
    """
    if trials < 0:
        raise UsageError(f"trials must be at least 0, got {trials}; 0 evaluates none again")
    record, findings = read_record(path)
    if record is None:
        return Verification(path, "", "", "", tuple(findings))
    result = Verification(path, record.key, record.agent.id, record.env.id, tuple(findings))
    if refuted(findings):
        return result
    result = replace(result, unchecked=tuple(unchecked(record, trials=0, retrained=False)))
    if record.status != "ok":
        raise UsageError(
            f"the record has status {record.status} and no scores to verify; repeat the run to "
            "see whether it ends in the same way"
        )
    spec = spec_of(record)
    env = open_env(spec, spec.rows(max(1, record.trials.n)), "test")
    findings += check_environment(record, spec, env)
    if not refuted(findings):
        again, scored = check_answers(record, spec, env)
        findings += [*again, check_numbers(record, spec, env, scored)]
    result = replace(result, findings=tuple(findings))
    if refuted(findings) or not trials:
        return result
    if record.agent.trained_by == "external":
        why = "a submitted model can't be evaluated again; only its answers were scored"
        return replace(result, findings=(*findings, Finding("scores", None, why)))
    on = check_device(device or record.device)
    with using_threads(threads), using_precision(record.precision, on):
        return _rerun(result, record, spec, trials, source or StateSource(), seed, on, watch)


def unchecked(record: Record, *, trials: int, retrained: bool) -> Iterator[str]:
    """Yield the parts of a record that no check covers.

    Args:
        record: the record.
        trials: number of trials that were evaluated again.
        retrained: whether its training was repeated with the same result.
    """
    yield "times, memory and machine"
    if record.tuning is not None:
        yield "the search of its settings"
    if record.agent.trained_by == "lazybench" and not retrained:
        yield "the training: length, data, seed, counts of work, curve (--retrain repeats it)"
    if record.agent.trained_by == "external":
        yield "the model, and whether it gave these answers"
    elif not trials:
        yield "what its agent does: settings, network, state, answers (--trials evaluates some)"
    elif trials < record.trials.n:
        yield f"the agent's results on the other {record.trials.n - trials} trials"
    if record.trials.predictions is None and trials < record.trials.n:
        yield "scores of trials that weren't evaluated again: no answers are stored to score"


def _rerun(  # noqa: PLR0913 - all that a rerun depends on
    result: Verification,
    record: Record,
    spec: EnvSpec,
    trials: int,
    source: StateSource,
    seed: int | None,
    device: str,
    watch: Callback,
) -> Verification:
    """The result so far, with the findings on a sample of trials that are evaluated again."""
    agent, home = remade(record)
    findings = [*result.findings, check_settings(record, agent, home)]
    wanted = min(trials, record.trials.n)
    env = open_env(spec, spec.rows(wanted), "test", device)
    home_task = env.task if record.trained_on is None else open_env(home, 1, "test").task
    network = check_network(record, agent, home_task)
    findings += [] if network is None else [network]
    updates = check_updates(record, agent, home_task)
    findings += [] if updates is None else [updates]
    if refuted(findings):
        return replace(result, findings=tuple(findings))
    exact = same_platform(record, device)
    policy, about = trained_policy(record, agent, env, source, device, watch)
    other = False
    # Several processes sum gradients in another order than one does.
    if source.retrain and not (exact and record.world_size == 1):
        about = [replace(each, ok=each.ok or None) for each in about]
        other = any(each.ok is None for each in about if each.name == "checkpoint")
    findings += about
    if refuted(findings):
        return replace(result, findings=tuple(findings))
    drawn = draw_seed(seed)
    again = evaluate_sample(record, spec, env, policy, wanted, drawn, watch)
    exact = exact and not other
    findings += compare_trained(record, again) if other else compare(record, again, exact=exact)
    count, n = len(again.trials), record.trials.n
    state = [each for each in about if each.name == "checkpoint"]
    retrained = source.retrain and not other and all(each.ok for each in state)
    return replace(
        result,
        findings=tuple(findings),
        trials=count,
        exact=exact,
        equal=not (other or differing(record, again).any()),
        finds=None if other else finds(record, again),
        seed=None if count == n else drawn,
        unchecked=tuple(unchecked(record, trials=count, retrained=retrained)),
    )
