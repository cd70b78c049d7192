"""Positive stable distributions: random variances of weights.

They make the weights of a network heavy-tailed.

A normal variable whose variance is positive stable is symmetric stable. Weights that are scaled by
one such variable a layer, or one a feature, leave a network Gaussian given these scales: its kernel
is the usual recursion with random variances of weights, and any layer that has a variance of
weights can be given one.
"""

# NumPyro declares supports as properties and leaves them to be overridden by constants: until its
# base classes annotate them as attributes (seen in 0.22).
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammaln
from numpyro.distributions import Distribution, TransformedDistribution, constraints
from numpyro.distributions.transforms import PowerTransform
from numpyro.distributions.util import validate_sample

from dkp._core.records import register
from dkp._core.types import Array, Float, PRNGKeyArray

__all__ = ["PositiveStable", "SqrtPositiveStable"]


@register
class PositiveStable(Distribution):
    """Law of S > 0 with Laplace transform E[exp(-t S)] = exp(-t^a), for 0 < a < 1.

    With U uniform on (0, pi), E ~ Exp(1) and
    A(u) = [sin(a u)^a sin((1 - a) u)^(1 - a) / sin u]^(1 / (1 - a)),

        S = (A(U) / E)^(1 / b),   b = a / (1 - a),
        p(s) = b / (pi s) * integral of z exp(-z) over u,   z = A(u) s^-b.

    The integral is computed to about 1e-12 relative (1e-5 in float32). Moments of order a and
    higher are infinite: E[S^p] = Gamma(1 - p / a) / Gamma(1 - p) for p < a. As a -> 1, S -> 1.

    For Z ~ N(0, 1), sqrt(2 S) Z is the symmetric alpha-stable variable with characteristic function
    exp(-|t|^alpha), alpha = 2 a: the Cauchy distribution for a = 1/2. So the layer of a deep
    alpha-stable kernel process, with weights sqrt(S) N(0, 1) and one S a layer, is
    ``kernels.Affine(weight_var=PositiveStable(alpha / 2), bias_var=1.0)``, and its first layer,
    with one S a feature, is ``kernels.Linear(ard=True, weights=SqrtPositiveStable(alpha / 2))``.

    Args:
        concentration: a, a scalar or any batch shape, in (0, 1).

    Raises:
        ValueError: when a concrete `concentration` is not in (0, 1).

    Source: Zolotarev 1966 (the integral) and Kanter 1975 (the draws); as scales of deep networks:
    Loria & Bhadra 2025 (arXiv 2410.01284).

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.distributions import PositiveStable
        >>> print(f"{jnp.exp(PositiveStable(0.5).log_prob(1.0)):.3f}")
        0.220
    """

    arg_constraints = {"concentration": constraints.open_interval(0.0, 1.0)}
    support = constraints.positive
    reparametrized_params = ["concentration"]

    def __init__(self, concentration: Array | float, *, validate_args: bool | None = None) -> None:
        _check_concentration(concentration)
        self.concentration = jnp.asarray(concentration)
        super().__init__(jnp.shape(self.concentration), (), validate_args=validate_args)

    def sample(
        self, key: PRNGKeyArray, sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape"]:
        shape, a = sample_shape + self.batch_shape, self.concentration
        key_angle, key_exponential = jax.random.split(key)
        t = jax.random.logistic(key_angle, shape, a.dtype)  # U = pi sigmoid(t)
        a = jnp.broadcast_to(a, shape)
        log_e = jnp.log(jax.random.exponential(key_exponential, shape, a.dtype))
        log_s = (1 - a) / a * (_log_smallest(a) + _log_growth(a, t) - log_e)
        # For small a, the largest draws exceed what the dtype can represent.
        limits = jnp.finfo(a.dtype)
        return jnp.clip(jnp.exp(log_s), limits.tiny, limits.max)

    @validate_sample
    def log_prob(self, value: Any) -> Float[Array, "*shape"]:
        value = jnp.asarray(value)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            value = value.astype(self.concentration.dtype)
        shape = jnp.broadcast_shapes(self.batch_shape, value.shape)
        a = jnp.broadcast_to(self.concentration.astype(value.dtype), shape)
        log_s = jnp.log(jnp.maximum(jnp.broadcast_to(value, shape), jnp.finfo(value.dtype).tiny))
        return _log_density_of_log(a, log_s) - log_s

    @property
    def mean(self) -> Array:
        return jnp.full(self.batch_shape, jnp.inf, self.concentration.dtype)

    @property
    def variance(self) -> Array:
        return jnp.full(self.batch_shape, jnp.inf, self.concentration.dtype)


@register
class SqrtPositiveStable(TransformedDistribution):
    """Law of sqrt(S), with S from :class:`PositiveStable`: a random standard deviation of weights.

    For kernels that take standard deviations: with ``kernels.Linear(ard=True,
    weights=SqrtPositiveStable(alpha / 2))`` the first kernel is X diag(s) X^T / D, one S a feature.

    Args:
        concentration: a, a scalar or any batch shape, in (0, 1).

    Raises:
        ValueError: when a concrete `concentration` is not in (0, 1).

    Source: Loria & Bhadra 2025 (arXiv 2410.01284).

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.distributions import SqrtPositiveStable
        >>> print(f"{jnp.exp(SqrtPositiveStable(0.5).log_prob(1.0)):.3f}")
        0.439
    """

    def __init__(self, concentration: Array | float, *, validate_args: bool | None = None) -> None:
        base = PositiveStable(concentration, validate_args=validate_args)
        super().__init__(
            base,
            PowerTransform(jnp.asarray(0.5, base.concentration.dtype)),
            validate_args=validate_args,
        )

    @property
    def concentration(self) -> Array:
        return self.base_dist.concentration  # type: ignore[attr-defined]

    @property
    def mean(self) -> Array:
        order = 1 - 1 / (2 * self.concentration)
        finite = jnp.exp(gammaln(jnp.where(order > 0, order, 1))) / math.sqrt(math.pi)
        return jnp.where(order > 0, finite, jnp.inf)

    @property
    def variance(self) -> Array:
        return jnp.full(self.batch_shape, jnp.inf, self.concentration.dtype)


def _log_density_of_log(a: Array, log_s: Array) -> Array:
    """log of the density of log S: log(b / pi) + log of an integral.

    It is that of z exp(-z) over u in (0, pi).

    By the trapezoidal rule in a variable r in which the integrand has one hump of about unit width,
    whatever a and s are. Where A is at its smallest, A(0), log(A / A(0)) is about u^2; towards pi,
    it is about -log(pi - u) / (1 - a), or for a near 1 first pi / (pi - u). All this is
    w = log(1 + e^r) with u = pi sigmoid(t), e^t = expm1((1 - a) w) sqrt(1 + 1 / w) pi / sin(pi a);
    the hump is where A(0) s^-b e^r is 1.
    """
    limits, step = jnp.finfo(log_s.dtype), 0.25
    # To the left the integrand falls like e^(r / 2) or faster; for a < 1/2 and s beyond e^(span /
    # b), like e^(a r).
    span = -2 * math.log(float(limits.eps))
    a, offsets = a[..., None], jnp.arange(-span, 5.0, step, dtype=log_s.dtype)
    log_x = _log_smallest(a) - a / (1 - a) * log_s[..., None]
    # the integral does not depend on the nodes
    hump = jax.lax.stop_gradient(jnp.maximum(-log_x, -span))
    nodes = hump + offsets.reshape((1,) * log_s.ndim + offsets.shape)
    t, log_slope = _path(a, nodes)
    # The bound keeps densities finite that are 0 for all purposes, and with them the gradient.
    log_z = jnp.minimum(log_x + _log_growth(a, t), 0.5 * math.log(float(limits.max)))
    log_integrand = log_z - jnp.exp(log_z) + log_slope
    a = a[..., 0]
    return jnp.log(a / (1 - a) * (step / math.pi)) + jax.nn.logsumexp(log_integrand, axis=-1)


def _path(a: Array, r: Array) -> tuple[Array, Array]:
    """t(r), and log(du / dr) of u = pi sigmoid(t(r))."""
    w = jax.nn.softplus(r)
    growth = (1 - a) * w
    # below, the ratio is 1, and its derivative would overflow
    bounded = jnp.maximum(growth, jnp.finfo(r.dtype).eps)
    ratio = bounded / -jnp.expm1(-bounded)
    t = (
        growth
        + jnp.log(growth / ratio)
        + jnp.log1p(1 / w) / 2
        + jnp.log(math.pi / jnp.sin(math.pi * a))
    )
    log_dt = jnp.log(ratio - 0.5 / (1 + w)) - jnp.log(w) + jax.nn.log_sigmoid(r)
    return t, math.log(math.pi) + log_dt + jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t)


