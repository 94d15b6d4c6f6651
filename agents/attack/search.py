"""Parts that attackers share: decisions, starting points, bisection, iterates, random draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from itertools import count
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lazybench import seeding
from lazybench.agent import TaskEnv
from lazybench.agents.attack.lockstep import AttackConfig, LockstepAgent, Start, State
from lazybench.errors import ContractError, UsageError
from lazybench.nets.net import scaled
from lazybench.seeding import Rng
from lazybench.tasks import AttackTask, Norm, Queries, Replies, distance

Result = TypeVar("Result")
Asking = Generator[Queries, Replies, Result]
"""A part of an attack that makes queries and then returns a result."""

PROBES_AT_ONCE = 32
"""Rows that an image sends in one call where an estimate needs hundreds; it bounds the memory.

A constant, not a share of the block, so that sums are added in the same order for any block."""


class LabelConfig(AttackConfig):
    """Settings of every label-only attacker.

    Attributes:
        start_tries: images that are tried as a start, one query each; then the image is given up.
        uniform_tries: how many of them are uniform noise, in an untargeted attack. `Choice:` later
            ones blend the clean image with coarse noise, since many networks assign all fine
            noise to one class, which an attack couldn't leave from there.
    """

    start_tries: int = Field(500, ge=1)
    uniform_tries: int = Field(50, ge=0)


class LabelAgent(LockstepAgent):
    """An attacker that needs only the top class, and an adversarial image to begin with.

    `Choice:` in a targeted attack that is an image of the goal class of the training split, one a
    class, which the environment's `examples()` gives; uniform noise never is of a given class.
    """

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return the protocol and the seed; in a targeted attack `examples [classes, …]`, too.

        Raises:
            ContractError: the attack is targeted and the environment gives no examples.
        """
        state = super().init(env, rng)
        if not env.task.targeted:
            return state
        give = getattr(env, "examples", None)
        if give is None:
            raise ContractError(
                "a targeted label-only attack starts from an image of each class: the environment "
                "has no examples(); give it one that returns [classes, channels, height, width]"
            )
        examples = scaled(torch.as_tensor(give()))
        wanted = (env.task.classes, *env.task.instance)
        if tuple(examples.shape) != wanted:
            raise ContractError(
                f"the environment's examples(): got shape {list(examples.shape)}; allowed is "
                f"[classes, channels, height, width], here {list(wanted)}"
            )
        return {**state, "examples": examples}


class Decisions:
    """Queries whether rows are adversarial, in the ball or not, and tracks the queries left.

    A decision is the class alone: the environment decides whether an image is inside the ball of
    the protocol.

    Attributes:
        start: the attacked images.
        left: `[n]` int64 queries that each has left.
        live: `[n]` bool: images that aren't finished.
    """

    def __init__(self, start: Start) -> None:
        """Begin with the whole budget and every image live."""
        n, device = len(start.x), start.x.device
        self.start = start
        self.left = torch.full((n,), start.task.query_budget, device=device)
        self.live = torch.ones(n, dtype=torch.bool, device=device)

    def ask(self, rows: Tensor, owner: Tensor) -> Asking[Tensor]:
        """Return whether each row is adversarial, `[R]` bool; refused rows aren't."""
        if not len(owner):
            return torch.zeros(0, dtype=torch.bool, device=rows.device)
        replies = yield Queries(rows, owner)
        self.hear(replies)
        start = self.start
        if start.goal is None:
            wrong = replies.labels != start.label[owner]
        else:
            wrong = replies.labels == start.goal[owner]
        return wrong & replies.served

    def hear(self, replies: Replies) -> None:
        """Record how many queries each image has left."""
        self.left = replies.left
        self.live = ~replies.done & (replies.left > 0)

    def among(self, wanted: Tensor) -> Tensor:
        """Return the positions of the live images of a mask `[n]`, int64."""
        return torch.nonzero(wanted & self.live)[:, 0]


def uniform(start: Start, name: str, images: Tensor, step: int | Tensor) -> Tensor:
    """Return an image of uniform noise in [0, 1] for each of some images, `[m, *instance]`."""
    shape = start.x.shape[1:]
    return chance(start, name, images, step, shape.numel()).view(len(images), *shape)


def ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return for `counts[i]` rows of each i: whose each row is, and its number there, `[R]` each.

    Example:
        `counts = [2, 0, 1]` gives `[0, 0, 2]` and `[0, 1, 0]`.
    """
    places = torch.arange(len(counts), device=counts.device)
    owner = torch.repeat_interleave(places, counts)
    first = torch.cumsum(counts, 0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - first[owner]


def starting_points(
    search: Decisions, config: LabelConfig, examples: Tensor | None, wanted: Tensor | None = None
) -> Asking[tuple[Tensor, Tensor]]:
    """Return an adversarial image for each, `[n, *instance]`, and for whom one was found, `[n]`.

    One query a try. Images without one keep their clean image.

    Args:
        search: makes the queries.
        config: how many tries.
        examples: `[classes, *instance]` images to start from in a targeted attack.
        wanted: `[n]` bool: who needs one; None for all.
    """
    points = search.start.x.clone()
    found = torch.zeros_like(search.live)
    for step in range(config.start_tries):
        images = search.among(~found if wanted is None else wanted & ~found)
        if not len(images):
            break
        rows = _try(search.start, images, step, config, examples)
        adversarial = yield from search.ask(rows, images)
        points[images[adversarial]] = rows[adversarial]
        found[images[adversarial]] = True
    return points, found


def _try(
    start: Start, images: Tensor, step: int, config: LabelConfig, examples: Tensor | None
) -> Tensor:
    """Return the rows to try as a start."""
    if start.goal is None or examples is None:
        if step < config.uniform_tries:
            return uniform(start, "start", images, step)
        base = start.x[images]
    else:
        base = examples.to(start.x.device)[start.goal[images]]
        if step == 0:
            return base
    height, width = start.x.shape[-2:]
    channels = start.x.shape[1]
    # Noise in squares, on grids of 2, 4, 8 and 16 cells a side in turn, at a random weight.
    cells = 2 ** (1 + step % 4)
    keys = start.keys("blend", images, step, channels * cells * cells + 1)
    drawn = torch.from_numpy(seeding.uniform(keys).astype(np.float32)).to(start.x.device)
    grid = drawn[:, 1:].view(-1, channels, cells, cells)
    noise = F.interpolate(grid, size=(height, width), mode="nearest")
    return torch.lerp(base, noise, drawn[:, :1, None, None])


def place(start: Start, images: Tensor, points: Tensor, at: Tensor) -> Tensor:
    """Return the rows `at [m]` of the way from clean images (0) to points, `[m, *instance]`.

    In L2 the way is a straight line and `at` a share of it. In linf it is a box around the clean
    image that the point is clipped to, and `at` its half side.
    """
    clean = start.x[images]
    part = at.to(clean.dtype)[:, None, None, None]
    if start.task.norm == "linf":
        return torch.minimum(torch.maximum(points, clean - part), clean + part).clamp(0, 1)
    # (1 - at) x + at p is p itself at 1, and inside the box wherever both are.
    return ((1 - part) * clean + part * points).clamp(0, 1)


def bisect(search: Decisions, images: Tensor, points: Tensor, tolerance: float) -> Asking[Tensor]:
    """Return adversarial points next to the decision, on the ways from clean images to `points`.

    Costs `ceil(log2(1 / tolerance))` queries each in L2.

    Args:
        search: makes the queries.
        images: `[m]` positions.
        points: `[m, *instance]` adversarial points.
        tolerance: width of the last interval as a share of the way; in linf at most as a distance,
            too.

    Reference: Chen, Jordan & Wainwright 2020, Algorithm 1 (bin-search).
    """
    high, width = _interval(search, images, points, tolerance)
    rows = _on_the_way(search, images, points)
    high = yield from halve(search, images, rows, torch.zeros_like(high), high, width)
    return place(search.start, images, points, high)


def descend_to(
    search: Decisions, images: Tensor, points: Tensor, tolerance: float, rounds: int
) -> Asking[Tensor]:
    """Return adversarial points next to the decision as `bisect` does, at `rounds` bad answers.

    Each round goes down in steps of equal length from the adversarial end of the interval to the
    first answer that isn't; the last step is the next round's interval. With s steps a round the
    last one is `s ** -rounds` of the way, at most `tolerance`.

    Args:
        search: makes the queries.
        images: `[m]` positions.
        points: `[m, *instance]` adversarial points.
        tolerance: as of `bisect`.
        rounds: bad answers to pay; 1 takes the most queries, `log2(1 / tolerance)` as many as
            bisection.

    Reference: Debenedetti, Carlini & Tramer 2024 (line search from the good side,
        egg-dropping search).
    """
    high, width = _interval(search, images, points, tolerance)
    rows = _on_the_way(search, images, points)
    low = torch.zeros_like(high)
    steps = math.ceil(tolerance ** (-1 / rounds) - 1e-9)
    for _ in range(rounds):
        stride = (high - low) / steps
        going = high - low > width
        for _ in range(steps - 1):
            active = torch.nonzero(going & search.live[images])[:, 0]
            if not len(active):
                break
            at = high[active] - stride[active]
            adversarial = yield from search.ask(rows(active, at), images[active])
            high[active] = torch.where(adversarial, at, high[active])
            low[active] = torch.where(adversarial, low[active], at)
            going[active] = adversarial
    return place(search.start, images, points, high)


Rows = Callable[[Tensor, Tensor], Tensor]
"""From places `[k]` among some images, and where on their ways `[k]`, to the rows to send."""


def halvings(tolerance: float) -> int:
    """Return how many times an interval of 1 is halved until it is no wider than the tolerance."""
    return next(times for times in count() if 0.5**times <= tolerance)


def halve(
    search: Decisions, images: Tensor, rows: Rows, low: Tensor, high: Tensor, width: Tensor
) -> Asking[Tensor]:
    """Return the adversarial ends of intervals once they are no wider than `width`, `[m]`.

    The caller's `high` is adversarial. Empty intervals cost nothing.

    Args:
        search: makes the queries.
        images: `[m]` positions.
        rows: makes the rows.
        low: `[m]` ends that aren't adversarial; below or above the others.
        high: `[m]` ends that are.
        width: `[m]` above 0.
    """
    low, high = low.clone(), high.clone()
    while True:
        active = torch.nonzero(((high - low).abs() > width) & search.live[images])[:, 0]
        if not len(active):
            return high
        middle = (low[active] + high[active]) / 2
        adversarial = yield from search.ask(rows(active, middle), images[active])
        high[active] = torch.where(adversarial, middle, high[active])
        low[active] = torch.where(adversarial, low[active], middle)


def _on_the_way(search: Decisions, images: Tensor, points: Tensor) -> Rows:
    """The rows on the ways from clean images to points."""
    return lambda active, at: place(search.start, images[active], points[active], at)


def _interval(
    search: Decisions, images: Tensor, points: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Where points are on their ways, as `place` takes it, and the width of the last interval."""
    if search.start.task.norm == "linf":
        high = distance(points, search.start.x[images], "linf").double()
        return high, torch.minimum(high, torch.ones_like(high)) * tolerance
    high = torch.ones(len(images), dtype=torch.float64, device=points.device)
    return high, high * tolerance


