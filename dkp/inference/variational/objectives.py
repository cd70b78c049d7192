"""What the stages of variational inference minimise, for the loop.

They are functions of parameters, a key and a batch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dkp._core.record import static, value
from dkp._core.types import Array, PRNGKeyArray
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.outputs import OutputBatch

__all__ = ["NegativeBoundWithoutNoise", "NegativeElbo"]


@value
class NegativeElbo:
    """Minus the ELBO per data point, of `n`, averaged over `samples` draws."""

    family: VariationalFamily
    n: int = static()
    samples: int = static(1)

    def __call__(
        self, parameters: Any, key: PRNGKeyArray, batch: Any
    ) -> tuple[Array, dict[str, Array]]:
        x, y, weights, offset = batch
        keys = jax.random.split(key, self.samples)
        elbo, jitter = jax.vmap(
            lambda k: self.family.elbo(parameters, k, x, y, self.n, weights, offset)
        )(keys)
        return -jnp.mean(elbo) / self.n, {"jitter": jnp.max(jitter)}


@value
class NegativeBoundWithoutNoise:
    """Minus the bound on log p(y) per data point, of `n`.

    It is that of the network without noise in its bottlenecks.
    """

    family: VariationalFamily
    n: int = static()

    def __call__(
        self, parameters: Any, key: PRNGKeyArray, batch: Any
    ) -> tuple[Array, dict[str, Array]]:
        x, y, weights, offset = batch
        rows = OutputBatch(y=y, n=self.n, weights=weights, offset=offset, key=key)
        bound, jitter = self.family.output_bound(
            parameters, *self.family.deterministic(parameters, x), rows
        )
        return -bound / self.n, {"jitter": jitter}
