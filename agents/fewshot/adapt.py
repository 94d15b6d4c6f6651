"""Fine-tuning at meta-test: the policy of every gradient-based agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lazybench import learning
from lazybench.agent import Observation
from lazybench.agents.fewshot.episode import Episode
from lazybench.agents.fewshot.gradient_settings import GradientConfig
from lazybench.learning import InnerRule
from lazybench.nets import Stats, backbone
from lazybench.objective import objective
from lazybench.parallel import map_tasks
from lazybench.params import Params
from lazybench.rng import Rng
from lazybench.task import TaskShape


def select_row(batch: Observation, index: int) -> dict[str, Tensor]:
    """Return row `index` of each tensor of a block."""
    return {name: part[index] for name, part in batch.items()}


class Adapter:
    """Fine-tunes theta on each support set and answers the query set.

    `Choice:` plain fine-tuning to phi_k, no leap, since a test task has no validation labels; with
    `test_leap` the last support instance of each class is held out and the lazy teacher leaps on
    it. The inner batches are a function of the support labels' positions alone, the same for every
    trial.
    """

    vectorized = True

    def __init__(
        self,
        task: TaskShape,
        theta: Params,
        inner: dict[str, Tensor],
        rule: InnerRule,
        settings: GradientConfig,
    ) -> None:
        """Hold a meta-model and how to adapt it."""
        self._net = backbone(settings.backbone, task)
        self._task, self._theta = task, theta
        self._inner, self._rule, self._settings = inner, rule, settings
        self._goal = objective(task)

    def __call__(self, observation: Observation, memory: Any = None) -> tuple[Tensor, Any]:
        """Return the answers to a block of trials, `[R, query rows]`."""
        rows = range(len(observation["support_x"]))
        answers = map_tasks(lambda row: self._answer(select_row(observation, row)), rows)
        return torch.stack(answers), None

    def _answer(self, row: Mapping[str, Tensor]) -> Tensor:
        x, query = self._net.prepare(row["support_x"]), self._net.prepare(row["query_x"])
        params = self._adapt(x, row["support_y"])
        with torch.no_grad():
            return self._goal.answer(self._outputs(params, x, query))

    def _adapt(self, x: Tensor, y: Tensor) -> Params:
        settings = self._settings
        kept = torch.arange(len(x))
        if settings.test_leap:
            shot = len(x) // self._task.way
            kept = kept[kept % shot < max(shot - 1, 1)]
        episode = Episode(
            self._net,
            self._task,
            self._theta,
            adapts=settings.adapts,
            adapt_norm=settings.adapt_norm,
            prox=settings.prox if settings.test_prox is None else settings.test_prox,
        )
        with torch.no_grad():
            inputs = episode.inputs(x)
        rng = Rng(0, ("test",)).torch()
        picks = learning.batches(len(kept), settings.test_batch, settings.test_steps, rng)
        losses = episode.steps(inputs, y, [kept[pick] for pick in picks])
        trail = learning.student(episode.moving, losses, rule=self._rule, state=self._inner or None)
        if not settings.test_leap:
            return episode.whole(trail.end)
        held = torch.tensor(
            [i for i in range(len(x)) if i not in set(kept.tolist())] or kept.tolist()
        )
        with torch.no_grad():
            leap = learning.lazy(gammas=settings.gammas, leap_on=settings.leap_on)(
                episode.moving, trail, lambda moving: episode.score(moving, inputs[held], y[held])
            )
        return episode.whole(leap.params)

    def _outputs(self, params: Params, x: Tensor, query: Tensor) -> Tensor:
        """Outputs for the query rows under the protocol's batch statistics."""
        net, mode = self._net, self._settings.batch_norm
        if mode == "transductive":
            return net(params, query)
        if mode == "inductive":
            stats: Stats = net.statistics(params, x)
            return net(params, query, stats)
        joined = [torch.cat([x, query[i : i + 1]]) for i in range(len(query))]
        return torch.cat([net(params, pair)[-1:] for pair in joined])