Space = Literal["pixel", "tanh"]
"""Where steps are taken: in pixels, clipped to [0, 1], or in w with pixels (tanh(w) + 1) / 2."""

_INSIDE = 1 - 1e-6
"""Share of an L2 ball's radius that is used, so that rounding to float32 leaves no one outside."""

_STEEPEST = 1 - 1e-6
"""Pixels are pulled this close to the box's middle before their w is taken: at its edge w is
infinite."""


class ScoreConfig(AttackConfig):
    """Settings of every score-based attacker.

    Attributes:
        radius: of the ball around the clean image, in the protocol's norm, that no candidate
            leaves; None takes the protocol's `eps`.
    """

    radius: float | None = Field(None, gt=0)


class ScoreAgent(LockstepAgent):
    """An attacker that needs scores.

    `Choice:` every iterate is projected into the ball and the box, also in attacks that
    know no ball; a protocol with an infinite `eps` leaves these as published.
    """

    Config: ClassVar[type[AttackConfig]] = ScoreConfig
    ball_needed: ClassVar[bool] = False

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return the protocol and the run's seed.

        Raises:
            UsageError: the target gives labels only; or the attack needs a ball and there is none.
        """
        task: AttackTask = env.task
        name = type(self).__name__
        if task.access != "scores":
            raise UsageError(
                f"{name} needs scores, got a target that gives labels; take an attacker by "
                "decisions (hopskipjump, sign_opt, opt_attack, boundary), or a target that shows "
                "scores"
            )
        if self.ball_needed and math.isinf(self.radius(task)):
            raise UsageError(
                f"{name} searches inside a ball, got a protocol with infinite eps; give a finite "
                "one, an attacker by decisions such as hopskipjump, or set its radius (lazybench "
                "run --set radius=2.0)"
            )
        return super().init(env, rng)

    def radius(self, task: AttackTask) -> float:
        """Return the radius of the ball that the attack stays in."""
        given: float | None = self.config.radius
        return task.eps if given is None else given


class Iterates:
    """The iterates of an attack by scores, and which images are still attacked.

    Attributes:
        start: the attack's images before any query.
        radius: of the ball that iterates stay in.
        space: where steps are taken.
        x: `[n, …]` each image's iterate in pixels, float32 in [0, 1].
        values: `[n, …]` the iterates in the coordinates of `space`.
        margin: `[n]` margins of the last `check`.
        live: `[m]` int64 images that are still attacked: not finished, and without a success unless
            `shrink`.
    """

    def __init__(
        self, start: Start, radius: float, space: Space = "pixel", *, shrink: bool = False
    ) -> None:
        """Start at the clean images.

        Args:
            start: the images.
            radius: of the ball.
            space: where steps are taken.
            shrink: whether an image is attacked on after a success, as far as the protocol lets it.
        """
        self.start, self.radius, self.space, self.shrink = start, radius, space, shrink
        self.x = start.x.clone()
        self.values = variables(start.x, space).clone()
        self.margin = start.x.new_full((len(start.x),), float("-inf"))
        self.live = torch.arange(len(start.x), device=start.x.device)

    def move(self, values: Tensor) -> None:
        """Put the live iterates at values `[m, …]`, or what is nearest to them in ball and box."""
        seen = pixels(values, self.space)
        inside = self.inside(seen)
        self.x[self.live] = inside
        # What wasn't brought back keeps its value: near 0 and 1 the way there and back loses much.
        self.values[self.live] = torch.where(
            inside == seen, values if self.space == "tanh" else seen, variables(inside, self.space)
        )

    @property
    def clean(self) -> Tensor:
        """The live images without any change, `[m, …]`."""
        return self.start.x[self.live]

    def inside(self, images: Tensor) -> Tensor:
        """Return what is nearest to images of the live ones `[m, …]` in ball, then in box."""
        return project(images, self.clean, self.start.task.norm, self.radius)

    def look(
        self, count: int, build: Callable[[Tensor, slice], Tensor]
    ) -> Asking[tuple[Tensor, Tensor]]:
        """Query `count` rows of each live image, and drop the images that end.

        Args:
            count: rows of each image.
            build: from positions `[k]` among the live images and a part of 0..count-1 to these
                rows, `[k, rows, …]`.

        Returns:
            margins `[kept, count]`, and the positions `[kept]` that these images had among the live
            ones before.
        """
        images, here = self.live, torch.arange(len(self.live), device=self.live.device)
        margin = self.x.new_zeros(len(images), count)
        for first in range(0, count, PROBES_AT_ONCE):
            if not len(here):
                break
            part = slice(first, min(first + PROBES_AT_ONCE, count))
            rows = build(here, part)
            owner = images[here].repeat_interleave(rows.shape[1])
            replies = yield Queries(rows.flatten(0, 1), owner)
            found = self.start.margin(replies.scores, owner).view(rows.shape[:2])
            margin[here, part] = found.to(margin.dtype)
            ended = replies.done[images[here]]
            if not self.shrink:
                ended = ended | replies.hit.view(rows.shape[:2]).any(1)
            here = here[~ended]
        self.live = images[here]
        return margin[here], here

    def send(self, rows: Tensor) -> Asking[tuple[Tensor, Tensor]]:
        """Query rows `[m, rows, …]` of the live images; return margins and positions as `look`."""
        return (yield from self.look(rows.shape[1], lambda here, part: rows[here][:, part]))

    def ask(self, images: Tensor) -> Asking[tuple[Tensor, Tensor]]:
        """Query one row of each live image; return margins `[kept]`, positions as `look` does."""
        margin, kept = yield from self.send(images[:, None])
        return margin[:, 0], kept

    def check(self) -> Asking[Tensor]:
        """Query the live iterates, keep their margins; return positions as `look` does."""
        margin, kept = yield from self.ask(self.x[self.live])
        self.margin[self.live] = margin
        return kept


def project(images: Tensor, clean: Tensor, norm: Norm, radius: float) -> Tensor:
    """Return what is nearest to images `[m, …]` in the ball around `clean`, clipped to the box.

    Clipping brings every pixel nearer to the clean one, so that nothing leaves the ball by it.
    """
    if norm == "linf":
        return torch.minimum(torch.maximum(images, clean - radius), clean + radius).clamp(0, 1)
    offset = images - clean
    share = radius * _INSIDE / length(offset)
    return torch.where(share < 1, clean + share * offset, images).clamp(0, 1)


def length(images: Tensor) -> Tensor:
    """Return the Euclidean norm of each image, above 0, shaped to divide `[…, C, H, W]` by."""
    size: Tensor = torch.linalg.vector_norm(images, dim=(-3, -2, -1), keepdim=True)
    return size.clamp_min(1e-12)


def along(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the direction of steepest ascent in a norm, of length 1 (0 if flat), `[m, …]`."""
    return gradient.sign() if norm == "linf" else gradient / length(gradient)


