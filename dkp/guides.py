"""Variational families: one guide per kind of bottleneck, one for the outputs, one for inferred hyperparameters.

A guide is a pair of functions over a small dictionary of arrays: ``init`` makes the parameters, the other makes the
law. A new bottleneck brings a guide of its own and one line in ``_GUIDES``.
"""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import Distribution

from dkp._types import Array, Float, Scalar
from dkp.bottlenecks import Bottleneck, InverseWishart
from dkp.distributions.wishart import InverseWishartFactor
from dkp.linalg.cholesky import Cholesky, cholesky
from dkp.priors import Hyperparameter

__all__ = ["BottleneckGuide", "HyperparameterGuide", "InverseWishartGuide", "OutputGuide", "guide_of"]

Parameters = dict[str, Array]


@runtime_checkable
class BottleneckGuide(Protocol):
    """Posterior of the factor of G_ii, given the kernel matrix that enters the bottleneck."""

    def init(self, layer: Any, scale: Cholesky) -> Parameters: ...

    def posterior(
        self, layer: Any, parameters: Parameters, kernel_ii: Array, scale: Cholesky
    ) -> tuple[Distribution, Scalar]:
        """The law, and the jitter that it needed."""
        ...


class InverseWishartGuide:
    """q(G_ii | K_ii) = IW(delta K_ii + gamma V V^T, delta + P + 1 + gamma).

    The posterior mean is (delta K + gamma V V^T) / (delta + gamma): gamma pseudo-observations with Gram matrix V V^T
    join the prior's delta. This is the family of Aitchison, Yang & Ober 2021 (arXiv 2010.01590), with the scale of V
    V^T tied
    to gamma, so that the guide starts centred on the deterministic network: V = chol(K) there, never 0, where the
    gradient in V vanishes.
    """

    initial_gamma = 50.0

    def init(self, layer: InverseWishart, scale: Cholesky) -> Parameters:
        gamma = jnp.asarray(self.initial_gamma, scale.tril.dtype)
        return {"v": scale.tril, "log_gamma": jnp.log(gamma)}

    def posterior(
        self, layer: InverseWishart, parameters: Parameters, kernel_ii: Float[Array, "P P"], scale: Cholesky
    ) -> tuple[InverseWishartFactor, Scalar]:
        v, gamma = parameters["v"], jnp.exp(parameters["log_gamma"])
        delta, size = jnp.asarray(layer.delta, v.dtype), v.shape[0]
        # The prior's jitter belongs to K: both scales hold the same matrix, and the KL is 0 at gamma = 0.
        jittered = kernel_ii + scale.jitter * jnp.eye(size, dtype=v.dtype)
        total = delta + gamma
        factor = cholesky((delta / total) * jittered + (gamma / total) * (v @ v.T))
        root = jnp.sqrt(total)
        return InverseWishartFactor(total + size + 1, root * factor.tril, factor.inverse / root), factor.jitter


class OutputGuide:
    """Pseudo-targets w (P, C) and their precision factor Lam (P, P, lower-triangular with positive diagonal) for the
    outputs."""

    def init(self, size: int, n_latent: int, dtype: jnp.dtype) -> Parameters:
        return self.parameters(jnp.zeros((size, n_latent), dtype), jnp.eye(size, dtype=dtype))

    def parameters(self, target: Float[Array, "P Q"], precision_tril: Float[Array, "P P"]) -> Parameters:
        """The parameters of given pseudo-targets and precision factor."""
        log_diagonal = jnp.log(jnp.diagonal(precision_tril))
        return {"target": target, "precision": jnp.tril(precision_tril, -1) + jnp.diag(log_diagonal)}

    def arrays(self, parameters: Parameters) -> tuple[Float[Array, "P Q"], Float[Array, "P P"]]:
        """(w, Lam)."""
        raw = parameters["precision"]
        tril = jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diagonal(raw)))
        return parameters["target"], tril


class HyperparameterGuide:
    """Mean-field normal on the unconstrained scale of one inferred hyperparameter."""

    def init(self, h: Hyperparameter, dtype: jnp.dtype) -> Parameters:
        start = jnp.broadcast_to(jnp.asarray(h.prior.mean, dtype), h.shape)
        start = jnp.where(jnp.isfinite(start), start, jnp.ones_like(start))
        return {"loc": h.unconstrain(start), "log_scale": jnp.full(h.shape, -3.0, dtype)}

    def centre(self, h: Hyperparameter, parameters: Parameters) -> Array:
        """The median, in the hyperparameter's own domain."""
        return h.constrain(parameters["loc"])

    def law(self, h: Hyperparameter, parameters: Parameters) -> Distribution:
        normal = dist.Normal(parameters["loc"], jnp.exp(parameters["log_scale"])).to_event(len(h.shape))
        return dist.TransformedDistribution(normal, dist.biject_to(h.constraint))


_GUIDES: dict[type[Bottleneck], BottleneckGuide] = {InverseWishart: InverseWishartGuide()}


def guide_of(layer: Bottleneck) -> BottleneckGuide:
    """The guide for a bottleneck.

    Raises:
        ValueError: when none is known.
    """
    for kind in type(layer).__mro__:
        if kind in _GUIDES:
            return _GUIDES[kind]
    raise ValueError(
        f"Expected a bottleneck with a variational guide ({', '.join(k.__name__ for k in _GUIDES)}). Got {layer!r}."
    )
