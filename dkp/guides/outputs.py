"""The guide of the outputs: Gaussian pseudo-observations of the function values at the inducing points."""

import jax
import jax.numpy as jnp

from dkp._types import Array, Float, Scalar
from dkp.guides.base import Parameters
from dkp.linalg.cholesky import cholesky

__all__ = ["OutputGuide"]


class OutputGuide:
    """q(u_c | K) proportional to N(u_c; 0, K) exp(b_c^T u_c - u_c^T H u_c / 2) for the outputs c.

    b (P, C) and H (positive semi-definite, (P, P) where the outputs share it, else (C, P, P)) are natural parameters:
    sums over data points, in which a step along the natural gradient is a weighted mean of the old and the new.
    """

    def init(self, size: int, n_latent: int, dtype: jnp.dtype, *, shared: bool) -> Parameters:
        """The prior after weak pseudo-observations of 0. `shared`: one precision for all outputs."""
        shape = (size, size) if shared else (n_latent, size, size)
        precision = jnp.broadcast_to(jnp.eye(size, dtype=dtype), shape)
        return {"linear": jnp.zeros((size, n_latent), dtype), "precision": precision}

    def pseudo_targets(self, parameters: Parameters) -> tuple[Float[Array, "P C"], Float[Array, "*stack P P"], Scalar]:
        """w = Lam^T v and Lam of pseudo-targets v with precision H = Lam Lam^T, and the jitter."""
        linear, precision = parameters["linear"], parameters["precision"]
        if precision.ndim == 2:
            factor = cholesky(precision)
            return factor.inverse @ linear, factor.tril, factor.jitter
        factors = jax.vmap(cholesky)(precision)
        return jnp.einsum("cpq,qc->pc", factors.inverse, linear), factors.tril, jnp.max(factors.jitter)
