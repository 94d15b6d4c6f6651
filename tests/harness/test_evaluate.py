"""`lazybench.evaluate` judges any callable."""

from __future__ import annotations

import pytest
import torch

import lazybench
from lazybench.errors import ContractError, OutputUnavailable, RecordConflict, UsageError


def nearest(observation):
    x, q = (observation[name].flatten(1).float() for name in ("support_x", "query_x"))
    return observation["support_y"][torch.cdist(q, x).argmin(1)]


def test_a_callable_faces_the_same_trials_as_the_agent(tmp_path):
    mine = lazybench.evaluate(
        nearest, "glyphs-5way-1shot", name="mine", budget="smoke", out=tmp_path
    )
    theirs = lazybench.run(
        "nearest_pixel", "glyphs-5way-1shot", budget="smoke", out=tmp_path, runs=tmp_path / "runs"
    )
    assert mine.trials.scores_array().tolist() == theirs.trials.scores_array().tolist()
    assert mine.agent.trained_by == "external"
    assert len(lazybench.load_records(out=tmp_path)) == 2


def test_the_same_name_with_other_scores_is_refused(tmp_path):
    lazybench.evaluate(nearest, "glyphs-5way-1shot", name="mine", budget="smoke", out=tmp_path)
    with pytest.raises(RecordConflict):
        lazybench.evaluate(
            lambda observation: torch.zeros(75, dtype=torch.int64),
            "glyphs-5way-1shot",
            name="mine",
            budget="smoke",
            out=tmp_path,
        )


@pytest.mark.parametrize(
    ("policy", "options", "error", "words"),
    [
        (3, {}, ContractError, "a policy is called with an observation, got int"),
        (nearest, {"name": " "}, UsageError, "name must say who is judged"),
        (nearest, {"limit": 0}, UsageError, "limit must be at least 1"),
        (
            lambda o, m=None: nearest(o),
            {},
            ContractError,
            r"returns \(action, memory\), got Tensor",
        ),
        (lambda o: nearest(o)[1:], {}, ContractError, r"shape \[75\] for a trial.*got \[74\]"),
        (lambda o: nearest(o) + 9, {}, ContractError, r"labels must lie in \[0, 5\)"),
        (lambda o: nearest(o).float(), {}, ContractError, "labels must be integers"),
    ],
)
def test_bad_policies_are_told_what_is_wrong(policy, options, error, words):
    settings = {"name": "mine", "budget": "smoke", "limit": 8, **options}
    with pytest.raises(error, match=words):
        lazybench.evaluate(policy, "glyphs-5way-1shot", **settings)


def test_a_store_that_cannot_be_written_is_told_before_judging(tmp_path):
    (tmp_path / "file").write_text("")

    def never(observation):
        raise AssertionError("judged although the result can't be kept")

    with pytest.raises(OutputUnavailable, match="can't write to"):
        lazybench.evaluate(
            never, "glyphs-5way-1shot", name="mine", budget="smoke", out=tmp_path / "file" / "s"
        )


def test_a_torch_module_of_one_argument_is_a_policy():
    class Zeros(torch.nn.Module):
        def forward(self, observation):
            return torch.zeros_like(observation["query_y"])

    record = lazybench.evaluate(Zeros(), "sinusoid-5shot", name="zeros", limit=2)
    assert record.metrics["mse"].n == 2
