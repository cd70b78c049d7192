"""Diagonals of matrices, and the norms of their rows, in forms that XLA fuses."""

import jax.numpy as jnp

from dkp._core.types import Array, Float

__all__ = ["diagonal", "embed_diagonal", "squared_norms"]


def diagonal(matrix: Float[Array, "*batch P M"]) -> Float[Array, "*batch M"]:
    """The diagonal of a matrix with P >= M, as a masked sum.

    It fuses with its surroundings, and its derivative is no scatter.
    """
    mask = jnp.eye(*matrix.shape[-2:], dtype=bool)
    return jnp.sum(jnp.where(mask, matrix, jnp.zeros_like(matrix)), axis=-2)


def embed_diagonal(values: Float[Array, "*batch M"], rows: int) -> Float[Array, "*batch P M"]:
    """The matrix of P = `rows` >= M rows with `values` on its diagonal and zeros elsewhere.

    There is no scatter here either.
    """
    eye = jnp.eye(rows, values.shape[-1], dtype=values.dtype)
    return eye.reshape((1,) * (values.ndim - 1) + eye.shape) * values[..., None, :]


def squared_norms(matrix: Float[Array, "*batch P"]) -> Float[Array, "*batch"]:
    """|row|^2 of every row.

    On CPUs a product with ones is three times faster than a sum over the last axis.
    """
    return (matrix * matrix) @ jnp.ones(matrix.shape[-1], matrix.dtype)
