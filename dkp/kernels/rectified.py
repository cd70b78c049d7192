"""Kernels of infinitely wide layers of steps, rectifiers and their powers: E[phi(u) phi(v)].

(u, v) are Gaussian with covariance k.

(u, v) has mean 0 and covariance k. The piecewise-linear activations are a linear one plus a
rectifier.
"""

import abc
import math
from typing import Any

import jax.numpy as jnp

from dkp._core.checks import one_of
from dkp._core.description import hyperparameter
from dkp._core.types import Array, Float
from dkp.kernels.angular import angle, correlation, rectified_moment, rectified_moment_slope
from dkp.kernels.base import PointwiseKernel
from dkp.kernels.polynomials import check_degree

__all__ = ["ABReLU", "Abs", "ArcCosine", "LeakyReLU", "ReLU", "RectifiedMonomial", "Sign"]


class _Rectified(PointwiseKernel):
    """`factor` times 2 E[u+^n v+^n]: a subclass says what n and `factor` are."""

    @abc.abstractmethod
    def _order_and_factor(self) -> tuple[int, float]:
        """n and the factor."""

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        order, factor = self._order_and_factor()
        return factor * rectified_moment(order, kxy, kxx, kyy)

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        order, factor = self._order_and_factor()
        return factor * _moment_diagonal(order, kxx)

    def derivative(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        order, factor = self._order_and_factor()
        return factor * rectified_moment_slope(order, kxy, kxx, kyy)

    def derivative_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        order, factor = self._order_and_factor()
        return (
            factor * order**2 * _moment_diagonal(order - 1, kxx) if order else jnp.zeros_like(kxx)
        )


class ArcCosine(_Rectified):
    """The arc-cosine kernel: twice E[phi(u) phi(v)] for phi(u) = max(u, 0)^order.

    For order 0, phi is the step [u > 0].

    With t = arccos(k_xy / sqrt(k_xx k_yy)) in [0, pi]:

    - order 0: k' = (pi - t) / pi,
    - order 1: k' = sqrt(k_xx k_yy) (sin t + (pi - t) cos t) / pi,
    - order 2: k' = k_xx k_yy (3 sin t cos t + (pi - t) (1 + 2 cos^2 t)) / pi.

    This normalisation makes the diagonal 1 (order 0), keeps it (order 1: k'_xx = k_xx, He's
    initialisation) or makes it 3 k_xx^2 (order 2). A point of variance k_xx = 0 is uncorrelated
    with all others: cos t = 0.

    Derivatives are finite everywhere: where the true one is infinite (order 0 at |cos t| = 1,
    orders 0 and 1 at k_xx = 0), 0 stands in for it. So ``derivative_diagonal`` is 0 for order 0.

    Args:
        order: 0, 1 or 2; fixed. :class:`RectifiedMonomial` has the higher ones.
        normalised: False gives the plain expectation, half of the above.

    Raises:
        ValueError: for another order.

    Source: Cho & Saul 2009, equations 1 to 6.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.ArcCosine(1)], x).round(3))
        [[2.    1.068]
         [1.068 1.   ]]
    """

    order: int
    normalised: bool = True

    def __post_init__(self) -> None:
        one_of("ArcCosine(order, …)", self.order, (0, 1, 2))

    def _order_and_factor(self) -> tuple[int, float]:
        return self.order, 1.0 if self.normalised else 0.5


class RectifiedMonomial(_Rectified):
    """E[phi(u) phi(v)] for phi(u) = max(u, 0)^degree, the step [u > 0] for degree 0.

    k' = (k_xx k_yy)^(n/2) J_n(t) / (2 pi) with J_n(t) = (-1)^n sin(t)^(2n+1) ((1 / sin t) d/dt)^n
    ((pi - t) / sin t); the diagonal is (2n - 1)!! k_xx^n / 2. For degree 0 the derivative kernel is
    infinite at |cos t| = 1, where 0 stands in for it.

    Args:
        degree: n, an integer from 0 to 100; fixed. The moments of high degrees overflow in float32.

    Raises:
        ValueError: for another degree.

    Source: Cho & Saul 2009, equations 3 and 4.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.RectifiedMonomial(2)], x).round(3))
        [[6.    1.977]
         [1.977 1.5  ]]
    """

    degree: int

    def __post_init__(self) -> None:
        check_degree("RectifiedMonomial(degree)", self.degree)

    def _order_and_factor(self) -> tuple[int, float]:
        return self.degree, 0.5


class _PiecewiseLinear(PointwiseKernel):
    """phi(u) = a min(u, 0) + b max(u, 0): a subclass says what a and b are.

    E[phi(u) phi(v)] = a b k_xy + (b - a)^2 E[max(u, 0) max(v, 0)], because E[u |v|] = 0.
    """

    @abc.abstractmethod
    def _slopes(self) -> tuple[Any, Any]:
        """a and b."""

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        a, b = self._slopes()
        return a * b * kxy + (b - a) ** 2 / 2 * rectified_moment(1, kxy, kxx, kyy)

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.derivative_diagonal(kxx) * kxx

    def derivative(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        a, b = self._slopes()
        return a * b + (b - a) ** 2 / 2 * rectified_moment(0, kxy, kxx, kyy)

    def derivative_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        a, b = self._slopes()
        return (a**2 + b**2) / 2 * jnp.ones_like(kxx)


class ReLU(_PiecewiseLinear):
    """E[phi(u) phi(v)] for phi(u) = max(u, 0): half of ``ArcCosine(1)``, with diagonal k_xx / 2.

    Source: Cho & Saul 2009, equations 3 and 6.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.ReLU()], x).round(3))
        [[1.    0.534]
         [0.534 0.5  ]]
    """

    def _slopes(self) -> tuple[Any, Any]:
        return 0.0, 1.0


class LeakyReLU(_PiecewiseLinear):
    """E[phi(u) phi(v)] for phi(u) = max(u, 0) + slope min(u, 0).

    k' = slope k_xy + (1 - slope)^2 E[max(u, 0) max(v, 0)].

    Args:
        slope: real.

    Raises:
        ValueError: when a number or an initial value is not finite.

    Source: the expectation of the rectifiers is Cho & Saul 2009, equation 6, halved.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.LeakyReLU(0.1)], x).round(3))
        [[1.01  0.533]
         [0.533 0.505]]
    """

    slope: Any = hyperparameter(domain="real")

    def _slopes(self) -> tuple[Any, Any]:
        return self.slope, 1.0


class ABReLU(_PiecewiseLinear):
    """E[phi(u) phi(v)] for phi(u) = a min(u, 0) + b max(u, 0).

    k' = a b k_xy + (b - a)^2 E[max(u, 0) max(v, 0)].

    Args:
        a: the slope below 0, real.
        b: the slope above 0, real.

    Raises:
        ValueError: when a number or an initial value is not finite.

    Source: the expectation of the rectifiers is Cho & Saul 2009, equation 6, halved.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.ABReLU(-1.0, 2.0)], x).round(3))
        [[5.    2.807]
         [2.807 2.5  ]]
    """

    a: Any = hyperparameter(domain="real")
    b: Any = hyperparameter(domain="real")

    def _slopes(self) -> tuple[Any, Any]:
        return self.a, self.b


class Abs(_PiecewiseLinear):
    """E[|u| |v|] = 4 E[max(u, 0) max(v, 0)] - k_xy: the diagonal is k_xx.

    Source: the expectation of the rectifiers is Cho & Saul 2009, equation 6, halved.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Abs()], x).round(3))
        [[2.    1.137]
         [1.137 1.   ]]
    """

    def _slopes(self) -> tuple[Any, Any]:
        return -1.0, 1.0


class Sign(PointwiseKernel):
    """E[sign(u) sign(v)] = (2 / pi) arcsin(k_xy / sqrt(k_xx k_yy)).

    The diagonal is 1, even where k_xx = 0.

    The derivative kernel is infinite at perfect correlation, where 0 stands in for it; so
    ``derivative_diagonal`` is 0.

    Source: four times the step's expectation, Cho & Saul 2009, equation 3 with n = 0, less 1.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Sign()], x).round(3))
        [[1.  0.5]
         [0.5 1. ]]
    """

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return 1 - angle(correlation(kxy, kxx, kyy)) * (2 / math.pi)

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return jnp.ones_like(kxx)

    def derivative(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return 2 * rectified_moment_slope(0, kxy, kxx, kyy)

    def derivative_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return jnp.zeros_like(kxx)


def _moment_diagonal(order: int, kxx: Array) -> Array:
    """2 E[u+^2n] = (2n - 1)!! k_xx^n"""
    return float(math.prod(range(1, 2 * order, 2))) * kxx**order
