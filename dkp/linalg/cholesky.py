"""Triangular factorisations: one Cholesky, one jitter policy, derivatives by matrix products.

The jitter policy of the whole package is that of :func:`cholesky`: a multiple of the mean diagonal that depends on
the dtype alone, and one escalation for the matrices that need it. The amount added is returned, so that every engine
can report it. A matrix that is still not positive definite gives NaN, which the engines count as trouble.

Derivatives are written with the triangular inverse where the layers want it anyway, because on CPUs products with
several threads are faster than triangular solves of the same size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from dkp._types import Array, Float, Scalar
from dkp.linalg.blocks import diagonal

__all__ = ["Cholesky", "base_jitter", "cholesky", "cholesky_product", "log_determinant", "triangular_inverse"]

# eps ** 0.7 is 1.4e-5 in float32 and 1.1e-11 in float64. Squared-exponential matrices of 512 points were measured to
# fail at 1e-6 and to work at 1e-5 in float32.
_JITTER_POWER = 0.7
_ESCALATION = 100.0


class Cholesky(NamedTuple):
    """Lower factor `tril` of ``matrix + jitter * I``, its inverse, and the jitter that was added."""

    tril: Float[Array, "P P"]
    inverse: Float[Array, "P P"]
    jitter: Scalar


def base_jitter(dtype: jnp.dtype) -> float:
    """Relative jitter of the first attempt: eps ** 0.7, in units of the mean diagonal."""
    return float(jnp.finfo(dtype).eps) ** _JITTER_POWER


@jax.custom_jvp
def triangular_inverse(tril: Float[Array, "*batch P P"]) -> Float[Array, "*batch P P"]:
    """Inverse X of a lower-triangular matrix; dX = -X dL X."""
    eye = jnp.broadcast_to(jnp.eye(tril.shape[-1], dtype=tril.dtype), tril.shape)
    return lax.linalg.triangular_solve(tril, eye, left_side=True, lower=True)


@triangular_inverse.defjvp
def _triangular_inverse_jvp(primals, tangents):
    inverse = triangular_inverse(primals[0])
    return inverse, -inverse @ jnp.tril(tangents[0]) @ inverse


@jax.custom_jvp
def cholesky(matrix: Float[Array, "P P"]) -> Cholesky:
    """Factorise a symmetric positive semi-definite matrix: ``tril @ tril.T = matrix + jitter * I``.

    The jitter is eps ** 0.7 times the mean diagonal, 100 times that where the first attempt fails, and NaN fills the
    factor where the second fails too. Jitter is a constant for differentiation.

    The derivative is dL = L Phi(L^-1 dK L^-T), d(L^-1) = -Phi(L^-1 dK L^-T) L^-1, where Phi keeps the lower triangle
    and halves the diagonal (Murray 2016, arXiv 1602.07527, equations 8 and 9).
    """
    tril, jitter = _factorise(matrix)
    return Cholesky(tril, triangular_inverse(tril), jitter)


@cholesky.defjvp
def _cholesky_jvp(primals, tangents):
    factor = cholesky(primals[0])
    phi = _phi(factor.inverse @ tangents[0] @ factor.inverse.T)
    return factor, Cholesky(factor.tril @ phi, -phi @ factor.inverse, jnp.zeros_like(factor.jitter))


@jax.custom_jvp
def cholesky_product(matrix: Float[Array, "P P"], right: Float[Array, "P M"]) -> tuple[Float[Array, "P M"], Scalar]:
    """L R, where L is the factor of :func:`cholesky`, and the jitter.

    d(L R) = L (Phi(L^-1 dK L^-T) R) + L dR: in this order the derivative of a tall R, M < P, needs no product of
    P x P matrices beside the two with L^-1, which are solves here: where nothing else asks for the inverse, the
    gradient of a network of two bottlenecks was 10 to 20% faster for it (P from 50 to 400, one thread).
    """
    tril, jitter = _factorise(matrix)
    return tril @ right, jitter


@cholesky_product.defjvp
def _cholesky_product_jvp(primals, tangents):
    tril, jitter = _factorise(primals[0])
    halfway = lax.linalg.triangular_solve(tril, tangents[0], left_side=False, lower=True, transpose_a=True)
    phi = _phi(lax.linalg.triangular_solve(tril, halfway, left_side=True, lower=True))
    return (tril @ primals[1], jitter), (tril @ (phi @ primals[1] + tangents[1]), jnp.zeros_like(jitter))


def _phi(matrix: Array) -> Array:
    """Lower triangle of the symmetric part, with half the diagonal."""
    symmetric = (matrix + matrix.T) / 2
    return jnp.tril(symmetric) - jnp.diag(diagonal(symmetric)) / 2


def log_determinant(tril: Float[Array, "*batch P P"]) -> Float[Array, "*batch"]:
    """log|L L^T| of a triangular factor."""
    return 2 * jnp.sum(jnp.log(diagonal(tril)), axis=-1)


@custom_vmap
def _factorise(matrix: Array) -> tuple[Array, Array]:
    """Factor and jitter of a stack of matrices (any leading axes). The second attempt runs only if one matrix needs
    it."""
    size = matrix.shape[-1]
    eye = jnp.eye(size, dtype=matrix.dtype)
    mean_diagonal = jnp.mean(diagonal(matrix), axis=-1)
    # A matrix of zeros (features that are all constant) has a scale too: 1.
    jitter = base_jitter(matrix.dtype) * jnp.where(mean_diagonal > 0, mean_diagonal, jnp.ones_like(mean_diagonal))
    first = _attempt(matrix, jitter, eye)
    good = jnp.all(jnp.isfinite(first), axis=(-2, -1))

    def escalate() -> tuple[Array, Array]:
        chosen = jnp.where(good, jitter, _ESCALATION * jitter)
        return _attempt(matrix, chosen, eye), chosen

    return lax.cond(jnp.all(good), lambda: (first, jitter), escalate)


def _attempt(matrix: Array, jitter: Array, eye: Array) -> Array:
    eye = eye.reshape((1,) * (matrix.ndim - 2) + eye.shape)
    return lax.linalg.cholesky(matrix + jitter[..., None, None] * eye, symmetrize_input=False)


@_factorise.def_vmap
def _factorise_vmap(axis_size, in_batched, matrix):
    # Calling the wrapped function again, with the axis in front, keeps the branch a branch under vmap: a `cond` that
    # is batched itself would run both attempts every time.
    return _factorise(matrix), (True, True)
