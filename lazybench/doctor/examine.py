"""All that the doctor looks at, in order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lazybench.doctor.cache import examine_cache
from lazybench.doctor.data import examine_data
from lazybench.doctor.findings import Finding
from lazybench.doctor.installation import examine_installation
from lazybench.doctor.plug_ins import examine_plug_ins
from lazybench.doctor.runs import examine_runs
from lazybench.doctor.store import examine_store


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        findings: in the order in which it was looked at.
    """

    findings: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        """Whether nothing is bad."""
        return all(finding.state != "bad" for finding in self.findings)

    @property
    def repairable(self) -> tuple[Finding, ...]:
        """What `repair` can do something about."""
        return tuple(finding for finding in self.findings if finding.repair is not None)


def examine(out: Path, runs: Path, *, deep: bool = False) -> Examined:
    """Return what speaks for and against this installation; nothing is changed.

    Args:
        out: the store of records.
        runs: folder of working state.
        deep: read and hash all data, and make torch compute: minutes, where data sets are large.
    """
    return Examined(
        tuple(
            chain(
                examine_installation(deep=deep),
                examine_plug_ins(),
                examine_data(deep=deep),
                examine_cache(deep=deep),
                examine_store(out),
                examine_runs(runs),
            )
        )
    )
