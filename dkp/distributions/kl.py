"""Closed-form Kullback-Leibler divergences, for ``numpyro.distributions.kl_divergence``."""

import math

import jax.numpy as jnp
from jax.scipy.special import gammaln
from numpyro.distributions import kl_divergence

from dkp._core.types import Array
from dkp.distributions.bartlett import Bartlett
from dkp.distributions.features import FeatureNormal
from dkp.distributions.generalised import GeneralisedBartlett, GeneralisedWishartFactor
from dkp.distributions.wishart import InverseWishartFactor, WishartFactor
from dkp.linalg.cholesky import log_determinant, triangular_inverse
from dkp.linalg.diagonals import diagonal
from dkp.linalg.special import multidigamma, multigammaln

__all__ = ["kl_divergence"]


@kl_divergence.register(InverseWishartFactor, InverseWishartFactor)  # type: ignore[attr-defined]
def _kl_inverse_wishart(q: InverseWishartFactor, p: InverseWishartFactor) -> Array:
    """KL(IW(Psi_q, nu_q) || IW(Psi_p, nu_p)).

    The factor map is one to one, so the KL is that of the matrices.

        nu_p/2 (log|Psi_q| - log|Psi_p|) + nu_q/2 (tr(Psi_q^-1 Psi_p) - P)
        + logGamma_P(nu_p/2) - logGamma_P(nu_q/2) + (nu_q - nu_p)/2 psi_P(nu_q/2)
    """
    size = q.event_shape[-1]
    log_ratio = log_determinant(q.scale_tril) - log_determinant(p.scale_tril)
    halves = jnp.stack(jnp.broadcast_arrays(p.df / 2, q.df / 2))
    # one evaluation of a long formula, which compiles faster
    log_gamma_p, log_gamma_q = multigammaln(halves, size)
    trace = jnp.sum((q.scale_tril_inverse @ p.scale_tril) ** 2, axis=(-2, -1))
    return (
        p.df / 2 * log_ratio
        + q.df / 2 * (trace - size)
        + log_gamma_p
        - log_gamma_q
        + (q.df - p.df) / 2 * multidigamma(q.df / 2, size)
    )


@kl_divergence.register(GeneralisedWishartFactor, Bartlett)  # type: ignore[attr-defined]
def _kl_generalised_wishart(q: GeneralisedWishartFactor, p: Bartlett) -> Array:
    """KL of a generalised Wishart factor S = L T B from the Bartlett factor of unit scale.

    With alpha, beta, mu, sigma of T, and df_j of the Bartlett factor:

        sum_j [alpha_j log beta_j - logGamma(alpha_j) + logGamma(df_j / 2) + df_j/2 log 2 - alpha_j
               + (alpha_j - df_j / 2) E log T_jj^2 - (df_j - 1) log(L_jj B_jj)
               - (p - j + 1) log B_jj]
        - sum_{i > j} (log sigma_ij + 1/2) - sum_i min(i, m) log L_ii + E||L T B||^2 / 2

        E||L T B||^2 = ||L E[T] B||^2 + sum_kj (L^T L)_kk Var[T_kj] (B B^T)_jj

    Raises:
        NotImplementedError: where rows are mixed by a dense matrix: there is no closed form.

    Source: Ober & Aitchison 2021 (arXiv 2107.10125); the expectation of log p - log q is derived.
    """
    if q.rows is not None:
        raise NotImplementedError("no closed form for rows mixed by a dense matrix")
    entries: GeneralisedBartlett = q.base_dist  # type: ignore[assignment]
    alpha, beta, half_df = entries.concentration, entries.rate, p.df / 2
    mean, variance, mean_log = entries.moments
    rows, columns = q.event_shape
    log_scale = jnp.log(diagonal(q.scale_tril))
    centre, column_weights = q.scale_tril @ mean, jnp.ones_like(alpha)
    on = (2 * half_df - 1) * log_scale[..., :columns]
    if q.columns is not None:
        log_columns = jnp.log(diagonal(q.columns))
        centre, column_weights = centre @ q.columns, jnp.sum(q.columns**2, axis=-1)
        on += (2 * half_df - 1 + rows - jnp.arange(columns, dtype=alpha.dtype)) * log_columns
    row_weights = jnp.sum(q.scale_tril**2, axis=-2)
    spread = jnp.sum(
        row_weights[..., None] * variance * column_weights[..., None, :], axis=(-2, -1)
    )
    power = jnp.minimum(jnp.arange(1, rows + 1, dtype=alpha.dtype), columns)
    gammas = (
        gammaln(half_df) - gammaln(alpha) + alpha * jnp.log(beta) + half_df * math.log(2) - alpha
    )
    below = jnp.tril(jnp.log(entries.scale) + 0.5, -1)
    return (
        jnp.sum(gammas + (alpha - half_df) * mean_log - on, axis=-1)
        - jnp.sum(below, axis=(-2, -1))
        - log_scale @ power
        + (jnp.sum(centre**2, axis=(-2, -1)) + spread) / 2
    )


