"""What the guide of a bottleneck is."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpyro.distributions import Distribution

from dkp._core.description import Pace
from dkp._core.records import register
from dkp._core.types import Array, Float, Scalar
from dkp.bottlenecks.base import Bottleneck
from dkp.linalg.cholesky import Cholesky

__all__ = ["BottleneckGuide", "GuidePosterior", "Parameters"]

Parameters = dict[str, Array]


class GuidePosterior(NamedTuple):
    """The law q of the guide and the law p of the prior, over the same random matrix.

    Both are given the kernel K = L L^T that enters the bottleneck.

    Attributes:
        q: of the guide.
        p: of the prior.
        unit: times a draw it is the whitened root L^-1 S of G = S S^T.
        jitter: what the guide's factorisation needed.

    `unit` times a draw is the whitened root L^-1 S of G = S S^T. jitter: what the guide's
    factorisation needed.
    """

    q: Distribution
    p: Distribution
    unit: Scalar
    jitter: Scalar


class BottleneckGuide(abc.ABC):
    """A variational posterior of the Gram matrix of a bottleneck at the inducing points, given K.

    It lives in coordinates of K, so that small changes of K, by hyperparameters or by the layers
    below, cost little. A subclass is a frozen dataclass whose fields are hashable; files can hold
    it.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What a user calls it."""

    @property
    @abc.abstractmethod
    def starts_at_kernel(self) -> bool:
        """Whether it starts centred on G = K."""

    @property
    @abc.abstractmethod
    def paces(self) -> Mapping[str, Pace]:
        """How fast an optimiser moves each parameter of :meth:`init`."""

    @abc.abstractmethod
    def fits(self, layer: Bottleneck) -> bool:
        """Whether it is a posterior of this bottleneck."""

    @abc.abstractmethod
    def init(self, layer: Any, kernel: Float[Array, "P P"]) -> Parameters:
        """Parameters of a narrow law, where K enters.

        It is around K, or around the best matrix of the rank of G.
        """

    @abc.abstractmethod
    def posterior(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> GuidePosterior:
        """The laws, given K and its Cholesky factor."""

    @abc.abstractmethod
    def centre(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> Float[Array, "P M"]:
        """The whitened root L^-1 S of the G on which it is centred."""
