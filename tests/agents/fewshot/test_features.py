"""Agents on frozen features, against numpy in float64, task by task, and brute force."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.agents.fewshot import classifiers, transductive
from lazybench.agents.fewshot.features import FeatureAgent
from lazybench.errors import UsageError
from lazybench.seeding import Rng
from lazybench.tasks import TaskShape

TASKS, WAY, QUERIES = 3, 4, 28
AGENTS: tuple[type[FeatureAgent], ...] = (
    classifiers.SimpleShot,
    classifiers.LogisticRegression,
    classifiers.Ridge,
    classifiers.Knn,
    transductive.BdCspn,
    transductive.LaplacianShot,
    transductive.Tim,
    transductive.PtMap,
)


def blobs(shot: int, width: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Overlapping clusters in float64: support class by class, queries in random order."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(TASKS, WAY, width)) * 0.7
    y = np.tile(np.arange(WAY).repeat(shot), (TASKS, 1))
    query_y = np.stack([rng.permutation(np.arange(QUERIES) % WAY) for _ in range(TASKS)])
    parts = {}
    for name, labels in (("support", y), ("query", query_y)):
        x = np.take_along_axis(centres, labels[..., None], 1)
        parts[f"{name}_x"] = torch.from_numpy(x + rng.normal(size=x.shape) * 0.6)
        parts[f"{name}_y"] = torch.from_numpy(labels)
    return parts


def made(kind: type[FeatureAgent], **settings: Any) -> FeatureAgent:
    return kind(kind.Config(**settings))


def scored(agent: FeatureAgent, block: dict[str, Tensor]) -> np.ndarray:
    members = F.one_hot(block["support_y"], WAY).double()
    return agent.scores(block["support_x"], members, block["query_x"]).numpy()


def rows(block: dict[str, Tensor]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Support, labels and queries of each task, in numpy."""
    parts = (block["support_x"], block["support_y"], block["query_x"])
    return [tuple(part[i].numpy() for part in parts) for i in range(TASKS)]  # type: ignore[misc]


def means(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x[y == label].mean(0) for label in range(WAY)])


