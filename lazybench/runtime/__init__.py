"""Use of the machine: threads, number formats, processes, devices and locks.

`launched` is here, so that commands know their number before torch is loaded.
"""

from __future__ import annotations

import os


def launched() -> tuple[int, int]:
    """Return this process's number and how many torchrun started: (0, 1) without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
