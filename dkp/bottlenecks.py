"""Bottlenecks: the places where the Gram matrix is random.

A bottleneck gives the prior of the factor of the inducing block, and draws the data blocks from the conditional prior
given that factor. Nothing else in the package knows what kind of bottleneck a layer is.
"""

from typing import Any

import jax.numpy as jnp
from numpyro.distributions import Distribution

from dkp._spec import Spec, hyperparameter, learn
from dkp._types import Array, Float, PRNGKeyArray
from dkp.distributions.conditional import inverse_wishart_conditional
from dkp.distributions.wishart import InverseWishartFactor
from dkp.linalg.blocks import Gram
from dkp.linalg.cholesky import Cholesky

__all__ = ["Bottleneck", "InverseWishart"]


class Bottleneck(Spec):
    """A random Gram matrix G centred on the kernel matrix K that enters."""

    def prior(self, scale: Cholesky) -> Distribution:
        """Law of the factor S of G_ii, given the Cholesky factor L of K_ii."""
        raise NotImplementedError

    def whitened_prior(self, size: int, dtype: Any) -> Distribution:
        """Law of L^-1 S, which does not depend on K: the prior for K = I."""
        eye = jnp.eye(size, dtype=dtype)
        return self.prior(Cholesky(eye, eye, jnp.zeros((), dtype)))

    def condition(
        self,
        key: PRNGKeyArray,
        kernel: Gram,
        scale: Cholesky,
        factor: Float[Array, "P M"],
        whitened: Float[Array, "P M"] | None = None,
    ) -> Gram:
        """G with its data blocks drawn from the conditional prior given G_ii = S S^T, each data point by itself.

        `whitened` is L^-1 S where it is known already; computed on demand otherwise.
        """
        raise NotImplementedError


class InverseWishart(Bottleneck):
    """G ~ IW(delta K, delta + P + 1), so that E[G] = K and delta does not change under marginalisation.

    Args:
        delta: concentration, positive: Var[G_ii] = 2 K_ii^2 / (delta - 2) for delta > 2, and delta -> infinity is the
            deterministic network. ``learn()`` (the default) starts close to that limit.

    Raises:
        ValueError: when a number or an initial value for `delta` is not positive and finite.

    Source: Aitchison, Yang & Ober 2021 (arXiv 2010.01590), deep inverse Wishart process.
    """

    delta: Any = hyperparameter(default=learn())

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def initial_values(self, x: Array, y: Array) -> dict[str, float]:
        return {"delta": 1000.0}  # narrower than most posteriors: where noise hides the data, nothing can be learned

    def prior(self, scale: Cholesky) -> InverseWishartFactor:
        root = jnp.sqrt(jnp.asarray(self.delta, scale.tril.dtype))
        size = scale.tril.shape[-1]
        return InverseWishartFactor(self.delta + size + 1, root * scale.tril, scale.inverse / root)

    def condition(
        self,
        key: PRNGKeyArray,
        kernel: Gram,
        scale: Cholesky,
        factor: Float[Array, "P P"],
        whitened: Float[Array, "P P"] | None = None,
    ) -> Gram:
        if kernel.ti is None:
            return Gram(ii=factor @ factor.T)
        return inverse_wishart_conditional(key, kernel, scale, jnp.asarray(self.delta), factor, whitened)
