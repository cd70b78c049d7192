"""Twice E[u+^n v+^n] over Gaussian (u, v) with covariance k.

Here u+^n = max(u, 0)^n, and u+^0 is the step [u > 0].

These moments depend on the angle t between two points, cos t = k_xy / sqrt(k_xx k_yy). Near t = 0
the sine and the angle must come from the same 1 - |cos t|, or rounding of size eps in the cosine
becomes an error of size sqrt(eps) in the kernel; and the derivatives, which have closed forms, are
written down, because those of sqrt and arccos are infinite.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.description import hyperparameter, learn
from dkp._core.types import Array, Float
from dkp.kernels.base import PointwiseKernel

__all__ = [
    "NormalisedGaussian",
    "angle",
    "correlation",
    "inverse_sqrt",
    "monomial_moments",
    "pairings",
    "rectified_moment",
    "rectified_moment_slope",
    "sqrt",
]


def rectified_moment(order: int, kxy: Array, kxx: Array, kyy: Array) -> Array:
    """2 E[u+^n v+^n] = (k_xx k_yy)^(n/2) J_n(t) / pi, with J_n of Cho & Saul 2009, equation 4."""
    if order == 0:
        return _step(kxy, kxx, kyy)
    if order == 1:
        return _rectifier(kxy, kxx, kyy)
    scale = _half_power(kxx, order) * _half_power(kyy, order)
    return scale * _angular(order, correlation(kxy, kxx, kyy))


def rectified_moment_slope(order: int, kxy: Array, kxx: Array, kyy: Array) -> Array:
    """d/dk_xy of the moment: n^2 times the one of order n - 1.

    For order 0, 0 stands in for infinity at |cos t| = 1.
    """
    if order > 0:
        return order**2 * rectified_moment(order - 1, kxy, kxx, kyy)
    kxy = jnp.broadcast_to(kxy, jnp.broadcast_shapes(kxy.shape, kxx.shape, kyy.shape))
    return jax.jvp(lambda kxy: _step(kxy, kxx, kyy), (kxy,), (jnp.ones_like(kxy),))[1]


def monomial_moments(order: int) -> list[int]:
    """P_n in powers of the cosine, lowest first: E[u^n v^n] for unit variances.

    Isserlis' theorem: k of the u are paired with k of the v, the rest among themselves.
    """
    return [
        math.factorial(k) * math.comb(order, k) ** 2 * pairings(order - k) ** 2
        if (order - k) % 2 == 0
        else 0
        for k in range(order + 1)
    ]


def pairings(count: int) -> int:
    """(count - 1)!!, the number of ways of pairing an even number of things."""
    return math.prod(range(1, count, 2))


def _step(kxy: Array, kxx: Array, kyy: Array) -> Array:
    return 1 - angle(correlation(kxy, kxx, kyy)) / math.pi


@jax.custom_jvp
def _rectifier(kxy: Array, kxx: Array, kyy: Array) -> Array:
    # With the acute angle s = min(t, pi - t): max(k_xy, 0) + sqrt(k_xx k_yy) (sin s - s cos s) /
    # pi. The second term is of size s^3, so that a rounding error in the cosine is not magnified at
    # either end.
    gap = 1 - jnp.abs(correlation(kxy, kxx, kyy))
    excess = _sine(gap) - _acute_angle(gap) * (1 - gap)
    return jnp.maximum(kxy, 0) + (sqrt(kxx) * sqrt(kyy)) * excess / math.pi


@_rectifier.defjvp
def _rectifier_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # d/dk_xy = (pi - t) / pi and d/dk_xx = sin t sqrt(k_yy / k_xx) / (2 pi)
    (kxy, kxx, kyy), (kxy_dot, kxx_dot, kyy_dot) = primals, tangents
    cosine = correlation(kxy, kxx, kyy)
    half_sine = _sine(1 - jnp.abs(cosine)) / (2 * math.pi)
    from_x = sqrt(kyy) * (inverse_sqrt(kxx) * kxx_dot)
    from_y = sqrt(kxx) * (inverse_sqrt(kyy) * kyy_dot)
    return _rectifier(kxy, kxx, kyy), (1 - angle(cosine) / math.pi) * kxy_dot + half_sine * (
        from_x + from_y
    )


def _half_power(variance: Array, order: int) -> Array:
    """variance^(n/2), by a power that is exact for even n."""
    whole = variance ** (order // 2)
    return whole * sqrt(variance) if order % 2 else whole


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _angular(order: int, cosine: Array) -> Array:
    """J_n / pi = ((pi - t) P_n(cos t) + sin t Q_n(cos t)) / pi for n >= 1, with polynomials P, Q.

    In the acute angle s this is P_n(cos s) [t < pi/2] and a remainder of size s^(2n+1): rounding is
    not magnified.
    """
    size = jnp.abs(cosine)
    even = _horner(monomial_moments(order), size)
    remainder = (
        _acute_angle(1 - size) * even - _sine(1 - size) * _horner(_sine_factor(order), size)
    ) / math.pi
    obtuse = -remainder if order % 2 else remainder
    return jnp.where(cosine < 0, obtuse, even - remainder)


@_angular.defjvp
def _angular_jvp(order: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (cosine,), (cosine_dot,) = primals, tangents
    slope = order**2 * _angular(order - 1, cosine) if order > 1 else 1 - angle(cosine) / math.pi
    return _angular(order, cosine), slope * cosine_dot


def _horner(coefficients: list[int], x: Array) -> Array:
    total = jnp.zeros_like(x)
    for c in coefficients[::-1]:
        total = total * x + float(c)
    return total


@functools.cache
def _sine_factor(order: int) -> list[int]:
    """Q_n in powers of the cosine c, lowest first.

    dJ_n/dc = n^2 J_(n-1) says P_n - c Q_n + (1 - c^2) Q_n' = n^2 (1 - c^2) Q_(n-1). Q_n has the
    parity of n - 1; for odd n it starts with J_n(pi/2) = 2 pi E[u+^n]^2.
    """
    if order == 0:
        return []
    moments, below = monomial_moments(order), dict(enumerate(_sine_factor(order - 1)))
    factor = {0: math.prod(range(2, order, 2)) ** 2 if order % 2 else 0}
    for k in range(order - 1):
        right = order**2 * (below.get(k, 0) - below.get(k - 2, 0)) - moments[k]
        factor[k + 1] = (right + k * factor.get(k - 1, 0)) // (k + 1)
    return list(factor.values())


@jax.custom_jvp
def correlation(kxy: Array, kxx: Array, kyy: Array) -> Array:
    """k_xy / sqrt(k_xx k_yy), and 0 where a variance is 0; rounding may carry it past 1."""
    return kxy * (inverse_sqrt(kxx) * inverse_sqrt(kyy))


@correlation.defjvp
def _correlation_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    # Logarithmic derivatives: the plain chain rule has k_xx^(-3/2), which overflows for small
    # variances.
    (kxy, kxx, kyy), (kxy_dot, kxx_dot, kyy_dot) = primals, tangents
    x, y = inverse_sqrt(kxx), inverse_sqrt(kyy)
    cosine = correlation(kxy, kxx, kyy)
    return cosine, (x * y) * kxy_dot - cosine * (x * x * kxx_dot + y * y * kyy_dot) / 2


@jax.custom_jvp
def angle(cosine: Array) -> Array:
    """arccos in [0, pi], clipped, with derivative 0 at |cosine| >= 1."""
    acute = _acute_angle(1 - jnp.abs(cosine))
    return jnp.where(cosine < 0, math.pi - acute, acute)


@angle.defjvp
def _angle_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (cosine,), (cosine_dot,) = primals, tangents
    gap = 1 - jnp.abs(cosine)
    return angle(cosine), -inverse_sqrt(gap * (2 - gap)) * cosine_dot


def _sine(gap: Array) -> Array:
    """sin t from gap = 1 - |cos t|."""
    return sqrt(2 * gap) * jnp.sqrt(1 - gap / 2)


def _acute_angle(gap: Array) -> Array:
    """arccos(1 - gap) = sqrt(2 gap) p(gap), for gap in [0, 1], to two units in the last place.

    A polynomial is vectorised and fused with its surroundings: seven (float64) to thirty (float32)
    times faster than ``jnp.arccos``, which would take longer than the matrix products around the
    kernel.
    """
    coefficients = _arccos_coefficients(19 if gap.dtype == jnp.float64 else 8)
    return sqrt(2 * gap) * functools.reduce(
        lambda sum, c: sum * (2 * gap - 1) + c, coefficients[::-1]
    )


@functools.cache
def _arccos_coefficients(degree: int) -> tuple[float, ...]:
    """Of p(w) = arccos(1 - w) / sqrt(2 w) on [0, 1] in powers of 2 w - 1, lowest first.

    They come from a Chebyshev series.

    Each Chebyshev coefficient is a sum of positive terms, from p(w) = sum_k C(2k, k) / (2k + 1)
    (w/8)^k and w^k = 4^-k (C(2k, k) + 2 sum_j C(2k, k-j) T_j(2 w - 1)): it is exact to rounding,
    however small.
    """
    terms = range(64)  # the next is below 2^-64
    power = [math.comb(2 * k, k) / (8**k * (2 * k + 1)) for k in terms]
    series = [
        sum(power[k] * math.comb(2 * k, k - j) / 4**k for k in terms[j:]) for j in range(degree + 1)
    ]
    doubled = [series[0], *(2 * value for value in series[1:])]
    return tuple(float(c) for c in np.polynomial.chebyshev.cheb2poly(doubled))


def sqrt(value: Array) -> Array:
    """sqrt(value), and 0 where value is not positive."""
    positive = value > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1)), 0)


def inverse_sqrt(value: Array) -> Array:
    """1 / sqrt(value), and 0 where value is not positive or its inverse would be no number."""
    positive = value >= jnp.finfo(value.dtype).tiny
    return jnp.where(positive, 1 / jnp.sqrt(jnp.where(positive, value, 1)), 0)


class NormalisedGaussian(PointwiseKernel):
    """k'(x, y) = variance * sqrt(k_xx k_yy) exp(c - 1), with c = k_xy / sqrt(k_xx k_yy).

    This is a squared exponential of unit length-scale on points that are scaled to norm 1, because
    then |x - y|^2 / 2 = 1 - c, times their norms. The diagonal is variance * k_xx, and multiplying
    the Gram matrix by a number multiplies the kernel by it: in a deep network variances neither
    saturate nor vanish.

    A point of variance k_xx = 0 has k'(x, y) = 0 and c = 0. The derivative in k_xx, which is
    infinite there, is 0.

    Args:
        variance: positive.

    Raises:
        ValueError: when a number or an initial value is not positive and finite.

    Source: Milsom, Anson & Aitchison 2024 (arXiv 2410.06171), the "normalised Gaussian" kernel of
    their code.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Linear(), kernels.NormalisedGaussian(variance=1.0)]
        >>> print(nngp_kernel(layers, x).round(3))
        [[2.    1.055]
         [1.055 1.   ]]
    """

    variance: Any = hyperparameter(default=learn(1.0))

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return self.variance * _normalised_gaussian(kxy, kxx, kyy)

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.variance * kxx

    def derivative(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return self.variance * jnp.exp(correlation(kxy, kxx, kyy) - 1)

    def derivative_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.variance * jnp.ones_like(kxx)


@jax.custom_jvp
def _normalised_gaussian(kxy: Array, kxx: Array, kyy: Array) -> Array:
    return (sqrt(kxx) * sqrt(kyy)) * jnp.exp(correlation(kxy, kxx, kyy) - 1)


@_normalised_gaussian.defjvp
def _normalised_gaussian_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    # d/dk_xy = exp(c - 1) and d/dk_xx = (1 - c) exp(c - 1) sqrt(k_yy / k_xx) / 2: the plain chain
    # rule divides by k_xx k_yy, which underflows for small variances.
    (kxy, kxx, kyy), (kxy_dot, kxx_dot, kyy_dot) = primals, tangents
    cosine = correlation(kxy, kxx, kyy)
    slope = jnp.exp(cosine - 1)
    from_x = sqrt(kyy) * (inverse_sqrt(kxx) * kxx_dot)
    from_y = sqrt(kxx) * (inverse_sqrt(kyy) * kyy_dot)
    return _normalised_gaussian(kxy, kxx, kyy), slope * (
        kxy_dot + (1 - cosine) / 2 * (from_x + from_y)
    )
