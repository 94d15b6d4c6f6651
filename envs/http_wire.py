"""Requests to targets behind HTTP and their replies, as text and bytes.

They are those of the usual servers of models (TensorFlow Serving, KServe and their likes): POST
`{"instances": [image, …]}`, answered by `{"predictions": [answer, …]}`, or by the list alone. An
image is a nested list in the declared layout and bounds, or `{"b64": "…"}` with a PNG file; an
answer is a list of scores or probabilities, a label, or one number where the model has two classes.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lazybench.envs.http_journal import Answer
from lazybench.envs.target_form import TargetForm
from lazybench.errors import ContractError, UsageError

Encoding = Literal["array", "png"]

_TOLD = 200
_MOST = 3e38
"""Past it, float32 has no number."""


def request_body(images: NDArray[np.uint8], form: TargetForm, encoding: Encoding) -> bytes:
    """Return what is posted to ask about images `[R, C, H, W]`.

    Raises:
        UsageError: images that no PNG holds.
    """
    if encoding == "png":
        instances = [{"b64": base64.b64encode(_png(image)).decode()} for image in images]
        return json.dumps({"instances": instances}).encode()
    low, high = form.bounds
    values = form.laid_out(images)
    if (low, high) != (0.0, 255.0):
        values = values / 255.0 * (high - low) + low
    return json.dumps({"instances": values.tolist()}).encode()


def read_answers(content: bytes, images: int, form: TargetForm, name: str) -> list[Answer]:
    """Return the answers to so many images in a reply, looked at before they are kept.

    Args:
        content: the reply.
        images: how many were asked about.
        form: what the target answers.
        name: of the target, for messages.

    Raises:
        ContractError: something else than was declared.
    """
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{name} answered no JSON: {error}") from None
    if isinstance(told, dict):
        told = told.get("predictions")
    if not isinstance(told, list) or len(told) != images:
        got = f"{len(told)} entries" if isinstance(told, list) else type(told).__name__
        raise ContractError(
            f'{name} must answer {images} instances with {{"predictions": [{images} answers]}}, '
            f"got {got}"
        )
    for answer in told:
        check_answer(answer, form, name)
    # What doesn't fit the form isn't kept either, so that a mended target is asked again.
    form.scores(stacked(told, form), images)
    return told


def check_answer(answer: Any, form: TargetForm, name: str) -> None:
    """Look whether what stands in a reply or journal is an answer of the declared kind.

    Raises:
        ContractError: it is something else.
    """
    if form.answers == "label":
        wanted, fine = "an integer", isinstance(answer, int) and abs(answer) < 1 << 63
        fine = fine and _is_number(answer)
    elif form.single:
        wanted, fine = "a finite number", _is_number(_only(answer))
    else:
        wanted = "a list of finite numbers"
        fine = isinstance(answer, list) and bool(answer) and all(map(_is_number, answer))
    if not fine:
        raise ContractError(
            f"{name}: an answer of kind '{form.answers}' is {wanted}, got "
            f"{json.dumps(answer)[:_TOLD]}"
        )


def stacked(answers: list[Any], form: TargetForm) -> NDArray[Any]:
    """Return answers as one array, `[R]` labels or single numbers, or `[R, classes]`.

    Raises:
        ContractError: lists of several lengths.
    """
    if form.answers == "label":
        return np.asarray(answers, dtype=np.int64)
    if form.single:
        return np.asarray([_only(answer) for answer in answers], dtype=np.float64)
    lengths = sorted({len(answer) for answer in answers})
    if len(lengths) > 1:
        raise ContractError(f"the target's answers must have one length, got {lengths}")
    return np.asarray(answers, dtype=np.float64).reshape(len(answers), *lengths)


def shown(url: str) -> str:
    """Return an address without user, password and query, which may be secrets.

    Raises:
        UsageError: no http address.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise UsageError(f"'{url}' is no http address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"'{url}' is no http address, such as http://localhost:8501/predict")
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _only(answer: Any) -> Any:
    """The number itself, where it stands alone in a list."""
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Also where an integer has so many digits that it is no float.
    return abs(value) < _MOST


def _png(image: NDArray[np.uint8]) -> bytes:
    if len(image) not in (1, 3):
        raise UsageError(f"a PNG has 1 or 3 channels, got {len(image)}; give --encoding array")
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()