def softmax(z: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def close(got: np.ndarray, expected: list[np.ndarray], **bounds: float) -> None:
    np.testing.assert_allclose(got, np.stack(expected), **{"rtol": 1e-8, "atol": 1e-8, **bounds})


@pytest.mark.parametrize("shot", [1, 5])
def test_simple_shot(shot: int) -> None:
    block = blobs(shot)
    expected = [
        np.array([[-np.sum((q - c) ** 2) for c in means(x, y)] for q in query])
        for x, y, query in rows(block)
    ]
    close(scored(made(classifiers.SimpleShot), block), expected)


def test_centred_normalised_features() -> None:
    """CL2N: less the mean of training instances, over the norm; other centres by their names."""
    block, training = blobs(2), blobs(5, seed=1)
    task = TaskShape(WAY, 2, QUERIES // WAY, (12,), "float32", classes=9)
    for centre in ("none", "train", "support", "task"):
        agent = made(classifiers.SimpleShot, centre=centre, train_images=10**6)
        state = agent.init(SimpleNamespace(task=task), Rng(0))
        for part in (training, block):
            state, _ = agent.update(state, part, Rng(0))
        everything = [
            part[n].flatten(0, 1) for part in (training, block) for n in ("support_x", "query_x")
        ]
        for name, got in zip(("support_x", "query_x"), agent.features(state, block), strict=True):
            x = block[name][0]
            means_of = {
                "none": 0 * x.mean(0),
                "train": torch.cat(everything).mean(0),
                "support": block["support_x"][0].mean(0),
                "task": x.mean(0),
            }
            moved = x - means_of[centre]
            expected = moved / moved.square().sum(1, keepdim=True).sqrt()
            torch.testing.assert_close(got[0], expected)


@pytest.mark.parametrize(("shot", "width"), [(1, 12), (5, 12), (5, 40)])
def test_logistic_regression_against_scipy(shot: int, width: int) -> None:
    block = blobs(shot, width)
    agent = made(classifiers.LogisticRegression, strength=3.0, tolerance=1e-9, test_steps=500)
    expected = []
    for x, y, query in rows(block):
        hot = np.eye(WAY)[y]

        def objective(
            flat: np.ndarray, x: np.ndarray = x, hot: np.ndarray = hot
        ) -> tuple[float, np.ndarray]:
            weights, offset = flat[: WAY * width].reshape(WAY, width), flat[WAY * width :]
            p = softmax(x @ weights.T + offset, 1)
            off = 3.0 * (p - hot)
            value = -3.0 * (np.log(p) * hot).sum() + (weights**2).sum() / 2
            return float(value), np.concatenate([(off.T @ x + weights).ravel(), off.sum(0)])

        start = np.zeros(WAY * (width + 1))
        assert (
            scipy.optimize.check_grad(lambda z: objective(z)[0], lambda z: objective(z)[1], start)
            < 1e-5
        )
        found = scipy.optimize.minimize(objective, start, jac=True, method="BFGS", tol=1e-9).x
        z = query @ found[: WAY * width].reshape(WAY, width).T + found[WAY * width :]
        expected.append(z)
    close(scored(agent, block), expected, rtol=1e-5, atol=1e-6)


def test_logistic_regression_of_one_task_ignores_the_others() -> None:
    block = blobs(5)
    agent = made(classifiers.LogisticRegression)
    whole = scored(agent, block)
    for index in range(TASKS):
        alone = scored(agent, {name: part[index : index + 1] for name, part in block.items()})
        np.testing.assert_allclose(alone[0], whole[index], atol=1e-10)


@pytest.mark.parametrize("shot", [1, 5])
def test_ridge_by_normal_equations(shot: int) -> None:
    block = blobs(shot)
    expected = []
    for x, y, query in rows(block):
        # An offset that isn't penalised is a column of ones without a term of its own.
        ones = np.hstack([x, np.ones((len(x), 1))])
        penalty = np.diag([0.3] * x.shape[1] + [0.0])
        weights = np.linalg.solve(ones.T @ ones + penalty, ones.T @ np.eye(WAY)[y])
        expected.append(np.hstack([query, np.ones((len(query), 1))]) @ weights)
    close(scored(made(classifiers.Ridge, penalty=0.3), block), expected)


@pytest.mark.parametrize("votes", ["softmax", "equal"])
def test_knn_by_brute_force(votes: str) -> None:
    block = blobs(5)
    agent = made(classifiers.Knn, neighbours=7, votes=votes, temperature=0.2)
    expected = []
    for x, y, query in rows(block):
        of_task = np.zeros((len(query), WAY))
        for i, q in enumerate(query):
            near = sorted(((cosine(q, s), label) for s, label in zip(x, y, strict=True)))[-7:]
            weights = [np.exp(c / 0.2) if votes == "softmax" else 1.0 for c, _ in near]
            for weight, (_, label) in zip(weights, near, strict=True):
                of_task[i, label] += weight / sum(weights)
        expected.append(of_task)
    close(np.exp(scored(agent, block)), expected)


def test_knn_votes_of_all_where_there_are_fewer() -> None:
    block = blobs(1)
    few, many = (made(classifiers.Knn, neighbours=k) for k in (WAY, 50))
    np.testing.assert_array_equal(scored(few, block), scored(many, block))


def rectify(x: np.ndarray, y: np.ndarray, query: np.ndarray, most: int, scale: float) -> np.ndarray:
    """BD-CSPN's prototypes, class by class."""
    centres, found = means(x, y), []
    nearest = [int(np.argmax([cosine(q, c) for c in centres])) for q in query]
    for label, centre in enumerate(centres):
        own = [q for q, best in zip(query, nearest, strict=True) if best == label]
        own = sorted(own, key=lambda q: -cosine(q, centre))[:most]
        held = np.array([*x[y == label], *own])
        weights = softmax(np.array([scale * cosine(each, centre) for each in held]), 0)
        found.append(weights @ held)
    return np.stack(found)


@pytest.mark.parametrize(("shot", "most"), [(1, 8), (5, 3), (1, 0)])
def test_bd_cspn(shot: int, most: int) -> None:
    block = blobs(shot)
    expected = []
    for x, y, query in rows(block):
        moved = query + x.mean(0) - query.mean(0)
        prototypes = rectify(x, y, moved, most, 10.0)
        expected.append(np.array([[10 * cosine(q, p) for p in prototypes] for q in moved]))
    close(scored(made(transductive.BdCspn, pseudo_labelled=most), block), expected)


@pytest.mark.parametrize("is_rectified", [True, False])
def test_laplacian_shot(is_rectified: bool) -> None:
    block = blobs(1)
    agent = made(
        transductive.LaplacianShot, rectify=is_rectified, laplacian=0.9, neighbours=3, test_steps=6
    )
    expected = []
    for x, y, query in rows(block):
        prototypes, q = means(x, y), query
        if is_rectified:
            q = query + x.mean(0) - query.mean(0)
            prototypes = rectify(x, y, q, len(q), 10.0)
        unary = np.array([[np.sum((a - p) ** 2) for p in prototypes] for a in q])
        near = np.zeros((len(q), len(q)))
        for i, a in enumerate(q):
            gaps = [np.sum((a - b) ** 2) if j != i else np.inf for j, b in enumerate(q)]
            near[i, np.argsort(gaps)[:3]] = 1
        assigned = softmax(-unary, 1)
        for _ in range(6):
            assigned = softmax(-unary + 0.9 * near @ assigned, 1)
        expected.append(np.log(assigned))
    close(scored(agent, block), expected)


def test_a_query_is_no_neighbour_of_its_own() -> None:
    near = transductive.neighbour_graph(blobs(1)["query_x"], 3)
    assert near.sum(2).unique().tolist() == [3.0]
    assert float(near.diagonal(dim1=1, dim2=2).sum()) == 0


def tim_loss(
    weights: Tensor, x: Tensor, y: Tensor, query: Tensor, tau: float, lam: float, alpha: float
) -> Tensor:
    """Eq. of section 2, on one task, as it is printed."""

    def given(rows: Tensor) -> Tensor:
        apart = ((rows[:, None] - weights[None]) ** 2).sum(2)
        return torch.softmax(-tau / 2 * apart, dim=1)

    p = given(query)
    mean = p.mean(0)
    entropy = -(mean * mean.log()).sum()
    conditional = -(p * p.log()).sum(1).mean()
    cross = -given(x)[torch.arange(len(y)), y].log().mean()
    return lam * cross - (entropy - alpha * conditional)


def test_tim_gradient_is_autograds() -> None:
    block = blobs(5)
    agent = made(transductive.Tim, temperature=3.0, support_weight=0.4, conditional_weight=0.3)
    assert isinstance(agent, transductive.Tim)
    members = F.one_hot(block["support_y"], WAY).double()
    weights = torch.randn(TASKS, WAY, 12, dtype=torch.float64, generator=torch.manual_seed(0))
    x = torch.cat([block["support_x"], block["query_x"]], 1)
    got = agent.gradient(weights, x, members)
    for i in range(TASKS):
        point = weights[i].clone().requires_grad_()
        args = (block["support_x"][i], block["support_y"][i], block["query_x"][i])
        (expected,) = torch.autograd.grad(tim_loss(point, *args, 3.0, 0.4, 0.3), point)
        torch.testing.assert_close(got[i], expected)


def test_tim_gd_is_torchs_adam() -> None:
    block = blobs(1)
    got = scored(made(transductive.Tim, test_steps=15, lr=0.01), block)
    for i in range(TASKS):
        x, y, query = (block[n][i] for n in ("support_x", "support_y", "query_x"))
        weights = torch.from_numpy(means(x.numpy(), y.numpy())).requires_grad_()
        adam = torch.optim.Adam([weights], lr=0.01)
        for _ in range(15):
            adam.zero_grad()
            tim_loss(weights, x, y, query, 15.0, 0.1, 0.1).backward()
            adam.step()
        apart = ((query[:, None] - weights[None]) ** 2).sum(2)
        expected = torch.softmax(-7.5 * apart, 1).detach().numpy()
        np.testing.assert_allclose(softmax(got[i], 1), expected, atol=1e-7)


def test_tim_adm_by_proposition_1() -> None:
    block = blobs(5)
    got = scored(
        made(transductive.Tim, solver="adm", test_steps=9, temperature=4.0, conditional_weight=0.2),
        block,
    )
    for i, (x, y, query) in enumerate(rows(block)):
        hot, w, alpha, lam = np.eye(WAY)[y], means(x, y), 0.2, 0.1

        def given(z: np.ndarray, w: np.ndarray) -> np.ndarray:
            return softmax(np.array([[-2.0 * np.sum((a - k) ** 2) for k in w] for a in z]), 1)

        for _ in range(9):
            ps, pq = given(x, w), given(query, w)
            q = pq ** (1 + alpha) / (pq ** (1 + alpha)).sum(0) ** 0.5
            q /= q.sum(1, keepdims=True)
            fresh = np.zeros_like(w)
            for k in range(WAY):
                above = sum(
                    lam / (1 + alpha) * (hot[s, k] * x[s] + ps[s, k] * (w[k] - x[s]))
                    for s in range(len(x))
                ) + len(x) / len(query) * sum(
                    q[r, k] * query[r] + pq[r, k] * (w[k] - query[r]) for r in range(len(query))
                )
                below = lam / (1 + alpha) * hot[:, k].sum() + len(x) / len(query) * q[:, k].sum()
                fresh[k] = above / below
            w = fresh
        np.testing.assert_allclose(softmax(got[i], 1), given(query, w), atol=1e-8)


@pytest.mark.parametrize("shot", [1, 5])
def test_pt_map(shot: int) -> None:
    block = blobs(shot)
    for name in ("support_x", "query_x"):
        block[name] = F.normalize(block[name], dim=2)
    agent = made(transductive.PtMap, test_steps=5)
    expected = []
    for x, y, query in rows(block):
        centres, pull = means(x, y), 0.4 if shot == 1 else 0.2

        def plan(centres: np.ndarray, query: np.ndarray = query) -> np.ndarray:
            cost = np.array([[np.sum((q - c) ** 2) for c in centres] for q in query])
            found = np.exp(-10 * cost)
            while np.abs(found.sum(1) - 1).max() > 1e-3:
                found = np.diag(1 / found.sum(1)) @ found
                found = found @ np.diag(len(query) / WAY / found.sum(0))
            return found

        for _ in range(5):
            m = plan(centres)
            for k in range(WAY):
                total = sum(m[i, k] * q for i, q in enumerate(query)) + x[y == k].sum(0)
                centres[k] += pull * (total / (shot + m[:, k].sum()) - centres[k])
        expected.append(np.log(plan(centres)))
    close(scored(agent, block), expected)


def test_sinkhorn_has_balanced_columns() -> None:
    cost = 5 * torch.rand(6, 20, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    plan = transductive.sinkhorn(cost, 1000)
    torch.testing.assert_close(plan.sum(1), torch.full((6, 4), 5.0, dtype=torch.float64))
    assert float((plan.sum(2) - 1).abs().max()) <= 1e-3
    # A plan of the entropic problem is the kernel, scaled by rows and by columns.
    logs = plan.log() + cost
    inner = logs - logs.mean(1, keepdim=True) - logs.mean(2, keepdim=True)
    assert float((inner + logs.mean((1, 2), keepdim=True)).abs().max()) < 1e-9


def test_power_transform() -> None:
    agent = made(transductive.PtMap)
    x = torch.tensor([[[4.0, 0.0, 9.0], [-4.0, 0.0, 9.0]]], dtype=torch.float64)
    raised = np.sqrt(np.array([4.0, 0.0, 9.0]) + 1e-6)
    expected = raised / np.linalg.norm(raised)
    got = agent.transformed(x)[0].numpy()
    np.testing.assert_allclose(got[0], expected)
    np.testing.assert_allclose(got[1], expected * [-1, 1, 1])


@pytest.mark.parametrize("kind", AGENTS)
def test_answers_a_block_as_task_by_task(kind: type[FeatureAgent]) -> None:
    """Many tasks at once give what each gives alone; few of the answers are wrong."""
    block = {n: p.float() if p.is_floating_point() else p for n, p in blobs(5).items()}
    task = TaskShape(WAY, 5, QUERIES // WAY, (12,), "float32", classes=9)
    agent = made(kind)
    state = agent.init(SimpleNamespace(task=task), Rng(0))
    policy = agent.policy(state)
    hidden = {**block, "query_y": torch.full_like(block["query_y"], -1)}
    got, memory = policy(hidden)
    assert memory is None
    assert got.shape == block["query_y"].shape
    for i in range(TASKS):
        alone, _ = policy({name: part[i : i + 1] for name, part in hidden.items()})
        assert torch.equal(alone[0], got[i])
    assert float((got == block["query_y"]).float().mean()) > 0.8


@pytest.mark.parametrize("kind", AGENTS)
def test_marks_and_inductive_answers(kind: type[FeatureAgent]) -> None:
    """An agent that isn't marked as transductive answers a query whatever the other ones are."""
    block = {n: p.float() if p.is_floating_point() else p for n, p in blobs(1, seed=3).items()}
    agent = made(kind)
    task = TaskShape(WAY, 1, QUERIES // WAY, (12,), "float32", classes=9)
    state = agent.init(SimpleNamespace(task=task), Rng(0))
    members = F.one_hot(block["support_y"], WAY).float()
    support, query = agent.features(state, block)
    few = {**block, "query_x": block["query_x"][:, :2]}
    fewer_support, fewer = agent.features(state, few)
    whole = agent.scores(support, members, query)[:, :2]
    part = agent.scores(fewer_support, members, fewer)
    same = torch.allclose(whole, part, atol=1e-5)
    assert same is not agent.TRANSDUCTIVE
    assert agent.diagnostics(state) == ({"transductive": True} if agent.TRANSDUCTIVE else {})


def test_backbone_and_its_batch_norm() -> None:
    config = classifiers.SimpleShotConfig(backbone="conv4-32")
    assert config.batch_norm == "inductive"
    assert "batch_norm" not in classifiers.SimpleShotConfig().model_dump()
    with pytest.raises(ValueError, match="batch_norm is for a network"):
        classifiers.SimpleShotConfig(batch_norm="transductive")
    task = TaskShape(3, 2, 2, (1, 16, 16), "uint8", classes=9)
    agent = classifiers.SimpleShot(config)
    state = agent.init(SimpleNamespace(task=task), Rng(0))
    found = agent.describe_network(task)
    assert found is not None
    assert found.name == "conv4-32"
    x = torch.randint(256, (2, 6, 1, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0))
    y = torch.arange(3).repeat_interleave(2).repeat(2, 1)
    got, _ = agent.policy(state)({"support_x": x, "support_y": y, "query_x": x, "query_y": y})
    assert torch.equal(got, y)
    given = {name: value + 1 for name, value in state["theta"].items()}
    loaded = agent.load_weights(state, given)["theta"]
    assert all(torch.equal(loaded[name], given[name]) for name in given)


def test_refusals() -> None:
    waves = TaskShape(1, 5, 5, (1,), "float32", "array", (1,))
    agent = made(classifiers.Knn)
    with pytest.raises(UsageError, match="needs tasks with classes"):
        agent.plan(waves)
    task = TaskShape(WAY, 1, 1, (12,), "float32", classes=9)
    state = agent.init(SimpleNamespace(task=task), Rng(0))
    with pytest.raises(UsageError, match="got backbone=none"):
        agent.load_weights(state, {"conv1.weight": torch.zeros(1)})
    assert agent.describe_network(task) is None
    assert agent.plan(task).updates == 0
    assert made(classifiers.SimpleShot, train_images=100).plan(task).updates == 2
