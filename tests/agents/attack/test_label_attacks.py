"""The label-only attackers: closed forms, counts by hand, independence, learning, a peer."""

from __future__ import annotations

import math
import statistics
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lazybench.agents.attack.boundary import Boundary, BoundaryConfig, candidates
from lazybench.agents.attack.geometric import Geoda, GeodaConfig, Surfree, SurfreeConfig
from lazybench.agents.attack.hopskipjump import (
    HopSkipJump,
    HopSkipJumpConfig,
    StealthyHopSkipJump,
    StealthyHopSkipJumpConfig,
)
from lazybench.agents.attack.lockstep import Start
from lazybench.agents.attack.rays import (
    OptAttack,
    OptAttackConfig,
    RayS,
    RaySConfig,
    SignOpt,
    SignOptConfig,
)

INSTANCE = (1, 4, 4)
LABEL_ONLY = {"access": "label", "mode": "minimise"}
ATTACKERS: list[tuple[Any, Any]] = [
    (Boundary, BoundaryConfig),
    (OptAttack, OptAttackConfig),
    (SignOpt, SignOptConfig),
    (HopSkipJump, HopSkipJumpConfig),
    (StealthyHopSkipJump, StealthyHopSkipJumpConfig),
    (RayS, RaySConfig),
    (Geoda, GeodaConfig),
    (Surfree, SurfreeConfig),
]


def half_space(meter: ModuleType) -> tuple[Any, Tensor, Tensor]:
    """A target cut by a plane, images on one side of it and the normal of length 1."""
    generator = torch.Generator().manual_seed(5)
    normal = torch.randn(INSTANCE, generator=generator)
    normal = normal / normal.norm()
    x = 0.5 + 0.1 * torch.rand(3, *INSTANCE, generator=generator)
    weight = torch.stack([-normal, normal, torch.zeros(INSTANCE)])
    # 0.3 beyond the middle of the box; class 2 never wins.
    shift = float(normal.sum()) * 0.5 + 0.3
    return meter.linear(weight, torch.tensor([shift, -shift, -99.0])), x, normal


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("made", "config"), ATTACKERS)
def test_comes_near_the_least_distance_to_a_plane(
    meter: ModuleType, made: Any, config: Any, norm: str
) -> None:
    if made in (Boundary, Surfree) and norm == "linf":
        pytest.skip("it minimises L2")
    if made is RayS and norm == "l2":
        pytest.skip("its rays go to corners")
    target, x, normal = half_space(meter)
    task = meter.protocol(INSTANCE, **LABEL_ONLY, norm=norm, query_budget=700)
    x = x[:2]
    settings = config(directions=10) if made in (OptAttack, SignOpt) else config()
    box = meter.attack(made(settings), task, target, x, torch.zeros(2, dtype=torch.int64))
    gap = 0.3 - ((x - 0.5) * normal).flatten(1).sum(1)
    least = gap if norm == "l2" else gap / normal.abs().sum()
    # Finite differences cost ten searches each, and a step by signs is a rough one.
    slack = {Boundary: 3.0, OptAttack: 1.6, Surfree: 1.6}.get(made, 1.3)
    slack = 2.2 if norm == "linf" and made in (OptAttack, SignOpt, StealthyHopSkipJump) else slack
    for found, shortest in zip(box.best(), least.tolist(), strict=True):
        assert shortest - 1e-4 <= found <= slack * shortest
    for image in range(2):
        rows = box.rows(image)
        assert bool(((rows >= 0) & (rows <= 1)).all())


@pytest.mark.parametrize(("made", "config"), ATTACKERS)
def test_an_image_fares_alone_as_with_others(meter: ModuleType, made: Any, config: Any) -> None:
    target, x, _ = half_space(meter)
    task = meter.protocol(INSTANCE, **LABEL_ONLY, query_budget=250)
    label = torch.zeros(3, dtype=torch.int64)
    together = meter.attack(made(config()), task, target, x, label)
    alone = meter.attack(made(config()), task, target, x[1:2], label[1:2], trial=torch.tensor([1]))
    assert together.queries[1] == alone.queries[0]
    assert torch.equal(together.rows(1), alone.rows(0))


def test_boundary_counts_by_hand(meter: ModuleType) -> None:
    task = meter.protocol(INSTANCE, **LABEL_ONLY, query_budget=29)
    x = torch.full((1, *INSTANCE), 0.5)
    config = BoundaryConfig(check_every=4, start_tolerance=1 / 8)
    box = meter.attack(Boundary(config), task, meter.ball(x[0], 0.2), x, torch.tensor([0]))
    assert box.calls == [[1] + [1] * 3 + [2, 1, 1, 1] * 5]


def test_hopskipjump_counts_by_hand(meter: ModuleType) -> None:
    task = meter.protocol(INSTANCE, **LABEL_ONLY, query_budget=308)
    x = torch.full((1, *INSTANCE), 0.5)
    box = meter.attack(
        HopSkipJump(HopSkipJumpConfig()), task, meter.ball(x[0], 0.2), x, torch.tensor([0])
    )
    # d = 16: an interval of 1 is halved 6 times down to 16 ** -1.5. Outwards, the first length
    # of the step is adversarial. The second estimate has int(100 sqrt(2)) rows, the third what
    # leaves 8 of the 308.
    bisection = [1] * 6
    first = [1, *bisection, 32, 32, 32, 4, 1, *bisection]
    second = [32, 32, 32, 32, 13, 1, *bisection]
    rest = 308 - sum(first) - sum(second)
    assert rest - 8 == 38
    assert box.calls == [[*first, *second, 32, 6, 1, *bisection]]


