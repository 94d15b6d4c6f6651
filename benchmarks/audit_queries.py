"""Queries that attacks of other tools claim, against those that they send.

Each attack runs unchanged on glyphs-net4, behind the query counter of lazybench, one image after
another, and foolbox's HopSkipJump also on all images together. `claimed` is what a user would count
from the tool's settings or its paper; `true` is the rows that reached the model. Seeds are fixed.
Tools that aren't installed are skipped with the reason.

    python benchmarks/audit_queries.py                      # print the table
    python benchmarks/audit_queries.py --page docs/audit.md # write it into the page
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lazybench import make_env
from lazybench.envs.attack.adapters import as_art, as_callable, as_foolbox

IMAGES = 4
BEGIN, END = "<!-- audit -->\n", "<!-- end of audit -->\n"
_PLENTY = 1_000_000


class Case(NamedTuple):
    """An attack of a tool.

    Attributes:
        tool: name of the package.
        attack: name of the attack and its settings.
        rule: how `claimed` is counted.
        claimed: queries that a user would count for one image.
        label: whether the attack gets the top class alone.
        play: runs it on an environment whose images are open, given images and labels.
        together: whether all images are attacked in one call.
    """

    tool: str
    attack: str
    rule: str
    claimed: int
    label: bool
    play: Callable[[Any, Tensor, Tensor], object]
    together: bool = False


class _Network(nn.Module):
    """The counter as a torch module, which torchattacks wants; it has no parameters."""

    def __init__(self, attacked: Any) -> None:
        super().__init__()
        self.adapter = as_callable(attacked)

    def forward(self, rows: Tensor) -> Tensor:
        """Return log-probabilities `[R, classes]`."""
        return self.adapter(rows)


def hop_skip_jump(steps: int, first: int, most: int) -> int:
    """The gradient queries of HopSkipJump's paper: `first * sqrt(t)` in iteration t."""
    return sum(min(most, int(first * math.sqrt(t))) for t in range(1, steps + 1))


def cases() -> Iterator[Case | str]:
    """The attacks of the tools that are installed; else a line with the reason."""
    for package, found in (("foolbox", _foolbox), ("art", _art), ("torchattacks", _torchattacks)):
        try:
            library = importlib.import_module(package)
        except ImportError as error:
            yield f"{package} is skipped: {error}"
        else:
            yield from found(library)


def _foolbox(library: Any) -> Iterator[Case]:
    def plays(attack: Any) -> Callable[[Any, Tensor, Tensor], object]:
        return lambda env, x, label: attack(as_foolbox(env), x, label, epsilons=None)

    name = f"foolbox {library.__version__}"
    jump = library.attacks.HopSkipJumpAttack(
        steps=4, initial_gradient_eval_steps=50, max_gradient_eval_steps=200
    )
    claimed, rule = hop_skip_jump(4, 50, 200), "gradient queries of the paper"
    settings = "HopSkipJump, steps=4, 50 to 200"
    yield Case(name, settings, rule, claimed, True, plays(jump))
    yield Case(name, f"{settings}, {IMAGES} images", rule, claimed, True, plays(jump), True)
    boundary = library.attacks.BoundaryAttack(steps=300)
    yield Case(name, "Boundary, steps=300", "a query a step", 300, True, plays(boundary))


def _art(library: Any) -> Iterator[Case]:
    evasion = importlib.import_module("art.attacks.evasion")

    def plays(make: Callable[[Any], Any]) -> Callable[[Any, Tensor, Tensor], object]:
        def play(env: Any, x: Tensor, label: Tensor) -> object:
            return make(as_art(env)).generate(x.numpy(), np.eye(env.task.classes)[label.numpy()])

        return play

    name = f"ART {library.__version__}"
    yield Case(
        name,
        "HopSkipJump, max_iter=4, 50 to 200",
        "gradient queries of the paper",
        hop_skip_jump(4, 50, 200),
        True,
        plays(
            lambda model: evasion.HopSkipJump(
                model, max_iter=4, init_eval=50, max_eval=200, verbose=False
            )
        ),
    )
    yield Case(
        name,
        "Square, max_iter=200, eps=.01, linf",
        "a query an iteration",
        200,
        False,
        plays(
            lambda model: evasion.SquareAttack(
                model, max_iter=200, eps=0.01, nb_restarts=1, verbose=False
            )
        ),
    )
    yield Case(
        name,
        "SimBA, max_iter=200, epsilon=.01",
        "a query an iteration",
        200,
        False,
        plays(
            lambda model: evasion.SimBA(
                model, attack="px", max_iter=200, epsilon=0.01, order="random", verbose=False
            )
        ),
    )


def _torchattacks(library: Any) -> Iterator[Case]:
    def play(env: Any, x: Tensor, label: Tensor) -> object:
        return library.Square(_Network(env), eps=0.01, n_queries=200, seed=0)(x, label)

    name = f"torchattacks {library.__version__}"
    yield Case(name, "Square, n_queries=200, eps=.01, linf", "n_queries", 200, False, play)


def count(case: Case, images: int = IMAGES) -> float:
    """The rows that reach the model, mean over images."""
    env_id = "glyphs-net4-untargeted" + ("-label" if case.label else "")
    settings = {"eps": "inf", "mode": "minimise", "query_budget": _PLENTY, "backend": "torch"}
    at_once = images if case.together else 1
    true: list[int] = []
    for first in range(0, images, at_once):
        env = make_env(env_id, num_envs=at_once, **settings)
        seen, _ = env.reset(options={"trials": np.arange(first, first + at_once)})
        # Other tools draw from the global generators.
        np.random.seed(first)
        torch.manual_seed(first)
        with contextlib.redirect_stdout(sys.stderr):
            case.play(env, seen["x"], seen["label"])
        true += env.box.ledger.queries.tolist()
    return float(np.mean(true))


def table(images: int = IMAGES) -> str:
    """The table of all attacks, in Markdown."""
    lines = [
        "| tool | attack | rule | claimed | true | true / claimed |",
        "|---|---|---|--:|--:|--:|",
    ]
    skipped = []
    for case in cases():
        if isinstance(case, str):
            skipped.append(f"\n{case}\n")
            continue
        found = count(case, images)
        numbers = f"{case.claimed} | {found:.0f} | {found / case.claimed:.2f}"
        lines.append(f"| {case.tool} | {case.attack} | {case.rule} | {numbers} |")
    return "\n".join(lines) + "\n" + "".join(skipped)


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--page", type=Path, help="page to write the table into")
    parser.add_argument("--images", type=int, default=IMAGES, help="how many images to attack")
    given = parser.parse_args()
    text = table(given.images)
    if given.page is None:
        print(text, end="")
        return
    page = given.page.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    given.page.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
