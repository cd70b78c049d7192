"""Bottlenecks: the places where the Gram matrix is random.

A bottleneck gives the prior of the factor of the inducing block, and draws the data blocks from the conditional prior
given that factor. Nothing else in the package knows what kind of bottleneck a layer is.
"""

import dataclasses
import math
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution, TransformedDistribution

from dkp._spec import Learn, Spec, hyperparameter, learn
from dkp._types import Array, Float, PRNGKeyArray
from dkp.distributions.conditional import (
    inverse_wishart_conditional,
    wishart_conditional,
    wishart_conditional_mean,
)
from dkp.distributions.wishart import InverseWishartFactor, WishartFactor
from dkp.linalg.bartlett import trapezoid
from dkp.linalg.blocks import Gram
from dkp.linalg.cholesky import Cholesky, cholesky, triangular_inverse

__all__ = ["Bottleneck", "InverseWishart", "Wishart", "bartlett_factor"]


class Bottleneck(Spec):
    """A random Gram matrix G centred on the kernel matrix K that enters."""

    def prior(self, scale: Cholesky) -> Distribution:
        """Law of the factor S of G_ii, given the Cholesky factor L of K_ii."""
        raise NotImplementedError

    @property
    def is_identity(self) -> bool:
        """Whether G = K: a bottleneck without randomness, which a model leaves out."""
        return False

    def check_points(self, n: int) -> None:
        """Raise ValueError where the prior has no law for a matrix of n points."""

    def whitened_prior(self, size: int, dtype: Any) -> Distribution:
        """Law of L^-1 S, which does not depend on K: the prior for K = I."""
        eye = jnp.eye(size, dtype=dtype)
        return self.prior(Cholesky(eye, eye, jnp.zeros((), dtype)))

    def whiten(self, noise: Float[Array, "P M"]) -> Float[Array, "P M"]:
        """The whitened factor L^-1 S that the Bartlett factor behind S stands for."""
        raise NotImplementedError

    def extend(
        self, key: PRNGKeyArray, kernel: Float[Array, "Q Q"], factor: Float[Array, "P M"]
    ) -> Float[Array, "Q R"]:
        """Draw a factor of G at Q >= P points together, given any root of its leading P x P block.

        The entries of Bartlett factors are independent, and the factor of more points begins with that of fewer: the
        further rows come from the prior.
        """
        scale = cholesky(kernel)
        law: Any = self.prior(scale)
        known = bartlett_factor(self.prior(cholesky(kernel[: len(factor), : len(factor)])), trapezoid(factor))
        joint = law.base_dist.sample(key).at[: known.shape[0], : known.shape[1]].set(known)
        return scale.tril @ self.whiten(joint)

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
        if kernel.ti is None:
            return Gram(ii=factor @ factor.T)
        return self.draw_data(key, kernel, scale, factor, whitened)

    def draw_data(
        self, key: PRNGKeyArray, kernel: Gram, scale: Cholesky, factor: Array, whitened: Array | None
    ) -> Gram:
        """:meth:`condition` where there are data blocks."""
        raise NotImplementedError

    def mean_data(
        self, kernel: Gram, scale: Cholesky, factor: Float[Array, "P M"], whitened: Float[Array, "P M"]
    ) -> Gram:
        """:meth:`condition` with the means of the data blocks instead of draws."""
        raise NotImplementedError


def bartlett_factor(prior: Distribution, factor: Float[Array, "P M"]) -> Float[Array, "P M"]:
    """The Bartlett factor behind a factor S, under its prior."""
    for transform in reversed(cast(TransformedDistribution, prior).transforms):
        factor = jnp.asarray(transform.inv(factor))
    return factor


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

    def whiten(self, noise: Float[Array, "P P"]) -> Float[Array, "P P"]:
        return jnp.sqrt(jnp.asarray(self.delta, noise.dtype)) * triangular_inverse(noise)

    def prior(self, scale: Cholesky) -> InverseWishartFactor:
        root = jnp.sqrt(jnp.asarray(self.delta, scale.tril.dtype))
        size = scale.tril.shape[-1]
        return InverseWishartFactor(self.delta + size + 1, root * scale.tril, scale.inverse / root)

    def draw_data(
        self, key: PRNGKeyArray, kernel: Gram, scale: Cholesky, factor: Array, whitened: Array | None
    ) -> Gram:
        return inverse_wishart_conditional(key, kernel, scale, jnp.asarray(self.delta), factor, whitened)


