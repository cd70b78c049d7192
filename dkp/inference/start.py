"""Where a variational fit starts: inducing points among the data, hyperparameters of the deterministic network.

A random start ends in pure noise: the guides' noise hides the data until the hyperparameters fit, and the
    hyperparameters cannot
fit through the noise. So the network is first fitted without noise in its bottlenecks (a sparse Gaussian process with
a deep kernel, cheap and smooth), and the guides start as narrow laws around it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dkp._types import Array, Float, PRNGKeyArray
from dkp.data import Dataset
from dkp.guides import OutputGuide
from dkp.inference.family import VariationalFamily
from dkp.inference.loop import Batches, LoopResult, minimise
from dkp.linalg.cholesky import cholesky
from dkp.progress import Progress

__all__ = ["fit_deterministic", "inducing_points"]

_CLUSTERED_ROWS = 10_000
_LEARNING_RATE = 0.02


def inducing_points(data: Dataset, n_inducing: int, key: PRNGKeyArray) -> Float[Array, "P *space D"]:
    """Centres of k-means on the features (on a random subset of a large data set); the distinct rows where there are
    no more.

    The number of points is the smaller of `n_inducing` and the number of distinct rows.
    """
    from sklearn.cluster import KMeans

    rows = np.unique(np.asarray(data.x, np.float64), axis=0)
    if n_inducing >= len(rows):
        return jnp.asarray(rows, data.x.dtype)
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    if len(rows) > _CLUSTERED_ROWS:
        rows = np.random.default_rng(seed).choice(rows, _CLUSTERED_ROWS, replace=False)
    shape = rows.shape[1:]
    centres = KMeans(n_inducing, random_state=seed).fit(rows.reshape(len(rows), -1)).cluster_centers_
    return jnp.asarray(centres.reshape(-1, *shape), data.x.dtype)


def fit_deterministic(
    family: VariationalFamily,
    parameters: dict[str, Any],
    data: Dataset,
    *,
    key: PRNGKeyArray,
    steps: int,
    batches: Batches | None,
    chunk: int,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], LoopResult]:
    """Fit everything but the guides of the bottlenecks, which start around it, to the network without noise."""
    free = {name: parameters[name] for name in ("inducing", "learned", "outputs") if name in parameters}

    def loss(free: dict[str, Any], key: PRNGKeyArray, batch: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
        x, y = batch
        current = {**parameters, **free}
        bound, jitter = family.output_bound(current, *family.deterministic(current, x), y, data.n)
        return -bound / data.n, {"jitter": jitter}

    schedule = optax.cosine_decay_schedule(_LEARNING_RATE, steps, alpha=0.1)
    result = minimise(
        loss,
        free,
        optax.adam(schedule),
        key=key,
        steps=steps,
        data=(data.x, data.y),
        batches=batches,
        chunk=chunk,
        progress=progress,
    )
    return {**parameters, **result.parameters}, result


def optimal_outputs(
    family: VariationalFamily, parameters: dict[str, Any], x: Array, y: Array, n: int
) -> dict[str, Array]:
    """Pseudo-targets that are optimal for Gaussian noise and a subset (x, y) of the n data points, at the
    deterministic network.

    Lam Lam^T = (n / |x|) K_ii^-1 K_it K_ti K_ii^-1 / s^2 and Lam w = (n / |x|) K_ii^-1 K_it y / s^2.
    """
    model, kernel = family.deterministic(parameters, x)
    assert kernel.ti is not None
    scale = cholesky(kernel.ii)
    projected = kernel.ti @ scale.inverse.T @ scale.inverse
    weight = n / x.shape[0] / family.noise_variance(model)
    precision = cholesky(weight * (projected.T @ projected))
    target = precision.inverse @ (weight * (projected.T @ y))
    return OutputGuide().parameters(target, precision.tril)
