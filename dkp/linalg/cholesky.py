"""Triangular factorisations: one Cholesky, one jitter policy, derivatives by matrix products.

The jitter policy of the whole package is that of :func:`cholesky`: a multiple of the mean diagonal
that depends on the dtype alone, and one escalation for the matrices that need it. The amount added
is returned, so that every engine can report it. A matrix that is still not positive definite gives
NaN, which the engines count as trouble.

Derivatives are written with the triangular inverse where the layers want it anyway, because on CPUs
products with several threads are faster than triangular solves of the same size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from dkp._core.types import Array, Float, Scalar
from dkp.linalg.diagonals import diagonal, embed_diagonal

__all__ = [
    "Cholesky",
    "base_jitter",
    "cholesky",
    "cholesky_product",
    "log_determinant",
    "shrinkage_tril",
    "triangular_inverse",
]

# eps ** 0.7 is 1.4e-5 in float32 and 1.1e-11 in float64. Squared-exponential matrices of 512 points
# were measured to fail at 1e-6 and to work at 1e-5 in float32.
_JITTER_POWER = 0.7
_ESCALATION = 100.0
_ATTEMPTS = 2


class Cholesky(NamedTuple):
    """A Cholesky factorisation of ``matrix + jitter * I``.

    Attributes:
        tril: the lower factor.
        inverse: its inverse.
        jitter: what was added.
    """

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

    The jitter is eps ** 0.7 times the mean diagonal, 100 times that where the first attempt fails,
    and NaN fills the factor where the second fails too. Jitter is a constant for differentiation.

    The derivative is dL = L Phi(L^-1 dK L^-T), d(L^-1) = -Phi(L^-1 dK L^-T) L^-1, where Phi keeps
    the lower triangle and halves the diagonal (Murray 2016, arXiv 1602.07527, equations 8 and 9).
    """
    tril, jitter = _factorise(matrix)
    return Cholesky(tril, triangular_inverse(tril), jitter)


@cholesky.defjvp
def _cholesky_jvp(primals, tangents):
    factor = cholesky(primals[0])
    phi = _phi(factor.inverse @ tangents[0] @ factor.inverse.T)
    return factor, Cholesky(factor.tril @ phi, -phi @ factor.inverse, jnp.zeros_like(factor.jitter))


@jax.custom_jvp
def cholesky_product(
    matrix: Float[Array, "P P"], right: Float[Array, "P M"]
) -> tuple[Float[Array, "P M"], Scalar]:
    """L R, where L is the factor of :func:`cholesky`, and the jitter.

    d(L R) = L (Phi(L^-1 dK L^-T) R) + L dR: in this order the derivative of a tall R, M < P, needs
    no product of P x P matrices beside the two with L^-1, which are solves here, because nothing
    else asks for the inverse. dK must be symmetric, as all derivatives of a symmetric matrix are;
    the gradient in K is not.
    """
    tril, jitter = _tril(matrix)
    return tril @ right, jitter


@cholesky_product.defjvp
def _cholesky_product_jvp(primals, tangents):
    tril, jitter = _tril(primals[0])
    phi = _whitened_phi(tril, tangents[0])
    return (tril @ primals[1], jitter), (
        tril @ (phi @ primals[1] + tangents[1]),
        jnp.zeros_like(jitter),
    )


@jax.custom_jvp
def _tril(matrix: Array) -> tuple[Array, Array]:
    """Factor and jitter, with a derivative of any order.

    Through the attempts with jitter there is none.
    """
    return _factorise(matrix)


@_tril.defjvp
def _tril_jvp(primals, tangents):
    tril, jitter = _tril(primals[0])
    return (tril, jitter), (tril @ _whitened_phi(tril, tangents[0]), jnp.zeros_like(jitter))


def _whitened_phi(tril: Array, tangent: Array) -> Array:
    """Phi(L^-1 dK L^-T) of a symmetric dK, by triangular solves.

    Written with L^T and dK^T, because LAPACK has matrices by columns and XLA by rows: no matrix is
    copied.
    """
    right = lax.linalg.triangular_solve(tril.T, tangent.T, left_side=False, lower=False)
    both = lax.linalg.triangular_solve(tril.T, right, left_side=True, lower=False, transpose_a=True)
    return jnp.tril(both.T) - embed_diagonal(diagonal(both), len(both)) / 2


def _phi(matrix: Array) -> Array:
    """Lower triangle of the symmetric part, with half the diagonal."""
    symmetric = (matrix + matrix.T) / 2
    return jnp.tril(symmetric) - jnp.diag(diagonal(symmetric)) / 2


def shrinkage_tril(matrix: Float[Array, "P R"]) -> tuple[Float[Array, "P P"], Scalar]:
    """The lower-triangular C with C C^T = (I + A A^T)^-1 of a matrix A, and the jitter.

    No eigenvalue exceeds 1.

    The inverse of the factor of I + A A^T in the reversed order of rows, reversed and transposed,
    is C.
    """
    reversed_rows = matrix[::-1]
    factor = cholesky(reversed_rows @ reversed_rows.T + jnp.eye(len(matrix), dtype=matrix.dtype))
    return factor.inverse[::-1, ::-1].T, factor.jitter


def log_determinant(tril: Float[Array, "*batch P P"]) -> Float[Array, "*batch"]:
    """log|L L^T| of a triangular factor."""
    return 2 * jnp.sum(jnp.log(diagonal(tril)), axis=-1)


@custom_vmap
def _factorise(matrix: Array) -> tuple[Array, Array]:
    """Factor and jitter of a stack of matrices (any leading axes).

    The second attempt runs only if one matrix needs it.
    """
    mean_diagonal = jnp.mean(diagonal(matrix), axis=-1)
    # A matrix of zeros (features that are all constant) has a scale too: 1.
    jitter = base_jitter(matrix.dtype) * jnp.where(
        mean_diagonal > 0, mean_diagonal, jnp.ones_like(mean_diagonal)
    )

    def failed(state: tuple[Array, Array, Array]) -> Array:
        attempts, tril, _ = state
        return (attempts < _ATTEMPTS) & ~jnp.all(_is_factor(tril))

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        attempts, tril, jitter = state
        jitter = jnp.where(_is_factor(tril), jitter, _ESCALATION * jitter)
        return attempts + 1, _attempt(matrix, jitter), jitter

    # A loop and not a branch, which would copy the factor.
    return lax.while_loop(
        failed, again, (jnp.ones((), jnp.int32), _attempt(matrix, jitter), jitter)
    )[1:]


def _is_factor(tril: Array) -> Array:
    """Whether each of a stack of matrices was factorised: a NaN reaches the diagonal."""
    return jnp.all(jnp.isfinite(jnp.diagonal(tril, axis1=-2, axis2=-1)), axis=-1)


def _attempt(matrix: Array, jitter: Array) -> Array:
    on = jnp.broadcast_to(jitter[..., None], matrix.shape[:-1])
    return lax.linalg.cholesky(
        matrix + embed_diagonal(on, matrix.shape[-1]), symmetrize_input=False
    )


@_factorise.def_vmap
def _factorise_vmap(axis_size, in_batched, matrix):
    # Calling the wrapped function again, with the axis in front, keeps one loop for all matrices: a
    # loop that is batched itself would select between old and new factors at every turn.
    return _factorise(matrix), (True, True)
