"""The eigendecomposition of a kernel matrix.

It solves ridge systems for every ridge, and gradient flow for every time.

One decomposition, cubic in N, turns all functions of the matrix into products. It also shows the
smallest eigenvalue, below which a floating-point number knows nothing about the matrix.
"""

import jax
import jax.numpy as jnp

from dkp._core.record import value
from dkp._core.types import Array, Float, Scalar
from dkp.linalg.diagonals import diagonal

__all__ = ["Spectrum", "leave_one_out", "spectrum"]


@value
class Spectrum:
    """K = V diag(values) V^T, N x N, symmetric positive semi-definite but for rounding.

    Attributes:
        values: ascending.
        vectors: V, by columns.
        noise: the size of rounding errors in `values`.
    """

    values: Float[Array, " N"]
    vectors: Float[Array, "N N"]
    noise: Scalar

    @property
    def mean_variance(self) -> Scalar:
        """tr K / N."""
        return jnp.mean(self.values)

    def shifted(self, ridge: Array | float) -> Float[Array, " N"]:
        """Eigenvalues of K + ridge I, raised to `noise` where they lie below it.

        Smaller ones are rounding errors.
        """
        return jnp.maximum(self.values + ridge, self.noise)

    def apply(self, weights: Float[Array, " N"], y: Float[Array, "N C"]) -> Float[Array, "N C"]:
        """V diag(weights) V^T y: a function of K, by its values at the eigenvalues, times y."""
        return self.vectors @ (weights[:, None] * (self.vectors.T @ y))

    def diagonal_of(self, weights: Float[Array, " N"]) -> Float[Array, " N"]:
        """The diagonal of V diag(weights) V^T."""
        return self.vectors**2 @ weights

    def matrix(self, weights: Float[Array, " N"]) -> Float[Array, "N N"]:
        """V diag(weights) V^T."""
        return (self.vectors * weights[None, :]) @ self.vectors.T


@jax.jit
def spectrum(matrix: Float[Array, "N N"]) -> Spectrum:
    """Decompose a symmetric positive semi-definite matrix.

    The noise is eps (lambda_max + 2 sqrt(N) tr K / N): the error of the decomposition (Anderson et
    al. 1999, *LAPACK Users' Guide*, section 4.7) and, for entries that are rounded independently,
    the edge of Wigner's semicircle. Errors of the entries that are larger, such as those of tangent
    kernels between points that almost agree, show in negative eigenvalues: where these are more
    negative than that, the noise is their size.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    size = matrix.shape[0]
    spread = jnp.abs(values[-1]) + 2 * size**0.5 * jnp.mean(jnp.abs(diagonal(matrix)))
    rounding = jnp.finfo(matrix.dtype).eps * spread
    return Spectrum(values=values, vectors=vectors, noise=jnp.maximum(rounding, -values[0]))


def leave_one_out(
    kernel: Spectrum, y: Float[Array, "N C"], ridge: Array | float
) -> tuple[Float[Array, "N C"], Float[Array, " N"]]:
    """Mean and variance of each y_n given all the others, y ~ N(0, K + ridge I).

    With A = (K + ridge I)^-1,

        mean = y_n - (A y)_n / A_nn,    variance = 1 / A_nn.

    Source: Rasmussen & Williams 2006, equation 5.12.
    """
    inverse = 1 / kernel.shifted(ridge)
    own = kernel.diagonal_of(inverse)
    return y - kernel.apply(inverse, y) / own[:, None], 1 / own
