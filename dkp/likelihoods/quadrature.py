"""Expectations under one-dimensional normal laws, by Gauss-Hermite quadrature."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints

from dkp._core.types import Array, Float

__all__ = ["NODES", "LatentMixture", "expectation"]

NODES = 32
"""Exact for polynomials of degree 63; for log densities with kinks or narrow peaks the error falls
slowly."""


def expectation(
    function: Callable[[Array], Array],
    mean: Float[Array, "*batch"],
    variance: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """E function(f), f ~ N(mean, variance), entry by entry."""
    nodes, weights = _rule(mean.dtype)

    def add(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        return total + node[1] * function(mean + jnp.sqrt(variance) * node[0]), None

    return jax.lax.scan(add, jnp.zeros_like(mean), (nodes, weights))[0]


class LatentMixture(dist.Distribution):
    """p(y) = int p(y | f) N(f; mean, variance) df, entry by entry.

    p(y | f) is the law of a likelihood.

    Densities, moments and the distribution function are by quadrature; samples draw f.
    """

    pytree_data_fields = ("likelihood", "latent_mean", "latent_variance")

    def __init__(
        self, likelihood: Any, mean: Float[Array, "B C"], variance: Float[Array, "B C"]
    ) -> None:
        self.likelihood, self.latent_mean, self.latent_variance = likelihood, mean, variance
        super().__init__(batch_shape=jnp.shape(mean), validate_args=False)

    @property
    def _at_nodes(self) -> tuple[Any, Array]:
        """The law at the nodes, which are the first axis, and their weights."""
        nodes, weights = (a[:, None, None] for a in _rule(self.latent_mean.dtype))
        return self.likelihood.law(
            self.latent_mean[None] + jnp.sqrt(self.latent_variance)[None] * nodes
        ), weights

    def _everywhere(self, value: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(value), (NODES, *self.batch_shape))

    @constraints.dependent_property
    def support(self) -> Any:
        return self.likelihood.law(self.latent_mean).support

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        key_f, key_y = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape)
        noise = jax.random.normal(key_f, shape, self.latent_mean.dtype)
        mean, spread = (
            jnp.broadcast_to(a, shape) for a in (self.latent_mean, jnp.sqrt(self.latent_variance))
        )
        return jnp.asarray(self.likelihood.law(mean + spread * noise).sample(key_y))

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        law, weights = self._at_nodes
        return logsumexp(
            jnp.log(weights) + jnp.asarray(law.log_prob(self._everywhere(value))), axis=0
        )

    def cdf(self, value: Any) -> Array:
        law, weights = self._at_nodes
        return jnp.sum(weights * jnp.asarray(law.cdf(self._everywhere(value))), axis=0)

    @property
    def probs(self) -> Array:
        """Of a law of classes: their probabilities, on a last axis where they are more than two."""
        law, weights = self._at_nodes
        probabilities = jnp.asarray(law.probs)
        return jnp.sum(weights.reshape(-1, *[1] * (probabilities.ndim - 1)) * probabilities, axis=0)

    @property
    def mean(self) -> Array:
        law, weights = self._at_nodes
        return jnp.sum(weights * law.mean, axis=0)

    @property
    def variance(self) -> Array:
        law, weights = self._at_nodes
        centre = jnp.sum(weights * law.mean, axis=0)
        return jnp.sum(weights * (law.variance + (law.mean - centre[None]) ** 2), axis=0)


def _rule(dtype: Any) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return jnp.asarray(nodes, dtype), jnp.asarray(weights / np.sqrt(2 * np.pi), dtype)
