"""Convolution, batch norm, 2x2 max-pool and ReLU with gradients written out, for CPUs.

Taken one by one, the four layers pass a dozen times over the convolution's output, and the
derivative of batch norm's gradient, left to the framework, some fifty times more. Three facts
leave a few passes, most of them over a quarter:

- Normalising is monotone in each channel, so pooling may come first. Where the norm's scale is
  negative, the filter's sign is turned instead.
- The gradient at the convolution's output is sparse (one place of each window) plus an affine
  function of that output, whose coefficients are sums over the pooled entries alone.
- The derivative of that gradient is of the same form: sparse, plus a linear combination of two
  arrays that are there already.

A convolution's gradients differentiated again are convolutions and gradients of convolutions, so
they run as such, without turning axes about. On one-channel images a convolution is a product of
nine numbers a position with the filters; as a matrix product it is ten times as fast.

Values and gradients of any order are those of the four layers in exact arithmetic.

For the first module, on one-channel images, the convolution's output is 64 times as large as the
input. `patch_norm_pool` takes such images cut into 3x3 patches, and has three facts more:

- A 3x3 patch of one channel is nine numbers against 64 outputs. Cut once for a task (`patches`),
  the convolution is a matrix product, its output comes in the order that pooling wants, and its
  statistics follow from the patches' second moments.
- The affine part of the gradient meets the patches in their second moments again and is never
  written out; the norm's gradients follow from the sparse part's product.
- Whether the second of two entries won is the sign of their difference, so the backward pass
  needs no indices, and a tie goes to the first entry in row-major order, as in `max_pool2d`.

Where a gradient is to be differentiated again (`create_graph`), its backward pass takes
`conv_norm_pool` from the images on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten
_PAIR = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
"""Stride, padding, dilation, not transposed, output padding, groups."""


def conv_norm_pool(x: Tensor, weight: Tensor, scale: Tensor, offset: Tensor, eps: float) -> Tensor:
    """Return `relu(max_pool2d(batch_norm(conv2d(x, weight, padding=1)), 2))`.

    Batch norm takes the statistics of this batch. Channels last is fast; any layout is right. A
    scale of exactly 0 counts as positive: its gradient is that of a window's largest entry, where
    the four layers take that of the first.

    Args:
        x: `[n, channels, h, w]` on a CPU.
        weight: filters `[f, channels, 3, 3]`.
        scale: the norm's scale `[f]`, of any sign.
        offset: the norm's offset `[f]`.
        eps: added to the variance.

    Returns:
        `[n, f, h // 2, w // 2]`, channels last.
    """
    if scale.amin() < 0:
        signs = torch.copysign(torch.ones_like(scale), scale).detach()
        weight, scale = weight * signs[:, None, None, None], scale * signs
    return norm_pool(convolve(x, weight), scale, offset, eps)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Return `conv2d(x, weight, padding=1)` for 3x3 filters, with fast gradients of any order."""
    out: Tensor = _Convolve.apply(x, weight)  # type: ignore[no-untyped-call]
    return out


def norm_pool(u: Tensor, scale: Tensor, offset: Tensor, eps: float) -> Tensor:
    """Return `relu(max_pool2d(batch_norm(u), 2))`, channels last, for scales that aren't negative.

    Where a scale is negative, the result is wrong: `conv_norm_pool` turns signs first.
    """
    u = u.contiguous(memory_format=torch.channels_last)
    out: Tensor = _NormPool.apply(u, scale, offset, eps)  # type: ignore[no-untyped-call]
    return out


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if x.shape[1] != 1:
            return F.conv2d(x, weight, padding=1)
        count, _, height, width = x.shape
        return _images(_taps(x) @ weight.flatten(1).t(), (count, len(weight), height, width))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted: tuple[Tensor | None, ...] = _ConvolveGrad.apply(  # type: ignore[no-untyped-call]
            grad, x, weight, *ctx.needs_input_grad
        )
        return wanted


