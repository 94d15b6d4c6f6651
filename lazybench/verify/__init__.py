"""Verifies records, and turns predictions of other frameworks into records."""

from __future__ import annotations

from lazybench.findings import Finding
from lazybench.verify.audit import Audit, audit
from lazybench.verify.load_policy import StateSource
from lazybench.verify.static_checks import Verification, find_record
from lazybench.verify.submit import Exported, export_trials, score
from lazybench.verify.verify import verify

__all__ = [
    "Audit",
    "Exported",
    "Finding",
    "StateSource",
    "Verification",
    "audit",
    "export_trials",
    "find_record",
    "score",
    "verify",
]
