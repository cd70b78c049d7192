"""The output Gaussian process given the last kernel matrix, f ~ N(0, K).

It is summarised by inducing outputs u.

Every posterior over u leads to Gaussian marginals at a point t of one form, :class:`OutputLaw`. Two
constructions: a guide of whitened outputs, good for any likelihood and for minibatches, and the
optimal posterior under Gaussian noise.
"""

import jax
import jax.numpy as jnp

from dkp._core.record import value
from dkp._core.types import Array, Float, Scalar
from dkp.gram.gram import Gram
from dkp.linalg.cholesky import Cholesky, cholesky, log_determinant
from dkp.linalg.diagonals import squared_norms

__all__ = [
    "OutputLaw",
    "collapsed_bound",
    "exact_outputs",
    "gaussian_log_density",
    "observed_log_density",
    "observed_outputs",
    "whitened_posterior",
]


@value
class OutputLaw:
    """f_t ~ N(k_ti a, k_tt - ||p_t||^2 + ||Q p_t||^2), p_t = R k_it.

    The variance is shared by all outputs or not.

    Attributes:
        weights: a, (P, C).
        removed: R, (P, P), or one for each output, (C, P, P).
        added: Q, of such a shape, or None for zero.
    """

    weights: Float[Array, "P C"]
    removed: Float[Array, "*stack P P"]
    added: Float[Array, "*outputs P P"] | None = None

    def moments(self, gram: Gram) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
        """Mean and variance of f at the data points of `gram`."""
        assert gram.ti is not None and gram.tt is not None
        mean = gram.ti @ self.weights
        projection = gram.ti @ jnp.swapaxes(self.removed, -1, -2)
        taken = squared_norms(projection)
        if self.added is not None:
            added = squared_norms(projection @ jnp.swapaxes(self.added, -1, -2))
            taken = jnp.broadcast_to(taken, added.shape) - added
        prior = jnp.broadcast_to(gram.tt, taken.shape)
        variance = jnp.maximum(prior - taken, jnp.finfo(mean.dtype).eps * prior)
        return mean, jnp.broadcast_to(
            variance[:, None] if variance.ndim == 1 else variance.T, mean.shape
        )


def whitened_posterior(
    scale: Cholesky, linear: Float[Array, "P C"], precision: Float[Array, "*stack P P"]
) -> tuple[OutputLaw, Scalar, Scalar]:
    """Posterior of u = L v for v ~ N(0, I) after Gaussian observations of v.

    It is q(v_c) = N(B^-1 b_c, B^-1) with B = I + H.

        KL(q || N(0, I)) = sum_c [log|B| + tr B^-1 - P + m_c^T m_c] / 2,   m = B^-1 b

    Args:
        scale: L, the Cholesky factor of K.
        linear: b, (P, C).
        precision: H, positive semi-definite, (P, P) where the outputs share it, else (C, P, P).

    Returns:
        the law of f, the KL divergence, and the jitter used.

    Source: Hensman, Matthews & Ghahramani 2015 (AISTATS), whitened outputs.
    """
    if precision.ndim == 3:
        laws, kls, jitters = jax.vmap(lambda b, h: whitened_posterior(scale, b, h))(
            linear.T[..., None], precision
        )
        law = OutputLaw(weights=laws.weights[..., 0].T, removed=scale.inverse, added=laws.added)
        return law, jnp.sum(kls), jnp.max(jitters)
    size, n_outputs = linear.shape
    b = cholesky((precision + precision.T) / 2 + jnp.eye(size, dtype=linear.dtype))
    mean = b.inverse.T @ (b.inverse @ linear)
    kl = (
        n_outputs * (log_determinant(b.tril) + jnp.sum(b.inverse**2) - size) + jnp.sum(mean**2)
    ) / 2
    law = OutputLaw(weights=scale.inverse.T @ mean, removed=scale.inverse, added=b.inverse)
    return law, kl, b.jitter


