"""The posterior of the `hmc` suite.

A UCI subset, two bottlenecks between squared-exponential kernels, Gaussian noise.

    K = se(x x^T / D),  G_1 | K,  G_2 | se(G_1),  y | G_2 ~ N(0, se(G_2) + noise^2 I)

Bottlenecks are Wishart of few degrees of freedom, which is a deep Gaussian process of that width,
or inverse Wishart. What is compared are functionals of Gram matrices, computed for all samplers by
one function.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import dkp
from dkp import kernels, likelihoods
from dkp.gram.alignment import centred_alignment

__all__ = [
    "DELTA",
    "LENGTHSCALES",
    "NOISE",
    "WIDTH",
    "Bottleneck",
    "Effective",
    "effective",
    "functionals",
    "load",
]

Bottleneck = Literal["wishart", "inverse-wishart"]
WIDTH, DELTA = 5, 10.0
LENGTHSCALES, NOISE = tuple(f"layers.{i}.lengthscale" for i in (0, 2, 4)), "likelihood.noise"
_POINTS = 5


def lengthscale_prior() -> dist.Distribution:
    return dist.LogNormal(0.0, 0.5)


def noise_prior() -> dist.Distribution:
    """Of the standard deviation."""
    return dist.LogNormal(-1.5, 0.5)


def load(n: int) -> "dkp.Dataset":
    """The first n training rows of a UCI set, standardised."""
    table = dkp.datasets.load("uci/boston", split=0)
    return dkp.Dataset.from_arrays(table.x[:n], table.y[:n])


def model(bottleneck: Bottleneck) -> "dkp.DeepKernelProcess":
    """The network as a user of the package writes it."""
    random: Any = (
        dkp.Wishart(width=WIDTH) if bottleneck == "wishart" else dkp.InverseWishart(delta=DELTA)
    )
    kernel = kernels.SquaredExponential(lengthscale=lengthscale_prior(), variance=1.0)
    return dkp.DeepKernelProcess(
        layers=[kernel, random, kernel, random, kernel],
        likelihood=likelihoods.Gaussian(noise=noise_prior()),
    )


def squared_exponential(gram: jax.Array, lengthscale: jax.Array) -> jax.Array:
    """exp(-(g_xx - 2 g_xy + g_yy) / (2 lengthscale^2))."""
    norms = jnp.diagonal(gram)
    return jnp.exp(-0.5 * (norms[:, None] - 2 * gram + norms[None, :]) / lengthscale**2)


def functionals(
    values: Mapping[str, jax.Array], factors: Sequence[jax.Array], y: jax.Array
) -> dict[str, jax.Array]:
    """Of every Gram matrix G = F F^T: log-determinant (of its non-zero eigenvalues), trace and
    centred alignment with y y^T; the hyperparameters; predictions, the means of f given y and G at
    a few points.

    Args:
        values: hyperparameters by name. factors: F of every bottleneck, (N, M) with M <= N, rows as
            in y. y: (N,).
    """
    found = {name: values[name] for name in (*LENGTHSCALES, NOISE)}
    for i, factor in enumerate(factors, start=1):
        found[f"log_det_{i}"] = jnp.linalg.slogdet(factor.T @ factor)[1]
        found[f"trace_{i}"] = jnp.sum(factor**2)
        found[f"alignment_{i}"] = centred_alignment(factor, y[:, None])
    kernel = squared_exponential(factors[-1] @ factors[-1].T, values[LENGTHSCALES[-1]])
    noise = values[NOISE] ** 2
    mean = y - noise * jnp.linalg.solve(kernel + noise * jnp.eye(len(y)), y)
    rows = np.linspace(0, len(y) - 1, _POINTS).astype(int)
    return found | {f"prediction_{i}": mean[row] for i, row in enumerate(rows)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effective:
    """Effective sample sizes of all chains together.

    Attributes:
        smallest: of all functionals.
        name: whose it is.
        median: of all functionals.
        r_hat: the largest.
    """

    smallest: float
    name: str
    median: float
    r_hat: float | None


def effective(draws: Mapping[str, np.ndarray]) -> Effective:
    """Rank-normalised bulk effective sample size and split R-hat (Vehtari et al. 2021) of
    functionals, (chains, draws).

    Where ArviZ has no number, as for chains that did not move or for fewer than four draws, every
    chain counts once.
    """
    import arviz as az

    def size(values: np.ndarray) -> float:
        found = float(az.ess(values, method="bulk")) if _has_diagnostics(values) else np.nan
        return found if np.isfinite(found) else float(len(values))

    sizes = {name: size(values) for name, values in draws.items()}
    r_hats = [float(az.rhat(values)) for values in draws.values() if _has_diagnostics(values)]
    smallest = min(sizes, key=lambda name: sizes[name])
    all_moved = len(r_hats) == len(draws) and np.all(np.isfinite(r_hats))
    return Effective(
        smallest=sizes[smallest],
        name=smallest,
        median=float(np.median(list(sizes.values()))),
        r_hat=max(r_hats) if all_moved else None,
    )


def _has_diagnostics(values: np.ndarray) -> bool:
    return values.shape[1] >= 4 and bool(np.ptp(values) > 0)
