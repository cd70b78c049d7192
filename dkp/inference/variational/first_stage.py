"""Where a variational fit starts: inducing points among the data, and a cheap first stage.

A random start ends in pure noise: the guides' noise hides the data until the hyperparameters fit,
and the hyperparameters cannot fit through the noise. So the network is first fitted without noise
in its bottlenecks (a sparse Gaussian process with a deep kernel, cheap and smooth), and the guides
start as narrow laws around it. A bottleneck of low rank has no such start; its network is fitted to
a subset of a large data set, with the outputs integrated out.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.compiled import compiled
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.batches import Batches
from dkp.data.dataset import Dataset
from dkp.gram.order import farthest_first
from dkp.inference.minimise import minimise_many
from dkp.inference.tracker import LoopResult
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.objectives import NegativeBoundWithoutNoise, NegativeElbo
from dkp.inference.variational.outputs import OutputBatch
from dkp.inference.variational.rates import (
    FROM_NOTHING,
    default_optimizer,
    start_optimizer,
    warmup_steps,
)
from dkp.linalg.cholesky import cholesky

__all__ = [
    "FirstStage",
    "first_stage",
    "fit_to_subset",
    "fit_without_noise",
    "inducing_points",
    "optimal_outputs",
]

_CLUSTERED_ROWS = 10_000
_SUBSET = 2_000
_ROWS_AT_A_TIME = 10_000

FirstStage = Callable[..., list[LoopResult]]


def inducing_points(
    data: Dataset, n_inducing: int, key: PRNGKeyArray
) -> Float[Array, "P *space D"]:
    """Centres of k-means on the features; the distinct rows where there are no more.

    The means are taken over a random subset of a large data set. Each point is the farthest from
    those before it: the factor of a Gram matrix of low rank is made from its first rows, which
    should differ.

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


def first_stage(
    family: VariationalFamily, data: Sequence[Dataset], start_steps: int
) -> FirstStage | None:
    """Which first stage a fit has.

    It has none where it has no steps, or where noise cannot be left out of the bottlenecks and
    there is no large data set whose outputs can be integrated out.
    """
    if start_steps == 0:
        return None
    if family.starts_deterministic:
        return fit_without_noise
    plain = family.model.likelihood.is_gaussian and all(d.is_plain for d in data)
    return fit_to_subset if plain and data[0].n > _SUBSET else None


def fit_without_noise(
    family: VariationalFamily,
    parameters: Sequence[dict[str, Any]],
    datasets: Sequence[Dataset],
    *,
    keys: Sequence[PRNGKeyArray],
    batches: Sequence[Batches] | None,
    **loop: Any,
) -> list[LoopResult]:
    """Fit everything but the guides to the network without noise, for each data set.

    The guides start around it.

    With Gaussian noise of complete targets without weights the outputs are integrated out, on a
    subset of a large data set, whatever the second stage does.

    Args:
        loop: of :func:`minimise_many`.
    """
    plain = family.model.likelihood.is_gaussian and all(data.is_plain for data in datasets)
    if not plain or family.collapsed:
        return _minimise_without_noise(
            family, parameters, datasets, keys=keys, batches=batches, **loop
        )
    return _on_subsets(_minimise_without_noise, family, parameters, datasets, keys, loop)


def fit_to_subset(
    family: VariationalFamily,
    parameters: Sequence[dict[str, Any]],
    datasets: Sequence[Dataset],
    *,
    keys: Sequence[PRNGKeyArray],
    batches: Sequence[Batches] | None,
    **loop: Any,
) -> list[LoopResult]:
    """Fit everything to a subset of each data set, the outputs integrated out.

    With minibatches alone, outputs that lag behind their kernels hide the data for thousands of
    steps where the noise is small (naval: a bound of -42 nats a point where 4 is possible).
    """
    return _on_subsets(_minimise_negative_elbo, family, parameters, datasets, keys, loop)


