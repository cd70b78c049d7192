"""Bottlenecks: the places where the Gram matrix is random.

A bottleneck gives the prior of the factor of the inducing block, and draws the data blocks from the
conditional prior given that factor. Nothing else in the package knows what kind of bottleneck a
layer is.
"""

import abc
from typing import Any, cast

import jax.numpy as jnp
from numpyro.distributions import Distribution, TransformedDistribution

from dkp._core.description import Spec
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.gram.gram import Gram
from dkp.linalg.bartlett import trapezoid
from dkp.linalg.cholesky import Cholesky, cholesky

__all__ = ["Bottleneck", "bartlett_factor"]


class Bottleneck(Spec):
    """A random Gram matrix G centred on the kernel matrix K that enters."""

    @abc.abstractmethod
    def prior(self, scale: Cholesky) -> Distribution:
        """Law of the factor S of G_ii, given the Cholesky factor L of K_ii."""

    @property
    def n_features(self) -> int | None:
        """nu where G = F F^T / nu for nu features F: the rank of G is at most nu.

        None where G has no such factor, or nu is not known before a program runs.
        """
        return None

    def n_columns(self, n_points: int) -> int:
        """Columns M of the factor S of G at so many points: its rank."""
        return n_points if self.n_features is None else min(self.n_features, n_points)

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

    @abc.abstractmethod
    def whiten(self, noise: Float[Array, "P M"]) -> Float[Array, "P M"]:
        """The whitened factor L^-1 S that the Bartlett factor behind S stands for."""

    def extend(
        self, key: PRNGKeyArray, kernel: Float[Array, "Q Q"], factor: Float[Array, "P M"]
    ) -> Float[Array, "Q R"]:
        """Draw a factor of G at Q >= P points together, given any root of its leading P x P block.

        The entries of Bartlett factors are independent, and the factor of more points begins with
        that of fewer: the further rows come from the prior.
        """
        scale = cholesky(kernel)
        law: Any = self.prior(scale)
        known = bartlett_factor(
            self.prior(cholesky(kernel[: len(factor), : len(factor)])), trapezoid(factor)
        )
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
        """G with its data blocks drawn from the conditional prior given G_ii = S S^T.

        Each data point is drawn by itself.

        `whitened` is L^-1 S where it is known already; computed on demand otherwise.
        """
        if kernel.ti is None:
            return Gram(ii=factor @ factor.T)
        return self.draw_data(key, kernel, scale, factor, whitened)

    @abc.abstractmethod
    def draw_data(
        self,
        key: PRNGKeyArray,
        kernel: Gram,
        scale: Cholesky,
        factor: Array,
        whitened: Array | None,
    ) -> Gram:
        """:meth:`condition` where there are data blocks."""

    def condition_mean(
        self,
        kernel: Gram,
        scale: Cholesky,
        factor: Float[Array, "P M"],
        whitened: Float[Array, "P M"],
    ) -> Gram:
        """:meth:`condition` with the means of the data blocks instead of draws."""
        if kernel.ti is None:
            return Gram(ii=factor @ factor.T)
        return self.mean_data(kernel, scale, factor, whitened)

    @abc.abstractmethod
    def mean_data(self, kernel: Gram, scale: Cholesky, factor: Array, whitened: Array) -> Gram:
        """:meth:`condition_mean` where there are data blocks."""


def bartlett_factor(prior: Distribution, factor: Float[Array, "P M"]) -> Float[Array, "P M"]:
    """The Bartlett factor behind a factor S, under its prior."""
    for transform in reversed(cast(TransformedDistribution, prior).transforms):
        factor = jnp.asarray(transform.inv(factor))
    return factor
