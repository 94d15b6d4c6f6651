"""The gradient for examples' weights against double backward through theta(eps)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazybench.errors import Diverged, UsageError
from lazybench.learning import (
    Examples,
    LookAhead,
    Products,
    Teacher,
    WeightGradient,
    lazy,
    sgd,
    sound,
    student,
    weight_gradient,
)
from lazybench.nets import backbone
from lazybench.nets.params import Params
from lazybench.tasks import TaskShape

LR, CLASSES, ROWS = 0.05, 4, 12
GRID = (0.95, 0.9, 0.85, 0.8, 0.75)


class Problem:
    """A network, theta, a mini-batch with weights, and validation rows, in float64."""

    def __init__(self, name: str) -> None:
        shape = TaskShape(CLASSES, 1, 1, (3, 16, 16), "uint8")
        self.net = backbone(name, shape, second_order=True)
        draw = torch.Generator().manual_seed(0)
        self.theta = {n: v.double() for n, v in self.net.init(draw).items()}
        self.x = self.net.prepare(torch.rand(ROWS, 3, 16, 16, generator=draw).double())
        self.y = torch.randint(CLASSES, (ROWS,), generator=draw)
        self.dev = self.net.prepare(torch.rand(16, 3, 16, 16, generator=draw).double())
        self.dev_y = torch.arange(16) % CLASSES
        self.weights = torch.rand(ROWS, generator=draw, dtype=torch.float64)

    def losses(self, params: Params, order: slice | Tensor = slice(None)) -> Tensor:
        return F.cross_entropy(self.net(params, self.x[order]), self.y[order], reduction="none")

    def valid(self, params: Params) -> Tensor:
        return F.cross_entropy(self.net(params, self.dev[:8]), self.dev_y[:8])

    def score(self, params: Params) -> tuple[float, ...]:
        hits = self.net(params, self.dev[8:]).argmax(1) == self.dev_y[8:]
        return (float(hits.double().mean()),)

    def examples(self, products: Products = "jvp") -> Examples:
        return Examples(self.theta, self.losses, products=products)

    def greedy(self, products: Products = "jvp") -> WeightGradient:
        return weight_gradient(self.examples(products), self.weights, self.valid, LookAhead(LR))

    def lazily(
        self, teacher: Teacher, steps: int = 3, products: Products = "jvp"
    ) -> WeightGradient:
        return weight_gradient(
            self.examples(products),
            self.weights,
            self.valid,
            LookAhead(LR, steps, teacher),
            score=self.score,
        )

    def moved(self, eps: Tensor) -> Params:
        """theta(eps) on its own graph."""
        point = {name: value.clone().requires_grad_() for name, value in self.theta.items()}
        total = ((self.weights + eps) * self.losses(point)).sum()
        slopes = torch.autograd.grad(
            total, list(point.values()), create_graph=True, allow_unused=True
        )
        return {
            name: value - LR * slope if slope is not None else value
            for (name, value), slope in zip(point.items(), slopes, strict=True)
        }

    def doubly(self, leap: Callable[[Params], Params]) -> Tensor:
        """d L_val(leap(theta(eps))) / d eps at 0, back through the virtual step."""
        eps = torch.zeros_like(self.weights, requires_grad=True)
        (slopes,) = torch.autograd.grad(self.valid(leap(self.moved(eps))), eps)
        return slopes


@pytest.fixture(scope="module", params=["mlp-24", "resnet8"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return Problem(request.param)


def near(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("products", ["vjp", "jvp"])
def test_greedy_is_double_backward_through_the_virtual_step(
    problem: Problem, products: Products
) -> None:
    got = problem.greedy(products)
    near(got.slopes, problem.doubly(lambda moved: moved))
    assert got.loss == pytest.approx(float(problem.valid(problem.moved(torch.zeros(()))).detach()))


@pytest.mark.parametrize("products", ["vjp", "jvp"])
def test_lazy_is_double_backward_through_the_leap_alone(
    problem: Problem, products: Products
) -> None:
    got = problem.lazily(lazy(gammas=GRID), products=products)
    start = {n: v.detach() for n, v in problem.moved(torch.zeros(())).items()}
    weighted = problem.examples().weighted(problem.weights)
    end = student(start, [weighted] * 3, rule=sgd(LR)).end

    def leap(gamma: float) -> Callable[[Params], Params]:
        return lambda moved: {n: gamma * v + (1 - gamma) * end[n] for n, v in moved.items()}

    # The grid is passed largest first, so that ties keep the largest.
    with torch.no_grad():
        best = max(GRID, key=lambda gamma: problem.score(leap(gamma)(start)))
    assert got.leap.gamma == best
    near(got.slopes, problem.doubly(leap(best)))


def test_unrolled_goes_through_the_students_steps(problem: Problem) -> None:
    got = weight_gradient(
        problem.examples(),
        problem.weights,
        problem.valid,
        LookAhead(LR, 2, inner="unrolled"),
    )

    def two_more(moved: Params) -> Params:
        for _ in range(2):
            total = (problem.weights * problem.losses(moved)).sum()
            slopes = torch.autograd.grad(total, list(moved.values()), create_graph=True)
            moved = {n: v - LR * s for (n, v), s in zip(moved.items(), slopes, strict=True)}
        return moved

    near(got.slopes, problem.doubly(two_more))


@pytest.mark.parametrize("products", ["vjp", "jvp"])
def test_gamma_one_without_steps_is_greedy_to_the_bit(problem: Problem, products: Products) -> None:
    one = problem.lazily(lazy(gammas=(1.0,)), steps=0, products=products)
    assert torch.equal(one.slopes, problem.greedy(products).slopes)
    assert one.loss == problem.greedy(products).loss


@pytest.mark.parametrize("products", ["vjp", "jvp"])
def test_weights_of_zero_look_ahead_from_theta_itself(problem: Problem, products: Products) -> None:
    none = torch.zeros(ROWS, dtype=torch.float64)
    got = weight_gradient(problem.examples(products), none, problem.valid, LookAhead(LR))
    problem.weights, held = none, problem.weights
    near(got.slopes, problem.doubly(lambda moved: moved))
    problem.weights = held


def test_gamma_scales_the_slopes_and_zero_kills_them(problem: Problem) -> None:
    assert not problem.lazily(lazy(gammas=(0.0,))).slopes.any()
    whole = problem.lazily(lazy(gammas=(1.0,)), steps=0).slopes
    near(problem.lazily(lazy(gammas=(0.3,)), steps=0).slopes, 0.3 * whole)


def test_a_permuted_batch_has_permuted_slopes(problem: Problem) -> None:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    there = Examples(problem.theta, lambda params: problem.losses(params, order))
    got = weight_gradient(there, problem.weights[order], problem.valid, LookAhead(LR))
    near(got.slopes, problem.greedy().slopes[order])


def test_both_products_agree_and_leave_the_graph_for_the_real_step(problem: Problem) -> None:
    slopes = {}
    for products in ("vjp", "jvp"):
        examples = problem.examples(products)
        slopes[products] = examples.along(problem.theta)
        got = examples.gradient(problem.weights)
        point = {n: v.clone().requires_grad_() for n, v in problem.theta.items()}
        loss = (problem.weights * problem.losses(point)).sum()
        expected = torch.autograd.grad(loss, list(point.values()))
        for slope, name in zip(expected, point, strict=True):
            torch.testing.assert_close(got[name], slope, rtol=1e-10, atol=1e-12)
        near(examples.along(problem.theta), slopes[products])
    near(slopes["jvp"], slopes["vjp"])


@pytest.mark.parametrize("products", ["vjp", "jvp"])
def test_losses_linear_in_the_parameters_have_their_slopes(products: Products) -> None:
    theta = {"w": torch.tensor([1.0, 2.0]), "idle": torch.ones(1)}
    rows = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 0.0]])
    examples = Examples(theta, lambda params: rows @ params["w"], products=products)
    direction = {"w": torch.tensor([3.0, 5.0]), "idle": torch.ones(1)}
    assert examples.along(direction).tolist() == [3.0, 1.0, 0.0]
    assert examples.gradient(torch.tensor([1.0, 1.0, 1.0]))["idle"].tolist() == [0.0]


def test_a_greedy_leap_off_the_graph_is_refused() -> None:
    problem = Problem("mlp-8")
    with pytest.raises(ValueError, match="doesn't depend on the weights"):
        weight_gradient(problem.examples(), problem.weights, problem.valid, LookAhead(LR, 2))


def test_unsound_weights_are_one_clear_line() -> None:
    fine = torch.tensor([0.5, -0.1])
    assert sound(fine, 3) is fine
    assert sound(torch.zeros(2), 3).sum() == 0
    with pytest.raises(Diverged, match="isn't finite at step 7"):
        sound(torch.tensor([1.0, float("nan")]), 7)
    with pytest.raises(Diverged, match="sum to -1 at step 7 and must not be negative"):
        sound(torch.tensor([1.0, -2.0]), 7)


def test_a_network_without_dual_numbers_has_the_other_products() -> None:
    conv4 = Problem("conv4-32")
    near(conv4.greedy("vjp").slopes, conv4.doubly(lambda moved: moved))
    with pytest.raises(UsageError, match="use --set products=vjp"):
        conv4.greedy("jvp")


def test_products_have_two_names() -> None:
    with pytest.raises(ValueError, match="vjp or jvp, got 'fd'"):
        Examples({}, lambda params: torch.zeros(1), products="fd")  # type: ignore[arg-type]
