"""What a likelihood is: the law of a row of y given a row of latent functions f.

Engines use ``expected_log_density`` and ``conditional``; prediction uses ``predictive``. Only a
likelihood that says so through ``is_gaussian`` is collapsed (its latent functions are integrated
out in closed form).

Targets that are NaN are missing: they have no part in any density.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from dkp._core.description import Spec
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.likelihoods.quadrature import LatentMixture, expectation

__all__ = ["Likelihood", "PointwiseLikelihood"]


class Likelihood(Spec):
    """p(y | f) for rows y of C outputs and rows f of Q latent functions.

    Outputs are independent given f.

    Examples:
        >>> from dkp import likelihoods
        >>> likelihoods.Heteroskedastic(noise=0.1).n_latent(n_outputs=2)
        4
    """

    standardises_targets = True
    """Whether y may be shifted and scaled: true of real-valued targets, false of counts and
    classes."""

    is_of_classes = False
    """Whether y is the number of a class."""

    takes_exposure = False
    """Whether the mean of y is proportional to exp(f), so that an exposure adds its logarithm to
    f."""

    is_gaussian = False
    """Whether y is f plus Gaussian noise of one known variance, so that engines may integrate f out
    in closed form."""

    def n_latent(self, n_outputs: int) -> int:
        """Q, the number of latent functions for C outputs."""
        return n_outputs

    @abc.abstractmethod
    def law(self, f: Float[Array, "B Q"]) -> Distribution:
        """p(y_c | f), output by output: batch shape (B, C)."""

    def conditional(self, f: Float[Array, "B Q"]) -> Distribution:
        """p(y | f): batch shape (B,), event shape (C,)."""
        return self.law(f).to_event(1)

    def log_density(self, y: Float[Array, "B C"], f: Float[Array, "B Q"]) -> Float[Array, " B"]:
        """log p(y | f): the sum over the outputs that are not NaN."""
        law = self.law(f)
        return sum_observed(y, law.log_prob, law.support)

    def predictive(
        self, mean: Float[Array, "B Q"], variance: Float[Array, "B Q"]
    ) -> Distribution | None:
        """p(y_c) for f ~ N(mean, variance), batch shape (B, C), or None where f has to be drawn.

        It has a closed form or comes by quadrature.
        """
        return None

    def expected_log_density(
        self,
        y: Float[Array, "B C"],
        mean: Float[Array, "B Q"],
        variance: Float[Array, "B Q"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " B"]:
        """E log p(y | f) under f ~ N(mean, variance), independent over Q.

        It is the sum over the outputs that are not NaN.

        Args:
            key: for likelihoods that estimate it from draws.

        Raises:
            ValueError: when there is no key where one is needed.
        """

        def densities(y: Array) -> Array:
            return self.expected_log_densities(y, mean, variance, key)

        return sum_observed(y, densities, self.law(mean).support)

    @abc.abstractmethod
    def expected_log_densities(
        self,
        y: Float[Array, "B C"],
        mean: Float[Array, "B Q"],
        variance: Float[Array, "B Q"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B C"]:
        """:meth:`expected_log_density`, output by output, of targets without gaps."""

    def noise_variance(self, n_outputs: int) -> Float[Array, " C"] | None:
        """Variance of the additive noise, where the likelihood ``is_gaussian``; None otherwise."""
        return None

    def check_targets(self, y: Float[np.ndarray, "N C"]) -> None:
        """Raise ValueError when a target, other than NaN, has no density under any f."""


class PointwiseLikelihood(Likelihood):
    """A likelihood of outputs that depend on one latent function each.

    Expectations are one-dimensional integrals.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import likelihoods
        >>> y, mean, variance = jnp.array([[3.0]]), jnp.array([[0.0]]), jnp.array([[1.0]])
        >>> likelihood = likelihoods.Poisson(rate=2.0)
        >>> density = likelihood.expected_log_density(y, mean, variance)
        >>> print([f"{value:.3f}" for value in density])
        ['-3.010']
    """

    def predictive(self, mean: Float[Array, "B C"], variance: Float[Array, "B C"]) -> Distribution:
        return LatentMixture(self, mean, variance)

    def expected_log_densities(
        self,
        y: Float[Array, "B C"],
        mean: Float[Array, "B C"],
        variance: Float[Array, "B C"],
        key: Any = None,
    ) -> Float[Array, "B C"]:
        return expectation(lambda f: jnp.asarray(self.law(f).log_prob(y)), mean, variance)


def sum_observed(
    y: Float[Array, "B C"], densities: Callable[[Array], Any], support: Any
) -> Float[Array, " B"]:
    """``densities(y)``, one for each target, summed over the targets of a row that are not NaN.

    Args:
        y: targets.
        densities: of targets without gaps.
        support: of a target, a constraint of NumPyro.
    """
    observed = ~jnp.isnan(y)
    values = jnp.asarray(densities(fill_missing(y, support)))
    return jnp.sum(jnp.where(observed, values, 0), axis=-1)


def fill_missing(y: Float[Array, "B C"], support: Any) -> Float[Array, "B C"]:
    """Targets with a number of the support where one is missing: the density there is left out, but
    the gradient of an infinite one, or of NaN, would be NaN all the same."""
    return jnp.where(jnp.isnan(y), jnp.asarray(support.feasible_like(y), y.dtype), y)


def like(value: Any, f: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
    """A hyperparameter, one number or one for each output, in the shape and dtype of f."""
    return jnp.broadcast_to(jnp.asarray(value, f.dtype), f.shape)


def check_integers(name: str, y: Float[np.ndarray, "N C"], upper: int | None = None) -> None:
    """Raise ValueError unless all targets but NaN are integers from 0 (to `upper`)."""
    given = y[~np.isnan(y)]
    bad = given[
        (given != np.floor(given)) | (given < 0) | (given > (np.inf if upper is None else upper))
    ]
    if bad.size:
        range_ = "non-negative integers" if upper is None else f"integers from 0 to {upper}"
        raise ValueError(
            f"Expected the targets of {name} to be {range_}, as they are "
            f"(standardize_targets=False). Got {bad.size} that are not, such as {bad[0]:g}."
        )
