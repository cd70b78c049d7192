"""What is known in closed form of finite, infinite and bottlenecked networks.

All are functions of arrays.

Each module is one piece of theory; each function names its equation and its source. Nothing here
needs a model.
"""

from dkp.theory import (
    bottleneck_dynamics,
    deep_linear,
    finite,
    limits,
    marginal_priors,
    matrix_gig,
    parametrisation,
    representation_shift,
)

__all__ = [
    "bottleneck_dynamics",
    "deep_linear",
    "finite",
    "limits",
    "marginal_priors",
    "matrix_gig",
    "parametrisation",
    "representation_shift",
]
