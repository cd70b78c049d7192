"""The inverse Wishart bottleneck."""

from typing import Any

import jax.numpy as jnp

from dkp._core.description import hyperparameter, learn
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.bottlenecks.base import Bottleneck
from dkp.distributions.conditional import (
    inverse_wishart_conditional,
    inverse_wishart_conditional_mean,
)
from dkp.distributions.wishart import InverseWishartFactor
from dkp.gram.gram import Gram
from dkp.linalg.cholesky import Cholesky, triangular_inverse

__all__ = ["InverseWishart"]


class InverseWishart(Bottleneck):
    """G ~ IW(delta K, delta + P + 1), so that E[G] = K.

    The concentration delta does not change under marginalisation.

    Args:
        delta: concentration, positive: Var[G_ii] = 2 K_ii^2 / (delta - 2) for delta > 2, and delta
            -> infinity is the deterministic network. ``learn()`` (the default) starts close to that
            limit.

    Raises:
        ValueError: when a number or an initial value for `delta` is not positive and finite.

    Source: Aitchison, Yang & Ober 2021 (arXiv 2010.01590), deep inverse Wishart process.

    Examples:
        >>> import jax.numpy as jnp
        >>> import dkp
        >>> print(dkp.InverseWishart(delta=5.0).n_columns(3))
        3
    """

    delta: Any = hyperparameter(default=learn(), pace="concentration")

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def initial_values(self, x: Array, y: Array) -> dict[str, float]:
        # narrower than most posteriors: where noise hides the data, nothing can be learned
        return {"delta": 1000.0}

    def whiten(self, noise: Float[Array, "P P"]) -> Float[Array, "P P"]:
        return jnp.sqrt(jnp.asarray(self.delta, noise.dtype)) * triangular_inverse(noise)

    def prior(self, scale: Cholesky) -> InverseWishartFactor:
        root = jnp.sqrt(jnp.asarray(self.delta, scale.tril.dtype))
        size = scale.tril.shape[-1]
        return InverseWishartFactor(self.delta + size + 1, root * scale.tril, scale.inverse / root)

    def draw_data(
        self,
        key: PRNGKeyArray,
        kernel: Gram,
        scale: Cholesky,
        factor: Array,
        whitened: Array | None,
    ) -> Gram:
        return inverse_wishart_conditional(
            key, kernel, scale, jnp.asarray(self.delta), factor, whitened
        )

    def mean_data(self, kernel: Gram, scale: Cholesky, factor: Array, whitened: Array) -> Gram:
        delta = jnp.asarray(self.delta, factor.dtype)
        return inverse_wishart_conditional_mean(kernel, scale, delta, factor, whitened)
