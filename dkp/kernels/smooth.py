"""Kernels of infinitely wide layers of analytic functions: E[phi(u) phi(v)].

(u, v) are Gaussian with covariance k.

Most are functions of the variances, of k_xy and of the determinant d = k_xx k_yy - k_xy^2, which is
a difference of nearly equal numbers near perfect correlation: it is an argument of its own, and
exactly 0 on the diagonal.
"""

import abc
import math
from typing import Any

import jax
import jax.numpy as jnp

from dkp._core.description import hyperparameter
from dkp._core.types import Array, Float
from dkp.kernels.base import PointwiseKernel

__all__ = ["GELU", "Cosine", "Erf", "Exponential", "Gaussian", "Sine"]


class _OfDeterminant(PointwiseKernel):
    """A subclass writes ``expectation``."""

    @abc.abstractmethod
    def expectation(self, kxy: Array, kxx: Array, kyy: Array, determinant: Array) -> Array:
        """E[phi(u) phi(v)], elementwise, for determinant >= 0."""

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return self.expectation(kxy, kxx, kyy, _determinant(kxy, kxx, kyy))

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.expectation(kxx, kxx, kxx, jnp.zeros_like(kxx))

    def derivative_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        # the determinant's own derivative in k_xy is -2 k_xy
        def of_covariance(kxy: Array, determinant: Array) -> Array:
            return self.expectation(kxy, kxx, kxx, determinant)

        return jax.jvp(of_covariance, (kxx, jnp.zeros_like(kxx)), (jnp.ones_like(kxx), -2 * kxx))[1]


class Erf(_OfDeterminant):
    """E[erf(u) erf(v)] = (2 / pi) arcsin(2 k_xy / sqrt((1 + 2 k_xx) (1 + 2 k_yy))).

    Source: Williams 1997, equation 11 (there with the prior's covariance inside).

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Erf()], x).round(3))
        [[0.59  0.345]
         [0.345 0.465]]
    """

    def expectation(self, kxy: Array, kxx: Array, kyy: Array, determinant: Array) -> Array:
        # An arc-tangent, because that of the sine is 1e8 times less accurate near 1; the root is of
        # 1 or more.
        return (2 / math.pi) * jnp.arctan2(2 * kxy, jnp.sqrt(1 + 2 * (kxx + kyy) + 4 * determinant))


class GELU(_OfDeterminant):
    """E[phi(u) phi(v)] for phi(u) = u Phi(u), with the standard normal distribution function Phi.

    With A = 1 + k_xx, B = 1 + k_yy, d = k_xx k_yy - k_xy^2 and D = A B - k_xy^2:

    k' = k_xy (1/4 + arcsin(k_xy / sqrt(A B)) / (2 pi)) + (d + k_xy^2 (1/A + 1/B)) / (2 pi sqrt(D)).

    Source: Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2021; derived here by Stein's lemma,
    used twice.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.GELU()], x).round(3))
        [[0.922 0.447]
         [0.447 0.425]]
    """

    def expectation(self, kxy: Array, kxx: Array, kyy: Array, determinant: Array) -> Array:
        root = jnp.sqrt(1 + (kxx + kyy) + determinant)
        # pi/2 + arcsin(…), without a difference where k_xy < 0
        both_positive = jnp.arctan2(root, -kxy)
        rest = determinant + kxy * kxy * (1 / (1 + kxx) + 1 / (1 + kyy))
        return (kxy * both_positive + rest / root) / (2 * math.pi)


class Gaussian(_OfDeterminant):
    """E[phi(u) phi(v)] = ((1 + k_xx) (1 + k_yy) - k_xy^2)^(-1/2) for phi(u) = exp(-u^2 / 2).

    Source: the normalising constant of the Gaussian density of covariance (k^-1 + I)^-1.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Gaussian()], x).round(3))
        [[0.447 0.447]
         [0.447 0.577]]
    """

    def expectation(self, kxy: Array, kxx: Array, kyy: Array, determinant: Array) -> Array:
        return 1 / jnp.sqrt(1 + (kxx + kyy) + determinant)


