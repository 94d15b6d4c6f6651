"""What is wrong with an installation, its data, cache, store and runs, and how to mend it."""

from __future__ import annotations

from lazybench.doctor.examine import Examined, examine
from lazybench.doctor.findings import Finding, Repair, State
from lazybench.doctor.repair import Quarantine, repair

__all__ = ["Examined", "Finding", "Quarantine", "Repair", "State", "examine", "repair"]
