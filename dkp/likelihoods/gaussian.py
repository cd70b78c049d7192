"""Gaussian noise."""

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist

from dkp._spec import hyperparameter, learn
from dkp._types import Array, Float
from dkp.likelihoods.base import Likelihood, broadcast_outputs

__all__ = ["Gaussian"]


class Gaussian(Likelihood):
    """y = f + noise * e, e ~ N(0, I).

    Args:
        noise: standard deviation, positive, in the units of the standardised target; one number for all outputs.
            ``learn()`` (the default) starts from the residual of a linear fit.

    Raises:
        ValueError: when a number or an initial value for `noise` is not positive and finite.
    """

    is_gaussian = True

    noise: Any = hyperparameter(default=learn())

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def initial_values(self, x: Array, y: Array) -> dict[str, Array]:
        """Half the residual standard deviation of a linear fit: a nonlinear model explains more than a linear one."""
        x = x.reshape(x.shape[0], -1)
        design = jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)
        # A little ridge, because columns may be copies of one another.
        normal = design.T @ design + 1e-3 * x.shape[0] * jnp.eye(design.shape[1], dtype=x.dtype)
        residual = y - design @ jnp.linalg.solve(normal, design.T @ y)
        return {"noise": jnp.clip(jnp.std(residual) / 2, 0.05, 1.0)}

    def noise_variance(self, n_outputs: int) -> Float[Array, " C"]:
        return broadcast_outputs(self.noise, n_outputs) ** 2

    def conditional(self, f: Float[Array, "B C"]) -> dist.Distribution:
        return dist.Normal(f, jnp.broadcast_to(jnp.asarray(self.noise, f.dtype), f.shape)).to_event(1)

    def predictive(self, mean: Float[Array, "B C"], variance: Float[Array, "B C"]) -> dist.Normal:
        return dist.Normal(mean, jnp.sqrt(variance + self.noise_variance(mean.shape[-1])[None, :]))

    def expected_log_density(
        self, y: Float[Array, "B C"], mean: Float[Array, "B C"], variance: Float[Array, "B C"]
    ) -> Float[Array, " B"]:
        """sum_c -log(2 pi s^2) / 2 - ((y - mean)^2 + variance) / (2 s^2)."""
        noise = self.noise_variance(y.shape[-1])[None, :]
        squared = (y - mean) ** 2 + variance
        return jnp.sum(-jnp.log(2 * jnp.pi * noise) / 2 - squared / (2 * noise), axis=-1)
