"""What every engine returns: something that draws networks, conditioned on the data."""

from typing import Any, Protocol, runtime_checkable

from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw

__all__ = ["JointlyGaussian", "Posterior"]


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
        """A stack of n independent draws; a posterior that is known exactly may return a single
        one."""
        ...

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "S B Q"], Float[Array, "S B Q"]]:
        """Mean and variance of the latent functions at standardised points, given each draw of a
        stack."""
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
