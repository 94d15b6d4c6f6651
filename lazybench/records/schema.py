"""The record of one run, schema 1: agent, environment, scores and costs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from lazybench.errors import StoreError, UsageError
from lazybench.files import canonical_json, plain
from lazybench.records.trials import Trials
from lazybench.tables import html_table


def _number(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, bool | str):
        raise ValueError(f"must be a number, got {value!r}")
    return value


Real = Annotated[float | None, BeforeValidator(_number)]
Count = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_number)]
Seconds = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_number)]
Json = Annotated[dict[str, Any], BeforeValidator(plain)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Better = Literal["higher", "lower"]
Status = Literal["ok", "diverged", "failed", "oom", "timeout"]


class Facts(BaseModel):
    """Base class of all parts of a record: frozen, and without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True)


class _GrownFacts(Facts):
    """Base class of parts with later fields, which JSON leaves out if None, as in old records."""

    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = handler(self)
        return {
            k: value for k, value in content.items() if value is not None or k not in self.LATER
        }


class EnvFacts(Facts):
    """The environment: canonical id, revision, and what its score means."""

    id: str = Field(min_length=1)
    version: int = Field(ge=0)
    family: str
    metric: str
    better: Better
    unit: str
    protocol: Json = Field(default_factory=dict)

    @model_validator(mode="after")
    def _scalars(self) -> Self:
        if bad := [k for k, v in self.protocol.items() if isinstance(v, dict | list)]:
            raise ValueError(f"protocol may only have scalars, got something else at {bad}")
        return self


class DataFacts(_GrownFacts):
    """The data: name, content fingerprint, preparation version and where it was read from.

    `weights` is what the network was trained on that made features of images; None for data that no
    network made.
    """

    LATER = frozenset({"weights"})

    name: str
    fingerprint: str
    prep: str
    source: str
    weights: str | None = None


class AgentFacts(Facts):
    """The agent: id, where it comes from, and who trained it."""

    id: str = Field(min_length=1)
    version: int = Field(default=1, ge=0)
    origin: str
    source_sha256: Sha256 | None = None
    trained_by: Literal["lazybench", "external", "none"]
    resumable: bool


class Metric(Facts):
    """One number with its 95 % interval, over `n` trials."""

    value: Real
    ci95: tuple[Real, Real] | None = None
    n: int = Field(ge=0)
    unit: str
    better: Better


class Cost(_GrownFacts):
    """Costs of the run; None if not measured.

    Wall times depend on other work of the machine; `train_cpu_s` and `cpu_s` (training, validation
    and test) are processor seconds over all threads, which depend on it far less.
    `peak_gpu_memory_bytes` is the largest GPU memory of tensors; None for runs on a CPU.
    """

    LATER = frozenset({"peak_gpu_memory_bytes"})

    train_wall_s: Seconds = None
    eval_wall_s: Seconds = None
    wall_s: Seconds = None
    train_cpu_s: Seconds = None
    cpu_s: Seconds = None
    peak_memory_bytes: Count = None
    peak_gpu_memory_bytes: Count = None
    inner_steps: Count = None
    outer_steps: Count = None
    image_gradients: Count = None
    queries: Count = None
    gradient_equivalents: Real = None


class Tuning(Facts):
    """Cost of the search for a run's settings, on validation tasks only.

    Attributes:
        trials: number of configurations, including the preset.
        cpu_s: processor seconds of their training.
        image_gradients: number of image gradients computed in their training.
    """

    trials: int = Field(ge=1)
    cpu_s: Seconds = None
    image_gradients: Count = None


class Code(Facts):
    """The package that ran: version, commit, and whether the checkout had other changes."""

    version: str
    commit: str | None = None
    dirty: bool = False


class Machine(_GrownFacts):
    """The machine, with the name of its GPU if it was used; not part of the key."""

    LATER = frozenset({"gpu"})

    python: str
    torch: str | None = None
    numpy: str | None = None
    platform: str
    processor: str
    cores: int
    threads: int
    gpu: str | None = None


class Checkpoint(Facts):
    """The trained state that was evaluated: sha256 of its file, size, and training step."""

    sha256: Sha256
    bytes: int = Field(ge=0)
    step: int = Field(ge=0)