def variables(x: Tensor, space: Space) -> Tensor:
    """Return pixels in the coordinates of a space; at the box's edge w is about 7."""
    return x if space == "pixel" else torch.atanh((2 * x - 1) * _STEEPEST)


def pixels(values: Tensor, space: Space) -> Tensor:
    """Return the images of values in a space's coordinates, in [0, 1]."""
    return values.clamp(0, 1) if space == "pixel" else (torch.tanh(values) + 1) / 2


def chance(start: Start, name: str, images: Tensor, step: int | Tensor, size: int) -> Tensor:
    """Return uniform numbers in [0, 1] of each of some images, `[m, size]` float32."""
    # The largest of the 53-bit numbers round up to 1.
    drawn = seeding.uniform(start.keys(name, images, step, size)).astype("float32")
    return torch.from_numpy(drawn).to(start.x.device)


def signs(start: Start, name: str, images: Tensor, step: int | Tensor, size: int) -> Tensor:
    """Return -1 and 1 with equal chance, for each of some images `[m, size]` float32."""
    return 1 - 2 * (chance(start, name, images, step, size) < 0.5).to(torch.float32)


def normals(
    start: Start, name: str, images: Tensor, step: int | Tensor, shape: tuple[int, ...]
) -> Tensor:
    """Return standard normal numbers of each of some images, `[m, *shape]` float32."""
    drawn = seeding.normal(start.keys(name, images, step, math.prod(shape))).astype("float32")
    return torch.from_numpy(drawn).view(len(images), *shape).to(start.x.device)


