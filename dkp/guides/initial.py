"""Where the guides of Wishart bottlenecks start.

G of low rank cannot be K, but can have its main directions.
"""

from typing import Any

import jax.numpy as jnp

from dkp._core.description import Pace
from dkp._core.types import Array, Float
from dkp.guides.base import Parameters

__all__ = [
    "INITIAL_PRECISION",
    "PRECISION_PACES",
    "initial_precision",
    "precision_tril",
    "principal_root",
]

INITIAL_PRECISION = 3.0
"""Features start with a noise of at most 1/3, where those of one point have a sum of squares of
about 1. With less noise the divergences of five layers hide the data; with more, the features say
nothing of the inputs."""

_SMALLEST = 1e-4

PRECISION_PACES: dict[str, Pace] = {"log_precision": "concentration", "precision": "kernel"}


def initial_precision(size: int, dtype: Any) -> Parameters:
    """Parameters of Lam = 3 I.

    Its size stands apart from its shape, so that both can be found quickly.
    """
    log_precision = jnp.log(jnp.asarray(INITIAL_PRECISION, dtype))
    return {"log_precision": log_precision, "precision": jnp.eye(size, dtype=dtype)}


def precision_tril(parameters: Parameters) -> Float[Array, "P P"]:
    """Lam, lower-triangular."""
    return jnp.exp(parameters["log_precision"]) * jnp.tril(parameters["precision"])


def principal_root(kernel: Float[Array, "P P"], columns: int) -> Float[Array, "P M"]:
    """S with S S^T nearest to K - mean among matrices of rank `columns`.

    It consists of kernel principal components, scaled by the roots of their eigenvalues.

    K itself has a nearly constant first component where it is smooth, which distances do not see.
    With as many columns as rows, S S^T is K. Tiny eigenvalues are raised to 1e-4 of the largest, so
    that S has the rank.

    Source: Schölkopf, Smola & Müller 1998, *Neural Computation* 10(5).
    """
    if columns < len(kernel):
        centred = kernel - jnp.mean(kernel, axis=0)[None, :]
        kernel = centred - jnp.mean(centred, axis=1)[:, None]
    values, vectors = jnp.linalg.eigh((kernel + kernel.T) / 2)
    values, vectors = values[::-1][:columns], vectors[:, ::-1][:, :columns]
    return vectors * jnp.sqrt(jnp.maximum(values, _SMALLEST * values[0]))[None, :]