class NetworkFacts(Facts):
    """The trained network: backbone, parameters with the head, and initial weights.

    Attributes:
        name: the backbone's name.
        parameters: number of trained parameters.
        batch_norm: whether it normalises by batch statistics.
        weights: `fresh`, or the source of the initial weights.
        weights_sha256: sha256 of the initial weights; None if fresh.
        source_sha256: sha256 of the user's file that defines the backbone; None for the package's
            own.
    """

    name: str = Field(min_length=1)
    parameters: int = Field(ge=0)
    batch_norm: bool = True
    weights: str = "fresh"
    weights_sha256: Sha256 | None = None
    source_sha256: Sha256 | None = None

    def identity(self) -> dict[str, str]:
        """The fields that are part of a run's key, including the name that `auto` resolves to."""
        hashes = {
            "network": self.name,
            "weights": self.weights_sha256,
            "network_source": self.source_sha256,
        }
        return {name: sha256 for name, sha256 in hashes.items() if sha256 is not None}


class Reported(Facts):
    """One number printed in a paper, as a row that no board ranks.

    Attributes:
        settings: settings of the agent in this row, besides batch norm.
        value: the number in `unit`; None if the paper only shows it in a figure.
        ci95_half: half the width of its 95 % interval, in `unit`.
    """

    source: str
    table: str
    row: str
    agent: str | None
    env: str
    settings: dict[str, Any] = Field(default_factory=dict)
    batch_norm: Literal["transductive", "inductive"] | None = None
    metric: str
    value: Real
    ci95_half: Real = None
    unit: str
    note: str | None = None


SCHEMA = 1
KEY_FIELDS = (
    "env",
    "env_version",
    "protocol",
    "data",
    "prep",
    "agent",
    "agent_version",
    "agent_source",
    "config",
    "budget",
    "seed",
    "precision",
    "device",
    "world_size",
    "limited",
)
_OPTIONAL_KEY_FIELDS = ("trained_on", "network", "weights", "network_source")


