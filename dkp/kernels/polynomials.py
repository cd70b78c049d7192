"""Kernels of infinitely wide layers of polynomials: E[p(u) p(v)].

(u, v) are Gaussian with covariance k.

All of them are one series in k_xy with the factors E[d^j p(u)] / j!, exact because it ends
(Mehler's formula, with the variances folded into the coefficients of the Hermite polynomials).
"""

import abc
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dkp._core.checks import finite_array
from dkp._core.types import Array, Float
from dkp.kernels.angular import pairings
from dkp.kernels.base import PointwiseKernel

__all__ = ["Identity", "Monomial", "Polynomial", "check_degree"]


def check_degree(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is an integer from 0 to 100: beyond, the moments overflow."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number <= 100:
        raise ValueError(f"Expected {name} to be an integer from 0 to 100. Got {value!r}.")


class _PowerSeries(PointwiseKernel):
    """p(u) = sum_j a_j u^j: a subclass says what the a_j are."""

    @abc.abstractmethod
    def _coefficients(self) -> tuple[float, ...]:
        """a_0, a_1, …"""

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return _expectation(self._coefficients(), kxy, kxx, kyy)

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.evaluate(kxx, kxx, kxx)

    def derivative(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        derived = tuple(j * a for j, a in enumerate(self._coefficients()))[1:]
        return _expectation(derived, kxy, kxx, kyy)


class Identity(_PowerSeries):
    """E[u v] = k_xy.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Identity()], x).round(3))
        [[2. 1.]
         [1. 1.]]
    """

    def _coefficients(self) -> tuple[float, ...]:
        return 0.0, 1.0


class Monomial(_PowerSeries):
    """E[u^n v^n], the kernel of phi(u) = u^n.

    It is sum_j j! C(n, j)^2 ((n - j - 1)!!)^2 k_xy^j (k_xx k_yy)^((n - j)/2), over j with n - j
    even.

    The diagonal is (2n - 1)!! k_xx^n.

    Args:
        degree: n, an integer from 0 to 100; fixed. The moments of high degrees overflow in float32.

    Raises:
        ValueError: for another degree.

    Source: Isserlis' theorem: j of the u are paired with j of the v, the rest among themselves.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.Monomial(3)], x).round(3))
        [[120.  24.]
         [ 24.  15.]]
    """

    degree: int

    def __post_init__(self) -> None:
        check_degree("Monomial(degree)", self.degree)

    def _coefficients(self) -> tuple[float, ...]:
        return (*(0.0,) * self.degree, 1.0)


class Polynomial(_PowerSeries):
    """E[p(u) p(v)] = sum_j j! k_xy^j h_j(k_xx) h_j(k_yy) for p(u) = sum_j a_j u^j.

    h_j(s) = E[d^j p(u)] / j! = sum_m a_(j+2m) C(j + 2m, j) (2m - 1)!! s^m, for u of variance s.

    Args:
        coefficients: a_0, a_1, …, finite numbers, lowest power first and at most 101 of them;
            fixed.

    Raises:
        ValueError: when they are anything else.

    Source: Mehler's formula (Daniely, Frostig & Singer 2016 use it for unit variances, as the
    dual's power series).

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Linear(), kernels.Polynomial([0.0, 1.0, 1.0])]
        >>> print(nngp_kernel(layers, x).round(3))
        [[14.  5.]
         [ 5.  4.]]
    """

    coefficients: Sequence[float] | np.ndarray | Array

    def __post_init__(self) -> None:
        values = finite_array("Polynomial(coefficients)", self.coefficients, ndim=1)
        if values.size > 101:
            raise ValueError(
                "Expected Polynomial(coefficients) of degree 100 at most. Got degree "
                f"{values.size - 1}."
            )
        object.__setattr__(self, "coefficients", tuple(values.tolist()))

    def _coefficients(self) -> tuple[float, ...]:
        return tuple(np.asarray(self.coefficients).tolist())


def _expectation(coefficients: tuple[float, ...], kxy: Array, kxx: Array, kyy: Array) -> Array:
    total = jnp.zeros(jnp.broadcast_shapes(kxy.shape, kxx.shape, kyy.shape), kxy.dtype)
    for j in reversed(range(len(coefficients))):
        factor = [
            a * math.comb(j + 2 * m, j) * pairings(2 * m)
            for m, a in enumerate(coefficients[j::2])  # only powers of the parity of j
        ]
        total = total * kxy
        if any(factor):
            # bitwise symmetric
            total += math.factorial(j) * (_horner(factor, kxx) * _horner(factor, kyy))
    return total


def _horner(coefficients: list[float], s: Array) -> Array:
    total = jnp.full_like(s, coefficients[-1])
    for a in coefficients[-2::-1]:
        total = total * s + a
    return total