class Wishart(Bottleneck):
    """G ~ W(K / nu, nu), so that E[G] = K: the Gram matrix of a linear layer of nu units, its width.

    G = F F^T / nu for nu features drawn from N(0, K). With nu below the number of points G is singular, of rank nu;
    nu -> infinity is the deterministic network.

    Args:
        width: nu, an integer of at least 1; or a real number, or a distribution over real numbers, of at least the
            number P of points at which the matrix lives (so that P + 1 points have a Wishart law too, and one more
            can be predicted). Infinity is no bottleneck: a model leaves the layer out, and says so.

    Raises:
        ValueError: when `width` is anything else: not positive, or learned.

    Source: Aitchison, Yang & Ober 2021 (arXiv 2010.01590); Ober & Aitchison 2021 (arXiv 2107.10125), section 2.
    """

    width: Any = hyperparameter()
    integer: int | None = dataclasses.field(init=False, repr=False, default=None)
    """nu where it is an integer: known when a program is traced, since it may be the rank of G."""

    def __post_init__(self) -> None:
        if isinstance(self.width, Learn):
            raise ValueError(
                "Expected Wishart(width=…) to be a number or a distribution. Got learn(): compare the evidence of "
                "several widths (dkp.compare_widths), or give it a prior."
            )
        number = None if hasattr(self.width, "log_prob") or isinstance(self.width, Tracer) else np.asarray(self.width)
        number = number if number is not None and number.ndim == 0 and number.dtype.kind in "iuf" else None
        if number is not None and number == math.inf:
            return
        self.check_hyperparameters()
        if number is not None and float(number).is_integer():
            object.__setattr__(self, "integer", int(number))

    @property
    def is_identity(self) -> bool:
        return isinstance(self.width, (int, float)) and self.width == math.inf

    def check_points(self, n: int) -> None:
        lowest = self.width
        if hasattr(self.width, "log_prob"):
            support = getattr(self.width.support, "base_constraint", self.width.support)
            lowest = getattr(support, "lower_bound", 0.0)
        if self.integer is None and not np.all(np.asarray(lowest, float) >= n):
            raise ValueError(
                f"Expected Wishart(width=…) to be an integer, or real numbers of at least the number of points, {n}. "
                f"Got {self.width!r} with smallest value {lowest}."
            )

    def whiten(self, noise: Float[Array, "P M"]) -> Float[Array, "P M"]:
        return noise / jnp.sqrt(jnp.asarray(self.width, noise.dtype))

    def prior(self, scale: Cholesky) -> WishartFactor:
        size = scale.tril.shape[-1]
        root = jnp.sqrt(jnp.asarray(self.width, scale.tril.dtype))
        df = jnp.asarray(self.width) if self.integer is None else self.integer
        columns = None if self.integer is None else min(self.integer, size)
        return WishartFactor(df, scale.tril / root, columns, scale.inverse * root)

    def draw_data(
        self, key: PRNGKeyArray, kernel: Gram, scale: Cholesky, factor: Array, whitened: Array | None
    ) -> Gram:
        width = jnp.asarray(self.width, factor.dtype) if self.integer is None else self.integer
        return wishart_conditional(key, kernel, scale, width, factor, whitened)

    def mean_data(
        self, kernel: Gram, scale: Cholesky, factor: Float[Array, "P M"], whitened: Float[Array, "P M"]
    ) -> Gram:
        if kernel.ti is None:
            return Gram(ii=factor @ factor.T)
        return wishart_conditional_mean(kernel, scale, factor, whitened)
