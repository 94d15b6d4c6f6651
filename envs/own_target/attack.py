"""Attacks on a user's own target: the request, the run and the outcome of each attacker.

Networks of other packages have names, `timm:NAME` and `robustbench:NAME`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lazybench.agent import Policy
from lazybench.envs.attack.batch import AttackBlock
from lazybench.envs.attack.gradient_maps import maps_shape
from lazybench.envs.own_target.form import TargetForm, as_function, in_form
from lazybench.envs.own_target.http import HttpSettings, HttpTarget
from lazybench.envs.own_target.images import UserImages, read_user_images
from lazybench.envs.own_target.journal import set_aside
from lazybench.envs.own_target.user_target import UserAttack, own_protocol
from lazybench.envs.own_target.white_box import Bound, need_white_box, white_box
from lazybench.errors import (
    ContractError,
    DataUnavailable,
    LazybenchError,
    UsageError,
    nearest,
)
from lazybench.nets.pretrained import Preparation, Prepared
from lazybench.plugins import contained, describe, raised_at
from lazybench.runner.callbacks import SILENT, Callback
from lazybench.runner.evaluate import Clock
from lazybench.runner.request import ResolvedAgent, make
from lazybench.runner.run_dir import locked, writable
from lazybench.seeding import Rng
from lazybench.specs import EnvSpec
from lazybench.user_code import load

ATTACKS = {"scores": ("square", "hopskipjump"), "label": ("hopskipjump", "boundary")}
"""Default attackers, by what the target shows."""

JOURNAL = "queries.jsonl"

_COLUMNS = (
    *("success", "success_8bit", "queries", "success_query", "best_l2"),
    *("bad_queries", "success_bad_queries"),
)
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class AttackRequest:
    """The target to attack, its images and the protocol.

    Attributes:
        target: `module:predict` or `file.py:predict` of the user's own function or network,
            `timm:NAME` or `robustbench:NAME`, or an http address.
        images: folder or npz file.
        labels: file of labels; None if folders or the npz file hold them.
        attacks: names of attackers; empty for `ATTACKS`.
        form: the target's input layout and kind of answers, as in `TargetForm`.
        protocol: norm, eps, query_budget, mode, targeted, bad_query_budget and bad_answers, as in
            `AttackVectorEnv`.
        http: settings of the requests to an address, as in `HttpSettings`.
        eight_bit: whether to round images to 8 bits before they are sent; always done over HTTP.
        limit: number of images, spread evenly over the classes; None for all.
        size: edge that images are resized to, in pixels; None leaves them as they are.
        white_box: whether to attack the network by its gradients, too.
        seed: seed of the attackers.
        out: folder of the report, and of the journal of answers.
        fresh: whether to query again what the address answered before.
    """

    target: str
    images: Path
    labels: Path | None = None
    attacks: tuple[str, ...] = ()
    form: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    http: Mapping[str, Any] = field(default_factory=dict, repr=False)
    eight_bit: bool = False
    limit: int | None = None
    size: int | None = None
    white_box: bool = False
    seed: int = 0
    out: Path = Path("attack-report")
    fresh: bool = False

    @property
    def is_http(self) -> bool:
        """Whether the target is behind an address."""
        return _ADDRESS.match(self.target) is not None


@dataclass(frozen=True)
class Attacked:
    """Results of one attacker on the images that the target classifies right, `[n]` in order.

    Attributes:
        name: of the attacker.
        columns: `success` (0 or 1), `success_8bit`, `queries`, `success_query` (0 for none),
            `best_l2` (-1 for none), `bad_queries`, `success_bad_queries` (-1 for none),
            `distance`, that of the nearest adversarial image in the protocol's norm (infinite for
            none), and `class`, the target's class of that image (-1 for none).
        nearest: `[n, C, H, W]` float32 those images; the clean one where there is none.
        wall_s: seconds that it took.
    """

    name: str
    columns: Mapping[str, NDArray[Any]]
    nearest: NDArray[np.float32]
    wall_s: float

    @property
    def won(self) -> NDArray[np.bool_]:
        """Whether each of these images was attacked successfully, `[n]`."""
        return np.asarray(self.columns["success"] > 0)


@dataclass(frozen=True)
class AttackOutcome:
    """Results of all attackers on a user's own target.

    Attributes:
        request: the request.
        target: its name, without secrets.
        protocol: settings that define success.
        eight_bit: whether images were rounded to 8 bits.
        names: of all N images.
        classes: names of the classes, by number; empty if the images come with numbers.
        clean: `[N, C, H, W]` float32 the images as they were sent.
        label: `[N]` true classes.
        top: `[N]` the target's classes of the clean images.
        right: `[n]` places of those that the target gets right.
        attacked: results of each attacker on them.
        probes: how many images were queried again, with how many queries, and how many got random
            answers, answers that depend on the batch, or probabilities; None if answers are
            declared to be random.
        notes: warnings for the reader, a line each.
        answered: images that the address answered in this run; None without an address.
        unanswered: images that were sent to it without an answer; None without an address.
        replayed: answers taken from earlier runs; None without an address.
        bounds: results of white-box attacks; empty where none were wanted.
    """

    request: AttackRequest
    target: str
    protocol: Mapping[str, Any]
    eight_bit: bool
    names: tuple[str, ...]
    classes: tuple[str, ...]
    clean: NDArray[np.float32]
    label: NDArray[np.int64]
    top: NDArray[np.int64]
    right: NDArray[np.int64]
    attacked: tuple[Attacked, ...]
    probes: Mapping[str, int] | None
    notes: tuple[str, ...]
    answered: int | None
    unanswered: int | None
    replayed: int | None
    bounds: tuple[Bound, ...] = ()

    def robust(self, *attacked: Attacked) -> NDArray[np.bool_]:
        """Return which of all images are classified right and withstand these attackers, `[N]`.

        Without any named, the worst case: all of them.
        """
        robust = np.zeros(len(self.label), np.bool_)
        robust[self.right] = ~np.any([each.won for each in attacked or self.attacked], axis=0)
        return robust


def attack(
    request: AttackRequest,
    watch: Callback = SILENT,
    keep: Callable[[AttackOutcome], object] | None = None,
) -> AttackOutcome:
    """Return the results of the attackers; only the journal of an address is written.

    Args:
        request: what to attack, and how.
        watch: called with the progress.
        keep: called with the results of the finished attackers where a later one is interrupted or
            fails; a note names those without results.

    Raises:
        UsageError: a name or setting that isn't allowed, or images and labels that don't fit.
        DataUnavailable: images that can't be read, or an address that doesn't answer.
        ContractError: the target answers something else than was declared.
        Busy: another process writes to the folder.
        OutputUnavailable: the folder can't be written.
    """
    _known_attacks(request.attacks)
    if not request.is_http:
        _no_http(request)
    images = read_user_images(request.images, request.labels, request.limit, request.size)
    form = TargetForm(**request.form)
    eight_bit = request.eight_bit or request.is_http
    if request.white_box and request.is_http:
        need_white_box(None, form, request.protocol, eight_bit=eight_bit)
    _check_attackers(request, images, form, eight_bit=eight_bit)
    writable(request.out)
    with locked(request.out), _opened(request, form, watch) as (name, network, predict, http):
        if request.white_box:
            need_white_box(network, form, request.protocol, eight_bit=eight_bit)
        if http is not None and len(http.journal):
            watch.note(
                f"{len(http.journal)} answers are in {request.out / JOURNAL} and aren't queried "
                "again unless --fresh is given"
            )
        try:
            target = UserAttack(
                predict,
                images,
                {**request.protocol, "access": form.access},
                eight_bit=eight_bit,
                probe=_probe(request, predict, http),
                classes=form.classes,
            )
            probes, notes = target.probes, target.notes
            if probes is not None:
                logits = form.answers == "scores"
                notes += probes.notes(scores=logits, over_http=http is not None)
            for note in notes:
                watch.note(note)
            attackers = [
                _attacker(each, target) for each in request.attacks or ATTACKS[form.access]
            ]
            # They don't get the target itself, which they could query uncounted.
            facts = SimpleNamespace(task=target.task, examples=target.examples)
            states = [each.instance.init(facts, Rng(request.seed)) for each in attackers]

            def outcome(notes: tuple[str, ...], bounds: tuple[Bound, ...] = ()) -> AttackOutcome:
                return AttackOutcome(
                    request=request,
                    target=name,
                    protocol={**target.protocol.fields(), "seed": request.seed},
                    eight_bit=eight_bit,
                    names=images.names,
                    classes=images.classes,
                    clean=target.x.numpy(),
                    label=images.y,
                    top=target.top,
                    right=target.right,
                    attacked=tuple(attacked),
                    probes=None if probes is None else probes._asdict(),
                    notes=notes,
                    answered=None if http is None else http.answered,
                    unanswered=None if http is None else http.unanswered,
                    replayed=None if http is None else http.journal.replayed,
                    bounds=bounds,
                )

            attacked: list[Attacked] = []
            try:
                for agent, state in zip(attackers, states, strict=True):
                    attacked.append(_attacked(agent, state, target, watch))
            except BaseException:
                if attacked and keep is not None:
                    left = ", ".join(each.spec.id for each in attackers[len(attacked) :])
                    keep(outcome((*notes, f"Stopped: there are no results of {left}.")))
                raise
        except ContractError as error:
            if http is not None and http.gone is not None:
                raise DataUnavailable(http.gone) from error
            raise
        bounds: tuple[Bound, ...] = ()
        if request.white_box:
            at = torch.from_numpy(target.right)
            protocol = target.protocol
            try:
                bounds = white_box(
                    network,
                    form,
                    target.x[at],
                    torch.from_numpy(images.y)[at],
                    norm=protocol.norm,
                    eps=protocol.eps,
                    seed=request.seed,
                )
            except BaseException as error:
                if keep is not None:
                    keep(outcome((*notes, "Stopped: there are no results of white-box attacks.")))
                if isinstance(error, LazybenchError) or not isinstance(error, Exception):
                    raise
                raise ContractError(
                    f"--white-box failed on '{name}': {describe(error).splitlines()[0]} "
                    f"({raised_at(error)}); its answers need gradients with respect to its images"
                ) from error
        return outcome(notes, bounds)


def _check_attackers(
    request: AttackRequest, images: UserImages, form: TargetForm, *, eight_bit: bool
) -> None:
    """Construct each attacker for a task of this kind, before any query, which may cost money.

    Raises:
        UsageError: a setting that isn't allowed, or an attacker that doesn't suit the target.
    """
    settings = {**request.protocol, "access": form.access}
    x, protocol = own_protocol(images, settings, eight_bit=eight_bit)
    instance = tuple(x.shape[1:])
    # How many classes there are is known after the first answers.
    classes = form.classes or max(2, int(images.y.max()) + 1)
    task = protocol.task(classes, instance, (), maps_shape(instance))
    facts = SimpleNamespace(task=task, x=x, examples=lambda: torch.zeros(classes, *instance))
    for name in request.attacks or ATTACKS[form.access]:
        try:
            _attacker(name, facts).instance.init(facts, Rng(request.seed))
        except ContractError as error:
            raise UsageError(str(error)) from error


def _probe(request: AttackRequest, predict: Any, http: Any) -> Any:
    """Function that queries an image again; None if answers are declared to be random."""
    if http is not None:
        return None if request.http.get("repeats") else http.probe
    return lambda _, rows: predict(rows)


@contextmanager
def _opened(
    request: AttackRequest, form: Any, watch: Callback
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, the user's own object, function and, for an address, the HTTP target.

    The HTTP target is closed at the end.
    """
    if not request.is_http:
        named = named_target(request.target, str(request.protocol.get("norm", "l2")))
        network = as_function(load(request.target) if named is None else named, form)
        yield request.target, network, in_form(network, form), None
        return
    settings = HttpSettings(**request.http)
    journal = request.out / JOURNAL
    aside = set_aside(journal) if request.fresh else None
    try:
        target = HttpTarget(request.target, form, settings, journal=journal)
    except LazybenchError:
        if aside is not None:
            aside.replace(journal)
        raise
    if aside is not None:
        watch.note(f"the answers so far are in {aside}")
    try:
        yield target.name, None, target, target
    finally:
        target.close()


