"""Gradients of the margin from finite differences, along coordinates or any directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lazybench.agents.attack.search import Asking, Iterates, pixels


def coordinate_slopes(
    iterates: Iterates,
    index: Tensor,
    width: float,
    *,
    both_sides: bool = False,
    loss: Callable[[Tensor], Tensor] | None = None,
) -> Asking[tuple[Tensor, Tensor]]:
    """Return the derivative of the margin by some coordinates of each live image.

    One query a coordinate and side. A forward difference takes the margin that `iterates.check`
    found for its other end. `Choice:` no probe leaves the box, where the target would see it
    clipped: at the upper edge forward differences step back, and at either edge central ones are
    one-sided; what they are divided by is the distance between the two ends.

    Args:
        iterates: the attack; images that end are dropped.
        index: `[m, q]` coordinates of a flat image.
        width: h, how far probes step, in the unit of the iterates's space.
        both_sides: central differences, two queries each, up and down one after another.
        loss: function of margins that is differentiated instead of the margin itself.

    Returns:
        slopes `[kept, q]` by coordinates of the iterates's space, and the positions `[kept]` among
        the live images before.

    Reference: Chen et al., "ZOO", 2017, equation 6 (central).
    """
    flat = iterates.values[iterates.live].flatten(1)
    shape = iterates.x.shape[1:]
    middle = flat.gather(1, index)
    up, down = middle + width, middle - width
    if iterates.space == "pixel" and both_sides:
        up, down = up.clamp(max=1), down.clamp(min=0)
    elif iterates.space == "pixel":
        up = torch.where(up > 1, down, up)
    ends = torch.stack([up, down], 2).flatten(1) if both_sides else up
    columns = index.repeat_interleave(2, 1) if both_sides else index

    def build(here: Tensor, part: slice) -> Tensor:
        some, ahead = columns[here, part], ends[here, part]
        rows = flat[here][:, None].repeat(1, some.shape[1], 1)
        rows.scatter_(2, some[..., None], ahead[..., None])
        return pixels(rows.view(*rows.shape[:2], *shape), iterates.space)

    before = iterates.margin[iterates.live]
    margin, kept = yield from iterates.look(columns.shape[1], build)
    before = before[kept, None]
    if loss is not None:
        margin, before = loss(margin), loss(before)
    if both_sides:
        pair = margin.view(len(margin), index.shape[1], 2)
        return (pair[..., 0] - pair[..., 1]) / (up - down)[kept], kept
    return (margin - before) / (up - middle)[kept], kept


def directional_slopes(
    iterates: Iterates, directions: Tensor, width: float, *, both_sides: bool = False
) -> Asking[tuple[Tensor, Tensor]]:
    """Return the derivative of the margin along directions of each live iterate.

    One query a direction and side; a forward difference takes the margin that `iterates.check`
    found for its other end. The target sees what is left of a probe inside the box.

    Args:
        iterates: the attack; images that end are dropped.
        directions: `[m, q, …]`.
        width: how far along them probes step.
        both_sides: central differences, two queries each, one after another.

    Returns:
        slopes `[kept, q]`, and the positions `[kept]` among the live images before.
    """
    sides = 2 if both_sides else 1
    x = iterates.x[iterates.live]

    def build(here: Tensor, part: slice) -> Tensor:
        row = torch.arange(part.start, part.stop, device=x.device)
        sign = (1 - 2 * (row % sides)).to(x.dtype)[:, None, None, None]
        return x[here][:, None] + width * sign * directions[here][:, row // sides]

    before = iterates.margin[iterates.live]
    margin, kept = yield from iterates.look(directions.shape[1] * sides, build)
    if both_sides:
        pair = margin.view(len(margin), directions.shape[1], 2)
        return (pair[..., 0] - pair[..., 1]) / (2 * width), kept
    return (margin - before[kept, None]) / width, kept


def placed(slopes: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Return images `[m, …]` shaped as `like`, 0 but for `slopes [m, q]` at `index [m, q]`."""
    return torch.zeros_like(like).flatten(1).scatter(1, index, slopes).view_as(like)
