"""What every engine returns: something that draws networks, conditioned on the data.

Some posteriors can do more. Others ask for these capabilities, and never for an engine.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw

__all__ = [
    "Bound",
    "InChains",
    "JointlyGaussian",
    "LinearPredictor",
    "Posterior",
    "SampleStatistics",
]


@runtime_checkable
class Posterior(Protocol):
    """A posterior over deep kernel processes."""

    @property
    def model(self) -> DeepKernelProcess:
        """The model as the user wrote it."""
        ...

    @property
    def data(self) -> Dataset:
        """The data that it is conditioned on."""
        ...

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """A stack of n independent draws.

        A posterior that is known exactly may return a single one.
        """
        ...

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "S B Q"], Float[Array, "S B Q"]]:
        """Mean and variance of the latent functions at standardised points, given each draw."""
        ...

    def summary(self) -> dict[str, Any]:
        """What a user should look at before trusting the fit."""
        ...


@runtime_checkable
class JointlyGaussian(Protocol):
    """A posterior under which the latent functions at several points are jointly Gaussian."""

    def latent_covariance(self, x: Float[Array, "B *space D"]) -> Float[Array, "B B"]:
        """Covariance at standardised points, in standardised units, the same for every output."""
        ...


@runtime_checkable
class InChains(Protocol):
    """A posterior made of draws in chains, of networks on all the data."""

    @property
    def n_chains(self) -> int:
        """Number of chains."""
        ...

    @property
    def n_draws(self) -> int:
        """Number of draws in each chain."""
        ...

    def chains(self, thin: int = 1) -> Draw:
        """Every `thin`-th draw of all chains, as one stack: chain after chain."""
        ...

    def in_data_order(self, rows: Float[Array, "N *rest"]) -> Float[Array, "N *rest"]:
        """Rows in the order of the factors, as the data have them."""
        ...

    def leave_one_out(self, draws: Draw) -> Float[Array, "S N"]:
        """log p(y_n | y of all other rows, network) for each draw, standardised units."""
        ...


@runtime_checkable
class SampleStatistics(Protocol):
    """A posterior of which the transitions, and numbers that no rotation changes, are known."""

    stats: dict[str, np.ndarray]
    functionals: dict[str, np.ndarray]


@runtime_checkable
class Bound(Protocol):
    """A posterior with a lower bound on the evidence, and importance weights."""

    def elbo(self, key: PRNGKeyArray, n: int = 100) -> tuple[float, float]:
        """Evidence lower bound on all data (nats), and its standard error."""
        ...

    def log_weights(self, key: PRNGKeyArray, n: int = 200) -> Float[Array, " S"]:
        """Logarithms of importance weights, of which the mean is the evidence."""
        ...


@runtime_checkable
class LinearPredictor(Protocol):
    """A posterior whose means are linear in the targets.

    It is exact, trained by gradient flow, or an ensemble of these.
    """

    data: Dataset

    @property
    def diag_reg(self) -> float:
        """Regularisation relative to the mean variance of the kernel."""
        ...

    def leave_one_out_mean(self, diag_reg: float | None = None) -> Float[np.ndarray, "N C"]:
        """Mean prediction of each y_n given all the others, standardised units."""
        ...

    def latent_mean(self, x: Array, chunk: int) -> Array:
        """Mean of the latent functions at standardised points."""
        ...

    def with_diag_reg(self, diag_reg: float) -> Any:
        """The posterior with another regularisation."""
        ...

    def summary(self) -> dict[str, Any]:
        """What a user should look at before trusting the fit."""
        ...
