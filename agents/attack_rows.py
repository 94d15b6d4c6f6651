"""The built-in attackers, as data."""

from __future__ import annotations

from lazybench.specs import AgentSpec


def _attacker(
    name: str, target: str, about: str, reference: str = "", *, trains: bool = False
) -> AgentSpec:
    """Return the row of an attacker that `lazybench.agents.attack.<target>` defines."""
    return AgentSpec(
        name,
        ("attack",),
        f"lazybench.agents.attack.{target}",
        {"algorithm": name},
        trains=trains,
        tuned=False,
        about=about,
        reference=reference,
    )


CATALOGUE: tuple[AgentSpec, ...] = ()
