"""Bartlett factors: lower-trapezoidal matrices with independent entries whose products are Wishart.

``A`` (p x m): A_jj^2 ~ chi^2(df_j), A_ij ~ N(0, 1) below the diagonal. With df_j = nu - j + 1 (j
from 1) and m = min(p, nu), A A^T ~ W(I, nu), of rank m. With df_j = nu - p + j and m = p, A^-1 is
the Cholesky factor of a matrix of IW(I, nu): A^T is the upper-triangular factor of the Wishart
matrix of the reversed order of the coordinates. (Bartlett 1933; singular: Ober & Aitchison 2021,
arXiv 2107.10125.)
"""

import jax.numpy as jnp

from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.linalg.diagonals import diagonal, embed_diagonal
from dkp.linalg.random import gamma_and_normal

__all__ = ["bartlett", "inverse_wishart_df", "trapezoid", "wishart_df"]


def wishart_df(df: Float[Array, "*batch"], columns: int) -> Float[Array, "*batch M"]:
    """Degrees of freedom of the diagonal of the factor of W(I, df)."""
    return df[..., None] - _counting(df, columns)


def inverse_wishart_df(df: Float[Array, "*batch"], size: int) -> Float[Array, "*batch P"]:
    """Degrees of freedom of the diagonal of the inverse of the factor of IW(I, df)."""
    return df[..., None] - _counting(df, size)[..., ::-1]


def bartlett(key: PRNGKeyArray, df: Float[Array, " M"], rows: int) -> Float[Array, "P M"]:
    """Draw a lower-trapezoidal A, p x m with p >= m.

    Args:
        df: df_j, positive, one a column.
        rows: p.
    """
    half_chi_square, rest = gamma_and_normal(key, df / 2, (rows, df.shape[0]))
    return jnp.tril(rest, -1) + embed_diagonal(jnp.sqrt(2 * half_chi_square), rows)


def _counting(df: Array, count: int) -> Array:
    """0, 1, … on the last axis of an array that broadcasts against df[..., None]."""
    return jnp.arange(count, dtype=df.dtype).reshape((1,) * df.ndim + (count,))


def trapezoid(root: Float[Array, "P R"]) -> Float[Array, "P M"]:
    """The lower-trapezoidal T with positive diagonal and T T^T = root root^T, M = min(P, R).

    It is root times a rotation.

    The rotation is that of the first M rows, which must be linearly independent.
    """
    lead = root[: root.shape[1]]
    rotation, upper = jnp.linalg.qr(lead.T)
    signs = jnp.where(diagonal(upper) < 0, -jnp.ones_like(upper[0]), jnp.ones_like(upper[0]))
    return jnp.concatenate(
        [(upper * signs[:, None]).T, root[len(lead) :] @ (rotation * signs[None, :])]
    )
