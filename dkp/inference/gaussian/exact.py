"""A Gaussian process conditioned on data: what ``dkp.condition`` returns."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from dkp._core.record import record
from dkp._core.types import Array, Float
from dkp.inference.gaussian.marginal_likelihood import log_marginal_likelihood, ridge_of
from dkp.inference.gaussian.posterior import GaussianPosterior, warn_where_noise_hides
from dkp.linalg.diagonals import squared_norms
from dkp.linalg.spectrum import Spectrum, leave_one_out
from dkp.model.nngp import kernel_variances, nngp_kernel
from dkp.posterior.rows import in_chunks

__all__ = ["ExactPosterior"]


@record
class ExactPosterior(GaussianPosterior):
    """A Gaussian process conditioned on data.

    Attributes:
        values: learned hyperparameters by name.
        kernel: spectrum of the kernel matrix of the data.
        starts: log marginal likelihood of every start of the optimiser, where something was
            learned.
        iterations: of the optimiser, from the best start.
        converged: whether it stopped by itself.

    Examples:
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> print(f"{dkp.condition(model, data).ridge:.3f}")
        0.010
    """

    kernel: Spectrum
    starts: tuple[float, ...]
    iterations: int
    converged: bool

    @property
    def ridge(self) -> float:
        """What was added to the diagonal of the kernel matrix: noise^2 + diag_reg tr K / N.

        It is in standardised units.
        """
        return float(ridge_of(self.fitted_model, self.diag_reg, self.kernel.mean_variance))

    @functools.cached_property
    def log_marginal_likelihood(self) -> float:
        """log N(y; 0, K + ridge I) in nats: all data, standardised targets."""
        return float(
            log_marginal_likelihood(self.fitted_model, {}, self.data, self.diag_reg, self.kernel)
        )

    def leave_one_out(self) -> tuple[Float[Array, "N C"], Float[Array, " N"]]:
        """Mean and variance of each y_n given all the others, standardised units.

        Source: Rasmussen & Williams 2006, equation 5.12.
        """
        return leave_one_out(self.kernel, self.data.y, self.ridge)

    def leave_one_out_mean(self, diag_reg: float | None = None) -> Float[np.ndarray, "N C"]:
        return np.asarray(self._regularised(diag_reg).leave_one_out()[0], float)

    def latent_mean(self, x: Float[Array, "B *space D"], chunk: int) -> Float[Array, "B C"]:
        """Mean of the latent functions at standardised points, without the cost of variances."""
        return in_chunks(lambda rows: self._cross(rows) @ self._weights, x, chunk)

    def latent_covariance(self, x: Float[Array, "B *space D"]) -> Float[Array, "B B"]:
        """Posterior covariance at standardised points, K_** - K_*X (K_XX + ridge I)^-1 K_X*."""
        removed = self._cross(x) @ self._root.T
        return jnp.asarray(nngp_kernel(self.fitted_model, x)) - removed @ removed.T

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit."""
        return {
            "engine": "exact",
            "log_marginal_likelihood_per_point": self.log_marginal_likelihood / self.data.n,
            "starts": self.starts,
            "iterations": self.iterations,
            "converged": self.converged,
            "smallest_eigenvalue": float(self.kernel.values[0]),
            "eigenvalue_noise": float(self.kernel.noise),
            "ridge": self.ridge,
            "seconds": self.seconds,
        }

    @functools.cached_property
    def _weights(self) -> Array:
        """(K + ridge I)^-1 y."""
        return self.kernel.apply(1 / self.kernel.shifted(self.ridge), self.data.y)

    @functools.cached_property
    def _root(self) -> Array:
        """R with R^T R = (K + ridge I)^-1."""
        return self.kernel.vectors.T / jnp.sqrt(self.kernel.shifted(self.ridge))[:, None]

    def _cross(self, x: Float[Array, "B *space D"]) -> Array:
        return jnp.asarray(nngp_kernel(self.fitted_model, x, self.data.x))

    def _moments(self, x: Float[Array, "B *space D"]) -> tuple[Array, Array]:
        cross, own = self._cross(x), kernel_variances(self.fitted_model, x)
        variance = own - squared_norms(cross @ self._root.T)
        return cross @ self._weights, jnp.maximum(variance, jnp.finfo(own.dtype).eps * own)

    def _warned(self) -> "ExactPosterior":
        warn_where_noise_hides(self.kernel, self.ridge, stacklevel=4)
        return self