class Record(Facts):
    """The record of one run; `lazybench.records.Store` stores it and boards are made from it.

    `fit` is the key of the run that trained the evaluated state, None for this run; `trained_on`
    names the environment, run and step of training if it was on other tasks; `track` names the data
    that training saw, if the environment offers a choice; `isolated` says whether the policy ran
    the test in a separate process without any environment; `tuning` is the cost of the search for
    the settings, if `lazybench tune` found them.

    Raises:
        pydantic.ValidationError: a field is missing, unknown or of a wrong type or range.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["measured", "submitted"] = "measured"
    key: Sha256
    status: Status
    reason: str | None = None
    env: EnvFacts
    data: DataFacts
    agent: AgentFacts
    config: Json
    preset: str
    overrides: Json = Field(default_factory=dict)
    budget: str
    limited: bool = False
    untuned: bool = False
    seed: int
    precision: str = "fp32"
    device: str = "cpu"
    world_size: int = Field(default=1, ge=1)
    metrics: dict[str, Metric] = Field(default_factory=dict)
    trials: Trials = Field(default_factory=Trials)
    diagnostics: Json = Field(default_factory=dict)
    curve: Annotated[list[dict[str, Any]], BeforeValidator(plain)] = Field(default_factory=list)
    cost: Cost = Field(default_factory=Cost)
    code: Code
    machine: Machine
    checkpoint: Checkpoint | None = None
    network: NetworkFacts | None = None
    fit: Sha256 | None = None
    trained_on: str | None = None
    track: str | None = None
    isolated: bool = False
    tuning: Tuning | None = None
    started: str

    @property
    def key12(self) -> str:
        """The first 12 hex digits of the key, as in file names."""
        return self.key[:12]

    @classmethod
    def keyed(cls, **fields: Any) -> Record:
        """Return the record of `fields`, all but `key`, which is computed from them.

        Raises:
            pydantic.ValidationError: a field is missing, unknown or of a wrong type or range.
        """
        draft = cls(key="0" * 64, **fields)
        return draft.model_copy(update={"key": make_key(draft.identity())})

    def identity(self) -> dict[str, Any]:
        """The fields that the key is computed from: everything that can affect the score."""
        network = {} if self.network is None else self.network.identity()
        return network | {
            "env": self.env.id,
            "env_version": self.env.version,
            "protocol": self.env.protocol,
            "data": self.data.fingerprint,
            "prep": self.data.prep,
            "agent": self.agent.id,
            "agent_version": self.agent.version,
            "agent_source": self.agent.source_sha256,
            "config": self.config,
            "budget": self.budget,
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
            "world_size": self.world_size,
            "limited": self.limited,
            "trained_on": self.trained_on,
        }

    def to_json(self) -> str:
        """The canonical JSON of the record, as it is stored."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Return the record in `text`.

        Raises:
            StoreError: `text` isn't a record of schema 1; the message names the first error.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the text"
            raise StoreError(
                f"not a record of schema {SCHEMA}: {place}: {first['msg']}; "
                "use the version of lazybench that wrote it, or run again"
            ) from error

    def __str__(self) -> str:
        """The record's main facts, a line each."""
        rows = self._main_facts()
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"record {self.key12}", *(f"{n:<{width}}  {text}" for n, text in rows)])

    def __repr__(self) -> str:
        """The record in one line, without its trials."""
        env = f"{self.env.id}-v{self.env.version}"
        run = f"{self.agent.id} on {env}, {self.budget}, seed {self.seed}: {self.status}"
        return f"<Record {self.key12}: {run}>"

    def _repr_html_(self) -> str:
        """Return the record's main facts as an HTML table for notebooks."""
        return html_table(("", ""), self._main_facts(), title=f"record {self.key12}")

    def _main_facts(self) -> list[tuple[str, str]]:
        scores = {
            f"{name} ({metric.unit})": _metric_text(metric) for name, metric in self.metrics.items()
        }
        costs = {name: _number_text(value) for name, value in self.cost.model_dump().items()}
        facts = {
            "agent": self.agent.id,
            "settings": ", ".join(f"{name}={value}" for name, value in self.overrides.items()),
            "env": f"{self.env.id}-v{self.env.version}",
            "budget": self.budget,
            "seed": f"{self.seed}",
            "status": f"{self.status}: {self.reason}" if self.reason else self.status,
            **scores,
            "trials": f"{self.trials.n}",
            **costs,
            "data": f"{self.data.name} {self.data.fingerprint[:12]}",
            "code": f"lazybench {self.code.version}",
            "started": self.started,
        }
        return [(name, text) for name, text in facts.items() if text]

    def comparable(self) -> dict[str, Any]:
        """Return the record without facts that may differ between two equal runs.

        It leaves out times, memory, machine, code, start, the search for the settings, isolation,
        and the image-gradients of a curve's points, which older records lack and whose sum is among
        the costs. Arrays are replaced by their sha256.
        """
        content: dict[str, Any] = _timeless(self.model_dump(mode="json", by_alias=True))
        for point in content["curve"]:
            point.pop("image_gradients", None)
        for name in ("machine", "code", "started", "tuning", "untuned", "isolated"):
            del content[name]
        return content | {"trials": self.trials.digests()}


def _number_text(value: float | None) -> str:
    """A number with up to six digits; empty for None."""
    return "" if value is None else f"{value:.6g}"


def _metric_text(metric: Metric) -> str:
    """A metric's value with its interval."""
    ends = [_number_text(end) for end in metric.ci95 or () if end is not None]
    return _number_text(metric.value) + (f" ({' to '.join(ends)})" if len(ends) == 2 else "")


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _timeless(item)
            for name, item in value.items()
            if not name.endswith(("wall_s", "cpu_s", "memory_bytes"))
        }
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def make_key(identity: Mapping[str, Any]) -> str:
    """Return 64 hex digits, the sha256 of the canonical JSON of all that can affect a score.

    Args:
        identity: the fields of `KEY_FIELDS` (env id and version, protocol, data fingerprint and
            prep, agent id, version and source hash, resolved config, budget, seed, precision,
            device, world size, limited) and, if they apply, `trained_on` and the fields of
            `NetworkFacts.identity`.

    Raises:
        UsageError: a field is missing or unknown, or has a value that JSON can't hold.
    """
    missing = [name for name in KEY_FIELDS if name not in identity]
    unknown = sorted(set(identity) - set(KEY_FIELDS) - set(_OPTIONAL_KEY_FIELDS))
    if missing or unknown:
        raise UsageError(
            f"a key is made of {', '.join(KEY_FIELDS)} (and {', '.join(_OPTIONAL_KEY_FIELDS)}); "
            f"missing: {missing}, unknown: {unknown}; pass exactly these"
        )
    whole = {"trained_on": None, **identity, "schema": SCHEMA}
    return hashlib.sha256(canonical_json(whole).encode("ascii")).hexdigest()
