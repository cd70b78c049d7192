"""Laws that coordinates are measured against: centres and spreads, and the standard normal law."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma

from dkp._core.types import Array, Float, Scalar
from dkp.data.dataset import Dataset
from dkp.model.hyperparameters import Hyperparameter, hyperparameters
from dkp.model.process import DeepKernelProcess

__all__ = ["inferred_hyperparameters", "log_chi_moments", "log_normal", "reference"]

_REFERENCE_DRAWS = 1_000


def inferred_hyperparameters(model: DeepKernelProcess, data: Dataset) -> dict[str, Hyperparameter]:
    """The hyperparameters of a model on data that have a prior, by name."""
    found = hyperparameters(model, data.d, data.n_outputs)
    return {name: h for name, h in found.items() if h.is_inferred}


def reference(index: int, h: Hyperparameter, data: Dataset) -> tuple[Array, Array]:
    """Centre and spread of a hyperparameter on the unconstrained scale, from draws of its prior."""
    draws = h.prior.sample(jax.random.fold_in(jax.random.key(0), index), (_REFERENCE_DRAWS,))
    free = np.array(h.unconstrain(jnp.asarray(draws)), np.float64)
    free = np.where(np.isfinite(free), free, np.nan)
    low, middle, high = np.nanquantile(free, [0.1587, 0.5, 0.8413], axis=0)
    spread = np.maximum((high - low) / 2, 1e-3)
    return jnp.asarray(middle, data.x.dtype), jnp.asarray(spread, data.x.dtype)


def log_chi_moments(df: Float[Array, " M"]) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """Mean and standard deviation of log A for A^2 ~ chi^2(df).

    The deviation has three terms of the series of the trigamma function: any smooth function will
    do, since the density of the coordinates is exact.
    """
    half = df / 2
    variance = (1 + (1 / 2 + 1 / (6 * half)) / half) / half
    return (digamma(half) + math.log(2)) / 2, jnp.sqrt(variance) / 2


def log_normal(z: Array) -> Scalar:
    """Log-density of N(0, I) at z, summed over all entries."""
    return -(jnp.sum(z**2) + z.size * math.log(2 * math.pi)) / 2
