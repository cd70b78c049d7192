"""Laws of the data blocks of a random Gram matrix, given its inducing block."""

import jax.numpy as jnp

from dkp._core.types import Array, Float, PRNGKeyArray, Scalar
from dkp.gram.gram import Gram
from dkp.linalg.cholesky import Cholesky
from dkp.linalg.diagonals import squared_norms
from dkp.linalg.random import gamma_and_normal, normal

__all__ = [
    "inverse_wishart_conditional",
    "inverse_wishart_conditional_mean",
    "wishart_conditional",
    "wishart_conditional_mean",
]


def inverse_wishart_conditional(
    key: PRNGKeyArray,
    kernel: Gram,
    scale: Cholesky,
    delta: Scalar,
    factor: Float[Array, "P P"],
    whitened: Float[Array, "P P"] | None = None,
) -> Gram:
    """Draw (G_ti, g_tt) of every data point by itself, given G_ii = S S^T.

    For G ~ IW(delta K, delta + P + 1),

    With K_ii = L L^T, A = L^-1 K_it and k_tt.i = k_tt - ||A_t||^2, point by point:

        g_tt.i ~ InverseGamma((delta + P + 2) / 2, delta k_tt.i / 2)
        W_t    = (L^-1 S)^T (A_t + e_t sqrt(g_tt.i / delta)),   e_t ~ N(0, I_P)
        G_it   = S W_t,   g_tt = g_tt.i + ||W_t||^2

    which is the marginal of the joint law whatever the number of points (the shape of the inverse
    gamma must not grow with the batch: a 1 x 1 block of a larger inverse Wishart loses one degree
    of freedom for every point left out).

    Args:
        kernel: K, with data blocks.
        scale: Cholesky factor of K_ii.
        delta: concentration, positive.
        factor: S, lower-triangular.
        whitened: L^-1 S where it is known already; computed on demand otherwise.

    Source: Aitchison, Yang & Ober 2021 (arXiv 2010.01590), appendix on the inverse Wishart;
    per-point shape derived from the marginalisation property of the inverse Wishart.
    """
    assert kernel.ti is not None and kernel.tt is not None
    size, n = factor.shape[0], kernel.tt.shape[0]
    shape = jnp.broadcast_to((delta + size + 2) / 2, (n,))
    gamma, noise = gamma_and_normal(key, shape, (n, size))
    projected, residual = _explained(kernel, scale)
    conditional_variance = delta * residual / 2 / gamma
    noise_scale = jnp.sqrt(conditional_variance / delta)
    noisy = projected + noise * noise_scale[:, None]
    w = noisy @ (scale.inverse @ factor if whitened is None else whitened)
    return Gram(ii=factor @ factor.T, ti=w @ factor.T, tt=conditional_variance + squared_norms(w))


def inverse_wishart_conditional_mean(
    kernel: Gram,
    scale: Cholesky,
    delta: Scalar,
    factor: Float[Array, "P P"],
    whitened: Float[Array, "P P"],
) -> Gram:
    """E[G_ti | G_ii] and E[g_tt | G_ii] for G ~ IW(delta K, delta + P + 1), in the notation of
    :func:`inverse_wishart_conditional`, with T = L^-1 S:

        G_it = S W_t,   W_t = T^T A_t
        g_tt = ||W_t||^2 + g_tt.i (1 + ||T||^2 / delta),   g_tt.i = delta k_tt.i / (delta + P)

    Args:
        kernel: K, with data blocks.
        scale: Cholesky factor of K_ii.
        delta: concentration, positive.
        factor: S, lower-triangular.
        whitened: T = L^-1 S.

    Source: means of the laws in :func:`inverse_wishart_conditional`.
    """
    projected, residual = _explained(kernel, scale)
    w = projected @ whitened
    noise = residual * (delta + jnp.sum(whitened**2)) / (delta + factor.shape[0])
    return Gram(ii=factor @ factor.T, ti=w @ factor.T, tt=squared_norms(w) + noise)


