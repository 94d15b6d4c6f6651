"""The parts of a record: environment, data, agent, scores, costs, code and machine."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from lazybench.files import plain


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
        found = {
            "network": self.name,
            "weights": self.weights_sha256,
            "network_source": self.source_sha256,
        }
        return {name: sha256 for name, sha256 in found.items() if sha256 is not None}


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