class Exponential(PointwiseKernel):
    """E[exp(u) exp(v)] = exp((k_xx + k_yy) / 2 + k_xy): it is its own derivative.

    Source: the moment-generating function of a Gaussian; Daniely, Frostig & Singer 2016 have the
    unit-variance dual.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Exponential()], x).round(3))
        [[54.598 12.182]
         [12.182  7.389]]
    """

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return jnp.exp((kxx + kyy) / 2 + kxy)

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return jnp.exp(2 * kxx)


class _Wave(PointwiseKernel):
    """a sin(b u + c) or a cos(b u + c): a subclass says which, by its values and slopes at u = 0.

    With k scaled by b^2: a^2 exp(-(k_xx + k_yy)/2) (odd sinh k_xy + even cosh k_xy), where
    even = phi(0)^2 / a^2 and odd = 1 - even. The derivative kernel exchanges the two, and
    multiplies by b^2.
    """

    a: Any = hyperparameter(default=1.0, domain="real")
    b: Any = hyperparameter(default=1.0, domain="real")
    c: Any = hyperparameter(default=0.0, domain="real")

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    @abc.abstractmethod
    def _odd_and_even(self, c: Array) -> tuple[Array, Array]:
        """Weights of the odd and the even part."""

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        a, b, c = (jnp.asarray(value, kxy.dtype) for value in (self.a, self.b, self.c))
        odd, even = self._odd_and_even(c)
        return a**2 * _waves(odd, even, b**2 * kxy, b**2 * (kxx + kyy))

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.evaluate(kxx, kxx, kxx)

    def derivative(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        a, b, c = (jnp.asarray(value, kxy.dtype) for value in (self.a, self.b, self.c))
        odd, even = self._odd_and_even(c)
        return (a * b) ** 2 * _waves(even, odd, b**2 * kxy, b**2 * (kxx + kyy))


class Sine(_Wave):
    """E[phi(u) phi(v)] for phi(u) = a sin(b u + c).

    k' = a^2 exp(-b^2 (k_xx + k_yy) / 2) (cos(c)^2 sinh(b^2 k_xy) + sin(c)^2 cosh(b^2 k_xy)).

    Args:
        a: amplitude, real.
        b: frequency, real.
        c: phase, real.

    Raises:
        ValueError: when a number or an initial value is not finite.

    Source: the characteristic function of u - v and of u + v.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Sine()], x).round(3))
        [[0.491 0.262]
         [0.262 0.432]]
    """

    def _odd_and_even(self, c: Array) -> tuple[Array, Array]:
        return jnp.cos(c) ** 2, jnp.sin(c) ** 2


class Cosine(_Wave):
    """E[phi(u) phi(v)] for phi(u) = a cos(b u + c).

    k' = a^2 exp(-b^2 (k_xx + k_yy) / 2) (sin(c)^2 sinh(b^2 k_xy) + cos(c)^2 cosh(b^2 k_xy)).

    Args:
        a: amplitude, real.
        b: frequency, real.
        c: phase, real.

    Raises:
        ValueError: when a number or an initial value is not finite.

    Source: the characteristic function of u - v and of u + v.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Cosine()], x).round(3))
        [[0.509 0.344]
         [0.344 0.568]]
    """

    def _odd_and_even(self, c: Array) -> tuple[Array, Array]:
        return jnp.sin(c) ** 2, jnp.cos(c) ** 2


def _waves(odd: Array, even: Array, kxy: Array, variances: Array) -> Array:
    """exp(-variances / 2) (odd sinh k_xy + even cosh k_xy), whose factors may overflow.

    `variances` is the sum of both.
    """
    # no 0: it would end the derivative at k_xy = 0
    sign = jnp.where(kxy > 0, jnp.ones_like(kxy), -jnp.ones_like(kxy))
    size = sign * kxy
    waves = even * (1 + jnp.exp(-2 * size)) - odd * sign * jnp.expm1(-2 * size)
    return waves * jnp.exp(size - variances / 2) / 2


def _determinant(kxy: Array, kxx: Array, kyy: Array) -> Array:
    """k_xx k_yy - k_xy^2, raised to 0 where rounding made it negative.

    Its derivative is that of the formula.
    """
    determinant = kxx * kyy - kxy * kxy
    return determinant + jax.lax.stop_gradient(jnp.maximum(-determinant, 0))
