"""The lazy core: student, teacher, meta-gradients and outer updates, shared by every family."""

from lazybench.learning.gaussian import kl, sample
from lazybench.learning.implicit import implicit_gradient
from lazybench.learning.inequality import INEQUALITIES, entropy, inequality
from lazybench.learning.inner import (
    Direction,
    InnerRule,
    LossFn,
    Trail,
    adam,
    batches,
    preconditioned,
    proximal,
    sgd,
    student,
    unrolled,
)
from lazybench.learning.meta import (
    MetaGradient,
    Outer,
    annealed,
    fomaml_gradient,
    imaml_gradient,
    maml_gradient,
    outer_adam,
    outer_sgd,
    reptile_gradient,
)
from lazybench.learning.precondition import Preconditioner, curvature, elementwise
from lazybench.learning.replay import replayed_gradient
from lazybench.learning.teacher import GAMMAS, Leap, Teacher, greedy, lazy, on_rates, simplex_grid
from lazybench.learning.weighting import (
    ExampleLosses,
    Examples,
    LookAhead,
    Products,
    WeightGradient,
    sound,
    weight_gradient,
)

__all__ = [
    "GAMMAS",
    "INEQUALITIES",
    "Direction",
    "ExampleLosses",
    "Examples",
    "InnerRule",
    "Leap",
    "LookAhead",
    "LossFn",
    "MetaGradient",
    "Outer",
    "Preconditioner",
    "Products",
    "Teacher",
    "Trail",
    "WeightGradient",
    "adam",
    "annealed",
    "batches",
    "curvature",
    "elementwise",
    "entropy",
    "fomaml_gradient",
    "greedy",
    "imaml_gradient",
    "implicit_gradient",
    "inequality",
    "kl",
    "lazy",
    "maml_gradient",
    "on_rates",
    "outer_adam",
    "outer_sgd",
    "preconditioned",
    "proximal",
    "replayed_gradient",
    "reptile_gradient",
    "sample",
    "sgd",
    "simplex_grid",
    "sound",
    "student",
    "unrolled",
    "weight_gradient",
]