class _ConvolveGrad(torch.autograd.Function):
    """Gradients of inputs and weight, each where it is needed; bilinear in `grad` and both."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, to_x: bool, to_weight: bool
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, weight)
        if x.shape[1] == 1 and not to_x:
            rows = _rows(grad.contiguous(memory_format=torch.channels_last))
            return None, (_taps(x).t() @ rows).t().reshape(weight.shape) if to_weight else None
        gradients = _aten.convolution_backward(
            grad, x, weight, None, *_PAIR, [to_x, to_weight, False]
        )
        return gradients[0], gradients[1]

    @staticmethod
    def backward(ctx: Any, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, x, weight = ctx.saved_tensors
        along_x, along_weight = along
        to_grad: Tensor | None = None
        if along_x is not None:
            to_grad = convolve(along_x, weight)
        if along_weight is not None:
            other = convolve(x, along_weight)
            to_grad = other if to_grad is None else to_grad + other
        _, needs_x, needs_weight, *_ = ctx.needs_input_grad
        to_x, to_weight = _ConvolveGrad.apply(  # type: ignore[no-untyped-call]
            grad,
            x if along_x is None else along_x,
            weight if along_weight is None else along_weight,
            needs_x and along_weight is not None,
            needs_weight and along_x is not None,
        )
        return to_grad, to_x, to_weight, None, None


class _Kept(NamedTuple):
    """Values that the forward pass stores for gradients, besides its inputs."""

    out: Tensor
    best: Tensor
    places: Tensor
    mean: Tensor
    inverse: Tensor
    eps: float


class _NormPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, scale: Tensor, offset: Tensor, eps: float) -> Tensor:
        rows = _rows(u)
        mean = rows.mean(0)
        squares, _ = _sums(u, u, mean, torch.ones_like(mean))
        inverse = torch.rsqrt_(squares.div_(len(rows)).clamp_min_(0).add_(eps))
        best, places = _aten.max_pool2d_with_indices(u, [2, 2], [2, 2])
        gain = scale * inverse
        out = torch.addcmul(offset - gain * mean, _rows(best), gain).relu_()
        out = _images(out, best.shape)
        ctx.eps = eps
        ctx.save_for_backward(u, scale, offset, out, best, places, mean, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, scale, offset, out, *rest = ctx.saved_tensors
        best, places, mean, inverse = rest
        kept = _Kept(out.detach(), best, places, mean, inverse, ctx.eps)
        gradients: tuple[Tensor, ...] = _NormPoolGrad.apply(  # type: ignore[no-untyped-call]
            grad, u, scale, offset, kept
        )
        return *gradients, None


class _NormPoolGrad(torch.autograd.Function):
    """Names: `won` the gradient at each window's largest entry; `along_*` what comes from behind.

    With m entries a channel, y the normalised u and W the sparse array of `won`, the gradients are
    sums of W * y and of W (to scale and offset) and, at u,
    scale * inverse * (W - sum(W) / m - y * sum(W * y) / m).
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, u: Tensor, scale: Tensor, offset: Tensor, kept: _Kept
    ) -> tuple[Tensor, ...]:
        out, best, places, mean, inverse, ctx.eps = kept
        won = _aten.threshold_backward(grad.contiguous(memory_format=torch.channels_last), out, 0)
        to_scale, to_offset = _sums(won, best, mean, inverse)
        rows = _rows(u)
        gain = scale * inverse
        slope = gain * inverse * to_scale / -len(rows)
        level = gain * to_offset / -len(rows) - slope * mean
        to_u = _images(torch.addcmul(level, rows, slope), u.shape)
        _scatter(to_u, places, _rows(won) * gain)
        ctx.save_for_backward(grad, u, scale, offset, won, to_scale, to_offset, *kept[:-1])
        return to_u, to_scale, to_offset

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple[Tensor | None, ...]:
        grad, u, scale, offset, won, to_scale, to_offset, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            values = grad, u, scale, offset
            return *_plainly(values, along, ctx.eps, ctx.needs_input_grad[:3]), None, None
        out, best, places, mean, inverse = kept
        along_u = along[0].contiguous(memory_format=torch.channels_last)
        rows, picked = _rows(u), _gather(along_u, places)
        each = 1 / len(rows)
        gain = scale * inverse
        # sum(along_u * y) and sum(along_u), to be met by sums of W * y and of W.
        tilt, total = _sums(along_u, u, mean, inverse)
        on_scale = along[1] - gain * tilt * each
        on_offset = along[2] - gain * total * each
        slope = on_scale * inverse
        second = torch.addcmul(on_offset - slope * mean, _rows(best), slope)
        second = _images(second.addcmul_(picked, gain), best.shape)
        to_grad = _aten.threshold_backward(second, out, 0)

        won_rows = _rows(won)
        share = (won_rows * picked).sum(0) - (to_offset * total + to_scale * tilt) * each
        # Through y: on_scale * W - pull * along_u; through the variance: share.
        pull = gain * to_scale * each
        sums = on_scale * to_offset - pull * total
        products = on_scale * to_scale - pull * tilt + gain * share
        bend = products * inverse * inverse * -each
        level = sums * inverse * -each - bend * mean
        to_u = torch.addcmul(level, rows, bend).addcmul_(_rows(along_u), pull * inverse, value=-1)
        to_u = _images(to_u, u.shape)
        _scatter(to_u, places, won_rows * slope)
        return to_grad, to_u, inverse * share, None, None


