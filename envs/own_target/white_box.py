"""White-box attacks on a user's own network: the bound of black-box attacks.

The attacks are foolbox's, through its own `PyTorchModel`. They see gradients and have no query
budget.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lazybench.envs.attack.blackbox import TOLERANCE
from lazybench.envs.own_target.form import TargetForm
from lazybench.errors import UsageError
from lazybench.tasks import Norm, distance

STEPS = 40
"""Steps of projected gradient descent."""

RESTARTS = 3
"""Random starts of projected gradient descent in the ensemble."""

_BATCH = 100


class Bound(NamedTuple):
    """The result of a white-box attack.

    Attributes:
        name: of the attack.
        won: `[n]` bool, which of the images that the target classifies right it changed.
    """

    name: str
    won: NDArray[np.bool_]


class _Scaled(nn.Module):
    """A network of one's own, that takes images in [0, 1], channels first."""

    def __init__(self, network: nn.Module, form: TargetForm) -> None:
        super().__init__()
        self.network, self.form = network, form

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(self.form.sent(x))
        return out


def need_white_box(
    network: Any, form: TargetForm, protocol: Mapping[str, Any], *, eight_bit: bool
) -> None:
    """Check that a target can be attacked through its gradients, before the first query.

    Raises:
        UsageError: it has no gradients, the protocol has no such attack, or foolbox isn't there.
    """
    if not isinstance(network, nn.Module) or form.arrays != "torch" or form.answers != "scores":
        raise UsageError(
            "--white-box needs a torch network that answers with logits (--answers scores, "
            f"--arrays torch), got {type(network).__name__} with {form.answers} and {form.arrays}"
        )
    if protocol.get("targeted"):
        raise UsageError("--white-box attacks are untargeted; leave out --targeted")
    if eight_bit or str(protocol.get("eps")) == "inf":
        raise UsageError(
            "--white-box needs a finite --eps and images that aren't rounded to 8 bits"
        )
    try:
        importlib.import_module("foolbox")
    except ImportError as error:
        raise UsageError(f"--white-box needs foolbox ({error}): pip install foolbox") from None


def white_box(  # noqa: PLR0913 - a network, images and a ball
    network: nn.Module,
    form: TargetForm,
    x: Tensor,
    label: Tensor,
    *,
    norm: Norm,
    eps: float,
    seed: int = 0,
) -> tuple[Bound, ...]:
    """Return results of white-box attacks on images that the network classifies right.

    `pgd` is projected gradient descent from a random start (Madry et al., ICLR 2018). `ensemble` is
    the worst case of `pgd`, of further random starts with smaller steps, and of DeepFool and, in
    L2, DDN, which minimise the distance. `Choice:` it is like AutoAttack (Croce & Hein, ICML 2020)
    in its worst case over unlike attacks; its members are those that foolbox has. A success counts
    where the network itself, queried again, is wrong inside the ball.

    Args:
        network: a torch network that gives logits.
        form: what its images are like.
        x: `[n, C, H, W]` images in [0, 1].
        label: `[n]` true classes.
        norm: `l2` or `linf`.
        eps: largest distance, finite.
        seed: of random starts.
    """
    foolbox: Any = importlib.import_module("foolbox")
    scaled = _Scaled(network, form).eval()
    model = foolbox.PyTorchModel(scaled, bounds=(0, 1), device=x.device)
    known = foolbox.attacks
    pgd = known.LinfPGD if norm == "linf" else known.L2PGD
    usual = pgd(rel_stepsize=2.5 / STEPS, steps=STEPS)
    small = pgd(rel_stepsize=1 / STEPS, steps=STEPS)
    others = (
        [known.LinfDeepFoolAttack()]
        if norm == "linf"
        else [known.L2DeepFoolAttack(), known.DDNAttack(steps=STEPS)]
    )
    won = np.zeros((2, len(x)), np.bool_)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for first in range(0, len(x), _BATCH):
            place = slice(first, first + _BATCH)
            images, truth = x[place], label[place]

            def wins(attack: Any, images: Tensor = images, truth: Tensor = truth) -> Any:
                _, found, _ = attack(model, images, truth, epsilons=eps)
                found = found.detach().clamp(0, 1)
                near = distance(found, images, norm) <= eps + TOLERANCE
                with torch.no_grad():
                    return ((scaled(found).argmax(1) != truth) & near).cpu().numpy()

            won[0, place] = wins(usual)
            members = [wins(each) for each in (*[small] * RESTARTS, *others)]
            won[1, place] = won[0, place] | np.any(members, axis=0)
    return (Bound("white-box pgd", won[0]), Bound("white-box ensemble", won[1]))
