"""The protocol of an attack, from settings as they are typed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lazybench.arguments import check_one_of, check_whole
from lazybench.envs.attack.blackbox import BadAnswers, BlackBox
from lazybench.envs.attack.defence import read_defence
from lazybench.envs.attack.oracle import Oracle
from lazybench.errors import UsageError
from lazybench.tasks import Access, AttackTask, Mode, Norm, TaskShape

TargetRule = Literal["next", "random"]
_FRACTION = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)/(\d{1,18})")


@dataclass(frozen=True)
class AttackProtocol:
    """Settings that define a successful attack, whatever its images.

    Attributes:
        norm: how distances are measured.
        eps: largest distance of a success; may be infinite.
        query_budget: rows for each image.
        mode: `first` ends an image at its first success, `minimise` continues to the budget.
        targeted: whether one given class is to be reached.
        access: what replies show, `scores` or `label`.
        target_rule: which class a targeted attack is to reach.
        bad_query_budget: bad answers that end an image; None for any number.
        bad_answers: which answers are bad.
        defence: what the target does against attacks, as `read_defence` reads it.
        levels: brightnesses that a query is rounded to, None for none.
    """

    levels: ClassVar[int | None] = None

    norm: Norm
    eps: float
    query_budget: int
    mode: Mode
    targeted: bool
    access: Access
    target_rule: TargetRule
    bad_query_budget: int | None = None
    bad_answers: BadAnswers = "missed"
    defence: str = "none"

    def check_classes(self, classes: int) -> None:
        """Check that the target has the classes whose answers are bad.

        Raises:
            UsageError: it doesn't.
        """
        bad = self.bad_answers if isinstance(self.bad_answers, tuple) else ()
        if bad and max(bad) >= classes:
            raise UsageError(
                f"bad_answers must be classes of the target, from 0 to {classes - 1}, got "
                f"{max(bad)}"
            )

    def task(
        self,
        classes: int,
        instance: tuple[int, ...],
        whiteboxes: tuple[str, ...],
        maps: TaskShape,
    ) -> AttackTask:
        """Return the task that an agent sees before it attacks a target."""
        hidden = ("target_rule", "bad_answers")
        settings = {name: value for name, value in vars(self).items() if name not in hidden}
        return AttackTask(
            classes=classes, instance=instance, whiteboxes=whiteboxes, maps=maps, **settings
        )

    def box(
        self,
        oracle: Oracle,
        x: Tensor,
        label: Tensor,
        goal: Tensor | None,
        trial: NDArray[np.int64],
    ) -> BlackBox:
        """Return the attack of the images of these trials."""
        return BlackBox(
            oracle,
            x,
            label,
            goal,
            norm=self.norm,
            eps=self.eps,
            query_budget=self.query_budget,
            mode=self.mode,
            access=self.access,
            levels=self.levels,
            bad_query_budget=self.bad_query_budget,
            bad_answers=self.bad_answers,
            defence=read_defence(self.defence),
            trial=trial,
        )

    def fields(self) -> dict[str, Any]:
        """Return the settings as JSON values: an infinite eps is `inf`.

        Bad answers and defences are left out at their defaults: keys of earlier records lack them.
        """
        fields = dict(vars(self))
        for name in ("bad_query_budget", "bad_answers", "defence"):
            if fields[name] == AttackProtocol.__dataclass_fields__[name].default:
                del fields[name]
        if isinstance(self.bad_answers, tuple):
            fields["bad_answers"] = list(self.bad_answers)
        return fields if math.isfinite(self.eps) else {**fields, "eps": "inf"}


def read_protocol(  # noqa: PLR0913 - one name for each setting of the environment
    channels: int,
    *,
    norm: Norm,
    eps: float | str | None,
    query_budget: int,
    mode: Mode | None,
    targeted: bool,
    access: Access,
    target_rule: TargetRule,
    bad_query_budget: int | None = None,
    bad_answers: Any = "missed",
    defence: Any = "none",
) -> AttackProtocol:
    """Return the protocol that settings name.

    Args:
        channels: of an image, for the default eps.
        norm: `l2` or `linf`.
        eps: a number, a fraction as text (`8/255`), `inf`, or None for `default_eps`.
        query_budget: at least 1.
        mode: None for `first` where scores are shown and `minimise` where labels are.
        targeted: whether one given class is to be reached.
        access: `scores` or `label`.
        target_rule: `next` (the true class plus one) or `random`.
        bad_query_budget: at least 1; None for any number.
        bad_answers: as `read_bad_answers` takes it.
        defence: as `read_defence` takes it.

    Raises:
        UsageError: a setting that isn't allowed.
    """
    check_one_of("norm", norm, get_args(Norm))
    check_one_of("access", access, get_args(Access))
    check_one_of("mode", mode, (None, *get_args(Mode)))
    check_one_of("target_rule", target_rule, get_args(TargetRule))
    check_whole("query_budget", query_budget, least=1)
    if bad_query_budget is not None:
        check_whole("bad_query_budget", bad_query_budget, least=1)
    if not isinstance(targeted, bool):
        raise UsageError(f"targeted must be true or false, got {targeted!r}")
    return AttackProtocol(
        norm=norm,
        eps=default_eps(norm, channels) if eps is None else read_eps(eps, norm),
        query_budget=query_budget,
        mode=mode or ("first" if access == "scores" else "minimise"),
        targeted=targeted,
        access=access,
        target_rule=target_rule,
        bad_query_budget=bad_query_budget,
        bad_answers=read_bad_answers(bad_answers),
        defence=str(read_defence(defence, access)),
    )


def read_bad_answers(given: Any) -> BadAnswers:
    """Return which answers are bad: `missed`, `original`, or classes as `3`, `0,3` or numbers.

    Raises:
        UsageError: anything else.
    """
    if given in ("missed", "original"):
        found: BadAnswers = given
        return found
    parts = given if isinstance(given, list | tuple) else str(given).split(",")
    classes = [str(part).strip() for part in parts]
    if not classes or not all(re.fullmatch(r"\d{1,9}", each, re.ASCII) for each in classes):
        raise UsageError(
            "bad_answers must be missed (answers that miss the attack's aim), original (the true "
            f"class) or classes such as 0,3; got {given!r}"
        )
    return tuple(sorted({int(each) for each in classes}))


def default_eps(norm: Norm, channels: int) -> float:
    """Return the usual radius: 3 (L2) or .3 on grey images, 1 or 8/255 on coloured ones."""
    grey = channels == 1
    if norm == "l2":
        return 3.0 if grey else 1.0
    return 0.3 if grey else 8 / 255


def read_eps(eps: float | str, norm: Norm) -> float:
    """Return a radius given as a number, a fraction as text, or `inf`.

    Raises:
        UsageError: not a number above 0, or above 1 and finite for `linf`.
    """
    text = str(eps).strip()
    try:
        # A decimal isn't read as a fraction, which would compute the million digits of 1e999999.
        parts = _FRACTION.fullmatch(text)
        value = float(Fraction(parts[1]) / int(parts[2])) if parts else float(text)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not value > 0 or (math.isinf(value) and text != "inf"):
        raise UsageError(
            f"eps must be a number above 0, a fraction such as 8/255, or inf; got {eps!r}"
        )
    if norm == "linf" and 1 < value < math.inf:
        meant = f" Did you mean {value:g}/255?" if value.is_integer() else ""
        raise UsageError(
            "eps of norm linf must lie in (0, 1], since pixels are in [0, 1], or be inf; got "
            f"{eps!r}.{meant}"
        )
    return value