def _on_subsets(
    minimise: FirstStage,
    family: VariationalFamily,
    parameters: Sequence[dict[str, Any]],
    datasets: Sequence[Dataset],
    keys: Sequence[PRNGKeyArray],
    loop: dict[str, Any],
) -> list[LoopResult]:
    """`minimise` on a subset of each data set with the outputs integrated out.

    Their optimum for all data follows, where the family does not integrate them out.
    """
    subsets = [_subset(data, key) for data, key in zip(datasets, keys, strict=True)]
    inner, collapsed = _without_outputs(family, parameters)
    starts = minimise(collapsed, inner, subsets, keys=keys, batches=None, **loop)
    return starts if family.collapsed else _with_outputs(family, starts, datasets, parameters)


def _minimise_negative_elbo(
    family: VariationalFamily,
    parameters: Sequence[dict[str, Any]],
    data: Sequence[Dataset],
    *,
    steps: int,
    **loop: Any,
) -> list[LoopResult]:
    loss, optimizer = (
        NegativeElbo(family=family, n=data[0].n, samples=1),
        default_optimizer(steps, paces=family.paces(parameters[0]), rate=FROM_NOTHING),
    )
    return minimise_many(
        loss, parameters, optimizer, steps=steps, data=[d.rows for d in data], **loop
    )


def _minimise_without_noise(
    family: VariationalFamily,
    parameters: Sequence[dict[str, Any]],
    data: Sequence[Dataset],
    *,
    steps: int,
    **loop: Any,
) -> list[LoopResult]:
    loss = NegativeBoundWithoutNoise(family=family, n=data[0].n)
    optimizer = start_optimizer(steps, warmup=0 if family.collapsed else warmup_steps(steps))
    return minimise_many(
        loss, parameters, optimizer, steps=steps, data=[d.rows for d in data], **loop
    )


def _subset(data: Dataset, key: PRNGKeyArray) -> Dataset:
    rows = jax.random.choice(key, data.n, (min(data.n, _SUBSET),), replace=False)
    return dataclasses.replace(data, x=data.x[rows], y=data.y[rows])


def _without_outputs(
    family: VariationalFamily, parameters: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], VariationalFamily]:
    """The parameters without their outputs, and the family that integrates them out."""
    inner = [{name: v for name, v in p.items() if name != "outputs"} for p in parameters]
    return inner, dataclasses.replace(family, collapsed=True)


def _with_outputs(
    family: VariationalFamily,
    starts: Sequence[LoopResult],
    datasets: Sequence[Dataset],
    before: Sequence[dict[str, Any]],
) -> list[LoopResult]:
    """The parameters with the optimal outputs for all data.

    Where a number is not finite, the outputs are those before.
    """
    found = []
    for start, data, old in zip(starts, datasets, before, strict=True):
        optimal = optimal_outputs(family, start.parameters, data)
        finite = all(bool(jnp.all(jnp.isfinite(v))) for v in optimal.values())
        outputs = optimal if finite else old["outputs"]
        found.append(
            dataclasses.replace(start, parameters={**start.parameters, "outputs": outputs})
        )
    return found


def optimal_outputs(
    family: VariationalFamily, parameters: dict[str, Any], data: Dataset
) -> dict[str, Array]:
    """Optimal outputs for Gaussian noise, at the network without noise in its bottlenecks.

    They are sums over the data, some rows at a time.
    """
    parts = range(0, data.n, _ROWS_AT_A_TIME)
    sums = [
        _sites(family, parameters, data.x[i : i + _ROWS_AT_A_TIME], data.y[i : i + _ROWS_AT_A_TIME])
        for i in parts
    ]
    return jax.tree.map(lambda *terms: functools.reduce(jnp.add, terms), *sums)


@compiled()
def _sites(
    family: VariationalFamily, parameters: dict[str, Any], x: Array, y: Array
) -> dict[str, Array]:
    model, kernel = family.deterministic(parameters, x)
    batch, zero = OutputBatch(y=y, n=y.shape[0]), jnp.zeros_like(y)
    return batch.sites(model.likelihood, kernel, cholesky(kernel.ii), zero, zero)
