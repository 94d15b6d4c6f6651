"""The metered interface to a target: every row is charged before it is sent."""

from __future__ import annotations

import threading
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lazybench.envs.attack.defence import NO_DEFENCE, Defence
from lazybench.envs.attack.ledger import Ledger
from lazybench.envs.attack.oracle import Oracle, plain
from lazybench.errors import ContractError
from lazybench.tasks import Access, Mode, Norm, Queries, Replies, distance

BadAnswers = Literal["missed", "original"] | tuple[int, ...]
"""Which answers are bad: `missed`, those that miss the attack's aim; `original`, the true class;
or those of some classes.

`Choice:` `missed`, as the authors count: without a goal the true class, with one any class but the
goal, since an attacker who wants one class gains nothing from another. `original` counts only the
true class in a targeted attack, too. Classes are for an owner whose guard flags some of them,
whatever the image.

Reference: Debenedetti, Carlini & Tramer, "Evading Black-box Classifiers Without Breaking Eggs",
    SaTML 2024, asymmetric query costs.
"""

TOLERANCE = 1e-6
"""Tolerance of a distance beyond eps, for the rounding of float32 images."""


class BlackBox:
    """Images under attack, and the only way to query the target about them.

    Calls from several threads are served one after another. `x`, `label`, `goal` and `best` give
    copies, so changing them doesn't change the attack.

    Attributes:
        images: how many are under attack, n.
        instance: shape of one image.
        norm, eps, access, levels: as given.
        ledger: the queries of each image.
        invalid: `[n]` rows so far that weren't finite.
    """

    def __init__(  # noqa: PLR0913 - the protocol, by name
        self,
        oracle: Oracle,
        x: Tensor,
        label: Tensor,
        goal: Tensor | None = None,
        *,
        norm: Norm = "l2",
        eps: float,
        query_budget: int,
        mode: Mode = "first",
        access: Access = "scores",
        levels: int | None = None,
        bad_query_budget: int | None = None,
        bad_answers: BadAnswers = "missed",
        defence: Defence = NO_DEFENCE,
        trial: NDArray[np.int64] | None = None,
    ) -> None:
        """Open the attack of n images.

        Args:
            oracle: the target.
            x: `[n, channels, height, width]` float32 clean images in [0, 1].
            label: `[n]` int64 true classes.
            goal: `[n]` int64 classes to reach; None for any wrong one.
            norm: how distances are measured.
            eps: largest distance of a success; may be infinite.
            query_budget: rows for each image.
            mode: `first` finishes an image after its first success.
            access: `label` returns no scores.
            levels: round rows to so many brightnesses before they are sent and measured (256 for
                targets that take 8-bit images); None for no rounding.
            bad_query_budget: bad answers that finish an image; None for any number.
            bad_answers: which answers are bad.
            defence: what the target does against attacks.
            trial: `[n]` trials of the images, which noise depends on; None for 0 to n - 1.
        """
        self.images, self.instance = len(x), tuple(x.shape[1:])
        self._x, self._label, self._best = x.clone(), label.clone(), x.clone()
        self._best_class = torch.full_like(label, -1)
        self._goal = None if goal is None else goal.clone()
        self.norm, self.eps, self.access, self.levels = norm, eps, access, levels
        self.ledger = Ledger(
            len(x), query_budget, ends_at_success=mode == "first", bad_budget=bad_query_budget
        )
        self._bad_answers = bad_answers
        self._defence, self._detector = defence, defence.detector(len(x), self.instance)
        self._trial = np.arange(len(x)) if trial is None else trial.copy()
        self.ledger.open(np.ones(len(x), np.bool_))
        self.invalid = np.zeros(len(x), np.int64)
        self._oracle = oracle
        self._turn = threading.RLock()

    @property
    def x(self) -> Tensor:
        """The clean images, `[n, channels, height, width]` float32."""
        return self._x.clone()

    @property
    def label(self) -> Tensor:
        """Their true classes, `[n]` int64."""
        return self._label.clone()

    @property
    def goal(self) -> Tensor | None:
        """The classes to reach, `[n]` int64; None for any wrong one."""
        return None if self._goal is None else self._goal.clone()

    @property
    def best(self) -> Tensor:
        """The nearest adversarial image of each, `[n, …]` float32; the clean one for none."""
        return self._best.clone()

    @property
    def best_class(self) -> Tensor:
        """The class that the target gave to each of `best`, `[n]` int64; -1 for none.

        With noise as a defence, it is the class without the noise.
        """
        return self._best_class.clone()

    def __reduce__(self) -> NoReturn:
        """Refuse: a copy would be queried without being charged.

        Raises:
            ContractError: always.
        """
        raise ContractError("an attack can't be pickled or copied; open another environment")

    def open(
        self,
        images: NDArray[np.bool_],
        x: Tensor,
        label: Tensor,
        goal: Tensor | None,
        trial: NDArray[np.int64] | None = None,
    ) -> None:
        """Put other images into the places of a mask `[n]`, with accounts of their own.

        Args:
            images: the mask.
            x: the images, as in the constructor.
            label: their true classes.
            goal: the classes to reach; None for any wrong one.
            trial: trials of the images; None for those of the earlier images.
        """
        at = torch.from_numpy(images).to(self._x.device)
        with self._turn:
            self._x[at], self._label[at], self._best[at] = x, label, x
            self._best_class[at] = -1
            if self._goal is not None and goal is not None:
                self._goal[at] = goal
            if trial is not None:
                self._trial[images] = trial
            if self._detector is not None:
                self._detector.open(images)
            self.invalid[images] = 0
            self.ledger.open(images)

    def query(self, rows: Any, owner: Any) -> Replies:
        """Charge rows to their images, send those that can be paid, and return the replies.

        Rows are clipped to [0, 1]; one that isn't finite is charged, answered as the clean image
        is, and never a success. `Choice:` all rows of a call are sent at once, so a success doesn't
        un-charge the rows after it in its call.

        Args:
            rows: `[R, channels, height, width]` floats.
            owner: `[R]` integers in [0, n).

        Raises:
            ContractError: rows or owners of another shape, type or range, nothing is charged; or
                the target failed, and the rows stay charged.
        """
        queries, of = self._checked(rows, owner)
        with self._turn:
            return self._served(queries, of)

    def _served(self, queries: Tensor, of: NDArray[np.int64]) -> Replies:
        """The replies to copied rows, charged before they are sent."""
        served = np.zeros(len(of), np.bool_)
        sent, answers = [], []
        waiting = np.arange(len(of))
        try:
            # A call is sent at once, or in parts where its bad answers could exceed their budget.
            while True:
                safe = self.ledger.safe(of[waiting])
                now, waiting = waiting[safe], waiting[~safe]
                paid, position = self.ledger.charge(of[now])
                live = now[paid]
                served[live] = True
                part = queries if len(live) == len(of) else queries[self._place(live)]
                answers.append(self._answer(part, of[live], self._place(of[live]), position[paid]))
                sent.append(live)
                if not len(waiting):
                    break
        finally:
            self.ledger.close()
        scores, labels, hit = answers[0]
        if len(answers) > 1:
            scores, labels, hit = (torch.cat(parts) for parts in zip(*answers, strict=True))
        live = sent[0] if len(sent) == 1 else np.concatenate(sent)
        if len(answers) > 1 or len(live) < len(of):
            at = self._place(live)
            scores = scores.new_zeros(len(of), scores.shape[1]).index_copy_(0, at, scores)
            labels = labels.new_full((len(of),), -1).index_copy_(0, at, labels)
            hit = hit.new_zeros(len(of)).index_copy_(0, at, hit)
        return Replies(
            # A new tensor, not a view: the scores must not be reachable from it.
            scores if self.access == "scores" else scores.new_empty(len(of), 0),
            labels,
            hit,
            self._tensor(served),
            self._tensor(self.ledger.left),
            self._tensor(self.ledger.done),
        )

    def answer(self, queries: Queries) -> Replies:
        """Return the replies to an attacker's queries; a call without rows gives the images up.

        Raises:
            ContractError: as `query`.
        """
        with self._turn:
            if not len(queries.rows):
                self.ledger.give_up()
            return self.query(queries.rows, queries.owner)

    def verdict(
        self, images: NDArray[np.bool_] | None = None, *, recheck: bool = True
    ) -> dict[str, NDArray[Any]]:
        """Return the result of each image by name, each `[n]`.

        `success` (0 or 1): the nearest adversarial image is inside the ball and, queried once more,
        still adversarial; `success_8bit`: the same with its pixels rounded to 8 bits (`Choice:`
        the ball isn't measured again, since rounding alone moves an image on its edge outside);
        `queries`: charged; `success_query`: position of the first success, 0 for none; `best_l2`:
        least Euclidean distance of any adversarial row, -1 for none; `bad_queries`: bad answers;
        `success_bad_queries`: those before the first success, -1 for none; `detected`: position of
        the first flagged query, 0 for none; `flagged`: flagged queries. Successes and distances
        from the first flagged query on don't count.

        Args:
            images: mask `[n]` of the images to report; values of the others are undefined.
            recheck: query the target again, uncharged; else `success` is as recorded and
                `success_8bit` is -1.

        Raises:
            ContractError: the target failed.
        """
        with self._turn:
            return self._outcome(images, recheck=recheck)

    def _outcome(
        self, images: NDArray[np.bool_] | None, *, recheck: bool
    ) -> dict[str, NDArray[Any]]:
        near = (self.ledger.nearest <= self.eps + TOLERANCE) & self.ledger.undetected
        if images is not None:
            near &= images
        success, rounded = near.copy(), np.full(len(near), -1.0)
        if recheck:
            at = torch.from_numpy(np.flatnonzero(near)).to(self._x.device)
            best = self._best[at]
            rounded = np.zeros(len(near))
            for result, rows in ((success, best), (rounded, to_levels(best, 256))):
                result[near] = self._adversarial(self._oracle(rows).argmax(1), at).cpu().numpy()
            rounded = np.where(success, rounded, 0.0)
        least = self.ledger.least_l2()
        return {
            "success": success.astype(np.float64),
            "success_8bit": rounded,
            "queries": self.ledger.queries.copy(),
            "success_query": np.where(success, self.ledger.success_query, 0),
            "best_l2": np.where(np.isinf(least), -1.0, least),
            "bad_queries": self.ledger.bad.copy(),
            "success_bad_queries": np.where(success, self.ledger.success_bad, -1),
            "detected": self.ledger.detected.copy(),
            "flagged": self.ledger.flagged.copy(),
        }

    def _answer(
        self, queries: Tensor, of: NDArray[np.int64], place: Tensor, position: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and hits of rows that are charged already."""
        finite: Tensor | None = None
        # One sum shows each of them; only then are they looked for.
        if not bool(queries.sum().isfinite()):
            finite = queries.isfinite().flatten(1).all(1)
            np.add.at(self.invalid, of[(~finite).cpu().numpy()], 1)
        # The rows are private copies, so a row can't be changed after it was scored.
        sent = queries.clamp_(0.0, 1.0)
        if self.levels is not None:
            sent = to_levels(sent, self.levels)
        if finite is not None:
            sent = torch.where(finite[:, None, None, None], sent, self._x[place])
        scores = self._oracle(self._defence.seen(sent, self._trial[of], position))
        labels = scores.argmax(1)
        wrong = self._adversarial(labels, place)
        found = (wrong if finite is None else wrong & finite).nonzero()[:, 0]
        given = labels[found]
        if self._defence.kind == "noise":
            # Neither charged nor shown: whether the network is wrong without the noise, too.
            given = self._oracle(sent[found]).argmax(1)
            sure = self._adversarial(given, place[found])
            found, given = found[sure], given[sure]
        hit = torch.zeros(len(sent), dtype=torch.bool, device=sent.device)
        if len(found):
            images, clean = sent[found], self._x[place[found]]
            far = distance(images, clean, self.norm)
            hit[found] = near = far <= self.eps + TOLERANCE
            l2 = far if self.norm == "l2" else distance(images, clean, "l2")
            at = found.cpu().numpy()
            nearer = self.ledger.record(
                of[at], position[at], near.cpu().numpy(), _doubles(far), _doubles(l2)
            )
            chosen = torch.from_numpy(nearer).to(sent.device)
            self._best[place[found[chosen]]] = images[chosen]
            self._best_class[place[found[chosen]]] = given[chosen]
        bad = ~wrong if self._bad_answers == "missed" else self._bad(labels, place)
        self.ledger.count(of, position, bad.cpu().numpy())
        if self._detector is not None:
            self.ledger.flag(of, position, self._detector.flags(sent, of))
        return self._defence.shown(scores), labels, hit

    def _bad(self, labels: Tensor, place: Tensor) -> Tensor:
        """Which answers are bad, `[R]`, where `bad_answers` isn't `missed`."""
        if self._bad_answers == "original":
            return labels == self._label[place]
        return torch.isin(labels, torch.tensor(self._bad_answers, device=labels.device))

    def _adversarial(self, labels: Tensor, place: Tensor) -> Tensor:
        if self._goal is None:
            return labels != self._label[place]
        return labels == self._goal[place]

    def _checked(self, rows: Any, owner: Any) -> tuple[Tensor, NDArray[np.int64]]:
        """Copies of the rows as plain float32 on the images' device, and of owners as numbers."""
        images, instance = self.images, self.instance
        try:
            queries = plain(rows)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ContractError(f"rows must be a tensor or array of images: {error}") from None
        of = np.array(plain(owner).cpu().numpy() if isinstance(owner, Tensor) else owner)
        if queries.shape[1:] != instance or not queries.is_floating_point():
            raise ContractError(
                f"rows must be float images [R, {', '.join(map(str, instance))}] in [0, 1], got "
                f"{queries.dtype} {list(queries.shape)}"
            )
        if of.shape != (len(queries),) or (of.dtype.kind not in "iu" and len(of)):
            raise ContractError(
                f"owner must name one image for each of {len(queries)} rows, as integers, got "
                f"{of.dtype} {list(of.shape)}"
            )
        if len(of) and not 0 <= int(of.min()) <= int(of.max()) < images:
            raise ContractError(
                f"owner must lie in [0, {images}), the images under attack, got {of.min()} to "
                f"{of.max()}"
            )
        own = queries.to(self._x.device, torch.float32, copy=True)
        return own, of.astype(np.int64)

    def _place(self, rows: NDArray[np.int64]) -> Tensor:
        """Indices as a tensor on the images' device."""
        return torch.from_numpy(rows).to(self._x.device)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.copy()).to(self._x.device)


def to_levels(images: Tensor, levels: int) -> Tensor:
    """Return images in [0, 1] rounded to so many evenly spaced brightnesses."""
    return (images * (levels - 1)).round() / (levels - 1)


def _doubles(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
