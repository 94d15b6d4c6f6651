"""Records of runs: one canonical JSON file per run, in an append-only store."""

from __future__ import annotations

from lazybench.files import (
    append_line,
    canonical_json,
    read_lines,
    remove_leftovers,
    replace_ours,
    write_bytes,
    write_json,
)
from lazybench.records.schema import (
    KEY_FIELDS,
    AgentFacts,
    Checkpoint,
    Code,
    Cost,
    DataFacts,
    EnvFacts,
    Machine,
    Metric,
    NetworkFacts,
    Record,
    Reported,
    Tuning,
    make_key,
)
from lazybench.records.store import RETRIABLE, RecordList, Skipped, Store, slug
from lazybench.records.trials import Packed, Trials

__all__ = [
    "KEY_FIELDS",
    "RETRIABLE",
    "AgentFacts",
    "Checkpoint",
    "Code",
    "Cost",
    "DataFacts",
    "EnvFacts",
    "Machine",
    "Metric",
    "NetworkFacts",
    "Packed",
    "Record",
    "RecordList",
    "Reported",
    "Skipped",
    "Store",
    "Trials",
    "Tuning",
    "append_line",
    "canonical_json",
    "make_key",
    "read_lines",
    "remove_leftovers",
    "replace_ours",
    "slug",
    "write_bytes",
    "write_json",
]
