"""The predictive law of y at some points: a mixture with one component per posterior draw."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from numpyro.distributions.constraints import Constraint

from dkp._core import checks
from dkp._core.compiled import compiled
from dkp._core.record import record
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.likelihoods.base import Likelihood, sum_observed
from dkp.model.hyperparameters import resolve
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw
from dkp.posterior.protocol import JointlyGaussian, Posterior
from dkp.posterior.rows import normals_row_by_row

__all__ = ["Prediction"]

_BISECTIONS, _DOUBLINGS = 60, 60


@record
class Prediction:
    """Predictive law of y at N points, in the original units.

    Arrays are (N,) where y was given as a vector, else (N, C).

    Attributes:
        posterior: of any engine.
        draws: of the posterior, S of them.
        x: the N points, standardised.
        latent_mean: of the latent functions, in standardised units, one row a posterior draw, (S,
            N, Q).
        latent_variance: likewise.
        key: for everything random that is drawn later.
        n_samples: posterior draws that were asked for.

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> prediction = dkp.predict(dkp.condition(model, data), [[0.5]], key=jax.random.key(0))
        >>> print(prediction.mean.round(3), prediction.variance.shape)
        [0.657] (1,)
    """

    posterior: Posterior
    draws: Draw
    x: Float[Array, "N *space D"]
    latent_mean: Float[Array, "S N Q"]
    latent_variance: Float[Array, "S N Q"]
    key: PRNGKeyArray
    n_samples: int

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = map(np.asarray, self._per_draw(lambda law: (law.mean, law.variance)))
        return mean.mean(0), variance.mean(0) + mean.var(0)

    @property
    def mean(self) -> np.ndarray:
        """Predictive mean."""
        return self._squeeze(self._scaling.undo(self._moments[0]))

    @property
    def variance(self) -> np.ndarray:
        """Predictive variance of y (noise included)."""
        return self._squeeze(self._moments[1] * np.asarray(self._scaling.scale) ** 2)

    @functools.cached_property
    def latent_covariance(self) -> np.ndarray:
        """Joint covariance of the latent function at the N points, in units of y squared.

        It is (N, N), or (C, N, N) for y of C columns. Exact posteriors have one.

        Raises:
            ValueError: for other posteriors.
        """
        if not isinstance(self.posterior, JointlyGaussian):
            raise ValueError(
                "Expected a posterior of dkp.condition or dkp.gradient_flow, which is jointly "
                "Gaussian. "
                f"Got {type(self.posterior).__name__}: use the samples."
            )
        covariance = np.asarray(self.posterior.latent_covariance(self.x), float)
        scaled = np.asarray(self._scaling.scale)[:, None, None] ** 2 * covariance
        return scaled[0] if self.posterior.data.y_was_vector else scaled

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """Draws of y, (n_samples, N) or (n_samples, N, C).

        Each row is one draw of a network, rows of x independent given it.
        """
        model, sizes, _ = self._components
        which = jnp.arange(self.n_samples) % self.latent_mean.shape[0]
        keys = jax.random.split(self.key, self.n_samples)
        per_draw = (self.draws.values, self.latent_mean, self.latent_variance)
        values, mean, variance = jax.tree.map(lambda a: a[which], per_draw)

        def draw_y(key: PRNGKeyArray, *component: Any) -> Array:
            key_f, key_y = jax.random.split(key)
            noise = jax.random.normal(key_f, mean.shape[1:], mean.dtype)
            return _component(model, sizes, noise, *component).sample(key_y)

        y = jax.vmap(draw_y)(keys, values, mean, variance)
        return self._squeeze(self._scaling.undo(y))

    def quantile(self, q: Any) -> np.ndarray:
        """Quantiles of the predictive mixture, found by bisection of its distribution function.

        Args:
            q: a probability or a sequence of them, each strictly between 0 and 1.

        Returns:
            the shape of `mean`, with an axis for q in front where q is a sequence.

        Raises:
            ValueError: when a probability is not strictly between 0 and 1.
        """
        q = np.asarray(q, float)
        if q.ndim > 1 or q.size == 0 or not np.all((q > 0) & (q < 1)):
            raise ValueError(
                "Expected q to be a probability, or a list of them, strictly between 0 and 1. "
                f"Got {q}."
            )
        values = np.stack(
            [
                self._squeeze(self._scaling.undo(self._standardised_quantile(float(p))))
                for p in np.atleast_1d(q)
            ]
        )
        return values if q.ndim else values[0]

    def log_density(self, y: Any) -> np.ndarray:
        """log p(y_n | data) in the original units, one value a row.

        It is the log of a mean over draws, by log-sum-exp. Of several targets those that are NaN do
        not count.

        Raises:
            ValueError: when the shape of y does not fit.
        """
        values = checks.matrix("y", y, allow_nan=self.posterior.data.n_outputs > 1)
        if values.shape != self.latent_mean.shape[1:2] + (self.posterior.data.n_outputs,):
            raise ValueError(
                f"Expected y of shape {self.mean.shape}, one row per row of x. Got shape "
                f"{np.shape(y)}."
            )
        y_standard = jnp.asarray(self._scaling.apply(values), self.latent_mean.dtype)
        per_draw = self._per_draw(lambda law: sum_observed(y_standard, law.log_prob, law.support))
        mixture = np.asarray(logsumexp(per_draw, axis=0), float) - np.log(self.latent_mean.shape[0])
        return mixture - np.sum(~np.isnan(values) * np.log(np.asarray(self._scaling.scale)), axis=1)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Predictive probabilities of the classes, (N, K).

        The likelihood is one of a single column of classes.

        Raises:
            ValueError: for other likelihoods.
        """
        likelihood = self.posterior.model.likelihood
        if not likelihood.is_of_classes or self.posterior.data.n_outputs != 1:
            raise ValueError(f"Expected a likelihood of one column of classes. Got {likelihood!r}.")
        each = np.asarray(self._per_draw(lambda law: law.probs), float).mean(axis=0)
        return each[:, 0] if each.ndim == 3 else np.concatenate([1 - each, each], axis=1)

    def _standardised_quantile(self, q: float) -> np.ndarray:
        mean = self._moments[0]
        if self._has_distribution_function:
            return np.asarray(
                _mixture_quantile(*self._components, jnp.asarray(q, mean.dtype), jnp.asarray(mean))
            )
        return np.quantile(
            np.asarray(self._scaling.apply(self.samples)).reshape(-1, *mean.shape), q, axis=0
        )

    @functools.cached_property
    def _components(self) -> tuple[Any, ...]:
        """The model, its numbers of features and outputs, and the components of the mixture.

        What makes the components is a stack: of likelihoods whose f has to be drawn, the same draw
        whatever the other rows are.
        """
        noise = None
        if self._first_law is None:
            n_draws, _, n_latent = self.latent_mean.shape
            noise = normals_row_by_row(jax.random.fold_in(self.key, 1), self.x, n_draws, n_latent)
        return (
            self.posterior.model,
            self._sizes,
            (noise, self.draws.values, self.latent_mean, self.latent_variance),
        )

    @functools.cached_property
    def _first_law(self) -> Any:
        """p(y | draw) of the first draw, where f can be integrated out."""
        first = (self.draws.values, self.latent_mean, self.latent_variance)
        values, mean, variance = jax.tree.map(lambda a: a[0], first)
        return _likelihood(self.posterior.model, self._sizes, values, mean.dtype).predictive(
            mean, variance
        )

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.posterior.data.d, self.posterior.data.n_outputs

    @property
    def _has_distribution_function(self) -> bool:
        """Whether quantiles are roots of a smooth function.

        They are not for counts, nor where f has to be drawn.
        """
        return (
            self._first_law is not None
            and not cast(Constraint, self._first_law.support).is_discrete
        )

    def _per_draw(self, of: Callable[[Any], Any]) -> Any:
        model, sizes, stacked = self._components
        return _map_components(model, sizes, stacked, of)

    @property
    def _scaling(self) -> Any:
        return self.posterior.data.y_standardization

    def _squeeze(self, values: np.ndarray) -> np.ndarray:
        return values[..., 0] if self.posterior.data.y_was_vector else values


