"""Fine-tuning at meta-test: the policy of every gradient-based agent."""

from __future__ import annotations

import torch
from torch import Tensor

from lazybench import learning
from lazybench.agents.fewshot.episode import Episode
from lazybench.agents.fewshot.gradient_settings import GradientConfig
from lazybench.agents.fewshot.tasks import Row
from lazybench.learning import InnerRule
from lazybench.nets import Stats, backbone
from lazybench.objective import objective
from lazybench.params import Params
from lazybench.rng import Rng
from lazybench.task import TaskShape


class Adapter:
    """Fine-tunes theta on each support set and answers the query set.

    `Choice:` plain fine-tuning to phi_k, no leap, since a test task has no validation labels; with
    `test_leap` the last support instance of each class is held out and the lazy teacher leaps on
    it. The inner batches are a function of the support labels' positions alone, the same for every
    trial.
    """

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

    def answer(self, row: Row) -> Tensor:
        """Return the answers to one task's queries, `[query rows, …]`."""
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
