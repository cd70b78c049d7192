"""What ``dkp.sample_hmc`` is measured against: the posterior of ``hmc_problem`` in plain NumPyro.

- ``gram``, (a): Gram matrices are the sites, inverse Wishart around the kernel matrix of the layer
  below: centred.
- ``features``, (b): a deep Gaussian process, whose sites are the features of a layer given those
  below: centred.
- ``whitened``, (c): the same with standard normal sites, which a Cholesky factor turns into
  features.

Outputs are integrated out in all of them. The jitter is the usual one in float64; it is more than
the package adds, which is to the advantage of centred sites.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from benchmarks.speed.hmc_problem import (
    DELTA,
    LENGTHSCALES,
    NOISE,
    WIDTH,
    lengthscale_prior,
    noise_prior,
    squared_exponential,
)

__all__ = ["MODELS", "factor_name"]

_JITTER = 1e-6

Layer = Callable[[int, jax.Array], tuple[jax.Array, jax.Array]]
"""Samples the Gram matrix of a bottleneck and a factor of it, given its number and the Cholesky
factor of K."""


def factor_name(index: int) -> str:
    """The deterministic site with the factor of a bottleneck, for functionals."""
    return f"factor_{index}"


def gram(index: int, tril: jax.Array) -> tuple[jax.Array, jax.Array]:
    law = dist.InverseWishart(DELTA + len(tril) + 1, scale_tril=jnp.sqrt(DELTA) * tril)
    value = _sample(f"gram_{index}", law)
    # the factor is for functionals: it is no part of the density
    return value, jnp.linalg.cholesky(value)


def features(index: int, tril: jax.Array) -> tuple[jax.Array, jax.Array]:
    law = dist.MultivariateNormal(jnp.zeros(len(tril)), scale_tril=tril).expand([WIDTH]).to_event(1)
    factor = _sample(f"features_{index}", law).T / jnp.sqrt(WIDTH)
    return factor @ factor.T, factor


def whitened(index: int, tril: jax.Array) -> tuple[jax.Array, jax.Array]:
    law = dist.Normal(0, 1).expand([len(tril), WIDTH]).to_event(2)
    factor = tril @ _sample(f"whitened_{index}", law) / jnp.sqrt(WIDTH)
    return factor @ factor.T, factor


def _network(layer: Layer) -> Callable[[jax.Array, jax.Array], None]:
    """The model of features x (N, D) and targets y (N,) with that kind of bottleneck."""

    def model(x: jax.Array, y: jax.Array) -> None:
        jitter = _JITTER * jnp.eye(len(x))
        lengthscales = [_sample(name, lengthscale_prior()) for name in LENGTHSCALES]
        noise = _sample(NOISE, noise_prior())
        kernel = squared_exponential(x @ x.T / x.shape[1], lengthscales[0])
        for index, lengthscale in enumerate(lengthscales[1:], start=1):
            value, factor = layer(index, jnp.linalg.cholesky(kernel + jitter))
            numpyro.deterministic(factor_name(index), factor)
            kernel = squared_exponential(value, lengthscale)
        covariance = kernel + noise**2 * jnp.eye(len(x)) + jitter
        numpyro.sample(
            "y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=covariance), obs=y
        )

    return model


def _sample(site: str, law: dist.Distribution) -> jax.Array:
    return cast(jax.Array, numpyro.sample(site, law))


MODELS = {"gram": _network(gram), "features": _network(features), "whitened": _network(whitened)}
