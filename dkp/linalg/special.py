"""Special functions: multivariate gamma and digamma, moments of roots, a safe square root.

The derivatives of the latter are finite.

Kernels evaluate the square root at the end of its domain, on the diagonal of every Gram matrix,
where the true derivative is infinite; rounding even steps outside. The safe version below has
derivative zero there. A kernel whose own derivative has a finite limit at such a point takes care
of it itself.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from dkp._core.checks import positive_int
from dkp._core.types import Array, Float

__all__ = ["gamma_root_moments", "multidigamma", "multigammaln", "safe_sqrt"]


def multigammaln(a: Float[Array, "*shape"], p: int) -> Float[Array, "*shape"]:
    r"""Logarithm of the multivariate gamma function.

    log Γ_p(a) = p (p - 1)/4 log π + Σ_{j=0}^{p-1} log Γ(a - j/2)

    (Muirhead, *Aspects of Multivariate Statistical Theory*, 1982, Theorem 2.1.12.) Its derivative
    in `a` is :func:`multidigamma`.

    Args:
        a: real, larger than (p - 1)/2; elsewhere the result is NaN.
        p: size of the matrices, a positive integer known when tracing.

    Raises:
        ValueError: when `p` is not a positive integer.
    """
    arguments = _arguments(a, p)
    return p * (p - 1) / 4 * math.log(math.pi) + jnp.sum(gammaln(arguments), axis=-1)


def multidigamma(a: Float[Array, "*shape"], p: int) -> Float[Array, "*shape"]:
    r"""Derivative of the logarithm of the multivariate gamma function.

    ψ_p(a) = d log Γ_p(a) / da = Σ_{j=0}^{p-1} ψ(a - j/2)

    Args:
        a: real, larger than (p - 1)/2; elsewhere the result is NaN.
        p: size of the matrices, a positive integer known when tracing.

    Raises:
        ValueError: when `p` is not a positive integer.
    """
    return jnp.sum(digamma(_arguments(a, p)), axis=-1)


def _arguments(a: Float[Array, "*shape"], p: int) -> Float[Array, "*shape p"]:
    """a - j/2 for j < p on a new last axis, NaN where one of them is not positive."""
    p = positive_int("p", p)
    inside = jnp.where(a > (p - 1) / 2, a, jnp.nan)
    halves = jnp.arange(p, dtype=a.dtype) / 2
    return inside[..., None] - jnp.reshape(halves, (1,) * a.ndim + (p,))


@jax.custom_jvp
def safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root of max(x, 0), with derivative 1/(2 sqrt(x)) for x > 0 and 0 for x <= 0.

    Derivatives of every order are finite wherever they can be represented.
    """
    # Written so that plain differentiation is finite too: a second derivative through `lax.scan`
    # drops the rule below.
    outside = x <= 0  # False for NaN, which stays NaN
    return jnp.where(outside, jnp.zeros_like(x), jnp.sqrt(jnp.where(outside, jnp.ones_like(x), x)))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    root = safe_sqrt(x)
    return root, _reciprocal_where(x > 0, 2 * root) * x_dot


def _reciprocal_where(mask: Array, x: Array) -> Array:
    """1/x where `mask` holds and 0 elsewhere.

    The inner `where` keeps the division out of the derivatives as well.
    """
    return jnp.where(mask, 1 / jnp.where(mask, x, jnp.ones_like(x)), jnp.zeros_like(x))


_SERIES = (-1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144, 869 / 4194304, 39325 / 33554432)
_LARGE = 16.0


def gamma_root_moments(
    a: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""Mean and variance of √X for X ~ Gamma(a, 1), a > 0.

    E √X = Γ(a + 1/2) / Γ(a),   Var √X = a - (E √X)²,   which tends to 1/4.

    For large `a` by the series of the ratio in 1/a (DLMF 5.11.13), which neither overflows nor
    cancels.
    """
    large = a > _LARGE
    safe = jnp.where(large, a, jnp.full_like(a, _LARGE))
    shortfall, power = jnp.zeros_like(a), jnp.ones_like(a)
    for coefficient in _SERIES:
        power = power / safe
        shortfall = shortfall - coefficient * power  # 1 - E √X / √a
    root = jnp.sqrt(safe)
    small = jnp.where(large, jnp.full_like(a, _LARGE), a)
    ratio = jnp.exp(gammaln(small + 0.5) - gammaln(small))
    mean = jnp.where(large, root * (1 - shortfall), ratio)
    return mean, jnp.where(large, safe * shortfall * (2 - shortfall), small - ratio**2)
