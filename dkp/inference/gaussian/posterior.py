"""What the engines without bottlenecks share: jointly Gaussian latent functions."""

import abc
import dataclasses
import functools
import warnings
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.record import record
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.linalg.spectrum import Spectrum
from dkp.model.hyperparameters import substitute
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw
from dkp.posterior.rows import in_chunks

__all__ = ["GaussianPosterior", "warn_where_noise_hides"]

P = TypeVar("P", bound="GaussianPosterior")


@record
class GaussianPosterior(abc.ABC):
    """Latent functions that are jointly Gaussian, with means that are linear in the targets.

    Attributes:
        model: without bottlenecks.
        data: the data set.
        values: of the hyperparameters that are no numbers in `model`, by name.
        diag_reg: regularisation relative to the mean variance.
        seconds: that it took.
    """

    model: DeepKernelProcess
    data: Dataset
    values: dict[str, Array]
    diag_reg: float
    seconds: float

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Values of the hyperparameters that are no numbers in the model, by name."""
        return {name: np.asarray(value) for name, value in self.values.items()}

    @functools.cached_property
    def fitted_model(self) -> DeepKernelProcess:
        """The model with numbers for all hyperparameters."""
        return substitute(self.model, self.values)

    @property
    @abc.abstractmethod
    def ridge(self) -> float:
        """What was added to the diagonal of the matrix that is inverted, standardised units."""

    def with_diag_reg(self: P, diag_reg: float) -> P:
        """The posterior with another regularisation and the same hyperparameters.

        The matrix is not decomposed again.

        Warns:
            RuntimeWarning: where rounding errors are as large as the smallest eigenvalue.

        Raises:
            ValueError: when it is not a finite number of at least 0.
        """
        return self._regularised(diag_reg)._warned()

    @abc.abstractmethod
    def leave_one_out_mean(self, diag_reg: float | None = None) -> Float[np.ndarray, "N C"]:
        """Mean prediction of each y_n given all the others, standardised units.

        Args:
            diag_reg: another regularisation than the posterior's.
        """

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """The posterior itself: a stack of one."""
        values = {name: jnp.asarray(value)[None] for name, value in self.values.items()}
        return Draw(values=values, inducing=self.data.x[None], factors=())

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "1 B C"], Float[Array, "1 B C"]]:
        """Mean and variance of the latent functions at standardised points; nothing is random."""
        mean, variance = in_chunks(self._moments, x, chunk)
        return mean[None], jnp.broadcast_to(variance[None, :, None], (1, *mean.shape))

    @abc.abstractmethod
    def latent_mean(self, x: Float[Array, "B *space D"], chunk: int) -> Float[Array, "B C"]:
        """Mean of the latent functions at standardised points, without the cost of variances."""

    @abc.abstractmethod
    def latent_covariance(self, x: Float[Array, "B *space D"]) -> Float[Array, "B B"]:
        """Covariance at standardised points, in standardised units, the same for every output."""

    @abc.abstractmethod
    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit."""

    @abc.abstractmethod
    def _moments(self, x: Float[Array, "B *space D"]) -> tuple[Array, Array]:
        """Mean (B, C) and variance (B,) at some standardised points."""

    @abc.abstractmethod
    def _warned(self: P) -> P:
        """Itself, after a warning where rounding errors hide the smallest eigenvalue."""

    def _regularised(self: P, diag_reg: float | None) -> P:
        if diag_reg is None:
            return self
        number = checks.nonnegative_number("diag_reg", diag_reg)
        return dataclasses.replace(self, diag_reg=number)


def warn_where_noise_hides(kernel: Spectrum, ridge: float, stacklevel: int = 3) -> None:
    """Warn when rounding errors are as large as the smallest eigenvalue of what is inverted."""
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
