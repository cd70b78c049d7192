"""The kernel of infinitely wide layers of exponential linear units.

phi'' is exp(u) below 0, and its own derivative is itself less a delta. So Price's theorem, d/dk_xy
E[f(u) g(v)] = E[f'(u) g'(v)], makes E as a function of k_xy the solution of a linear differential
equation with a known right-hand side: one integral from a covariance where everything is known,
k_xy = 0 or the one of perfect correlation.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.types import Array, Float
from dkp.kernels.angular import angle, correlation
from dkp.kernels.base import PointwiseKernel
from dkp.linalg.special import safe_sqrt

__all__ = ["ELU"]


class ELU(PointwiseKernel):
    """E[phi(u) phi(v)] for phi(u) = u above 0 and exp(u) - 1 below.

    With H(a) = exp(a^2/2) Phi(-a), g(r) = exp(r) - 1 - r, x = sqrt(k_xx), y = sqrt(k_yy) and
    k_xy = x y sin f:

    k' = m(x) m(y) + k_xy (1/2 + H(x)) (1/2 + H(y)) + g(k_xy) H(x) H(y)
         + int_0^f g(k_xy - x y sin p) (1 - h(x cos p) - h(y cos p)) dp / (2 pi),

    m(a) = E[phi(a z)] = H(a) - 1/2 + a / sqrt(2 pi) and h(a) = sqrt(2 pi) a H(a). The integrand is
    analytic, and the integral has 20 Gauss-Legendre nodes (10 in float32). For k_xy > 2, where g is
    large, the same integral starts at perfect correlation.

    Errors relative to the diagonal are those of rounding (over the root of a variance below 1) for
    variances up to 30, 1e-9 (float32: 1e-5) at 100 and 1e-6 (1e-4) at 1000; the diagonal is exact
    to rounding. It costs 50 times as much as the kernels without integrals.

    Source: Tsuchida, Pearce, van der Heide, Roosta & Gallagher 2021 have it by bivariate normal
    probabilities; the integral is derived here by Price's theorem.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(), kernels.ELU()], x).round(3))
        [[1.2   0.618]
         [0.618 0.645]]
    """

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return _expectation(0, correlation(kxy, kxx, kyy), kxy, kxx, kyy)

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return _expectation(0, jnp.ones_like(kxx), kxx, kxx, kxx)

    def derivative(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return _expectation(1, correlation(kxy, kxx, kyy), kxy, kxx, kyy)

    def derivative_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return 0.5 + _tail(2 * safe_sqrt(kxx))


def _expectation(order: int, cosine: Array, kxy: Array, kxx: Array, kyy: Array) -> Array:
    """E[phi(u) phi(v)] for order 0, its derivative in k_xy for order 1."""
    x, y = safe_sqrt(kxx), safe_sqrt(kyy)
    far = kxy > 2
    start = jnp.where(far, x * y, 0)
    value, slope, curvature = (
        jnp.where(far, a, b) for a, b in zip(_correlated(x, y), _independent(x, y), strict=True)
    )
    step = kxy - start
    known = value + slope * step if order == 0 else slope
    first = jnp.where(far, math.pi / 2, jnp.zeros_like(kxy))
    return (
        known
        + curvature * _growth(order, step)
        + _integral(order, kxy, x, y, first, math.pi / 2 - angle(cosine))
    )


def _independent(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """E[phi phi], E[phi' phi'] and E[phi'' phi''] at k_xy = 0."""
    tail_x, tail_y = _tail(x), _tail(y)
    mean_x, mean_y = (
        tail - 0.5 + a / math.sqrt(2 * math.pi) for tail, a in ((tail_x, x), (tail_y, y))
    )
    return mean_x * mean_y, (0.5 + tail_x) * (0.5 + tail_y), tail_x * tail_y


def _correlated(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """The same where v = u y / x; the first is a difference, for x y that are not small."""
    both = _tail(x + y)
    return x * y / 2 + both - (_tail(x) + _tail(y)) + 0.5, 0.5 + both, both


def _growth(order: int, step: Array) -> Array:
    """exp(r) - 1 - r, or its derivative."""
    return jnp.expm1(step) - step if order == 0 else jnp.expm1(step)


def _integral(order: int, kxy: Array, x: Array, y: Array, first: Array, last: Array) -> Array:
    nodes, weights = (
        jnp.asarray(value, kxy.dtype) for value in _legendre(20 if kxy.dtype == jnp.float64 else 10)
    )

    @jax.checkpoint  # or the derivative stores every node's intermediate results
    def add(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = node
        p = first + (last - first) * place
        cos = jnp.cos(p)
        source = 1 - math.sqrt(2 * math.pi) * cos * (
            _times_tail(x, x * cos) + _times_tail(y, y * cos)
        )
        return total + weight * source * _growth(order, kxy - x * y * jnp.sin(p)), None

    start = jnp.zeros(jnp.broadcast_shapes(kxy.shape, x.shape, y.shape), kxy.dtype)
    return (last - first) / (2 * math.pi) * jax.lax.scan(add, start, (nodes, weights))[0]


@functools.cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def _tail(a: Array) -> Array:
    """H(a)"""
    return _times_tail(jnp.ones_like(a), a)


@jax.custom_jvp
def _times_tail(factor: Array, a: Array) -> Array:
    """factor H(a), H(a) = exp(a^2/2) Phi(-a) for a >= 0, whose factors overflow.

    It is a polynomial in (a-b)/(a+b).

    The division is last, because a product would be fused with a sum after it, and two of them not
    commute bitwise.
    """
    coefficients = _tail_coefficients(24 if a.dtype == jnp.float64 else 12)
    w = (a - _MIDDLE) / (a + _MIDDLE)
    total = jnp.full_like(a, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * w + c
    return factor * total / (1 + math.sqrt(2) * a)


@_times_tail.defjvp
def _times_tail_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (factor, a), (factor_dot, a_dot) = primals, tangents
    tail = _tail(a)
    slope = a * tail - 1 / math.sqrt(2 * math.pi)
    return _times_tail(factor, a), tail * factor_dot + factor * slope * a_dot


_MIDDLE = 3 * math.sqrt(2)


@functools.cache
def _tail_coefficients(degree: int) -> tuple[float, ...]:
    """Of (1 + sqrt(2) a) H(a), lowest power first, by a Chebyshev series."""

    w = np.polynomial.chebyshev.chebpts1(degree + 1)
    a = _MIDDLE * (1 + w) / (1 - w)
    scaled = (
        (1 + math.sqrt(2) * a) * np.array([_mills(value) for value in a]) / math.sqrt(2 * math.pi)
    )
    series = np.polynomial.chebyshev.chebfit(w, scaled, degree)  # through all the points
    return tuple(np.polynomial.chebyshev.cheb2poly(series).tolist())


def _mills(a: float) -> float:
    """sqrt(2 pi) H(a): by its factors, or by Laplace's continued fraction for distant ones."""
    if a < 3:
        return math.sqrt(math.pi / 2) * math.exp(a * a / 2) * math.erfc(a / math.sqrt(2))
    return 1 / functools.reduce(lambda below, k: a + k / below, range(200, 0, -1), a)
