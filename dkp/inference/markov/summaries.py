"""Numbers that say how well a chain mixes.

They do not change when features are rotated.

Convergence is judged by them: entries of factors have no meaning of their own, and those that move
most slowly are usually these.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.compiled import compiled
from dkp._core.types import Array, Float, Scalar
from dkp.gram.alignment import centred_alignment
from dkp.inference.coordinates import Coordinates, Network
from dkp.linalg.diagonals import diagonal
from dkp.model.outputs import exact_outputs, observed_outputs

__all__ = ["functionals", "functionals_of"]

_POINTS = 3


def functionals(target: Coordinates, network: Network) -> dict[str, Array]:
    """The functionals of a network.

    They are: of every bottleneck's Gram matrix the log-determinant (of its non-zero eigenvalues),
    trace, and centred alignment with the label kernel; the log-likelihood; the hyperparameters; the
    latent function at a few training points.

    Values are scalars, or arrays for hyperparameters that are.
    """
    found = dict(network.values)
    for index, factor in enumerate(network.factors, start=1):
        triangle = jnp.linalg.qr(factor, mode="r")  # S^T S would square the condition number
        found[f"gram_{index}_log_det"] = 2 * jnp.sum(jnp.log(jnp.abs(diagonal(triangle))))
        found[f"gram_{index}_trace"] = jnp.sum(factor**2)
        # missing: the mean
        found[f"gram_{index}_alignment"] = centred_alignment(factor, jnp.nan_to_num(target.y))
    found["log_likelihood"] = target.log_likelihood(network)
    return {**found, "f": target.in_data_order(_latent(target, network))[_rows(target)]}


@compiled()
def functionals_of(target: Coordinates, z: Float[Array, "S K"]) -> tuple[dict[str, Array], Scalar]:
    """The functionals of a stack of points, and the largest jitter of a factorisation there."""

    def one(point: Array) -> tuple[dict[str, Array], Array]:
        network = target.network(point)
        return functionals(target, network), network.jitter

    found, jitter = jax.lax.map(one, z)
    return found, jnp.max(jitter)


def _rows(target: Coordinates) -> np.ndarray:
    n = target.data.n
    return np.unique(np.linspace(0, n - 1, _POINTS).astype(int))


def _latent(target: Coordinates, network: Network) -> Float[Array, "N Q"]:
    """f at the data, or its mean given y where Gaussian noise integrates it out.

    The mean is y - s^2 (K + s^2 I)^-1 y.
    """
    if network.f is not None:
        return network.f
    noise = target.noise_variance(network)
    if target.data.has_missing:
        return network.kernel @ observed_outputs(network.kernel, target.y, noise).weights
    return target.y - noise * exact_outputs(network.kernel, target.y, noise)[1].weights