def wishart_conditional(
    key: PRNGKeyArray,
    kernel: Gram,
    scale: Cholesky,
    width: Scalar | int,
    factor: Float[Array, "P M"],
    whitened: Float[Array, "P M"] | None = None,
) -> Gram:
    """Draw (G_ti, g_tt) of every data point by itself, given G_ii = S S^T, for G ~ W(K / nu, nu).

    With K_ii = L L^T, A_t = L^-1 k_it and k_tt.i = k_tt - ||A_t||^2, point by point:

        W_t  = (L^-1 S)^T A_t + e_t sqrt(k_tt.i / nu),   e_t ~ N(0, I_m)
        G_it = S W_t,   g_tt = ||W_t||^2 + (k_tt.i / nu) c_t,   c_t ~ chi^2(nu - m)

    W_t are the features of the point in the coordinates in which those of the inducing points are
    S. The nu - m features in which the inducing points have none (nu > P) contribute c_t; with nu
    <= P there are none.

    Args:
        kernel: K, with data blocks.
        scale: Cholesky factor of K_ii.
        width: nu, at least m: the integer m itself where m < P, any real number of at least P
            otherwise. A Python integer m saves the draws of c_t.
        factor: S, a root of G_ii with m = min(P, nu) columns; the result does not depend on which.
        whitened: L^-1 S where it is known already; computed on demand otherwise.

    Source: Ober & Aitchison 2021 (arXiv 2107.10125), conditional of the features; see also Muirhead
    1982, theorem 3.2.10.
    """
    assert kernel.ti is not None and kernel.tt is not None
    columns, n = factor.shape[1], kernel.tt.shape[0]
    projected, residual = _explained(kernel, scale)
    residual = residual / width
    if isinstance(width, int) and width <= columns:
        noise, outside = normal(key, (n, columns), factor.dtype), jnp.zeros_like(residual)
    else:
        rest = jnp.broadcast_to(jnp.asarray(width - columns, factor.dtype), (n,))
        has_rest = rest > 0
        half_chi_square, noise = gamma_and_normal(
            key, jnp.where(has_rest, rest, jnp.ones_like(rest)) / 2, (n, columns)
        )
        outside = jnp.where(has_rest, 2 * residual * half_chi_square, jnp.zeros_like(residual))
    w = (
        projected @ (scale.inverse @ factor if whitened is None else whitened)
        + noise * jnp.sqrt(residual)[:, None]
    )
    return Gram(ii=factor @ factor.T, ti=w @ factor.T, tt=squared_norms(w) + outside)


def wishart_conditional_mean(
    kernel: Gram, scale: Cholesky, factor: Float[Array, "P M"], whitened: Float[Array, "P M"]
) -> Gram:
    """E[G_ti | G_ii] and E[g_tt | G_ii] for G ~ W(K / nu, nu).

    This is :func:`wishart_conditional` without its noise, but with the noise's part in the
    diagonal.

        G_it = S W_t,   g_tt = ||W_t||^2 + k_tt.i,   W_t = (L^-1 S)^T L^-1 k_it
    """
    projected, residual = _explained(kernel, scale)
    w = projected @ whitened
    return Gram(ii=factor @ factor.T, ti=w @ factor.T, tt=squared_norms(w) + residual)


def _explained(kernel: Gram, scale: Cholesky) -> tuple[Float[Array, "B P"], Float[Array, " B"]]:
    """(L^-1 k_it)^T and k_tt.i = k_tt - ||L^-1 k_it||^2 of every data point."""
    assert kernel.ti is not None and kernel.tt is not None
    projected = kernel.ti @ scale.inverse.T
    # Below the jitter the residual is rounding error, and the derivative of its square root would
    # amplify it.
    return projected, jnp.maximum(kernel.tt - squared_norms(projected), scale.jitter)