def test_ray_attacks_count_by_hand(meter: ModuleType) -> None:
    x = torch.full((1, *INSTANCE), 0.5)
    task = meter.protocol(INSTANCE, **LABEL_ONLY, query_budget=800)
    label, target = torch.tensor([0]), meter.ball(x[0], 0.2)
    start = Start(task, 0, torch.tensor([0]), x, label, None)
    own = float(start.normal("direction", torch.tensor([0]), 0).norm())

    def first(tolerance: float) -> list[int]:
        """One direction at its own length, and its bisection."""
        return [1] + [1] * math.ceil(math.log2(own / tolerance))

    box = meter.attack(SignOpt(SignOptConfig(directions=1)), task, target, x, label)
    begun = [*first(1e-3), *[32] * 6, 8]
    # Every direction of a ball is as long as the other: no step is shorter, so the line search
    # asks at least once more and the next estimate follows.
    assert box.calls[0][: len(begun) + 1] == [*begun, 1]
    box = meter.attack(OptAttack(OptAttackConfig(directions=1)), task, target, x, label)
    # Ten probes in parallel: each at the length given, 1 % below, then 0.002 down to 2e-6; a few
    # are longer by rounding.
    begun = first(1e-5)
    assert box.calls[0][: len(begun) + 2] == [*begun, 10, 10]
    assert box.calls[0][len(begun) + 2 : len(begun) + 12] == [10] * 10


def test_boundary_candidates_keep_the_distance_and_draw_nearer() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((2, *INSTANCE), 0.5, dtype=torch.float64)
    points = clean + 0.1 * torch.randn(2, *INSTANCE, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, *INSTANCE, generator=generator, dtype=torch.float64)
    sideways = torch.tensor([0.1, 0.3], dtype=torch.float64)
    inwards = torch.tensor([0.05, 0.2], dtype=torch.float64)
    sphere, near = candidates(clean, points, noise, sideways, inwards)

    def far(images: Tensor) -> Tensor:
        return (images - clean).flatten(1).norm(dim=1)

    torch.testing.assert_close(far(sphere), far(points))
    torch.testing.assert_close(far(near), far(points) * (1 - inwards))
    # The angle at the clean image has the step's length as its tangent.
    cosine = ((sphere - clean) * (points - clean)).flatten(1).sum(1) / far(points).square()
    torch.testing.assert_close(cosine, 1 / (1 + sideways.square()).sqrt())


@pytest.mark.parametrize(("made", "config"), ATTACKERS)
def test_halves_the_first_distance_on_a_trained_net(
    meter: ModuleType, glyph_net: SimpleNamespace, made: Any, config: Any
) -> None:
    task = meter.protocol(glyph_net.instance, glyph_net.classes, **LABEL_ONLY, query_budget=450)
    x, label = glyph_net.x[5::40], glyph_net.label[5::40]
    box = meter.attack(made(config()), task, glyph_net.target, x, label)
    first = [next(entry.distance for entry in rows if entry.hit) for rows in box.ledger]
    assert statistics.mean(box.best()) < statistics.mean(first) / 2
    # A line search takes fewer or more queries than are kept for it.
    slack = 30 if made is StealthyHopSkipJump else 10
    assert box.queries == pytest.approx([450] * len(x), abs=slack)


def test_mode_first_stops_asking_at_a_success_in_the_ball(
    meter: ModuleType, glyph_net: SimpleNamespace
) -> None:
    task = meter.protocol(
        glyph_net.instance, glyph_net.classes, access="label", eps=1.5, query_budget=600
    )
    x, label = glyph_net.x[::20], glyph_net.label[::20]
    box = meter.attack(HopSkipJump(HopSkipJumpConfig()), task, glyph_net.target, x, label)
    ended = [(asked, at) for asked, at in zip(box.queries, box.success_query, strict=True) if at]
    assert len(ended) >= 3
    # Rows of the same call are charged with it, and none comes after it.
    assert all(asked - at < 32 for asked, at in ended)
    assert box.refused == [0] * len(x)


def test_boundary_and_hopskipjump_end_where_foolboxs_do(
    meter: ModuleType, glyph_net: SimpleNamespace
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        foolbox = pytest.importorskip("foolbox")
    budget, x, label = 300, glyph_net.x[::50], glyph_net.label[::50]
    task = meter.protocol(glyph_net.instance, glyph_net.classes, **LABEL_ONLY, query_budget=budget)

    class Counted(foolbox.models.base.Model):  # type: ignore[misc, name-defined]
        """The same target, which ends the attack at the budget."""

        bounds = foolbox.types.Bounds(0, 1)

        def __init__(self, image: int) -> None:
            self.asked, self.best, self.image = 0, math.inf, image

        def __call__(self, inputs: Any) -> Any:
            rows = inputs.raw if hasattr(inputs, "raw") else inputs
            scores = glyph_net.target(rows)
            for row, top in zip(rows, scores.argmax(1).tolist(), strict=True):
                if self.asked == budget:
                    raise TimeoutError
                self.asked += 1
                if top != int(label[self.image]):
                    self.best = min(self.best, float((row - x[self.image]).norm()))
            return type(inputs)(scores) if hasattr(inputs, "raw") else scores

    attacks = foolbox.attacks
    for ours, theirs in (
        (Boundary(BoundaryConfig()), attacks.BoundaryAttack(steps=10_000)),
        (HopSkipJump(HopSkipJumpConfig()), attacks.HopSkipJumpAttack(steps=100)),
    ):
        found = []
        for image in range(len(x)):
            torch.manual_seed(0)
            model = Counted(image)
            with pytest.raises(TimeoutError):
                theirs.run(model, x[image : image + 1], label[image : image + 1])
            found.append(model.best)
        mine = statistics.mean(meter.attack(ours, task, glyph_net.target, x, label).best())
        assert 0.4 < mine / statistics.mean(found) < 1.6
