"""The record of one run, schema 1: what was run, on what, what came out and what it cost."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lazybench.errors import StoreError, UsageError
from lazybench.records.atomic import canonical_json, plain
from lazybench.records.trials import Trials

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
_OPTIONAL_KEY_FIELDS = ("trained_on",)


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


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True)


class EnvFacts(_Facts):
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
            raise ValueError(f"protocol holds scalars only, got something else at {bad}")
        return self


class DataFacts(_Facts):
    """The data: name, content fingerprint, preparation version and where it was read from."""

    name: str
    fingerprint: str
    prep: str
    source: str


class AgentFacts(_Facts):
    """The agent: id, where it comes from, and who trained it."""

    id: str = Field(min_length=1)
    version: int = Field(default=1, ge=0)
    origin: str
    source_sha256: Sha256 | None = None
    trained_by: Literal["lazybench", "external", "none"]
    resumable: bool


class Metric(_Facts):
    """One number with its 95 % interval, over `n` trials."""

    value: Real
    ci95: tuple[Real, Real] | None = None
    n: int = Field(ge=0)
    unit: str
    better: Better


class Cost(_Facts):
    """What the run cost; None where it wasn't measured."""

    train_wall_s: Seconds = None
    eval_wall_s: Seconds = None
    wall_s: Seconds = None
    peak_memory_bytes: Count = None
    inner_steps: Count = None
    outer_steps: Count = None
    image_gradients: Count = None
    queries: Count = None


class Code(_Facts):
    """The package that ran: version, commit, and whether the checkout had other changes."""

    version: str
    commit: str | None = None
    dirty: bool = False


class Machine(_Facts):
    """Where it ran; none of it is part of the key."""

    python: str
    torch: str | None = None
    numpy: str | None = None
    platform: str
    processor: str
    cores: int
    threads: int


class Checkpoint(_Facts):
    """The trained state that was judged: sha256 of its file, size, and training step."""

    sha256: Sha256
    bytes: int = Field(ge=0)
    step: int = Field(ge=0)


class Record(_Facts):
    """One run as a fact; `lazybench.records.Store` keeps it and boards are made from it.

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
    trained_on: str | None = None
    started: str

    @property
    def key12(self) -> str:
        """The first 12 hex digits of the key, as in file names."""
        return self.key[:12]

    @classmethod
    def keyed(cls, **fields: Any) -> Record:
        """The record of `fields`, all but `key`, which is made from them.

        Raises:
            pydantic.ValidationError: a field is missing, unknown or of a wrong type or range.
        """
        draft = cls(key="0" * 64, **fields)
        return draft.model_copy(update={"key": make_key(draft.identity())})

    def identity(self) -> dict[str, Any]:
        """What the key is made of: everything that can change the score."""
        return {
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
        """The canonical JSON of the record, as the store keeps it."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """The record that `text` holds.

        Raises:
            StoreError: `text` isn't a record of schema 1; the first fault is named.
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

    def comparable(self) -> dict[str, Any]:
        """The record without what may differ between two equal runs.

        Left out are times, memory, machine, code and start; arrays appear by their sha256.
        """
        content: dict[str, Any] = _timeless(self.model_dump(mode="json", by_alias=True))
        for name in ("machine", "code", "started"):
            del content[name]
        return content | {"trials": self.trials.digests()}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _timeless(item)
            for name, item in value.items()
            if not name.endswith(("wall_s", "memory_bytes"))
        }
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def make_key(identity: Mapping[str, Any]) -> str:
    """64 hex digits: the sha256 of the canonical JSON of what can change a run's score.

    Args:
        identity: the fields of `KEY_FIELDS` (env id and version, protocol, data fingerprint and
            prep, agent id, version and source hash, resolved config, budget, seed, precision,
            device, world size, limited) and, where the agent was trained elsewhere, `trained_on`.

    Raises:
        UsageError: a field is missing or unknown, or holds what JSON can't.
    """
    missing = [name for name in KEY_FIELDS if name not in identity]
    unknown = sorted(set(identity) - set(KEY_FIELDS) - set(_OPTIONAL_KEY_FIELDS))
    if missing or unknown:
        raise UsageError(
            f"a key is made of {', '.join(KEY_FIELDS)} (and trained_on); "
            f"missing: {missing}, unknown: {unknown}; pass exactly these"
        )
    whole = {"trained_on": None, **identity, "schema": SCHEMA}
    return hashlib.sha256(canonical_json(whole).encode("ascii")).hexdigest()


class Reported(_Facts):
    """One number printed in a paper, as a row that no board ranks.

    Attributes:
        value: the number in `unit`; None where the paper only draws it.
        ci95_half: half the width of its 95 % interval, in `unit`.
    """

    source: str
    table: str
    row: str
    agent: str | None
    env: str
    batch_norm: Literal["transductive", "inductive"] | None = None
    metric: str
    value: Real
    ci95_half: Real = None
    unit: str
    note: str | None = None
