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
from dkp.linalg.blocks import diagonal
from dkp.linalg.cholesky import cholesky
from dkp.priors import Hyperparameter

__all__ = ["BottleneckGuide", "HyperparameterGuide", "InverseWishartGuide", "OutputGuide", "guide_of"]

Parameters = dict[str, Array]


@runtime_checkable
class BottleneckGuide(Protocol):
    """Posterior of the whitened factor L^-1 S of G_ii = S S^T, where K_ii = L L^T enters the bottleneck.

    In these coordinates the prior does not depend on K, and neither does the divergence of the guide from it.
    """

    def init(self, layer: Any, size: int, dtype: Any) -> Parameters:
        """Parameters of a narrow law around the deterministic network, G = K."""
        ...

    def posterior(self, layer: Any, parameters: Parameters) -> tuple[Distribution, Scalar]:
        """The law, and the jitter that it needed."""
        ...


class InverseWishartGuide:
    """q(G_ii | K_ii) = IW(delta K + gamma V V^T, delta + P + 1 + gamma) with V = L M, K = L L^T.

    The posterior mean is (delta K + gamma V V^T) / (delta + gamma): gamma pseudo-observations with Gram matrix V V^T
    join the prior's delta. This is the family of Aitchison, Yang & Ober 2021 (arXiv 2010.01590), with the scale of
    V V^T tied to gamma, and V in the coordinates of K. In these coordinates the divergence from the prior depends on M,
    gamma and delta alone, so that a small change of a length-scale costs nothing: with a free V it costs thousands of
    nats, in the directions where K is small, and a fit that starts well is thrown out of its optimum. M starts at the
    identity, which centres the guide on the deterministic network (and never at 0, where its gradient vanishes).
    """

    initial_gamma = 50.0

    def init(self, layer: InverseWishart, size: int, dtype: Any) -> Parameters:
        return {"mixing": jnp.eye(size, dtype=dtype), "log_gamma": jnp.log(jnp.asarray(self.initial_gamma, dtype))}

    def posterior(self, layer: InverseWishart, parameters: Parameters) -> tuple[InverseWishartFactor, Scalar]:
        mixing, gamma = parameters["mixing"], jnp.exp(parameters["log_gamma"])
        delta, size = jnp.asarray(layer.delta, mixing.dtype), mixing.shape[0]
        total = delta + gamma
        inner = (gamma * (mixing @ mixing.T) + delta * jnp.eye(size, dtype=mixing.dtype)) / total
        root, factor = jnp.sqrt(total), cholesky(inner)
        return InverseWishartFactor(total + size + 1, root * factor.tril, factor.inverse / root), factor.jitter


class OutputGuide:
    """Pseudo-targets w (P, C) and their precision factor Lam (P, P, lower-triangular with positive diagonal) for the
    outputs."""

    def init(self, size: int, n_latent: int, dtype: jnp.dtype) -> Parameters:
        return self.parameters(jnp.zeros((size, n_latent), dtype), jnp.eye(size, dtype=dtype))

    def parameters(self, target: Float[Array, "P Q"], precision_tril: Float[Array, "P P"]) -> Parameters:
        """The parameters of given pseudo-targets and precision factor."""
        log_diagonal = jnp.log(diagonal(precision_tril))
        return {"target": target, "precision": jnp.tril(precision_tril, -1) + jnp.diag(log_diagonal)}

    def arrays(self, parameters: Parameters) -> tuple[Float[Array, "P Q"], Float[Array, "P P"]]:
        """(w, Lam)."""
        raw = parameters["precision"]
        tril = jnp.tril(raw, -1) + jnp.diag(jnp.exp(diagonal(raw)))
        return parameters["target"], tril


class HyperparameterGuide:
    """Mean-field normal on the unconstrained scale of one inferred hyperparameter."""

    def init(self, h: Hyperparameter, dtype: jnp.dtype) -> Parameters:
        try:
            mean = jnp.asarray(h.prior.mean, dtype)
        except NotImplementedError:  # of transformed distributions
            mean = jnp.asarray(jnp.nan, dtype)
        start = jnp.broadcast_to(mean, h.shape)
        loc = h.unconstrain(jnp.where(jnp.isfinite(start), start, jnp.ones_like(start)))
        loc = jnp.where(jnp.isfinite(loc), loc, jnp.zeros_like(loc))  # 1 may lie at the end of the support
        return {"loc": loc, "log_scale": jnp.full(h.shape, -3.0, dtype)}

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
