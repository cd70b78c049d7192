"""Kernels of infinitely wide layers: expectations E[phi(u) phi(v)] over Gaussian (u, v) with covariance k.

They depend on the angle t between two points, cos t = k_xy / sqrt(k_xx k_yy). Near t = 0 the sine and the angle
must come from the same 1 - |cos t|, or rounding of size eps in the cosine becomes an error of size sqrt(eps) in the
kernel; and the derivatives, which have closed forms, are written down, because those of sqrt and arccos are infinite.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dkp._types import Array, Float
from dkp.kernels.base import PointwiseKernel

__all__ = ["ArcCosine"]


class ArcCosine(PointwiseKernel):
    """The arc-cosine kernel: E[phi(u) phi(v)] for a step (order 0) or a rectifier (order 1).

    With t = arccos(k_xy / sqrt(k_xx k_yy)) in [0, pi]:

    - order 0, phi(u) = [u > 0]:    k' = (pi - t) / pi,
    - order 1, phi(u) = max(u, 0):  k' = sqrt(k_xx k_yy) (sin t + (pi - t) cos t) / pi,

    both twice the expectation. This normalisation keeps the diagonal (order 1: k'_xx = k_xx, He's initialisation)
    or makes it 1 (order 0). A point of variance k_xx = 0 is uncorrelated with all others: cos t = 0.

    Derivatives are finite everywhere: where the true one is infinite (order 0 at |cos t| = 1, both at k_xx = 0),
    0 stands in for it.

    Args:
        order: 0 or 1; fixed.
        normalised: False gives the plain expectation, half of the above.

    Raises:
        ValueError: for another order.

    Source: Cho & Saul 2009, equations 1 to 6.
    """

    order: int
    normalised: bool = True

    def __post_init__(self) -> None:
        if self.order not in (0, 1):
            raise ValueError(f"Expected ArcCosine(order, …) to be 0 (step) or 1 (rectifier). Got {self.order!r}.")

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        value = _step(kxy, kxx, kyy) if self.order == 0 else _rectifier(kxy, kxx, kyy)
        return value if self.normalised else value / 2

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        value = jnp.ones_like(kxx) if self.order == 0 else kxx
        return value if self.normalised else value / 2


def _step(kxy: Array, kxx: Array, kyy: Array) -> Array:
    return 1 - _angle(_cosine(kxy, kxx, kyy)) / math.pi


@jax.custom_jvp
def _rectifier(kxy: Array, kxx: Array, kyy: Array) -> Array:
    # With the acute angle s = min(t, pi - t): max(k_xy, 0) + sqrt(k_xx k_yy) (sin s - s cos s) / pi. The second term
    # is of size s^3, so that a rounding error in the cosine is not magnified at either end.
    gap = 1 - jnp.abs(_cosine(kxy, kxx, kyy))
    excess = _sine(gap) - _acute_angle(gap) * (1 - gap)
    return jnp.maximum(kxy, 0) + (_sqrt(kxx) * _sqrt(kyy)) * excess / math.pi


@_rectifier.defjvp
def _rectifier_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # d/dk_xy = (pi - t) / pi and d/dk_xx = sin t sqrt(k_yy / k_xx) / (2 pi)
    (kxy, kxx, kyy), (kxy_dot, kxx_dot, kyy_dot) = primals, tangents
    cosine = _cosine(kxy, kxx, kyy)
    half_sine = _sine(1 - jnp.abs(cosine)) / (2 * math.pi)
    from_x = _sqrt(kyy) * (_inverse_sqrt(kxx) * kxx_dot)
    from_y = _sqrt(kxx) * (_inverse_sqrt(kyy) * kyy_dot)
    return _rectifier(kxy, kxx, kyy), (1 - _angle(cosine) / math.pi) * kxy_dot + half_sine * (from_x + from_y)


@jax.custom_jvp
def _cosine(kxy: Array, kxx: Array, kyy: Array) -> Array:
    """k_xy / sqrt(k_xx k_yy), and 0 where a variance is 0; rounding may carry it past 1."""
    return kxy * (_inverse_sqrt(kxx) * _inverse_sqrt(kyy))


@_cosine.defjvp
def _cosine_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # Logarithmic derivatives: the plain chain rule has k_xx^(-3/2), which overflows for small variances.
    (kxy, kxx, kyy), (kxy_dot, kxx_dot, kyy_dot) = primals, tangents
    x, y = _inverse_sqrt(kxx), _inverse_sqrt(kyy)
    cosine = _cosine(kxy, kxx, kyy)
    return cosine, (x * y) * kxy_dot - cosine * (x * x * kxx_dot + y * y * kyy_dot) / 2


@jax.custom_jvp
def _angle(cosine: Array) -> Array:
    """arccos in [0, pi], clipped, with derivative 0 at |cosine| >= 1."""
    acute = _acute_angle(1 - jnp.abs(cosine))
    return jnp.where(cosine < 0, math.pi - acute, acute)


@_angle.defjvp
def _angle_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (cosine,), (cosine_dot,) = primals, tangents
    gap = 1 - jnp.abs(cosine)
    return _angle(cosine), -_inverse_sqrt(gap * (2 - gap)) * cosine_dot


def _sine(gap: Array) -> Array:
    """sin t from gap = 1 - |cos t|."""
    return _sqrt(2 * gap) * jnp.sqrt(1 - gap / 2)


def _acute_angle(gap: Array) -> Array:
    """arccos(1 - gap) = sqrt(2 gap) p(gap), for gap in [0, 1], to two units in the last place.

    A polynomial is vectorised and fused with its surroundings: seven (float64) to thirty (float32) times faster than
    ``jnp.arccos``, which would take longer than the matrix products around the kernel.
    """
    coefficients = _arccos_coefficients(19 if gap.dtype == jnp.float64 else 8)
    return _sqrt(2 * gap) * functools.reduce(lambda sum, c: sum * (2 * gap - 1) + c, coefficients[::-1])


@functools.cache
def _arccos_coefficients(degree: int) -> tuple[float, ...]:
    """Of p(w) = arccos(1 - w) / sqrt(2 w) on [0, 1] in powers of 2 w - 1, lowest first, by a Chebyshev series.

    Each Chebyshev coefficient is a sum of positive terms, from p(w) = sum_k C(2k, k) / (2k + 1) (w/8)^k and
    w^k = 4^-k (C(2k, k) + 2 sum_j C(2k, k-j) T_j(2 w - 1)): it is exact to rounding, however small.
    """
    terms = range(64)  # the next is below 2^-64
    power = [math.comb(2 * k, k) / (8**k * (2 * k + 1)) for k in terms]
    series = [sum(power[k] * math.comb(2 * k, k - j) / 4**k for k in terms[j:]) for j in range(degree + 1)]
    doubled = [series[0], *(2 * value for value in series[1:])]
    return tuple(float(c) for c in np.polynomial.chebyshev.cheb2poly(doubled))


# The two roots are safe under plain differentiation: the rules above are lost in a loop that is differentiated twice.


def _sqrt(value: Array) -> Array:
    """sqrt(value), and 0 where value is not positive."""
    positive = value > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1)), 0)


def _inverse_sqrt(value: Array) -> Array:
    """1 / sqrt(value), and 0 where value is not positive (or so small that its inverse is no number)."""
    positive = value >= jnp.finfo(value.dtype).tiny
    return jnp.where(positive, 1 / jnp.sqrt(jnp.where(positive, value, 1)), 0)
