"""A Gaussian process conditioned on data: what ``dkp.condition`` returns."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.record import record
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.inference.gaussian.marginal_likelihood import log_marginal_likelihood, ridge_of
from dkp.linalg.diagonals import squared_norms
from dkp.linalg.spectrum import Spectrum, leave_one_out
from dkp.model.hyperparameters import substitute
from dkp.model.nngp import kernel_variances, nngp_kernel
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw
from dkp.posterior.rows import in_chunks

__all__ = ["ExactPosterior", "warn_where_noise_hides"]


@record
class ExactPosterior:
    """A Gaussian process conditioned on data.

    values: learned hyperparameters by name. diag_reg: regularisation relative to the mean variance.
    kernel: spectrum of
        the kernel matrix of the data. starts: log marginal likelihood of every start of the
        optimiser, where something was learned.
    """

    model: DeepKernelProcess
    data: Dataset
    values: dict[str, Array]
    diag_reg: float
    kernel: Spectrum
    starts: tuple[float, ...]
    iterations: int
    converged: bool
    seconds: float

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Values of the learned hyperparameters, by name."""
        return {name: np.asarray(value) for name, value in self.values.items()}

    @functools.cached_property
    def fitted_model(self) -> DeepKernelProcess:
        """The model with numbers for the hyperparameters that were learned."""
        return substitute(self.model, self.values)

    @property
    def ridge(self) -> float:
        """What was added to the diagonal of the kernel matrix: noise^2 + diag_reg tr K / N,
        standardised units."""
        return float(ridge_of(self.fitted_model, self.diag_reg, self.kernel.mean_variance))

    @functools.cached_property
    def log_marginal_likelihood(self) -> float:
        """log N(y; 0, K + ridge I) in nats: all data, standardised targets."""
        return float(
            log_marginal_likelihood(self.fitted_model, {}, self.data, self.diag_reg, self.kernel)
        )

    def with_diag_reg(self, diag_reg: float) -> "ExactPosterior":
        """The posterior with another regularisation and the same hyperparameters; the matrix is not
        decomposed again.

        Warns:
            RuntimeWarning: as in :func:`condition`.

        Raises:
            ValueError: when it is not a finite number of at least 0.
        """
        changed = dataclasses.replace(
            self, diag_reg=checks.nonnegative_number("diag_reg", diag_reg)
        )
        warn_where_noise_hides(changed.kernel, changed.ridge)
        return changed

    def leave_one_out(self) -> tuple[Float[Array, "N C"], Float[Array, " N"]]:
        """Mean and variance of each y_n given all the others, standardised units (Rasmussen &
        Williams 2006, equation 5.12)."""
        return leave_one_out(self.kernel, self.data.y, self.ridge)

    def leave_one_out_mean(self, diag_reg: float | None = None) -> Float[np.ndarray, "N C"]:
        """The means of :meth:`leave_one_out`, with another regularisation where one is given."""
        value = (
            self.diag_reg if diag_reg is None else checks.nonnegative_number("diag_reg", diag_reg)
        )
        return np.asarray(dataclasses.replace(self, diag_reg=value).leave_one_out()[0], float)

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """The posterior itself: a stack of one."""
        draw = Draw(values=self.values, inducing=self.data.x, factors=())
        return jax.tree.map(lambda a: jnp.asarray(a)[None], draw)

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "1 B C"], Float[Array, "1 B C"]]:
        """Mean and variance of the latent functions at standardised points; nothing is random."""
        mean, variance = in_chunks(self._moments, x, chunk)
        return mean[None], jnp.broadcast_to(variance[None, :, None], (1, *mean.shape))

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


def warn_where_noise_hides(kernel: Spectrum, ridge: float, stacklevel: int = 3) -> None:
    """Warn when rounding errors are as large as the smallest eigenvalue of the matrix that is
    inverted."""
    smallest, noise = float(kernel.values[0]) + ridge, float(kernel.noise)
    if smallest <= noise:
        warnings.warn(
            "Expected the smallest eigenvalue of the regularised kernel matrix to be above "
            f"{noise:.1e}, the size of "
            f"{kernel.values.dtype} rounding errors at this number of points. Got {smallest:.1e}: "
            "predictions depend "
            f"on the errors. Use a diag_reg above {noise / float(kernel.mean_variance):.1e}"
            + (" or float64." if kernel.values.dtype == jnp.float32 else "."),
            RuntimeWarning,
            stacklevel=stacklevel,
        )
