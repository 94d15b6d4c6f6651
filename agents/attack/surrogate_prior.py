"""Prior-guided random gradient-free attack: white-box gradients are among its directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lazybench.agent import TaskEnv
from lazybench.agents.attack.lockstep import Attack, AttackConfig, LockstepAgent, Start, State
from lazybench.agents.attack.search import Asking, Decisions, bisect
from lazybench.errors import ContractError, UsageError
from lazybench.nets.whitebox import classifier
from lazybench.seeding import Rng
from lazybench.tasks import Queries, distance

_IMAGES_AT_ONCE = 64
_RIDGE = 1e-6
_TINY = 1e-30

Logits = Callable[[Tensor], Tensor]


class SurrogatePriorConfig(AttackConfig):
    """Settings of the prior-guided attack.

    Attributes:
        random: q, random directions that are probed next to the white-box gradients.
        history: probe along the last estimate, too.
        probe: length of a probe over the square root of the number of pixels. `Choice:` the
            authors' 1e-4, as a forward difference.
        steps: steps that lead from the clean image to the rim of the ball.
        free_step: length of a step where the ball is infinite.
        shrink: in mode `minimise`, the next ball's radius over the distance of a success.
        tolerance: width of the bisection after a success there, as a share of the way.
    """

    random: int = Field(10, ge=0)
    history: bool = True
    probe: float = Field(1e-4, gt=0)
    steps: int = Field(15, ge=1)
    free_step: float = Field(0.2, gt=0)
    shrink: float = Field(0.95, gt=0, lt=1)
    tolerance: float = Field(0.02, gt=0, lt=1)


class SurrogatePrior(LockstepAgent):
    """Attack by scores that also uses white-box networks, as meta-attack does.

    Each iteration queries the present image (1 query) and one probe along every white-box
    network's gradient there, along the last estimate (after the first) and along `random` random
    directions. The estimate is the target's gradient projected on what these probes span, so
    the target's answers decide the weight of every white box; a step of fixed length along
    it follows, back into the ball and box. Directions that lead nowhere inside the box cost
    nothing.

    `Choice:` one prior for each white box, not their mean. `Choice:` where the box cuts a probe
    off, what has been sent is the direction. `Choice:` mode `first` ends at the success; mode
    `minimise` bisects towards the clean image and goes on in a smaller ball.

    Reference: Cheng et al., "Improving Black-box Adversarial Attacks with a Transfer-based Prior",
        NeurIPS 2019; the projection: Cheng et al., "On the Convergence of Prior-Guided
        Zeroth-Order Optimization Algorithms", NeurIPS 2021, section 3 (PRGF) and 3.3
        (History-PRGF).
    """

    Config = SurrogatePriorConfig
    config: SurrogatePriorConfig

    def init(self, env: TaskEnv, rng: Rng) -> State:
        """Return the protocol, the seed and the white boxes, each its name and parameters.

        Raises:
            UsageError: the protocol answers with labels alone.
            ContractError: the environment gives no white boxes.
        """
        if env.task.access != "scores":
            raise UsageError(
                "surrogate_prior needs scores, got a target that gives labels; take an attacker "
                "such as hopskipjump, or a target that shows scores"
            )
        give = getattr(env, "whiteboxes", None)
        boxes = list(give()) if give is not None else []
        if not boxes:
            raise ContractError(
                "surrogate_prior needs white-box networks and the environment gives none; take an "
                "attacker such as square (environments give them by whiteboxes(), which returns "
                "[(net, params), …])"
            )
        held = [{"name": net.name, "params": dict(params)} for net, params in boxes]
        return {**super().init(env, rng), "whiteboxes": held}

    def attack(self, start: Start, state: State) -> Attack:
        """Climb the margin along estimated gradients until the budget is spent."""
        config, task, x = self.config, start.task, start.x
        boxes = [_logits(box, task.instance, task.classes) for box in state["whiteboxes"]]
        search = Decisions(start)
        points, last = x.clone(), torch.zeros_like(x)
        radius = torch.full((len(x),), task.eps, device=x.device)
        for step in count():
            images = search.among(torch.ones_like(search.live))
            if not len(images):
                return
            replies = yield Queries(points[images], images)
            search.hear(replies)
            won = images[replies.hit]
            if len(won):
                nearest = yield from bisect(search, won, points[won], config.tolerance)
                radius[won] = config.shrink * distance(nearest, x[won], task.norm)
                points[won] = _inside(start, won, nearest, radius[won])
            value = start.margin(replies.scores, images)
            # An image that succeeded has moved: its margin is queried before it is probed.
            go = search.live[images] & ~replies.hit
            images, value = images[go], value[go]
            if not len(images):
                continue
            priors = _priors(start, boxes, images, points[images])
            if config.history:
                priors = torch.cat([priors, last[images, None]], 1)
            slope = yield from self._slope(search, images, points[images], value, priors, step)
            last[images] = slope
            length = radius[images] / config.steps
            length = torch.where(torch.isinf(length), config.free_step, length)
            moved = points[images] + length[:, None, None, None] * _unit(slope, task.norm == "linf")
            points[images] = _inside(start, images, moved, radius[images])

    def _slope(
        self,
        search: Decisions,
        images: Tensor,
        points: Tensor,
        value: Tensor,
        priors: Tensor,
        step: int,
    ) -> Asking[Tensor]:
        """Return the margin's gradient projected on what the probes span, `[m, *instance]`."""
        start, q, m = search.start, self.config.random, len(images)
        number = (step * q + torch.arange(q)).repeat(m)
        drawn = start.normal("probe", images.repeat_interleave(q), number)
        ways = torch.cat([priors, drawn.view(m, q, *points.shape[1:])], 1)
        k = ways.shape[1]
        # What leads out of the box is left out before the length is set.
        blocked = ((points[:, None] <= 0) & (ways < 0)) | ((points[:, None] >= 1) & (ways > 0))
        ways = _unit(torch.where(blocked, 0.0, ways).flatten(0, 1), False)
        length = self.config.probe * points[0].numel() ** 0.5
        row = torch.arange(m, device=points.device).repeat_interleave(k)
        rows = (points[row] + length * ways).clamp(0, 1)
        sent = (rows - points[row]).flatten(1)
        useful = torch.nonzero(sent.abs().amax(1) > 0)[:, 0] if k else row[:0]
        rise = torch.zeros(m * k, dtype=torch.float64, device=points.device)
        if len(useful):
            replies = yield Queries(rows[useful], images[row[useful]])
            search.hear(replies)
            after = start.margin(replies.scores, images[row[useful]])
            change = (after - value[row[useful]]).double()
            rise[useful] = torch.where(replies.served, change, 0.0)
        span = sent.double().view(m, k, -1)
        gram = span @ span.mT
        ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=_TINY)
        gram = gram + ridge[:, None, None] * torch.eye(k, dtype=gram.dtype, device=gram.device)
        weight = torch.linalg.solve(gram, rise.view(m, k))
        slope: Tensor = (weight[:, None] @ span)[:, 0].to(points.dtype)
        return slope.view_as(points)


