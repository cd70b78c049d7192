"""Importance weights of a variational posterior.

They say how far the guide is from the exact posterior, without sampling it.

A draw of the guide is extended to all the data by the joint conditional prior, which the guide
shares with the model and which therefore cancels; the outputs are integrated out exactly. What is
left is

    log w = log p(y | networks at the data) + sum_l [log p(T_l) - log q(T_l)] + log p(h) - log q(h)

over whitened factors T_l and inferred hyperparameters h. Its mean under the guide, E w, is the
evidence p(y) at the learned hyperparameters, and the tail of w says whether the guide covers the
posterior (Pareto k-hat).
"""

from typing import Any

import jax
import jax.numpy as jnp

from dkp._core import checks
from dkp._core.compiled import compiled
from dkp._core.types import Array, Float, PRNGKeyArray, Scalar
from dkp.bottlenecks.base import Bottleneck
from dkp.data.dataset import Dataset
from dkp.gram.gram import Gram, Inputs
from dkp.inference.variational.family import VariationalFamily
from dkp.linalg.cholesky import cholesky
from dkp.model.outputs import gaussian_log_density, observed_log_density
from dkp.model.propagate import propagate

__all__ = ["log_weights"]


def log_weights(
    family: VariationalFamily,
    parameters: dict[str, Any],
    data: Dataset,
    *,
    key: PRNGKeyArray,
    n: int = 200,
) -> Float[Array, " S"]:
    """Logarithms of n importance weights of the guide of the Gram matrices.

    The cost of each is cubic in P + N.

    Raises:
        ValueError: when the noise is not Gaussian: the outputs cannot be integrated out; or when a
            bottleneck has no law at the inducing points and the data together.
    """
    checks.positive_int("n", n)
    if data.weights is not None:
        raise ValueError("Expected rows that count once. Got weights.")
    if not family.model.likelihood.is_gaussian:
        raise ValueError(f"Expected a Gaussian likelihood. Got {family.model.likelihood!r}.")
    for layer in family.model.bottlenecks:
        layer.check_points(data.n + parameters["inducing"].shape[0])
    return _weights(family, parameters, jax.random.split(key, n), data)


@compiled()
def _weights(family: VariationalFamily, parameters: Any, keys: Array, data: Dataset) -> Array:
    return jax.lax.map(lambda key: _log_weight(family, parameters, key, data), keys)


def _log_weight(
    family: VariationalFamily, parameters: Any, key: PRNGKeyArray, data: Dataset
) -> Scalar:
    inducing = parameters["inducing"]
    p = inducing.shape[0]
    values, divergence = family.draw_values(parameters, jax.random.fold_in(key, 0))
    model = family.resolve(values, inducing.dtype)
    log_ratios = [-divergence]

    def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
        key_guide, key_rest = jax.random.split(jax.random.fold_in(key, index))
        inner = kernel.ii[:p, :p]
        scale = cholesky(inner)
        law = family.guide(index).posterior(
            layer, parameters["bottlenecks"][index - 1], inner, scale
        )
        draw = jnp.asarray(law.q.sample(key_guide))
        log_ratios.append(jnp.asarray(law.p.log_prob(draw)) - jnp.asarray(law.q.log_prob(draw)))
        factor = layer.extend(key_rest, kernel.ii, scale.tril @ (law.unit * draw))
        return Gram(ii=factor @ factor.T)

    points = jnp.concatenate([inducing, data.x])
    kernel = propagate(model.layers, Inputs(i=points), bottleneck).ii[p:, p:]
    noise = family.noise_variance(model) * jnp.eye(data.x.shape[0], dtype=kernel.dtype)
    density = observed_log_density if data.has_missing else gaussian_log_density
    return density(kernel + noise, data.y) + sum(log_ratios)