def _likelihood(
    model: DeepKernelProcess, sizes: tuple[int, int], values: Any, dtype: Any
) -> Likelihood:
    return resolve(model, values, dtype, *sizes).likelihood


def _component(
    model: DeepKernelProcess,
    sizes: tuple[int, int],
    noise: Array | None,
    values: Any,
    mean: Array,
    variance: Array,
) -> Any:
    """p(y | draw): the latent function integrated out where the likelihood can.

    Where it cannot, f is drawn from standard normal `noise`.
    """
    likelihood = _likelihood(model, sizes, values, mean.dtype)
    law = likelihood.predictive(mean, variance)
    if law is not None:
        return law
    assert noise is not None
    return likelihood.law(mean + jnp.sqrt(variance) * noise)


def _map_components(
    model: DeepKernelProcess, sizes: tuple[int, int], stacked: Any, of: Callable[[Any], Any]
) -> Any:
    return jax.vmap(lambda *args: of(_component(model, sizes, *args)))(*stacked)


@compiled(static_argnums=(1,))
def _mixture_quantile(
    model: DeepKernelProcess, sizes: tuple[int, int], stacked: Any, q: Array, centre: Array
) -> Array:
    """By bisection, between bounds that move away from a `centre` until the quantile lies between.

    A law without a variance has quantiles all the same.
    """

    def is_below(y: Array) -> Array:
        return jnp.mean(_map_components(model, sizes, stacked, lambda law: law.cdf(y)), axis=0) < q

    def outside(low: Array, high: Array) -> tuple[Array, Array]:
        return ~is_below(low), is_below(high)

    def widen(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, low, high, low_is_in, high_is_in = state
        low = jnp.where(low_is_in, centre + 2 * (low - centre), low)
        high = jnp.where(high_is_in, centre + 2 * (high - centre), high)
        return count + 1, low, high, *outside(low, high)

    def is_narrow(state: tuple[Array, ...]) -> Array:
        return jnp.any(state[3] | state[4]) & (state[0] < _DOUBLINGS)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (bounds[0] + bounds[1]) / 2
        below = is_below(middle)
        return jnp.where(below, middle, bounds[0]), jnp.where(below, bounds[1], middle)

    low, high = centre - 1, centre + 1  # standard deviations of the targets
    start = (jnp.zeros((), jnp.int32), low, high, *outside(low, high))
    _, low, high, *_ = jax.lax.while_loop(is_narrow, widen, start)
    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return (low + high) / 2
