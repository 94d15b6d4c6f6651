"""The devices of runs in parallel: `cuda:0-7`, with a number of runs on each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lazybench.errors import DeviceUnavailable, UsageError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_RANGE = re.compile(r"(?:cuda:)?(\d{1,9})(?:-(\d{1,9}))?")
_FORM = "cpu, cuda (all there are), cuda:0, cuda:0-7 or cuda:0,2,4-6"
_MOST = 1024


@dataclass(frozen=True)
class Slot:
    """Room for one cell at a time.

    Attributes:
        device: as for a run.
        environment: variables that pin a process to it.
    """

    device: str = "cpu"
    environment: Mapping[str, str] = field(default_factory=dict)


def slots(devices: str, cells_per_device: int = 1) -> tuple[Slot, ...]:
    """Return the slots on the devices named, round the devices before round again.

    A process is pinned by CUDA_VISIBLE_DEVICES, so that its `cuda` is that device alone. Where the
    variable is set already, as by a queueing system, numbers count among the devices that it names.

    Raises:
        UsageError: names of another form, one named twice, or fewer than one cell a device.
        DeviceUnavailable: a device that this machine doesn't have.
    """
    if not 1 <= cells_per_device <= _MOST:
        raise UsageError(
            f"cells per device must be at least 1 and at most {_MOST}, got {cells_per_device}"
        )
    if devices.strip() == "cpu":
        return (Slot(),) * cells_per_device
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    numbers = list(range(there)) if devices.strip() == "cuda" else _numbers(devices)
    lacking = [number for number in numbers if number >= there]
    if lacking or not numbers:
        has = f"cuda:0-{there - 1}" if there > 1 else "cuda:0 alone" if there else "no CUDA device"
        raise DeviceUnavailable(
            f"--devices {devices}: {', '.join(f'cuda:{n}' for n in lacking[:8]) or 'cuda'} isn't "
            f"there; this torch finds {has}; choose among those, or --devices cpu"
        )
    visible = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    names = [visible[n] if n < len(visible) else str(n) for n in numbers]
    once = tuple(Slot("cuda", {_VISIBLE: name}) for name in names)
    return once * cells_per_device


def _numbers(devices: str) -> list[int]:
    found: list[int] = []
    for part in devices.removeprefix("cuda:").split(","):
        match = _RANGE.fullmatch(part.strip()) if devices.startswith("cuda:") else None
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first >= _MOST:
            raise UsageError(f"--devices takes {_FORM}; got '{devices}'")
        found.extend(range(first, last + 1))
    if len(set(found)) < len(found):
        raise UsageError(
            f"--devices {devices} names a device twice; several cells on one: --cells-per-device"
        )
    return found