def whole(
    start: Start, name: str, images: Tensor, step: int | Tensor, size: int, bound: int
) -> Tensor:
    """Return whole numbers in 0..bound-1 of each of some images, `[m, size]` int64."""
    drawn = seeding.integers(start.keys(name, images, step, size), bound)
    return torch.from_numpy(drawn).to(start.x.device)


def order(start: Start, name: str, images: Tensor, step: int | Tensor, size: int) -> Tensor:
    """Return a random order of 0..size-1 of each of some images, `[m, size]` int64."""
    drawn = start.keys(name, images, step, size).argsort(axis=1, kind="stable")
    return torch.from_numpy(drawn).to(start.x.device)


def tiled(cells: Tensor, height: int, width: int) -> Tensor:
    """Return `[…, C, t, t]` enlarged to `[…, C, height, width]`, each cell a rectangle."""
    down = torch.arange(height, device=cells.device) * cells.shape[-2] // height
    right = torch.arange(width, device=cells.device) * cells.shape[-1] // width
    return cells[..., down[:, None], right]


def cosines(size: int) -> Tensor:
    """Return the waves of the cosine transform (DCT-II) over one side, `[size, size]` float64.

    A frequency a row, orthonormal.
    """
    at = torch.arange(size, dtype=torch.float64)
    wave = torch.cos(math.pi / size * at[:, None] * (at[None] + 0.5)) * math.sqrt(2 / size)
    wave[0] /= math.sqrt(2)
    return wave


def low_waves(weights: Tensor, height: int, width: int) -> Tensor:
    """Return images of the lowest frequencies with the given weights, `[m, C, height, width]`.

    Args:
        weights: `[m, C, k, l]` of the k lowest frequencies down and the l lowest to the right.
        height: of the images.
        width: of the images.
    """
    # In double precision, so that an image doesn't depend on how many are made with it.
    down = cosines(height)[: weights.shape[2]].to(weights.device)
    right = cosines(width)[: weights.shape[3]].to(weights.device)
    return torch.einsum("mckl,kh,lw->mchw", weights.double(), down, right).to(weights.dtype)


def lowest(side: int, share: float) -> int:
    """Return how many of a side's frequencies are a share of them, at least 1."""
    return max(1, math.ceil(share * side))