_TAPS = 9


def _taps(images: Tensor) -> Tensor:
    """3x3 patches of one-channel images padded with 0, `[positions, 9]`, row-major."""
    height, width = images.shape[2:]
    padded = F.pad(images[:, 0], (1, 1, 1, 1))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(shifted, -1).view(-1, _TAPS)


def _rows(images: Tensor) -> Tensor:
    """Images that are channels last as a matrix `[positions, channels]`, without a copy."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _images(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    count, channels, height, width = shape
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _sums(grad: Tensor, images: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """For each channel, the sums of `grad * (images - mean) * inverse` and of `grad`, at once."""
    _, product, total = _aten.native_batch_norm_backward(
        grad, images, None, None, None, mean, inverse, True, 0.0, [False, True, True]
    )
    return product, total


def _gather(images: Tensor, places: Tensor) -> Tensor:
    """Entries of each image at the windows' places, `[windows, channels]`."""
    entries = images.permute(0, 2, 3, 1).flatten(1, 2)
    return entries.gather(1, places.permute(0, 2, 3, 1).flatten(1, 2)).flatten(0, 1)


def _scatter(images: Tensor, places: Tensor, rows: Tensor) -> None:
    """Add `[windows, channels]` to each image, in place, at the windows' places."""
    entries = images.permute(0, 2, 3, 1).flatten(1, 2)
    where = places.permute(0, 2, 3, 1).flatten(1, 2)
    entries.scatter_add_(1, where, rows.view_as(where))


def _plainly(
    values: tuple[Tensor, ...], along: tuple[Tensor, ...], eps: float, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """What `_NormPoolGrad.backward` returns, with a graph, through the layers themselves."""
    grad, u, scale, offset = values
    out = F.batch_norm(u, None, None, scale, offset, training=True, eps=eps)
    out = F.relu(F.max_pool2d(out, 2))
    first = torch.autograd.grad(out, (u, scale, offset), grad, create_graph=True)
    wanted = [value for value, is_needed in zip(values[:3], needed, strict=True) if is_needed]
    second = iter(torch.autograd.grad(first, wanted, along, create_graph=True, allow_unused=True))
    return [next(second) if is_needed else None for is_needed in needed]


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
    split = _taps(images).view(rows, height // 2, 2, width // 2, 2, _TAPS)
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