def _logits(box: Mapping[str, Any], instance: tuple[int, ...], classes: int) -> Logits:
    """Return a white box of the state as a function of images."""
    net, params = classifier(box["name"], instance, classes), box["params"]

    def logits(images: Tensor) -> Tensor:
        return net(params, images)

    return logits


def _priors(start: Start, boxes: list[Logits], images: Tensor, points: Tensor) -> Tensor:
    """Return the gradient of each white box's margin at each point, `[m, boxes, *instance]`."""
    found = [points.new_zeros(0, len(boxes), *points.shape[1:])]
    for first in range(0, len(images), _IMAGES_AT_ONCE):
        part = slice(first, first + _IMAGES_AT_ONCE)
        # The caller may evaluate without gradients.
        with torch.inference_mode(False), torch.enable_grad():
            here = points[part].clone().requires_grad_()
            margins = [
                start.margin(torch.log_softmax(logits(here), 1), images[part].clone()).sum()
                for logits in boxes
            ]
            slopes = [torch.autograd.grad(margin, here)[0] for margin in margins]
        found.append(torch.stack(slopes, 1))
    return torch.cat(found)


def _inside(start: Start, images: Tensor, points: Tensor, radius: Tensor) -> Tensor:
    """Return the nearest points in the balls of radius `[m]` around clean images, and in the box.

    In L2 the box comes second, which takes no point further from its clean image.
    """
    clean = start.x[images]
    wide = radius.to(points.dtype)[:, None, None, None]
    if start.task.norm == "linf":
        return torch.minimum(torch.maximum(points, clean - wide), clean + wide).clamp(0, 1)
    far = distance(points, clean, "l2").clamp(min=_TINY)[:, None, None, None]
    return torch.where(far > wide, clean + (points - clean) * (wide / far), points).clamp(0, 1)


def _unit(images: Tensor, linf: bool) -> Tensor:
    """Return images of length 1 in L2 or, in linf, of their signs; zeros stay zeros."""
    if linf:
        return images.sign()
    length: Tensor = torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)
    return images / length.clamp(min=_TINY)
