"""The declared form of a user's own target: its input layout and its kind of answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.arguments import check_one_of, check_whole
from lazybench.envs.attack.oracle import Predict
from lazybench.errors import ContractError, UsageError
from lazybench.tasks import Access

Layout = Literal["nchw", "nhwc"]
Answers = Literal["scores", "probs", "label", "binary", "binary_logits"]
Arrays = Literal["torch", "numpy"]

MOST_CLASSES = 1 << 17
"""Upper bound of `classes`, so that a mistyped number doesn't exhaust the memory."""

_SLACK = 1e-4
"""Tolerance outside [0, 1] for probabilities, which targets round."""


@dataclass(frozen=True)
class TargetForm:
    """Form of a target's input and output.

    Attributes:
        layout: `nchw`: channels before height and width; `nhwc`: last.
        bounds: values of a black and of a full pixel.
        answers: `scores` (logits or log-probabilities), `probs`, `label` (the top class alone),
            or one number an image from a model of two classes: `binary` (probability of class 1)
            or `binary_logits` (its logit).
        classes: number of classes, at least 2; needed for labels, else read off the first answer.
        arrays: whether a function in this process takes tensors or numpy arrays, float32 both.
    """

    layout: Layout = "nchw"
    bounds: tuple[float, float] = (0.0, 1.0)
    answers: Answers = "scores"
    classes: int | None = None
    arrays: Arrays = "torch"

    def __post_init__(self) -> None:
        """Check the settings.

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
            check_whole("classes", self.classes, least=2, most=MOST_CLASSES)
        if self.answers == "label" and self.classes is None:
            raise UsageError(
                "a target that answers with labels needs classes, their number: --classes 10"
            )
        if self.single and self.classes not in (None, 2):
            raise UsageError(
                f"a target that answers '{self.answers}' has 2 classes, got --classes "
                f"{self.classes}; leave it out"
            )

    @property
    def access(self) -> Access:
        """Replies that attackers see."""
        return "label" if self.answers == "label" else "scores"

    @property
    def single(self) -> bool:
        """Whether the target answers an image with one number, for two classes."""
        return self.answers in ("binary", "binary_logits")

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
        """Return a target's answer to `rows` images as scores `[rows, classes]` float32.

        Raises:
            ContractError: an answer that isn't of the declared kind.
        """
        try:
            values = torch.as_tensor(answer).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ContractError(f"the target's answer is no array: {error}") from None
        if self.answers == "label":
            return self._of_labels(values, rows)
        if self.single:
            return self._of_one_number(values, rows)
        if rows and tuple(values.shape) in ((rows,), (rows, 1)):
            instead = (
                "binary where it is the probability of class 1, or binary_logits where it is its "
                "logit"
                if values.is_floating_point()
                else "label --classes N where it is the top class"
            )
            raise ContractError(
                f"the target answers {rows} images with {list(values.shape)}, one number an image, "
                f"and {self.answers} need one for each of at least 2 classes; declare --answers "
                f"{instead}"
            )
        if values.ndim == 2 and values.shape[1] < 2:
            raise ContractError(
                f"the target answers with {list(values.shape)}; at least 2 classes are needed"
            )
        if values.ndim != 2 or len(values) != rows or self.classes not in (None, values.shape[1]):
            raise ContractError(
                f"the target must answer {rows} images with [{rows}, {self.classes or 'classes'}] "
                f"{self.answers}, got {list(values.shape)}"
            )
        if self.answers == "scores":
            return values.float()
        self._probable(values)
        # In double precision: 1 - 1e-11 has a logarithm there.
        return values.double().clamp_min(torch.finfo(torch.float32).tiny).log().float()

    def _of_one_number(self, values: Tensor, rows: int) -> Tensor:
        """Scores of classes 0 and 1; both are exact where a probability is near 0 or 1."""
        if tuple(values.shape) not in ((rows,), (rows, 1)) or values.dtype == torch.bool:
            raise ContractError(
                f"the target must answer {rows} images with one number each, [{rows}] or "
                f"[{rows}, 1], got {values.dtype} {list(values.shape)}; for a number for each "
                "class declare --answers scores or probs"
            )
        one = values.reshape(rows).double()
        if self.answers == "binary_logits":
            return torch.stack([torch.zeros_like(one), one], 1).float()
        self._probable(one)
        tiny = torch.finfo(torch.float32).tiny
        return torch.stack([1 - one, one], 1).clamp_min(tiny).log().float()

    def _probable(self, values: Tensor) -> None:
        if not values.numel():
            return
        least, most = float(values.min()), float(values.max())
        if not -_SLACK <= least <= most <= 1 + _SLACK:
            instead = "binary_logits" if self.single else "scores"
            raise ContractError(
                f"the target's probabilities must lie in [0, 1], got {least:g} to {most:g}; for "
                f"logits declare answers '{instead}'"
            )

    def _of_labels(self, values: Tensor, rows: int) -> Tensor:
        classes = self.classes or 0
        whole = not values.is_floating_point() and values.dtype != torch.bool
        if tuple(values.shape) != (rows,) or not whole:
            raise ContractError(
                f"the target must answer {rows} images with {rows} integers, got {values.dtype} "
                f"{list(values.shape)}"
            )
        if rows and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ContractError(
                f"the target's labels must lie in [0, {classes}), got {int(values.min())} to "
                f"{int(values.max())}; give the right number with --classes"
            )
        return torch.nn.functional.one_hot(values.long(), classes).float()


def as_function(predict: Any, form: TargetForm) -> Any:
    """Return the user's function or network, ready to be called.

    A class is called without arguments first; a network is put into evaluation mode.

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
    return predict


def in_form(predict: Any, form: TargetForm) -> Predict:
    """Return a function of images `[R, C, H, W]` in [0, 1] that calls `predict` in its form.

    Args:
        predict: the user's function, network or class, as `as_function` takes it.
        form: the form of its input and output.

    Raises:
        UsageError: it can't be called.
    """
    predict = as_function(predict, form)

    def query(rows: Tensor) -> Tensor:
        return form.scores(predict(form.sent(rows)), len(rows))

    return query