def _log_smallest(a: Array) -> Array:
    """log A(0)."""
    return jnp.log1p(-a) + a / (1 - a) * jnp.log(a)


def _log_growth(a: Array, t: Array) -> Array:
    """log(A(u) / A(0)) at u = pi sigmoid(t)."""
    logs = a * _log_sinc(a, t) + (1 - a) * _log_sinc(1 - a, t) - _log_sinc(jnp.ones_like(a), t)
    return logs / (1 - a)


def _log_sinc(fraction: Array, t: Array) -> Array:
    """log(sin(v) / v) at v = fraction * u.

    Where u is near pi it comes from pi - u, which has more digits.
    """
    u, rest = math.pi * jax.nn.sigmoid(t), math.pi * jax.nn.sigmoid(-t)
    angle = jnp.where(t < 0, fraction * u, math.pi * (1 - fraction) + fraction * rest)
    return jnp.log(jnp.sin(angle) / (fraction * u))


def _check_concentration(concentration: Array | float) -> None:
    if isinstance(concentration, Tracer):
        return
    # not jnp: under jit its comparisons are traced, even those of constants
    value = np.asarray(concentration)
    if not np.all((value > 0) & (value < 1)):
        raise ValueError(
            f"Expected concentration to lie between 0 and 1, both excluded. Got {concentration}."
        )
