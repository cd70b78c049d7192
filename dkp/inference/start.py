"""Where a variational fit starts: inducing points among the data, hyperparameters of the deterministic network.

A random start ends in pure noise: the guides' noise hides the data until the hyperparameters fit, and the
hyperparameters cannot fit through the noise. So the network is first fitted without noise in its bottlenecks (a sparse
Gaussian process with a deep kernel, cheap and smooth), and the guides start as narrow laws around it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dkp._types import Array, Float, PRNGKeyArray
from dkp.data import Dataset
from dkp.inference.family import OutputBatch, VariationalFamily
from dkp.inference.loop import Batches, LoopResult, Saved, minimise_many
from dkp.inference.optimizers import natural_outputs, ramped, warmup_steps
from dkp.linalg.order import farthest_first
from dkp.progress import Progress

__all__ = ["fit_deterministic", "inducing_points", "optimal_outputs"]

_CLUSTERED_ROWS = 10_000
_LEARNING_RATE = 0.02


def inducing_points(data: Dataset, n_inducing: int, key: PRNGKeyArray) -> Float[Array, "P *space D"]:
    """Centres of k-means on the features (on a random subset of a large data set); the distinct rows where there are
    no more. Each is the farthest from those before it: the factor of a Gram matrix of low rank is made from its first
    rows, which should differ.

    The number of points is the smaller of `n_inducing` and the number of distinct rows.
    """
    rows = np.unique(np.asarray(data.x, np.float64), axis=0)
    if n_inducing < len(rows):
        rows = _centres(rows, n_inducing, key)
    return jnp.asarray(rows[farthest_first(rows.reshape(len(rows), -1))], data.x.dtype)


def _centres(rows: np.ndarray, number: int, key: PRNGKeyArray) -> np.ndarray:
    from sklearn.cluster import KMeans

    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    if len(rows) > _CLUSTERED_ROWS:
        rows = np.random.default_rng(seed).choice(rows, _CLUSTERED_ROWS, replace=False)
    centres = KMeans(number, random_state=seed).fit(rows.reshape(len(rows), -1)).cluster_centers_
    return centres.reshape(-1, *rows.shape[1:])


def fit_deterministic(
    family: VariationalFamily,
    parameters: Sequence[dict[str, Any]],
    data: Sequence[Dataset],
    *,
    keys: Sequence[PRNGKeyArray],
    steps: int,
    batches: Sequence[Batches] | None,
    chunk: int,
    progress: Progress | None = None,
    saved: Saved | None = None,
) -> list[LoopResult]:
    """Fit everything but the guides, which start around it, to the network without noise, for each data set."""
    n = data[0].n

    def loss(current: dict[str, Any], key: PRNGKeyArray, batch: Any) -> tuple[Array, dict[str, Array]]:
        x, y, weights, offset = batch
        rows = OutputBatch(y=y, n=n, weights=weights, offset=offset, key=key)
        bound, jitter = family.output_bound(current, *family.deterministic(current, x), rows)
        return -bound / n, {"jitter": jitter}

    decay = optax.cosine_decay_schedule(_LEARNING_RATE, steps, alpha=0.1)
    schedule = ramped(decay, 0 if family.collapsed else warmup_steps(steps))
    return minimise_many(
        loss,
        parameters,
        _without_guides(natural_outputs(optax.adam(schedule), steps)),
        keys=keys,
        steps=steps,
        data=[d.rows for d in data],
        batches=batches,
        chunk=chunk,
        progress=progress,
        saved=saved,
    )


def _without_guides(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` for all parameters but those of the guides of bottlenecks and hyperparameters, which stay."""
    guides = ("bottlenecks", "inferred")
    return optax.multi_transform(
        {"guides": optax.set_to_zero(), "others": optimizer},
        lambda parameters: {
            name: jax.tree.map(lambda _, name=name: "guides" if name in guides else "others", value)
            for name, value in parameters.items()
        },
    )


def optimal_outputs(
    family: VariationalFamily, parameters: dict[str, Any], x: Array, y: Array, n: int
) -> dict[str, Array]:
    """Outputs that are optimal for Gaussian noise and a subset (x, y) of the n data points, at the network without
    noise in its bottlenecks."""
    model, kernel = family.deterministic(parameters, x)
    return family.sites(model, kernel, jnp.zeros_like(y), jnp.zeros_like(y), OutputBatch(y=y, n=n))
