"""What becomes of a deep Gaussian process of two layers as it gets wide.

Limiting kernels, and how far it is from them.

Layer 1 has W units with a kernel k1 of variance o1; layer 2 has a squared-exponential kernel,
either summed over units ("additive", the mean of W kernels of one unit each) or isotropic in all of
them with the length-scale l2 sqrt(W).

Source: Pleiss & Cunningham 2021 (NeurIPS, "The limitations of large width in neural networks"),
additive kernel; the others are derived here.
"""

from typing import Any

import numpy as np

from dkp._core import checks
from dkp._core.types import Float

__all__ = [
    "additive_kernel",
    "difference_kurtosis",
    "isotropic_kernel",
    "limiting_isotropic_kernel",
]


def additive_kernel(
    k1: Any, *, variance1: float = 1.0, variance2: float = 1.0, lengthscale2: float = 1.0
) -> Float[np.ndarray, "..."]:
    """E k2(f, f') for k2 = (o2 / W) sum_i exp(-(f_i - f_i')^2 / (2 l2^2)).

    The covariance for every width, and the kernel of the limit,

        o2 l2 / sqrt(l2^2 + 2 (o1 - k1))

    Args:
        k1: covariances of layer 1, at most `variance1` = o1 in absolute value.

    Raises:
        ValueError: for numbers out of range.

    Examples:
        >>> from dkp.theory import limits
        >>> print(limits.additive_kernel([1.0, 0.5]).round(3))
        [1.    0.707]
    """
    gap, o2, l2 = _check_kernel(k1, variance1, variance2, lengthscale2)
    return np.asarray(o2 * l2 / np.sqrt(l2**2 + 2 * gap))


def isotropic_kernel(
    k1: Any,
    width: int,
    *,
    variance1: float = 1.0,
    variance2: float = 1.0,
    lengthscale2: float = 1.0,
) -> Float[np.ndarray, "..."]:
    """E k2(f, f') for k2 = o2 exp(-|f - f'|^2 / (2 l2^2 W)) with W units:

        o2 (1 + 2 (o1 - k1) / (W l2^2))^(-W / 2)

    Args and errors: as in :func:`additive_kernel`.

    Examples:
        >>> from dkp.theory import limits
        >>> print(limits.isotropic_kernel([1.0, 0.5], width=4).round(3))
        [1.   0.64]
    """
    gap, o2, l2 = _check_kernel(k1, variance1, variance2, lengthscale2)
    n = checks.positive_int("width", width)
    return np.asarray(o2 * np.exp(-n / 2 * np.log1p(2 * gap / (n * l2**2))))


def limiting_isotropic_kernel(
    k1: Any, *, variance1: float = 1.0, variance2: float = 1.0, lengthscale2: float = 1.0
) -> Float[np.ndarray, "..."]:
    """:func:`isotropic_kernel` of infinite width: o2 exp(-(o1 - k1) / l2^2).

    Examples:
        >>> from dkp.theory import limits
        >>> print(limits.limiting_isotropic_kernel([1.0, 0.5]).round(3))
        [1.    0.607]
    """
    gap, o2, l2 = _check_kernel(k1, variance1, variance2, lengthscale2)
    return np.asarray(o2 * np.exp(-gap / l2**2))


def difference_kurtosis(
    k1: Any, width: int, *, variance1: float = 1.0, lengthscale2: float = 1.0
) -> Float[np.ndarray, "..."]:
    """Excess kurtosis of f2(x) - f2(x') in the additive process: 3 Var v / (E v)^2.

    For the variance v given layer 1,

        (3 / W) (r(2) - r(1)^2) / (1 - r(1))^2,   r(q) = (1 + 2 q (o1 - k1) / l2^2)^(-1/2)

    It falls as 1 / W: width makes the process Gaussian.

    Args:
        k1: covariance of layer 1 between the points, below `variance1`: they differ.

    Raises:
        ValueError: for numbers out of range, and points that do not differ.

    Examples:
        >>> from dkp.theory import limits
        >>> print(limits.difference_kurtosis(0.5, width=4).round(3))
        0.676
    """
    gap, _, l2 = _check_kernel(k1, variance1, 1.0, lengthscale2)
    if np.any(gap <= 0):
        raise ValueError("Expected k1 below variance1, of two points that differ. Got equal ones.")
    once, twice = ((1 + 2 * q * gap / l2**2) ** -0.5 for q in (1, 2))
    return np.asarray(3 / checks.positive_int("width", width) * (twice - once**2) / (1 - once) ** 2)


def _check_kernel(
    k1: Any, variance1: float, variance2: float, lengthscale2: float
) -> tuple[Float[np.ndarray, "..."], float, float]:
    """o1 - k1, o2 and l2."""
    o1, o2 = (
        checks.positive_number("variance1", variance1),
        checks.positive_number("variance2", variance2),
    )
    values = checks.real_array("k1", k1)
    if not np.all(np.abs(values) <= o1 * (1 + 1e-12)):
        raise ValueError(
            f"Expected k1 between -{o1} and {o1}, the variance of layer 1. Got "
            f"{np.abs(values).max()}."
        )
    return (
        np.asarray(np.maximum(o1 - values, 0)),
        o2,
        checks.positive_number("lengthscale2", lengthscale2),
    )
