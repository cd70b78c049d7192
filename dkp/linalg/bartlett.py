"""Bartlett factors: triangular matrices with independent entries whose products are Wishart.

``A`` lower-triangular (Bartlett): A_jj^2 ~ chi^2(nu - j + 1), A_ij ~ N(0, 1) below the diagonal, A A^T ~ W(I, nu).
``U`` upper-triangular (reverse Bartlett): U_jj^2 ~ chi^2(nu - p + j), normals above, U U^T ~ W(I, nu). Its inverse
transpose is lower-triangular, so T = U^-T is at once the Cholesky factor of the inverse Wishart matrix T T^T ~ IW(I,
nu). (j counts from 1. Bartlett 1933; the reversed form follows by reversing the order of the coordinates.)
"""

import jax.numpy as jnp

from dkp._types import Array, Float, PRNGKeyArray, Scalar
from dkp.linalg.cholesky import triangular_inverse
from dkp.linalg.random import gamma_and_normal

__all__ = ["bartlett", "inverse_bartlett", "reverse_bartlett"]


def bartlett(key: PRNGKeyArray, df: Scalar, size: int) -> Float[Array, "P P"]:
    """Draw a lower-triangular A with A A^T ~ W(I, df). Domain: df > size - 1."""
    return _triangular(key, df - jnp.arange(size, dtype=df.dtype), size)


def reverse_bartlett(key: PRNGKeyArray, df: Scalar, size: int) -> Float[Array, "P P"]:
    """Draw an upper-triangular U with U U^T ~ W(I, df). Domain: df > size - 1."""
    return _triangular(key, df - jnp.arange(size - 1, -1, -1, dtype=df.dtype), size).T


def inverse_bartlett(key: PRNGKeyArray, df: Scalar, size: int) -> Float[Array, "P P"]:
    """Draw a lower-triangular T with T T^T ~ IW(I, df). Domain: df > size - 1."""
    return triangular_inverse(reverse_bartlett(key, df, size).T)


def _triangular(key: PRNGKeyArray, df: Float[Array, " P"], size: int) -> Float[Array, "P P"]:
    half_chi_square, rest = gamma_and_normal(key, df / 2, (size, size))
    return jnp.tril(rest, -1) + jnp.diag(jnp.sqrt(2 * half_chi_square))
