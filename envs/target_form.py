"""How a target of one's own takes images and what it answers, as its owner declares it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.attack_task import Access
from lazybench.envs.attack_oracle import Predict
from lazybench.envs.checks import check_one_of, check_whole
from lazybench.errors import ContractError, UsageError

Layout = Literal["nchw", "nhwc"]
Answers = Literal["scores", "probs", "label"]
Arrays = Literal["torch", "numpy"]

_SLACK = 1e-4
"""How far a probability may lie outside [0, 1]: targets round."""


@dataclass(frozen=True)
class TargetForm:
    """What a target is given and what it gives.

    Attributes:
        layout: `nchw`: channels before height and width; `nhwc`: last.
        bounds: values of a black and of a full pixel.
        answers: `scores` (logits or log-probabilities), `probs`, or `label` (the top class alone).
        classes: number of classes; needed for labels, else read off the first answer.
        arrays: whether a function in this process takes tensors or numpy arrays, float32 both.
    """

    layout: Layout = "nchw"
    bounds: tuple[float, float] = (0.0, 1.0)
    answers: Answers = "scores"
    classes: int | None = None
    arrays: Arrays = "torch"

    def __post_init__(self) -> None:
        """Look at the settings.

        Raises:
            UsageError: one that isn't allowed.
        """
        check_one_of("layout", self.layout, get_args(Layout))
        check_one_of("answers", self.answers, get_args(Answers))
        check_one_of("arrays", self.arrays, get_args(Arrays))
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UsageError(f"bounds must be two numbers, the lower first, got {low:g},{high:g}")
        if self.classes is not None:
            check_whole("classes", self.classes, least=2)
        if self.answers == "label" and self.classes is None:
            raise UsageError("a target that answers with labels needs classes, their number")

    @property
    def access(self) -> Access:
        """What attackers are shown."""
        return "label" if self.answers == "label" else "scores"

    def laid_out(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return images `[R, C, H, W]` in the target's layout."""
        return rows.transpose(0, 2, 3, 1) if self.layout == "nhwc" else rows

    def sent(self, rows: Tensor) -> Tensor | NDArray[np.float32]:
        """Return images `[R, C, H, W]` in [0, 1] as the target takes them."""
        low, high = self.bounds
        scaled = rows * (high - low) + low if self.bounds != (0.0, 1.0) else rows
        scaled = scaled.permute(0, 2, 3, 1).contiguous() if self.layout == "nhwc" else scaled
        return scaled.cpu().numpy() if self.arrays == "numpy" else scaled

    def scores(self, answer: Any, rows: int) -> Tensor:
        """Return what a target answered to `rows` images as scores `[rows, classes]` float32.

        Raises:
            ContractError: an answer that isn't of the declared kind.
        """
        try:
            told = torch.as_tensor(answer).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ContractError(f"the target's answer is no array: {error}") from None
        if self.answers == "label":
            return self._of_labels(told, rows)
        if told.ndim != 2 or len(told) != rows or self.classes not in (None, told.shape[1]):
            raise ContractError(
                f"the target must answer {rows} images with [{rows}, {self.classes or 'classes'}] "
                f"{self.answers}, got {list(told.shape)}"
            )
        if self.answers == "scores":
            return told.float()
        least, most = float(told.min()), float(told.max())
        if not -_SLACK <= least <= most <= 1 + _SLACK:
            raise ContractError(
                f"the target's probabilities must lie in [0, 1], got {least:g} to {most:g}; for "
                "logits declare answers 'scores'"
            )
        # In double precision: 1 - 1e-11 has a logarithm there.
        return told.double().clamp_min(torch.finfo(torch.float32).tiny).log().float()

    def _of_labels(self, told: Tensor, rows: int) -> Tensor:
        classes = self.classes or 0
        whole = not told.is_floating_point() and told.dtype != torch.bool
        if tuple(told.shape) != (rows,) or not whole:
            raise ContractError(
                f"the target must answer {rows} images with {rows} integers, got {told.dtype} "
                f"{list(told.shape)}"
            )
        if rows and not 0 <= int(told.min()) <= int(told.max()) < classes:
            raise ContractError(
                f"the target's labels must lie in [0, {classes}), got {int(told.min())} to "
                f"{int(told.max())}; tell the right number of classes"
            )
        return torch.nn.functional.one_hot(told.long(), classes).float()


def in_form(predict: Any, form: TargetForm) -> Predict:
    """Return a function of images `[R, C, H, W]` in [0, 1] that asks `predict` in its own form.

    Args:
        predict: a function or network of one's own; a network is put into evaluation mode, a class
            is called without arguments first.
        form: how it takes images and what it answers.

    Raises:
        UsageError: it can't be called.
    """
    if isinstance(predict, type):
        try:
            predict = predict()
        except Exception as error:
            raise UsageError(
                f"{type(error).__name__} while the target was made without arguments: {error}"
            ) from error
    if isinstance(predict, torch.nn.Module):
        predict = predict.eval()
    if not callable(predict):
        raise UsageError(
            f"a target is a function from images to {form.answers}, got {type(predict).__name__}"
        )

    def ask(rows: Tensor) -> Tensor:
        return form.scores(predict(form.sent(rows)), len(rows))

    return ask