_OPTIONS = {"headers": "header", "timeout_s": "timeout"}
"""Settings of requests whose option has another name."""


def _no_http(request: AttackRequest) -> None:
    """Check that a target in this process comes without settings of requests to an address.

    Raises:
        UsageError: there is one, which would have no effect.
    """
    usual = vars(HttpSettings())
    given = [name for name, value in request.http.items() if value != usual.get(name, value)]
    given += ["fresh"] if request.fresh else []
    if given:
        options = ", ".join(f"--{_OPTIONS.get(name, name)}" for name in given)
        raise UsageError(
            f"{options}: only for a target behind an address, and '{request.target}' isn't one; "
            "leave it out, or give --target http://…"
        )


def _known_attacks(names: tuple[str, ...]) -> None:
    """Check the names of attackers before anything is opened.

    Raises:
        UsageError: no such attacker, one given twice, or one that must be trained.
    """
    from lazybench.registry import agent_spec

    for place, name in enumerate(names):
        if name in names[:place]:
            raise UsageError(f"attack '{name}' is given twice; give it once")
        spec = agent_spec(name)
        if "attack" not in spec.families:
            raise UsageError(
                f"agent '{name}' isn't an attack agent; see: lazybench list agents --family attack"
            )
        if spec.trains:
            raise UsageError(
                f"attack '{name}' must be trained on white boxes, which your own target "
                "doesn't have; take one that isn't, such as square or hopskipjump"
            )


