"""Closed-form Kullback-Leibler divergences, registered with ``numpyro.distributions.kl_divergence``."""

import jax.numpy as jnp
from numpyro.distributions import kl_divergence

from dkp._types import Array
from dkp.distributions.wishart import InverseWishartFactor
from dkp.linalg.cholesky import log_determinant
from dkp.linalg.special import multidigamma, multigammaln

__all__ = ["kl_divergence"]


@kl_divergence.register(InverseWishartFactor, InverseWishartFactor)  # type: ignore[attr-defined]
def _kl_inverse_wishart(q: InverseWishartFactor, p: InverseWishartFactor) -> Array:
    """KL(IW(Psi_q, nu_q) || IW(Psi_p, nu_p)); the factor map is one to one, so the KL is that of the matrices.

    nu_p/2 (log|Psi_q| - log|Psi_p|) + nu_q/2 (tr(Psi_q^-1 Psi_p) - P) + logGamma_P(nu_p/2) - logGamma_P(nu_q/2)
    + (nu_q - nu_p)/2 psi_P(nu_q/2)
    """
    size = q.event_shape[-1]
    log_ratio = log_determinant(q.scale_tril) - log_determinant(p.scale_tril)
    halves = jnp.stack(jnp.broadcast_arrays(p.df / 2, q.df / 2))
    log_gamma_p, log_gamma_q = multigammaln(halves, size)  # one evaluation of a long formula, which compiles faster
    trace = jnp.sum((q.scale_tril_inverse @ p.scale_tril) ** 2, axis=(-2, -1))
    return (
        p.df / 2 * log_ratio
        + q.df / 2 * (trace - size)
        + log_gamma_p
        - log_gamma_q
        + (q.df - p.df) / 2 * multidigamma(q.df / 2, size)
    )
