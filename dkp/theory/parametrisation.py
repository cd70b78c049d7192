"""How networks are parametrised and trained, in the numbers that practitioners set.

In the NTK parametrisation W = (s_w / sqrt n) omega with omega ~ N(0, 1); in the standard one
W ~ N(0, s_w^2 / n) itself is trained.

Source: Lee et al. 2020 (arXiv 2007.15801). Layer-wise decay and critical size are derived here.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from dkp._core import checks
from dkp._core.types import Float
from dkp.theory._checks import gram_matrix, positive_widths

__all__ = [
    "critical_data_size",
    "critical_learning_rate",
    "early_stopping_filter",
    "equivalent_regularisation",
    "ridge_filter",
    "standard_weight_decay",
]


def standard_weight_decay(
    decay: float | int, fan_in: Sequence[int], *, weight_var: float | int = 1.0
) -> Float[np.ndarray, " L"]:
    """Weight decay of every layer, in the standard parametrisation, for one of the NTK's.

    They are equal because

        (lambda / 2) sum_l |omega_l|^2 = sum_l (lambda n_l / s_w^2 / 2) |W_l|^2

    The same holds for biases with 1 / s_b^2 in place of n_l / s_w^2.

    Args:
        decay: lambda.
        fan_in: n_l, the number of inputs of each layer.
        weight_var: s_w^2.

    Raises:
        ValueError: for numbers that are not positive.

    Examples:
        >>> from dkp.theory import parametrisation
        >>> print(parametrisation.standard_weight_decay(0.1, [10, 20], weight_var=2.0))
        [0.5 1. ]
    """
    n = positive_widths("fan_in", fan_in)
    return (
        checks.positive_number("decay", decay)
        * n
        / checks.positive_number("weight_var", weight_var)
    )


def critical_learning_rate(
    ntk: Float[np.ndarray, "N N"], *, momentum: float = 0.0, warn_at: Any = None
) -> float:
    """The largest step with which gradient descent converges in the linear regime.

    For (1/2) sum_i (f_i - y_i)^2 it is

        eta* = 2 (1 + momentum) / lambda_max

    Args:
        ntk: tangent kernel of the training points. For a mean over points and outputs instead of
            the sum, multiply by their number.
        momentum: of heavy-ball gradient descent, at least 0 and below 1.
        warn_at: a step that is planned, for a warning where it is too large.

    Raises:
        ValueError: for a kernel that is not positive semi-definite, or is zero, and a momentum out
            of range.

    Warns:
        RuntimeWarning: when `warn_at` lies above the critical step.

    Examples:
        >>> import numpy as np
        >>> from dkp.theory import parametrisation
        >>> parametrisation.critical_learning_rate(np.diag([4.0, 1.0]))
        0.5
    """
    if not 0 <= checks.nonnegative_number("momentum", momentum) < 1:
        raise ValueError(f"Expected momentum of at least 0 and below 1. Got {momentum}.")
    largest = float(np.linalg.eigvalsh(gram_matrix("ntk", ntk))[-1])
    if largest <= 0:
        raise ValueError("Expected ntk to be other than zero. Got zeros.")
    critical = 2 * (1 + momentum) / largest
    if warn_at is not None and checks.positive_number("warn_at", warn_at) > critical:
        warnings.warn(
            f"The step {warn_at:.4g} lies above the critical one, {critical:.4g}: gradient "
            "descent diverges, or leaves the linear regime.",
            RuntimeWarning,
            stacklevel=2,
        )
    return critical


def critical_data_size(scale: float, exponent: float, noise: float) -> float:
    """Number of points at which factorisations of a kernel matrix begin to fail.

    Rounding errors reach the smallest eigenvalue at

        m C m^-alpha = 2 sqrt(m) sigma   at   m* = (C / (2 sigma))^(2 / (2 alpha - 1))

    for eigenvalues lambda_i = m C i^-alpha and independent errors of size sigma in the entries,
    whose matrix has the norm 2 sqrt(m) sigma (Wigner). An order of magnitude; float64 or diagonal
    regularisation is the remedy.

    Args:
        scale: C.
        exponent: alpha, above 1/2.
        noise: sigma, such as 1e-7 in float32.

    Raises:
        ValueError: for numbers out of range.

    Examples:
        >>> from dkp.theory import parametrisation
        >>> round(parametrisation.critical_data_size(scale=1.0, exponent=1.5, noise=1e-3), 1)
        500.0
    """
    c, sigma = checks.positive_number("scale", scale), checks.positive_number("noise", noise)
    if checks.positive_number("exponent", exponent) <= 0.5:
        raise ValueError(
            "Expected exponent above 1/2, so that eigenvalues fall below the errors. Got "
            f"{exponent}."
        )
    return math.exp(2 / (2 * exponent - 1) * math.log(c / (2 * sigma)))


def early_stopping_filter(eigenvalues: Any, time: float) -> Float[np.ndarray, "..."]:
    """1 - exp(-t lambda): how much of the targets along an eigenvector is fitted at time t.

    Training is gradient flow.

    Examples:
        >>> from dkp.theory import parametrisation
        >>> print(parametrisation.early_stopping_filter([0.1, 10.0], time=1.0).round(3))
        [0.095 1.   ]
    """
    return np.asarray(
        -np.expm1(-checks.nonnegative_number("time", time) * _eigenvalues(eigenvalues))
    )


def ridge_filter(eigenvalues: Any, regularisation: float) -> Float[np.ndarray, "..."]:
    """lambda / (lambda + eps): how much of them kernel regression with a ridge eps fits.

    Examples:
        >>> from dkp.theory import parametrisation
        >>> print(parametrisation.ridge_filter([0.1, 10.0], regularisation=1.0).round(3))
        [0.091 0.909]
    """
    values = _eigenvalues(eigenvalues)
    return np.asarray(values / (values + checks.positive_number("regularisation", regularisation)))


def equivalent_regularisation(time: float) -> float:
    """eps = 1 / t: the ridge whose filter agrees with that of early stopping.

    They agree to first order in small eigenvalues. At lambda = eps they are 1/2 and
    1 - 1/e = 0.632.

    Examples:
        >>> from dkp.theory import parametrisation
        >>> parametrisation.equivalent_regularisation(10.0)
        0.1
    """
    return 1 / checks.positive_number("time", time)


def _eigenvalues(values: Any) -> np.ndarray:
    found = checks.real_array("eigenvalues", values)
    if not np.all(found >= 0):
        raise ValueError("Expected eigenvalues of at least 0. Got others.")
    return found
