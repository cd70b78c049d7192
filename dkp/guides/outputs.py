"""The guide of the outputs: Gaussian pseudo-observations of the function values at the inducing points."""

import jax.numpy as jnp

from dkp._types import Array, Float, Scalar
from dkp.guides.base import Parameters
from dkp.linalg.cholesky import cholesky

__all__ = ["OutputGuide"]


class OutputGuide:
    """q(u_c | K) proportional to N(u_c; 0, K) exp(b_c^T u_c - u_c^T H u_c / 2) for the outputs c.

    b (P, C) and H (P, P, positive semi-definite, shared by the outputs) are natural parameters: sums over data points,
    in which a step along the natural gradient is a weighted mean of the old and the new.
    """

    def init(self, size: int, n_latent: int, dtype: jnp.dtype) -> Parameters:
        return {"linear": jnp.zeros((size, n_latent), dtype), "precision": jnp.eye(size, dtype=dtype)}

    def pseudo_targets(self, parameters: Parameters) -> tuple[Float[Array, "P C"], Float[Array, "P P"], Scalar]:
        """w = Lam^T v and Lam of pseudo-targets v with precision H = Lam Lam^T, and the jitter."""
        factor = cholesky(parameters["precision"])
        return factor.inverse @ parameters["linear"], factor.tril, factor.jitter
