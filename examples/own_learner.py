"""A learner of your own in one file: a linear map, meta-learned so that class means tell classes.

    lazybench run --agent examples/own_learner.py:LinearMeans --env glyphs-5way-5shot
    lazybench check agent examples/own_learner.py:LinearMeans --env glyphs-5way-5shot
    python examples/own_learner.py            # seconds: the same at the smoke budget, from Python

The runner owns the loop, so progress, validation, checkpoints, continuing after an interruption,
costs and a place on the board come with the four methods below.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy

import lazybench
from lazybench.agent import Plan
from lazybench.seeding import Rng


class LinearMeans:
    """Nearest class mean after a learned linear map (Snell et al. 2017, with one layer)."""

    families = ("fewshot",)
    # What `lazybench cite` prints for it: a key of lazybench's references, or a BibTeX entry.
    cites = ("snell2017protonet",)

    class Config(BaseModel):
        """Settings, each reachable by `--set name=value`; wrong ones are refused with a reason."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        size: int = Field(64, ge=1)
        lr: float = Field(0.003, gt=0)
        updates: int = Field(200, ge=1)

    def __init__(self, config: Config) -> None:
        """Keep the settings."""
        self.config = config

    @staticmethod
    def preset(algorithm: str, env: Any, budget: str) -> dict[str, Any]:
        """Settings for an environment and a budget, where they differ from the defaults."""
        return {"smoke": {"updates": 40}, "paper": {"updates": 20_000}}.get(budget, {})

    def plan(self, task: Any) -> Plan:
        """Say how training goes: how long, on how many tasks at once, when to validate."""
        return Plan(
            updates=self.config.updates,
            meta_batch=4,
            env={"shots": task.shot, "queries": 5},
            validate_every=max(1, self.config.updates // 2),
        )

    def init(self, env: Any, rng: Rng) -> dict[str, Any]:
        """Return the first state: tensors and numbers, which the runner can save."""
        pixels = torch.Size(env.task.instance).numel()
        weight = torch.randn(pixels, self.config.size, generator=rng.torch()) / pixels**0.5
        return {"weight": weight, "way": env.task.way}

    def update(self, state: dict[str, Any], batch: Any, rng: Rng) -> tuple[dict[str, Any], Any]:
        """Return the state after one meta-iteration, and what to log."""
        weight = state["weight"].detach().requires_grad_()
        logits = self._logits(weight, batch, state["way"])
        loss = cross_entropy(logits.flatten(0, 1), batch["query_y"].flatten())
        (gradient,) = torch.autograd.grad(loss, weight)
        step = self.config.lr * gradient / (gradient.norm() + 1e-8) * weight.detach().norm()
        rows = batch["support_y"].numel() + batch["query_y"].numel()
        logs = {"loss": float(loss.detach()), "image_gradients": float(rows)}
        return state | {"weight": weight.detach() - step}, logs

    def policy(self, state: dict[str, Any]) -> Any:
        """Return what answers trials: here a whole block of them at once."""

        def answer(observation: Any, memory: Any = None) -> tuple[Tensor, Any]:
            return self._logits(state["weight"], observation, state["way"]).argmax(-1), memory

        answer.vectorized = True  # type: ignore[attr-defined] - how a function says so
        return answer

    def _logits(self, weight: Tensor, block: Any, way: int) -> Tensor:
        """Minus the squared distance of each query image to each class mean, `[R, rows, way]`."""
        support, query = (
            block[name].flatten(2).float() / 255 @ weight for name in ("support_x", "query_x")
        )
        of_class = torch.nn.functional.one_hot(block["support_y"], way).float()
        means = of_class.transpose(1, 2) @ support / of_class.sum(1)[..., None]
        return -torch.cdist(query, means).square()


def main() -> None:
    """Run it at the smoke budget and print its score."""
    me = f"{__file__}:{LinearMeans.__name__}"
    record = lazybench.run(me, "glyphs-5way-5shot", budget="smoke", out="runs/examples")
    accuracy = record.metrics["accuracy"]
    sys.stdout.write(f"accuracy {accuracy.value:.3f}, 95 % interval {accuracy.ci95}\n")


if __name__ == "__main__":
    main()
