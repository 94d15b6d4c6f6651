"""Time limits that leave out what a machine or process was suspended for."""

from __future__ import annotations

import time

_LONGEST_TICK_S = 1.0


class Patience:
    """How much of a time limit is spent, counted in ticks.

    Whoever waits calls `tick` every `tick_s` seconds. A gap that is much longer than that is time
    in which nothing of this process ran (a laptop's lid, a paused virtual machine, Ctrl-Z), and
    counts as two ticks; what this process computed in it, native code that lets nothing else run,
    counts in full.
    """

    def __init__(self, limit_s: float) -> None:
        """Start with nothing spent."""
        self.limit_s = limit_s
        self.tick_s = min(_LONGEST_TICK_S, limit_s / 10)
        self.spent_s = 0.0
        self._last_s = time.perf_counter(), time.process_time()

    def tick(self) -> bool:
        """Count the time since the last tick; return whether the limit is spent."""
        now_s = time.perf_counter(), time.process_time()
        gap_s, busy_s = (now - last for now, last in zip(now_s, self._last_s, strict=True))
        self._last_s = now_s
        self.spent_s += min(gap_s, 2 * self.tick_s + busy_s)
        return self.spent_s >= self.limit_s
