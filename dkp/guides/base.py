"""What the guide of a bottleneck is."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from numpyro.distributions import Distribution

from dkp._core.types import Array, Float, Scalar
from dkp.bottlenecks.base import Bottleneck
from dkp.linalg.cholesky import Cholesky

__all__ = ["BottleneckGuide", "GuidePosterior", "Parameters"]

Parameters = dict[str, Array]


class GuidePosterior(NamedTuple):
    """The law q of the guide and the law p of the prior, over the same random matrix, given the
    kernel K = L L^T that enters the bottleneck.

    `unit` times a draw is the whitened root L^-1 S of G = S S^T. jitter: what the guide's
    factorisation needed."""

    q: Distribution
    p: Distribution
    unit: Scalar
    jitter: Scalar


@runtime_checkable
class BottleneckGuide(Protocol):
    """A variational posterior of the Gram matrix of a bottleneck at the inducing points, given K.

    It lives in coordinates of K, so that small changes of K, by hyperparameters or by the layers
    below, cost little."""

    @property
    def name(self) -> str:
        """What a user calls it."""
        ...

    @property
    def starts_at_kernel(self) -> bool:
        """Whether it starts centred on G = K."""
        ...

    def fits(self, layer: Bottleneck) -> bool:
        """Whether it is a posterior of this bottleneck."""
        ...

    def init(self, layer: Any, kernel: Float[Array, "P P"]) -> Parameters:
        """Parameters of a narrow law, where K enters: around K, or around the best matrix of the
        rank of G."""
        ...

    def posterior(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> GuidePosterior:
        """The laws, given K and its Cholesky factor."""
        ...

    def centre(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> Float[Array, "P M"]:
        """The whitened root L^-1 S of the G on which it is centred."""
        ...
