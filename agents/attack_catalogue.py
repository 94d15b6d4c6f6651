"""The built-in attackers, as data."""

from __future__ import annotations

from lazybench.specs import AgentSpec


def _attacker(
    name: str,
    target: str,
    about: str,
    reference: str = "",
    *,
    trains: bool = False,
    version: int = 1,
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
        version=version,
    )


CATALOGUE: tuple[AgentSpec, ...] = (
    _attacker(
        "coordinate",
        "coordinate:Coordinate",
        "control: scores; signs of slopes at random coordinates, nothing learned",
        "README: honesty is a feature",
    ),
    _attacker(
        "zoo",
        "zoo:Zoo",
        "scores; Adam on random coordinates by central differences",
        "Chen et al. 2017",
    ),
    _attacker(
        "autozoom",
        "zoo:AutoZoom",
        "scores; Adam on a small image along one random direction at a time",
        "Tu et al. 2019",
    ),
    _attacker(
        "bandits",
        "bandits:Bandits",
        "scores; a tiled gradient that is learned from step to step",
        "Ilyas et al. 2019",
    ),
    _attacker(
        "fw_black",
        "random_directions:FrankWolfe",
        "scores; Frank-Wolfe by gradients along random directions",
        "Chen et al. 2020 (AAAI)",
    ),
    _attacker(
        "nes",
        "random_directions:Nes",
        "scores; gradients along antithetic random directions",
        "Ilyas et al. 2018",
    ),
    _attacker(
        "rgf_tiled",
        "random_directions:TiledRgf",
        "scores; gradients along tiled random directions by forward differences",
        "Cheng et al. 2019 (P-RGF)",
    ),
    _attacker(
        "simba",
        "simba:Simba",
        "scores; one random pixel after another, kept where it helps",
        "Guo et al. 2019",
    ),
    _attacker(
        "simba_dct",
        "simba:Simba",
        "scores; one random cosine wave after another, kept where it helps",
        "Guo et al. 2019",
    ),
    _attacker(
        "square",
        "square:Square",
        "scores; random squares at the edge of the ball, kept where they help",
        "Andriushchenko et al. 2020",
    ),
    _attacker(
        "boundary",
        "boundary:Boundary",
        "decisions; random steps along the boundary and towards the image",
        "Brendel et al. 2018",
    ),
    _attacker(
        "opt_attack",
        "opt_attack:OptAttack",
        "decisions; descends the length of a ray by finite differences",
        "Cheng et al. 2019",
    ),
    _attacker(
        "sign_opt",
        "sign_opt:SignOpt",
        "decisions; descends the length of a ray by signs of its differences",
        "Cheng et al. 2020",
    ),
    _attacker(
        "hopskipjump",
        "hopskipjump:HopSkipJump",
        "decisions; gradient from decisions around a point on the boundary, and bisection",
        "Chen et al. 2020",
    ),
    _attacker(
        "surrogate_prior",
        "surrogate_prior:SurrogatePrior",
        "scores; estimates gradients along those of the white-box networks and random directions",
        "Cheng et al. 2019, 2021",
    ),
    _attacker(
        "meta_attack",
        "meta_attack:MetaAttackAgent",
        "scores; gradients foretold by a meta-learned network, tuned to each image by probes",
        "Du et al. 2020",
        trains=True,
    ),
    _attacker(
        "lazy_meta_attack",
        "meta_attack:MetaAttackAgent",
        "scores; lazy teacher on meta-attack's training",
        "Algorithms 3 and 4",
        trains=True,
        version=2,
    ),
    _attacker(
        "meta_attack_matched",
        "meta_attack:MetaAttackAgent",
        "control: meta-attack with the mean step of the lazy one, without its search",
        "README: honesty is a feature",
        trains=True,
        version=2,
    ),
    _attacker(
        "meta_attack_untrained",
        "meta_attack:MetaAttackAgent",
        "control: meta-attack by a network that has learned nothing before the attack",
        "README: honesty is a feature",
    ),
)
