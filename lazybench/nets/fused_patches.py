"""First module of `Conv4` on one-channel images in one step, for training on CPUs.

Written out, convolution, batch norm, 2x2 max-pool and ReLU pass a dozen times over the
convolution's output, and for one-channel images that output is 64 times as large as the input.
Four facts leave a few passes, most of them over half of it or a quarter:

- A 3x3 patch of one channel is nine numbers against 64 outputs. Cut once for a task (`patches`),
  the convolution is a matrix product, its output comes in the order that pooling wants, and its
  statistics follow from the patches' second moments.
- Normalising is monotone in each channel, so pooling may come first. Where the norm's scale is
  negative, the filter's sign is turned instead.
- The gradient at the convolution's output is sparse (one of four places of each window) plus an
  affine function of that output. The second part meets the patches in their second moments again
  and is never written out; the norm's gradients follow from the first part's product.
- Whether the second of two entries won is the sign of their difference, so the backward pass
  needs no indices, and a tie goes to the first entry in row-major order, as in `max_pool2d`.

Values and gradients are those of the four layers in exact arithmetic. Where a gradient is to be
differentiated again (`create_graph`), the backward pass takes `lazybench.nets.fused` from the
images on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.nets.fused import conv_norm_pool

_TAPS = 9


def patches(images: Tensor) -> Tensor:
    """Return 3x3 patches `[n, 4, h/2, w/2, 10]` of one-channel images `[n, 1, h, w]`.

    Images are padded with 0. The second axis is the place in the 2x2 pooling window, column by
    column: both entries on the left, then both on the right. The last axis holds nine pixels,
    row-major, and a 1.

    Raises:
        ValueError: more than one channel, or an odd height or width.
    """
    rows, channels, height, width = images.shape
    if channels != 1 or height % 2 or width % 2:
        raise ValueError(
            f"patches need one-channel images of even size, got {list(images.shape)}; "
            "give such images to the network as they are"
        )
    windows = F.pad(images[:, 0], (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
    split = windows.reshape(rows, height // 2, 2, width // 2, 2, _TAPS)
    cut = images.new_ones(rows, 4, height // 2, width // 2, _TAPS + 1)
    cut[..., :_TAPS] = split.permute(0, 4, 2, 1, 3, 5).flatten(1, 2)
    return cut


def images(cut: Tensor) -> Tensor:
    """Return the images `[n, 1, h, w]` that `patches` cut: the centre of each patch."""
    rows, _, height, width, _ = cut.shape
    centre = cut[..., _TAPS // 2].reshape(rows, 2, 2, height, width)
    return centre.permute(0, 3, 2, 4, 1).reshape(rows, 1, 2 * height, 2 * width)


def patch_norm_pool(
    cut: Tensor, weight: Tensor, scale: Tensor, offset: Tensor, eps: float
) -> Tensor:
    """Return `relu(max_pool2d(batch_norm(conv2d(images, weight, padding=1)), 2))`.

    The result is `[n, f, h/2, w/2]`, channels last. Batch norm takes the statistics of this batch.
    Gradients of any order go to `weight`, `scale` and `offset`, none to the images.

    A scale of exactly 0 counts as positive: its gradient is that of a window's largest entry,
    where the four layers take that of the first.

    Args:
        cut: the images' `patches`.
        weight: filters `[f, 1, 3, 3]`.
        scale: the norm's scale `[f]`, of any sign.
        offset: the norm's offset `[f]`.
        eps: added to the variance.
    """
    out: Tensor = _PatchNormPool.apply(cut, weight, scale, offset, eps)  # type: ignore[no-untyped-call]
    return out


class _PatchNormPool(torch.autograd.Function):
    """Arrays are `[n, place, window, filter]`; `kernel` is `[10, filter]`, the last row meets 1."""

    @staticmethod
    def forward(
        ctx: Any, cut: Tensor, weight: Tensor, scale: Tensor, offset: Tensor, eps: float
    ) -> Tensor:
        rows, _, height, width, _ = cut.shape
        flat = cut.reshape(-1, _TAPS + 1)
        moments = (flat.t() @ flat) / len(flat)
        taps = weight.reshape(-1, _TAPS).t()
        signs = torch.copysign(torch.ones_like(scale), scale) if scale.amin() < 0 else None
        if signs is not None:
            taps = taps * signs
        # The last row takes the mean away, so that the product is centred already.
        kernel = torch.cat([taps, -(moments[_TAPS:, :_TAPS] @ taps)])
        reach = moments @ kernel
        inverse = torch.rsqrt_((reach * kernel).sum(0).clamp_min_(0) + eps)
        gain = scale.abs() * inverse
        places = (flat @ kernel).view(rows, 4, height * width, -1)
        best = torch.maximum(places[:, :2], places[:, 2:])
        pooled = torch.maximum(best[:, 0], best[:, 1])
        out = torch.addcmul(offset, pooled, gain).relu_()
        ctx.eps, ctx.signs = eps, signs
        ctx.save_for_backward(
            cut, weight, scale, offset, moments, kernel, reach, places, best, out, inverse, gain
        )
        return out.view(rows, height, width, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cut, weight, scale, offset, *rest = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_with_graph(grad, cut, (weight, scale, offset), ctx.eps), None
        moments, kernel, reach, places, best, out, inverse, gain = rest
        sparse = _meet(_route(grad.permute(0, 2, 3, 1).reshape(out.shape), out, best, places), cut)
        to_offset = sparse[_TAPS]
        to_scale = (sparse * kernel).sum(0) * inverse
        dense = torch.addcmul(moments[:, _TAPS:] * to_offset, reach, inverse * to_scale)
        to_taps = (sparse - dense)[:_TAPS] * gain
        if ctx.signs is not None:
            to_taps, to_scale = to_taps * ctx.signs, to_scale * ctx.signs
        # Strides equal to the weight's keep the update of all parameters in one call fast.
        to_weight = torch.empty_like(weight)
        to_weight.view(-1, _TAPS).copy_(to_taps.t())
        return None, to_weight, to_scale, to_offset, None


def _route(grad: Tensor, out: Tensor, best: Tensor, places: Tensor) -> Tensor:
    """Gradients shaped like `places`: of each row's best entry, then the part on the right."""
    masked = torch.ops.aten.threshold_backward
    grad = masked(grad, out, 0)
    won = torch.empty_like(places)
    masked.grad_input(grad, best[:, 1] - best[:, 0], 0, grad_input=won[:, 1])
    torch.sub(grad, won[:, 1], out=won[:, 0])
    masked.grad_input(won[:, :2], places[:, 2:] - places[:, :2], 0, grad_input=won[:, 2:])
    return won


def _meet(won: Tensor, cut: Tensor) -> Tensor:
    """The sparse gradient summed against the patches, `[10, filters]`.

    left * (row - part) + right * part = left * row + (right - left) * part.
    """
    meets = cut.clone()
    meets[:, 2:] -= cut[:, :2]
    return meets.view(-1, _TAPS + 1).t() @ won.view(-1, won.shape[-1])


def _with_graph(
    grad: Tensor, cut: Tensor, params: tuple[Tensor, Tensor, Tensor], eps: float
) -> tuple[Tensor, ...]:
    out = conv_norm_pool(images(cut), *params, eps)
    return torch.autograd.grad(out, params, grad, create_graph=True)
