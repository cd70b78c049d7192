"""The guide of an inferred hyperparameter."""

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import Distribution

from dkp._core.types import Array
from dkp.guides.base import Parameters
from dkp.model.hyperparameters import Hyperparameter

__all__ = ["HyperparameterGuide"]


class HyperparameterGuide:
    """Mean-field normal on the unconstrained scale of one inferred hyperparameter."""

    def init(self, h: Hyperparameter, dtype: jnp.dtype) -> Parameters:
        try:
            mean = jnp.asarray(h.prior.mean, dtype)
        except NotImplementedError:  # of transformed distributions
            mean = jnp.asarray(jnp.nan, dtype)
        start = jnp.broadcast_to(mean, h.shape)
        loc = h.unconstrain(jnp.where(jnp.isfinite(start), start, jnp.ones_like(start)))
        # 1 may lie at the end of the support
        loc = jnp.where(jnp.isfinite(loc), loc, jnp.zeros_like(loc))
        return {"loc": loc, "log_scale": jnp.full(h.shape, -3.0, dtype)}

    def centre(self, h: Hyperparameter, parameters: Parameters) -> Array:
        """The median, in the hyperparameter's own domain."""
        return h.constrain(parameters["loc"])

    def law(self, h: Hyperparameter, parameters: Parameters) -> Distribution:
        normal = dist.Normal(parameters["loc"], jnp.exp(parameters["log_scale"])).to_event(
            len(h.shape)
        )
        return dist.TransformedDistribution(normal, dist.biject_to(h.constraint))