@kl_divergence.register(GeneralisedWishartFactor, WishartFactor)  # type: ignore[attr-defined]
def _kl_generalised_from_wishart(q: GeneralisedWishartFactor, p: WishartFactor) -> Array:
    """KL in the coordinates of p, where its scale is the identity: the factor map is one to one."""
    relative = triangular_inverse(p.scale_tril) @ q.scale_tril
    whitened = GeneralisedWishartFactor(relative, q.base_dist, q.columns, q.rows)  # type: ignore[arg-type]
    return _kl_generalised_wishart(whitened, p.base_dist)  # type: ignore[arg-type]


@kl_divergence.register(WishartFactor, WishartFactor)  # type: ignore[attr-defined]
def _kl_wishart(q: WishartFactor, p: WishartFactor) -> Array:
    """KL(W(Sigma_q, nu_q) || W(Sigma_p, nu_p)), also of singular ones of one rank.

    Raises:
        ValueError: when the ranks differ: neither law has a density under the other.
    """
    if q.event_shape != p.event_shape:
        raise ValueError(f"Expected factors of one shape. Got {q.event_shape} and {p.event_shape}.")
    df = q.base_dist.df  # type: ignore[attr-defined]
    ones = jnp.ones(df.shape[:-1] + q.event_shape, df.dtype)
    entries = GeneralisedBartlett(df / 2, jnp.full_like(df, 0.5), jnp.zeros_like(ones), ones)
    return _kl_generalised_from_wishart(GeneralisedWishartFactor(q.scale_tril, entries), p)


@kl_divergence.register(FeatureNormal, FeatureNormal)  # type: ignore[attr-defined]
def _kl_features(q: FeatureNormal, p: FeatureNormal) -> Array:
    """sum_j KL(N(mu_j, R R^T) || N(m_j, S S^T)) over columns.

    [||S^-1 R||^2 - P - log|R R^T| + log|S S^T|] C / 2 + ||S^-1 (mu - m)||^2 / 2
    """
    rows, columns = q.event_shape
    shift, scale, log_ratio = q.loc - p.loc, q.scale_tril, jnp.zeros((), q.loc.dtype)
    if scale is None:
        scale = jnp.eye(rows, dtype=shift.dtype)
    if p.scale_tril is not None:
        inverse = triangular_inverse(p.scale_tril)
        shift, scale, log_ratio = inverse @ shift, inverse @ scale, log_determinant(p.scale_tril)
    log_ratio -= (
        jnp.zeros((), shift.dtype) if q.scale_tril is None else log_determinant(q.scale_tril)
    )
    spread = jnp.sum(scale**2, axis=(-2, -1)) - rows + log_ratio
    return (columns * spread + jnp.sum(shift**2, axis=(-2, -1))) / 2
