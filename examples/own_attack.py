"""An attack of your own in one file: random rectangles, kept where they help.

    lazybench run --agent examples/own_attack.py:Rectangles --env glyphs-net4-untargeted-linf
    python examples/own_attack.py             # seconds: four images, from Python

An attacker gets observations and sends `Queries`: images and whose they are. The environment
charges each row, judges success, and refuses rows of images that are finished: nothing that an
attacker believes counts.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

import lazybench
from lazybench.errors import UsageError
from lazybench.seeding import Rng
from lazybench.tasks import AttackTask, Queries, margin


class Rectangles:
    """Sets a random rectangle to the edge of the ball and keeps it where the margin grows."""

    families = ("attack",)

    def __init__(self, largest: int = 8) -> None:
        """Take settings as plain arguments (`--set largest=5`)."""
        self.largest = largest

    def init(self, env: Any, rng: Rng) -> dict[str, Any]:
        """Return what the policy needs; an attack without training has no `update`.

        Raises:
            UsageError: it needs scores, and a ball in the largest difference.
        """
        task: AttackTask = env.task
        if task.access != "scores" or task.norm != "linf":
            raise UsageError(
                f"rectangles need scores and the norm linf, got {task.access} and {task.norm}; "
                "take an environment such as glyphs-net4-untargeted-linf"
            )
        return {"task": task.fields(), "seed": rng.seed}

    def policy(self, state: dict[str, Any]) -> Any:
        """Return the policy: it attacks all images of a block in lock-step."""
        task = AttackTask(**state["task"])

        def answer(seen: Any, memory: Any = None) -> tuple[Queries, Any]:
            if memory is None:
                draw = Rng(state["seed"], ("rectangles", int(seen["trial"][0]))).torch()
                best = torch.full(seen["label"].shape, -torch.inf)
                memory = {"draw": draw, "x": seen["x"].clone(), "best": best}
            else:
                self._learn(task, seen, memory)
            owner = (~seen["done"]).nonzero()[:, 0]
            memory["owner"], memory["sent"] = owner, self._candidates(task, seen, memory, owner)
            return Queries(memory["sent"], owner), memory

        answer.vectorized = True  # type: ignore[attr-defined] - how a function says so
        return answer

    def _learn(self, task: AttackTask, seen: Any, memory: Any) -> None:
        """Keep the rows that came closer to success."""
        owner = memory["owner"]
        goal = seen["goal"][owner] if task.targeted else None
        came = margin(seen["scores"], seen["label"][owner], goal)
        better = seen["served"] & (came > memory["best"][owner])
        memory["x"][owner[better]] = memory["sent"][better]
        memory["best"][owner[better]] = came[better]

    def _candidates(self, task: AttackTask, seen: Any, memory: Any, owner: Tensor) -> Tensor:
        """The best image so far of each owner, with one more rectangle; at first as it is."""
        rows = memory["x"][owner].clone()
        height, width = rows.shape[-2:]
        for place, image in enumerate(owner.tolist()):
            if torch.isinf(memory["best"][image]):
                continue
            draw = memory["draw"]
            sizes = torch.randint(1, self.largest + 1, (2,), generator=draw).tolist()
            top, left = (
                int(torch.randint(0, full - size + 1, (), generator=draw))
                for full, size in zip((height, width), sizes, strict=True)
            )
            sign = 1.0 if torch.rand((), generator=draw) < 0.5 else -1.0
            box = (..., slice(top, top + sizes[0]), slice(left, left + sizes[1]))
            clean = seen["x"][image]
            rows[place][box] = (clean[box] + sign * task.eps).clamp(0, 1)
        return rows


def main() -> None:
    """Attack four images and print how each ended."""
    env = lazybench.make_env(
        "glyphs-net4-untargeted-linf", num_envs=4, backend="torch", query_budget=300
    )
    attacker = Rectangles()
    policy = attacker.policy(attacker.init(env, Rng(0)))
    seen, _ = env.reset(seed=0)
    memory = None
    while not bool(seen["done"].all()):
        action, memory = policy(seen, memory)
        seen, *_ = env.step(action)
    verdict = env.box.verdict()
    for image in range(4):
        queries, won = verdict["queries"][image], bool(verdict["success"][image])
        sys.stdout.write(f"image {image}: {'won' if won else 'withstood'} {queries:.0f} queries\n")


if __name__ == "__main__":
    main()
