"""The guide of inverse Wishart bottlenecks."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from dkp._core.description import Pace
from dkp._core.types import Array, Float
from dkp.bottlenecks.base import Bottleneck
from dkp.bottlenecks.inverse_wishart import InverseWishart
from dkp.distributions.wishart import InverseWishartFactor
from dkp.guides.base import BottleneckGuide, GuidePosterior, Parameters
from dkp.linalg.cholesky import Cholesky, cholesky

__all__ = ["InverseWishartGuide"]


@dataclasses.dataclass(frozen=True)
class InverseWishartGuide(BottleneckGuide):
    """q(G_ii | K_ii) = IW(delta K + gamma V V^T, delta + P + 1 + gamma) with V = L M, K = L L^T.

    The posterior mean is (delta K + gamma V V^T) / (delta + gamma): gamma pseudo-observations with
    Gram matrix V V^T join the prior's delta. This is the family of Aitchison, Yang & Ober 2021
    (arXiv 2010.01590), with the scale of V V^T tied to gamma, and V in the coordinates of K. In
    these coordinates the divergence from the prior depends on M, gamma and delta alone, so that a
    small change of a length-scale costs nothing: with a free V it costs thousands of nats, in the
    directions where K is small, and a fit that starts well is thrown out of its optimum. M starts
    at the identity, which centres the guide on the deterministic network (and never at 0, where its
    gradient vanishes).

    Examples:
        >>> from dkp import InverseWishart, guides
        >>> guide = guides.InverseWishartGuide()
        >>> print(guide.name, guide.fits(InverseWishart(5.0)))
        inverse-wishart True
    """

    initial_gamma: ClassVar[float] = 50.0

    @property
    def name(self) -> str:
        return "inverse-wishart"

    @property
    def starts_at_kernel(self) -> bool:
        return True

    @property
    def paces(self) -> Mapping[str, Pace]:
        return {"mixing": "matrix", "log_gamma": "concentration"}

    def fits(self, layer: Bottleneck) -> bool:
        return isinstance(layer, InverseWishart)

    def init(self, layer: Any, kernel: Float[Array, "P P"]) -> Parameters:
        log_gamma = jnp.log(jnp.asarray(self.initial_gamma, kernel.dtype))
        return {"mixing": jnp.eye(len(kernel), dtype=kernel.dtype), "log_gamma": log_gamma}

    def posterior(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> GuidePosterior:
        mixing, gamma = parameters["mixing"], jnp.exp(parameters["log_gamma"])
        delta, size = jnp.asarray(layer.delta, mixing.dtype), mixing.shape[0]
        total = delta + gamma
        inner = (gamma * (mixing @ mixing.T) + delta * jnp.eye(size, dtype=mixing.dtype)) / total
        root, factor = jnp.sqrt(total), cholesky(inner)
        q = InverseWishartFactor(total + size + 1, root * factor.tril, factor.inverse / root)
        p = layer.whitened_prior(size, mixing.dtype)
        return GuidePosterior(q, p, jnp.ones((), mixing.dtype), factor.jitter)

    def centre(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> Float[Array, "P P"]:
        """The root of E G."""
        law = self.posterior(layer, parameters, kernel, scale)
        q: Any = law.q
        return q.scale_tril / jnp.sqrt(q.df - len(kernel) - 1)
