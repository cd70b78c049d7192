"""A posterior made of draws: networks on all the data, as points of :class:`Coordinates`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.compiled import compiled
from dkp._core.record import record
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.gram.gram import Gram, Inputs
from dkp.inference.checks import Problem
from dkp.inference.coordinates import Coordinates
from dkp.linalg.cholesky import cholesky
from dkp.model.outputs import OutputLaw, exact_outputs, observed_outputs
from dkp.model.process import DeepKernelProcess
from dkp.model.propagate import propagate
from dkp.posterior.draw import Draw, resolve_draw
from dkp.posterior.rows import moments_row_by_row

__all__ = ["DrawsPosterior", "networks_of", "output_law"]

_BLOCK = 50  # draws whose N x N output laws are in memory at a time


@record
class DrawsPosterior:
    """Equally weighted draws from a posterior, in chains.

    Attributes:
        model: without learned hyperparameters, which have no draws.
        coordinates: the map from points to networks, with the data.
        z: points of `coordinates`, (chains, draws, K).
    """

    model: DeepKernelProcess
    coordinates: Coordinates
    z: Float[np.ndarray, "C S K"]

    @property
    def data(self) -> Dataset:
        """The data that the posterior is conditioned on."""
        return self.coordinates.data

    @property
    def n_chains(self) -> int:
        """Number of chains C."""
        return self.z.shape[0]

    @property
    def n_draws(self) -> int:
        """Number of draws in each chain."""
        return self.z.shape[1]

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """A stack of n draws, chosen at random: without repetition as long as there are enough."""
        total = self.n_chains * self.n_draws
        rounds = [
            jax.random.permutation(jax.random.fold_in(key, i), total) for i in range(-(-n // total))
        ]
        chosen = np.asarray(jnp.concatenate(rounds)[:n])
        return networks_of(self.coordinates, jnp.asarray(self.z.reshape(total, -1)[chosen]))

    def chains(self, thin: int = 1) -> Draw:
        """Every `thin`-th draw of all chains, as one stack: chain after chain."""
        kept = self.z[:, ::thin]
        return networks_of(self.coordinates, jnp.asarray(kept.reshape(-1, kept.shape[-1])))

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "S B Q"], Float[Array, "S B Q"]]:
        """Mean and variance of the latent functions at standardised points, given each draw."""
        n, parts = draws.inducing.shape[0], []
        for start in range(0, n, _BLOCK):
            # one shape, one compilation
            rows = np.minimum(np.arange(start, start + min(n, _BLOCK)), n - 1)
            block = jax.tree.map(lambda a, rows=rows: a[rows], draws)
            block = dataclasses.replace(block, outputs=_output_laws(self.coordinates, block))
            block_key = jax.random.fold_in(key, start)
            parts.append(
                moments_row_by_row(
                    self.coordinates.model, self.data.n_outputs, block, block_key, x, chunk
                )
            )
        mean, variance = (jnp.concatenate(blocks)[:n] for blocks in zip(*parts, strict=True))
        return mean, variance

    def in_data_order(self, rows: Float[Array, "N *rest"]) -> Float[Array, "N *rest"]:
        """Rows in the order of the factors, as the data have them."""
        return self.coordinates.in_data_order(rows)

    def leave_one_out(self, draws: Draw) -> Float[Array, "S N"]:
        """log p(y_n | y of all other rows, network), standardised units, for each draw.

        The importance weights of leaving row n out of the posterior over networks are its inverses:
        with Gaussian noise, PSIS-LOO needs these and not the density given a draw of f, which
        varies far more.

        Raises:
            ValueError: when the noise is not Gaussian.

        Source: Rasmussen & Williams 2006, equation 5.12; integrated importance sampling: Vehtari et
        al. 2016.
        """
        if not self.model.likelihood.is_gaussian:
            raise ValueError(f"Expected a Gaussian likelihood. Got {self.model.likelihood!r}.")
        Problem.of(self.model, self.data).check_plain("leave-one-out densities are of whole rows")
        return _leave_one_out(self.coordinates, draws)

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the draws."""
        return {"chains": self.n_chains, "draws": self.n_draws}


@compiled()
def networks_of(coordinates: Coordinates, z: Float[Array, "S K"]) -> Draw:
    """The networks at a stack of points."""

    def one(z: Array) -> Draw:
        network = coordinates.network(z)
        return Draw(
            values=network.values, inducing=coordinates.x, factors=network.factors, f=network.f
        )

    return jax.lax.map(one, z)


@compiled()
def _output_laws(coordinates: Coordinates, draws: Draw) -> OutputLaw:
    return jax.lax.map(lambda draw: output_law(coordinates, draw), draws)


@compiled()
def _leave_one_out(coordinates: Coordinates, draws: Draw) -> Float[Array, "S N"]:
    def one(draw: Draw) -> Array:
        law = output_law(coordinates, draw)
        variance = 1 / jnp.sum(law.removed**2, axis=0)  # removed^T removed = (K + s^2 I)^-1
        # (y_n - mean)^2 / variance, mean = y_n - weights_n variance
        scaled = law.weights**2 * variance[:, None]
        return coordinates.in_data_order(
            -jnp.sum(scaled + jnp.log(2 * jnp.pi * variance)[:, None], axis=1) / 2
        )

    return jax.lax.map(one, draws)


def output_law(coordinates: Coordinates, draw: Draw) -> OutputLaw:
    """Law of the latent functions at new points, given one draw."""
    model = resolve_draw(coordinates.model, draw, coordinates.data.n_outputs)

    def bottleneck(index: int, layer: Any, kernel: Gram) -> Gram:
        factor = draw.factors[index - 1]
        return Gram(ii=factor @ factor.T)

    kernel = propagate(model.layers, Inputs(i=draw.inducing), bottleneck).ii
    if draw.f is not None:
        scale = cholesky(kernel)
        return OutputLaw(weights=scale.inverse.T @ (scale.inverse @ draw.f), removed=scale.inverse)
    noise = model.likelihood.noise_variance(coordinates.data.n_outputs)
    assert noise is not None
    if coordinates.data.has_missing:
        return observed_outputs(kernel, coordinates.y, noise[0])
    return exact_outputs(kernel, coordinates.y, noise[0])[1]