def collapsed_bound(
    gram: Gram, scale: Cholesky, y: Float[Array, "N C"], noise_variance: Float[Array, ""]
) -> tuple[Scalar, OutputLaw]:
    """Bound on log p(y | K) with the optimal q(u) under Gaussian noise, and its law of f.

        sum_c log N(y_c; 0, Q + s^2 I) - C tr(K_tt - Q) / (2 s^2),   Q = K_ti K_ii^-1 K_it

    The quadratic form is computed as a sum of squares, which does not cancel in float32.

    Args:
        gram: K with data blocks.
        scale: Cholesky factor of K_ii.
        y: (N, C).
        noise_variance: s^2, one for all outputs.

    Source: Titsias 2009.
    """
    assert gram.ti is not None and gram.tt is not None
    n, n_outputs = y.shape
    size = scale.tril.shape[0]
    whitened = gram.ti @ scale.inverse.T
    b = cholesky(whitened.T @ whitened / noise_variance + jnp.eye(size, dtype=y.dtype))
    mean = b.inverse.T @ (b.inverse @ (whitened.T @ y)) / noise_variance
    residual = y - whitened @ mean
    quadratic = jnp.sum(residual**2) / noise_variance + jnp.sum(mean**2)
    log_det = log_determinant(b.tril) + n * jnp.log(2 * jnp.pi * noise_variance)
    trace = jnp.maximum(jnp.sum(gram.tt) - jnp.sum(whitened**2), 0) / noise_variance
    law = OutputLaw(weights=scale.inverse.T @ mean, removed=scale.inverse, added=b.inverse)
    return -(n_outputs * (log_det + trace) + quadratic) / 2, law


def exact_outputs(
    kernel: Float[Array, "N N"], y: Float[Array, "N C"], noise_variance: Float[Array, ""]
) -> tuple[Scalar, OutputLaw]:
    """log N(y; 0, K + s^2 I), summed over outputs, and the law of f given y, all of it.

    Source: Rasmussen & Williams 2006, equation 2.30.
    """
    covariance = kernel + noise_variance * jnp.eye(kernel.shape[0], dtype=kernel.dtype)
    _, solution, inverse_factor = _log_density_and_solution(covariance, y)
    return gaussian_log_density(covariance, y), OutputLaw(weights=solution, removed=inverse_factor)


def observed_outputs(
    kernel: Float[Array, "N N"], y: Float[Array, "N C"], noise_variance: Float[Array, ""]
) -> OutputLaw:
    """The law of f given the targets that are not NaN: one inverse for each output."""
    covariance = kernel + noise_variance * jnp.eye(kernel.shape[0], dtype=kernel.dtype)

    def one(column: Array) -> tuple[Array, Array]:
        block, target, seen = _observed_block(covariance, column)
        _, solution, inverse_factor = _log_density_and_solution(block, target)
        return solution[:, 0], inverse_factor * seen[None, :]

    weights, removed = jax.vmap(one)(y.T)
    return OutputLaw(weights=weights.T, removed=removed)


def observed_log_density(covariance: Float[Array, "N N"], y: Float[Array, "N C"]) -> Scalar:
    """sum_c log N(y_c; 0, covariance) over the targets that are not NaN."""

    def one(column: Array) -> Array:
        block, target, seen = _observed_block(covariance, column)
        # A missing target stands as 0 with variance 1, apart from the others: its density is taken
        # out again.
        return gaussian_log_density(block, target) + jnp.sum(1 - seen) * jnp.log(2 * jnp.pi) / 2

    return jnp.sum(jax.vmap(one)(y.T))


def _observed_block(covariance: Array, column: Array) -> tuple[Array, Array, Array]:
    """The covariance of the targets that are not NaN, and which they are.

    For the others, which are 0, it has 1 on the diagonal.
    """
    seen = jnp.isfinite(column)
    mask = seen.astype(covariance.dtype)
    block = covariance * (mask[:, None] * mask[None, :]) + jnp.diag(1 - mask)
    return block, jnp.where(seen, column, 0)[:, None], mask


@jax.custom_jvp
def gaussian_log_density(covariance: Float[Array, "N N"], y: Float[Array, "N C"]) -> Scalar:
    """sum_c log N(y_c; 0, covariance).

    The derivative tr((a a^T - C covariance^-1) d covariance) / 2 - a^T dy, a = covariance^-1 y,
    needs one product of N x N matrices where differentiating through the factorisation needs four.
    """
    return _log_density_and_solution(covariance, y)[0]


@gaussian_log_density.defjvp
def _gaussian_log_density_jvp(primals, tangents):
    log_density, solution, inverse_factor = _log_density_and_solution(*primals)
    outer = solution @ solution.T - primals[1].shape[1] * (inverse_factor.T @ inverse_factor)
    return log_density, jnp.sum(outer * tangents[0]) / 2 - jnp.sum(solution * tangents[1])


def _log_density_and_solution(covariance: Array, y: Array) -> tuple[Array, Array, Array]:
    n, n_outputs = y.shape
    factor = cholesky(covariance)
    scaled = factor.inverse @ y
    log_det = log_determinant(factor.tril) + n * jnp.log(2 * jnp.pi)
    return (
        -(n_outputs * log_det + jnp.sum(scaled**2)) / 2,
        factor.inverse.T @ scaled,
        factor.inverse,
    )
