"""What the stages of variational inference minimise: functions of parameters, a key and a batch, for the loop."""

from typing import Any

import jax
import jax.numpy as jnp

from dkp._types import Array, PRNGKeyArray
from dkp.inference.family import OutputBatch, VariationalFamily
from dkp.inference.loop import Loss

__all__ = ["negative_bound_without_noise", "negative_elbo"]


def negative_elbo(family: VariationalFamily, n: int, samples: int) -> Loss:
    """Minus the ELBO per data point, of n, averaged over `samples` draws."""

    def loss(parameters: Any, key: PRNGKeyArray, batch: Any) -> tuple[Array, dict[str, Array]]:
        x, y, weights, offset = batch
        keys = jax.random.split(key, samples)
        elbo, jitter = jax.vmap(lambda k: family.elbo(parameters, k, x, y, n, weights, offset))(keys)
        return -jnp.mean(elbo) / n, {"jitter": jnp.max(jitter)}

    return loss


def negative_bound_without_noise(family: VariationalFamily, n: int) -> Loss:
    """Minus the bound on log p(y) per data point of the network without noise in its bottlenecks."""

    def loss(parameters: Any, key: PRNGKeyArray, batch: Any) -> tuple[Array, dict[str, Array]]:
        x, y, weights, offset = batch
        rows = OutputBatch(y=y, n=n, weights=weights, offset=offset, key=key)
        bound, jitter = family.output_bound(parameters, *family.deterministic(parameters, x), rows)
        return -bound / n, {"jitter": jitter}

    return loss
