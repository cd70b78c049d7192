"""Where Markov chains start: draws from the prior, or from a variational posterior.

A variational posterior knows the Gram matrices at its inducing points. The entries of Bartlett
factors are independent, and the factor of more points begins with that of fewer: so a draw is
extended to the data by drawing the further rows from the prior, which is a draw of the conditional
prior of all data points together.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dkp._core.compiled import compiled
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.bottlenecks.base import Bottleneck, bartlett_factor
from dkp.gram.gram import Gram, Inputs
from dkp.inference.checks import Problem
from dkp.inference.coordinates import Coordinates
from dkp.inference.variational.posterior import VariationalPosterior
from dkp.linalg.bartlett import trapezoid
from dkp.linalg.cholesky import cholesky
from dkp.linalg.diagonals import diagonal
from dkp.model.hyperparameters import hyperparameters
from dkp.model.propagate import propagate
from dkp.posterior.draw import Draw, resolve_draw

__all__ = ["check_init", "initial_points"]

_ATTEMPTS = 10


def initial_points(
    target: Coordinates, key: PRNGKeyArray, chains: int, init: VariationalPosterior | None
) -> Float[Array, "C K"]:
    """One starting point a chain, of finite density: what has none is drawn again.

    Raises:
        ValueError: when a chain finds none.
    """

    def attempt(key: PRNGKeyArray) -> tuple[Array, Array]:
        key_draws, key_rows = jax.random.split(key)
        draws = None if init is None else init.sample(key_draws, chains)
        return _points(target, jax.random.split(key_rows, chains), draws)

    points, good = attempt(key)
    for number in range(1, _ATTEMPTS):
        if jnp.all(good):
            return points
        others, fine = attempt(jax.random.fold_in(key, number))
        points, good = jnp.where(good[:, None], points, others), good | fine
    if not jnp.all(good):
        raise ValueError(
            "Expected starts where the density of the posterior is finite. Got none for "
            f"{int(jnp.sum(~good))} of {chains} chains in {_ATTEMPTS} draws from "
            f"{'the prior' if init is None else 'init'}: look at the priors, at the scale of the "
            "data, and at their precision (float64)."
        )
    return points


@compiled()
def _points(target: Coordinates, keys: Array, draws: Draw | None) -> tuple[Array, Array]:
    """Points from the prior, or extended from draws, and whether their density is finite."""

    def one(pair: tuple[PRNGKeyArray, Draw | None]) -> tuple[Array, Array]:
        key, draw = pair
        z = target.sample_prior(key) if draw is None else _extend(target, key, draw)
        return z, jnp.isfinite(target.log_posterior(z))

    return jax.lax.map(one, (keys, draws))


def check_init(problem: Problem, init: Any) -> None:
    """Raise ValueError unless chains of the model can start from `init`."""
    model, data = problem.model, problem.data
    if not isinstance(init, VariationalPosterior):
        raise ValueError(
            f"Expected init to be a posterior of dkp.fit_vi, or None. Got {type(init).__name__}."
        )
    here, there = (tuple(map(type, m.layers)) for m in (model, init.model))
    if here != there or init.data.x.shape[1:] != data.x.shape[1:]:
        raise ValueError("Expected init to be fitted to the same layers and features. Got others.")
    known = hyperparameters(init.model, init.data.d, init.data.n_outputs)
    for name, h in problem.hyperparameters.items():
        other = known.get(name)
        learned, inferred = (
            other is not None and other.is_learned,
            other is not None and other.is_inferred,
        )
        if (h.is_learned and not learned) or (h.is_inferred and not (learned or inferred)):
            raise ValueError(
                f"Expected init to have a value of {name}. Got one that was fitted without."
            )
        if h.is_inferred and learned and not jnp.all(h.constraint(init.hyperparameters[name])):
            raise ValueError(
                f"Expected {name}, which init learned, to lie in the support of its prior here. "
                "Got "
                f"{init.hyperparameters[name]}."
            )
    for layer in model.bottlenecks:
        # they are extended together
        layer.check_points(data.n + init.parameters["inducing"].shape[0])


def _extend(target: Coordinates, key: PRNGKeyArray, draw: Draw) -> Float[Array, " K"]:
    """z of a network that agrees with `draw` at its inducing points."""
    model = resolve_draw(target.model, draw, target.data.n_outputs)
    p = draw.inducing.shape[0]
    parts = [target.standardise(name, draw.values[name]) for name in target.hyperparameters]

    def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
        factor = layer.extend(jax.random.fold_in(key, index), kernel.ii, draw.factors[index - 1])
        parts.append(_coordinates(target, layer, kernel.ii[p:, p:], factor[p:]))
        return Gram(ii=factor @ factor.T)

    points = jnp.concatenate([draw.inducing, target.x])
    kernel = propagate(model.layers, Inputs(i=points), bottleneck).ii
    if not target.is_collapsed:
        parts.append(_latent(kernel, draw, p))
    return jnp.concatenate(parts)


def _coordinates(target: Coordinates, layer: Bottleneck, kernel: Array, root: Array) -> Array:
    """Coordinates of the factor of G = root root^T, where `kernel` enters the bottleneck."""
    law: Any = layer.prior(cholesky(kernel))
    return target.coordinates_of_noise(layer, bartlett_factor(law, trapezoid(root)))


def _latent(kernel: Array, draw: Draw, p: int) -> Array:
    """f = L e at the mean of f given the draw: e."""
    assert draw.outputs is not None
    mean, _ = draw.outputs.moments(
        Gram(ii=kernel[:p, :p], ti=kernel[p:, :p], tt=diagonal(kernel[p:, p:]))
    )
    return (cholesky(kernel[p:, p:]).inverse @ mean).reshape(-1)