def _attacker(name: str, target: Any) -> ResolvedAgent:
    """The attacker with its preset for images of this kind."""
    grey = target.x.shape[1] == 1
    spec = EnvSpec(
        id="one's own target",
        family="attack",
        target="",
        vector_target=None,
        # Presets go by the kind of image: steps for MNIST's digits, or for CIFAR's colours.
        data="mnist" if grey else "cifar10",
        kwargs={"norm": target.task.norm, "eps": target.task.eps, "access": target.task.access},
    )
    return make(name, spec, "small", {})


def _attacked(agent: ResolvedAgent, state: Any, target: Any, watch: Callback) -> Attacked:
    clock = Clock()
    watch.stage(agent.spec.id, len(target.right))
    parts = []
    for trials in target.blocks():
        block, observation = target.open(trials)
        parts.append(_attacked_block(agent.instance.policy(state), block, observation, watch))
    watch.finished()
    columns = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    nearest = np.concatenate([part[1] for part in parts])
    return Attacked(agent.spec.id, columns, nearest, clock.seconds()[0])


def _attacked_block(
    policy: Policy, block: AttackBlock, observation: dict[str, Any], watch: Callback
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Attack one block to its end; return its columns and the nearest adversarial images."""
    images = len(observation["x"])
    columns = {name: np.zeros(images) for name in _COLUMNS}
    done = np.zeros(images, np.bool_)
    memory: Any = None
    while not done.all():
        action, memory = policy(observation, memory)
        observation, _, terminated, truncated, info = block.step(action)
        fresh = (terminated | truncated) & ~done
        for name in _COLUMNS if fresh.any() else ():
            columns[name][fresh] = info[name][fresh]
        done |= fresh
        queries = float(block.box.ledger.queries.mean())
        watch.advance(
            int(fresh.sum()), {"won": float(columns["success"].sum()), "queries": queries}
        )
    columns["distance"] = block.box.ledger.nearest.copy()
    columns["class"] = block.box.best_class.cpu().numpy()
    return columns, block.box.best.cpu().numpy()


def named_target(name: str, norm: str) -> nn.Module | None:
    """Return the network of `timm:NAME` or `robustbench:NAME` with its weights; else None.

    It takes images in [0, 1], channels first, and gives logits. `robustbench:NAME` is a network of
    CIFAR-10, trained for the norm of the attack.

    Args:
        name: the target as it was given.
        norm: `l2` or `linf`.

    Raises:
        UsageError: the package isn't installed, or has no such network.
        DataUnavailable: the weights can't be had.
    """
    package, colon, model = name.partition(":")
    if not colon or package not in _LOADERS:
        return None
    load, install = _LOADERS[package]
    try:
        with contained():
            library = importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"target {name} needs the package {package} ({error}): {install}"
        ) from None
    return load(library, model, norm).eval()


def _timm(library: Any, model: str, norm: str) -> nn.Module:
    known = list(library.list_models())
    if model.partition(".")[0] not in known:
        raise UsageError(f"timm has no network '{model}'.{nearest(model, known)}")
    network = _had(f"timm:{model}", lambda: library.create_model(model, pretrained=True))
    config: Any = network.pretrained_cfg
    mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
    return Prepared(network, Preparation(mean=mean, std=std))


def _robustbench(library: Any, model: str, norm: str) -> nn.Module:
    threat = {"l2": "L2", "linf": "Linf"}[norm]
    zoo = importlib.import_module("robustbench.model_zoo.enums")
    models = importlib.import_module("robustbench.model_zoo").model_dicts
    kinds = models[zoo.BenchmarkDataset("cifar10")]
    known = list(kinds[zoo.ThreatModel(threat)])
    if model not in known:
        raise UsageError(
            f"robustbench has no network '{model}' for {threat} on CIFAR-10."
            f"{nearest(model, known)} The norm is that of --norm"
        )

    return _had(
        f"robustbench:{model}",
        lambda: library.utils.load_model(model_name=model, dataset="cifar10", threat_model=threat),
    )


def _had(name: str, load: Callable[[], nn.Module]) -> nn.Module:
    """The network that a package loads.

    Raises:
        DataUnavailable: it fails.
    """
    try:
        with contained():
            return load()
    except Exception as error:
        raise DataUnavailable(
            f"{name} can't be loaded ({describe(error)}); its weights are downloaded by its "
            "package, which needs a connection the first time"
        ) from error


_LOADERS: Mapping[str, tuple[Callable[[Any, str, str], nn.Module], str]] = {
    "timm": (_timm, "pip install 'lazybench[timm]'"),
    "robustbench": (_robustbench, "pip install robustbench"),
}
