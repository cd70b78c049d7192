"""The Gram matrix, as the blocks that inference needs, and the inputs that start it.

With inducing points a Gram is three blocks: ``ii`` among the inducing points, ``ti`` between data and inducing
points, and only the diagonal ``tt`` among the data, so that time and memory are linear in the number of data
points. With all the data as its own inducing set it is ``ii`` alone.
"""

import jax.numpy as jnp

from dkp._types import Array, Float
from dkp._value import value

__all__ = ["Gram", "Inputs", "diagonal", "embed_diagonal", "squared_norms"]


def diagonal(matrix: Float[Array, "*batch P M"]) -> Float[Array, "*batch M"]:
    """The diagonal of a matrix with P >= M, as a masked sum: it fuses with its surroundings, and its derivative is no
    scatter."""
    mask = jnp.eye(*matrix.shape[-2:], dtype=bool)
    return jnp.sum(jnp.where(mask, matrix, jnp.zeros_like(matrix)), axis=-2)


def embed_diagonal(values: Float[Array, "*batch M"], rows: int) -> Float[Array, "*batch P M"]:
    """The matrix of P = `rows` >= M rows with `values` on its diagonal and zeros elsewhere; no scatter either."""
    eye = jnp.eye(rows, values.shape[-1], dtype=values.dtype)
    return eye.reshape((1,) * (values.ndim - 1) + eye.shape) * values[..., None, :]


def squared_norms(matrix: Float[Array, "*batch P"]) -> Float[Array, "*batch"]:
    """|row|^2 of every row. On CPUs a product with ones is three times faster than a sum over the last axis."""
    return (matrix * matrix) @ jnp.ones(matrix.shape[-1], matrix.dtype)


@value
class Inputs:
    """Features of the inducing points `i` and, when there are other points, of the data `t`."""

    i: Float[Array, "P *space D"]
    t: Float[Array, "B *space D"] | None = None


@value
class Gram:
    """Blocks of a symmetric positive semi-definite matrix over inducing points (i) and data points (t).

    ``ti`` and ``tt`` are both present or both None.
    """

    ii: Float[Array, "P P"]
    ti: Float[Array, "B P"] | None = None
    tt: Float[Array, " B"] | None = None

    @property
    def ii_diagonal(self) -> Float[Array, " P"]:
        return diagonal(self.ii)
