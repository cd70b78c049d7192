"""Noise with heavier tails than the normal law has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr, ndtr
from numpyro.distributions import constraints

from dkp._core.description import hyperparameter, learn
from dkp._core.types import Array, Float
from dkp.likelihoods.base import PointwiseLikelihood, like
from dkp.likelihoods.gaussian import residual_scale

__all__ = ["Laplace", "StudentT"]


class _Scaled(PointwiseLikelihood):
    """y = f plus noise with a `scale` for each output."""

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"scale": (n_outputs,)}

    def initial_values(self, x: Array, y: Array) -> dict[str, Array]:
        return {"scale": residual_scale(x, y)}


class _StudentT(dist.StudentT):
    """Student's law whose mean and variance are never NaN.

    Its centre stands for the mean where there is none, up to one degree of freedom, and its
    variance is infinite up to two, where NumPyro has infinity and NaN.
    """

    @property
    def mean(self) -> Array:  # type: ignore[override]
        return jnp.broadcast_to(jnp.asarray(self.loc), self.batch_shape)

    @property
    def variance(self) -> Array:  # type: ignore[override]
        df, scale = jnp.asarray(self.df), jnp.asarray(self.scale)
        moderate = jnp.where(df > 2, df, 3.0)
        return jnp.broadcast_to(
            jnp.where(df > 2, scale**2 * moderate / (moderate - 2), jnp.inf), self.batch_shape
        )


class StudentT(_Scaled):
    """y = f + scale * t, t of Student's law with df degrees of freedom.

    Args:
        df: degrees of freedom, positive. The variance is infinite up to 2; up to 1 there is no
            mean, and predictions have that of f for it.
        scale: one for each output, positive, in the units of the standardised target.

    Raises:
        ValueError: when a number or an initial value is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import likelihoods
        >>> law = likelihoods.StudentT(df=4.0, scale=0.5).law(jnp.array([[1.0]]))
        >>> print(law.mean, law.variance)
        [[1.]] [[0.5]]
    """

    df: Any = hyperparameter(default=learn(4.0))
    scale: Any = hyperparameter(default=learn())

    def law(self, f: Float[Array, "*S B C"]) -> dist.Distribution:
        return _StudentT(like(self.df, f), f, like(self.scale, f))


class NormalLaplace(dist.Distribution):
    """The sum of a normal and a Laplace variable.

    With d = y - loc, s = spread, b = scale and z = d / s,

        p(y) = exp(s^2 / (2 b^2)) [exp(-d / b) Phi(z - s / b) + exp(d / b) Phi(-z - s / b)] / (2 b)

    Source: Reed 2006, *The normal-Laplace distribution and its relatives*.
    """

    support = constraints.real  # type: ignore[assignment,override]
    pytree_data_fields = ("loc", "spread", "scale")

    def __init__(self, loc: Array, spread: Array, scale: Array) -> None:
        self.loc, self.spread, self.scale = loc, spread, scale
        super().__init__(batch_shape=jnp.shape(loc), validate_args=False)

    def _tails(self, value: Any) -> tuple[Array, Array, Array]:
        """z, and the logarithms of the two terms of the density without their factor 1 / (2 b)."""
        value = jnp.asarray(value, self.loc.dtype)
        shape = jnp.broadcast_shapes(value.shape, self.batch_shape)
        value, loc, s, b = (
            jnp.broadcast_to(a, shape) for a in (value, self.loc, self.spread, self.scale)
        )
        z, ratio = (value - loc) / s, s / b
        right = ratio**2 / 2 - z * ratio + log_ndtr(z - ratio)
        left = ratio**2 / 2 + z * ratio + log_ndtr(-z - ratio)
        return z, left, right

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        _, left, right = self._tails(value)
        return jnp.logaddexp(left, right) - jnp.log(2 * jnp.broadcast_to(self.scale, left.shape))

    def cdf(self, value: Any) -> Array:
        z, left, right = self._tails(value)
        return ndtr(z) + (jnp.exp(left) - jnp.exp(right)) / 2

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        shape, (key_normal, key_laplace) = (*sample_shape, *self.batch_shape), jax.random.split(key)
        loc, spread, scale = (
            jnp.broadcast_to(a, shape) for a in (self.loc, self.spread, self.scale)
        )
        normal = jax.random.normal(key_normal, shape, loc.dtype)
        return loc + spread * normal + scale * jax.random.laplace(key_laplace, shape, loc.dtype)

    @property
    def mean(self) -> Array:
        return self.loc

    @property
    def variance(self) -> Array:
        return self.spread**2 + 2 * self.scale**2


class Laplace(_Scaled):
    """y = f + scale * e, with the density exp(-|e|) / 2 of e.

    Args:
        scale: mean absolute noise, one for each output, positive, in the units of the standardised
            target.

    Raises:
        ValueError: when a number or an initial value is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import likelihoods
        >>> law = likelihoods.Laplace(scale=0.5).law(jnp.array([[1.0]]))
        >>> print(law.mean, np.asarray(law.variance).round(3))
        [[1.]] [[0.5]]
    """

    scale: Any = hyperparameter(default=learn())

    def law(self, f: Float[Array, "*S B C"]) -> dist.Distribution:
        return dist.Laplace(f, like(self.scale, f))

    def predictive(
        self, mean: Float[Array, "B C"], variance: Float[Array, "B C"]
    ) -> dist.Distribution:
        return NormalLaplace(mean, jnp.sqrt(variance), like(self.scale, mean))

    def expected_log_densities(
        self,
        y: Float[Array, "B C"],
        mean: Float[Array, "B C"],
        variance: Float[Array, "B C"],
        key: Any = None,
    ) -> Float[Array, "B C"]:
        """-log(2 b) - E|y - f| / b, with the mean of a folded normal law.

        With d = y - mean and s^2 = variance,

        E|y - f| = s sqrt(2 / pi) exp(-d^2 / (2 s^2)) + d (2 Phi(d / s) - 1)
        """
        b, s, d = like(self.scale, y), jnp.sqrt(variance), y - mean
        absolute = s * jnp.sqrt(2 / jnp.pi) * jnp.exp(-(d**2) / (2 * variance)) + d * (
            2 * ndtr(d / s) - 1
        )
        return -jnp.log(2 * b) - absolute / b
