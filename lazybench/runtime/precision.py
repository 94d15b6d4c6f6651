"""Number formats of a network's forward pass: float32, TensorFloat-32 or bfloat16.

Parameters, losses, inner and outer updates are float32 in every format. With `bf16` the forward
pass alone runs under autocast, entered in each call of a network, because autocast holds for
one thread and tasks run on many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lazybench.errors import DeviceUnavailable, UsageError, nearest

Forward = TypeVar("Forward", bound=Callable[..., Any])

PRECISIONS = ("fp32", "tf32", "bf16")

_chosen: list[str] = []


@contextmanager
def using_precision(precision: str, device: str | torch.device = "cpu") -> Iterator[None]:
    """Run networks at a precision inside a block; all settings are restored afterwards.

    `fp32` is float32 throughout; on CUDA that turns off TF32, which torch allows in convolutions by
    default. `tf32` allows it in products and convolutions. `bf16` runs networks' forward passes in
    bfloat16 wherever autocast does.

    Args:
        precision: one of `PRECISIONS`.
        device: device of the networks (`cpu`, `cuda:0`).

    Raises:
        UsageError: no such precision.
        DeviceUnavailable: `device` has no such format.
    """
    kind = torch.device(device).type
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'."
            f"{nearest(precision, PRECISIONS)}"
        )
    if precision == "tf32" and kind != "cuda":
        raise DeviceUnavailable(
            f"precision tf32 is a format of CUDA devices, got device {kind}; "
            "use --precision fp32 or --device cuda"
        )
    if precision == "bf16" and kind not in ("cpu", "cuda"):
        raise DeviceUnavailable(
            f"precision bf16 needs device cpu or cuda, got device {kind}; use --precision fp32"
        )
    chosen = list(_chosen)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32) if kind == "cuda" else None
    _chosen[:] = [precision]
    try:
        if before is not None:
            matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        _chosen[:] = chosen
        if before is not None:
            matmul.allow_tf32, cudnn.allow_tf32 = before


def precision() -> str:
    """Return the current precision of networks."""
    return _chosen[0] if _chosen else "fp32"


def at_precision(forward: Forward) -> Forward:
    """Wrap a network's method `(self, params, x, ...)` so that it runs at the current precision.

    Outputs in bfloat16 are converted to float32, so that losses are float32.
    """

    @wraps(forward)
    def chosen(self: Any, params: Any, x: Tensor, *rest: Any, **named: Any) -> Any:
        if precision() != "bf16":
            return forward(self, params, x, *rest, **named)
        # No cache of cast weights: all threads would share it.
        with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
            return _widened(forward(self, params, x, *rest, **named))

    return cast(Forward, chosen)


def exempt(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which operators keep the format of their arguments."""
    if precision() != "bf16":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _widened(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.float() if out.dtype == torch.bfloat16 else out
    return tuple(_widened(part) for part in out)
