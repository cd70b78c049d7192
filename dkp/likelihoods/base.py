"""What a likelihood is: the law of a row of y given a row of latent functions f.

Engines use ``expected_log_density``; prediction uses ``predictive``. Only a likelihood that says so through
``noise_variance`` is collapsed (its latent functions are integrated out in closed form).
"""

import jax.numpy as jnp
from numpyro.distributions import Distribution

from dkp._spec import Spec
from dkp._types import Array, Float

__all__ = ["Likelihood"]


class Likelihood(Spec):
    """p(y | f) for rows y of C outputs and rows f of Q latent functions."""

    standardises_targets = True
    """Whether y may be shifted and scaled: true of real-valued targets, false of counts and classes."""

    is_gaussian = False
    """Whether y is f plus Gaussian noise of one known variance, so that engines may integrate f out in closed form."""

    def n_latent(self, n_outputs: int) -> int:
        """Q, the number of latent functions for C outputs."""
        return n_outputs

    def conditional(self, f: Float[Array, "B Q"]) -> Distribution:
        """p(y | f): batch shape (B,), event shape (C,)."""
        raise NotImplementedError

    def predictive(self, mean: Float[Array, "B Q"], variance: Float[Array, "B Q"]) -> Distribution | None:
        """p(y) for f ~ N(mean, variance) where it is known in closed form, batch shape (B, C); None where it is not."""
        return None

    def expected_log_density(
        self, y: Float[Array, "B C"], mean: Float[Array, "B Q"], variance: Float[Array, "B Q"]
    ) -> Float[Array, " B"]:
        """E log p(y | f) under f ~ N(mean, variance), independent over Q."""
        raise NotImplementedError

    def noise_variance(self, n_outputs: int) -> Float[Array, " C"] | None:
        """Variance of the additive noise, where the likelihood ``is_gaussian``; None otherwise."""
        return None


def broadcast_outputs(value: Array | float, n_outputs: int) -> Array:
    return jnp.broadcast_to(jnp.asarray(value), (n_outputs,))
