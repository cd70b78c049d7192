"""Gaussian noise: of one variance, of one an output, or of one that depends on the inputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from dkp._core.description import hyperparameter, learn
from dkp._core.types import Array, Float
from dkp.likelihoods.base import Likelihood, PointwiseLikelihood, like

__all__ = ["Gaussian", "Heteroskedastic", "residual_scale"]


def residual_scale(x: Array, y: Array) -> Float[Array, " C"]:
    """Half the residual standard deviations of a linear fit, where a noise starts.

    A nonlinear model explains more than a linear one. Targets that are NaN do not count.
    """
    x = x.reshape(x.shape[0], -1)
    design = jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)
    # A little ridge, because columns may be copies of one another.
    ridge = 1e-3 * x.shape[0] * jnp.eye(design.shape[1], dtype=x.dtype)

    def of_column(column: Array) -> Array:
        seen = ~jnp.isnan(column)
        rows = jnp.where(seen[:, None], design, 0)
        fitted = design @ jnp.linalg.solve(
            rows.T @ rows + ridge, rows.T @ jnp.where(seen, column, 0)
        )
        return jnp.nanstd(column - fitted)

    return jnp.clip(jax.vmap(of_column)(y.T) / 2, 0.05, 1.0)


class Gaussian(PointwiseLikelihood):
    """y = f + noise * e, e ~ N(0, I).

    Args:
        noise: standard deviation, positive, in the units of the standardised target; ``learn()``
            (the default) starts from the residual of a linear fit.
        per_output: one noise for each output rather than one for all.

    Raises:
        ValueError: when a number or an initial value for `noise` is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import likelihoods
        >>> law = likelihoods.Gaussian(noise=0.5).law(jnp.array([[0.0]]))
        >>> print(law.mean, law.variance)
        [[0.]] [[0.25]]
    """

    noise: Any = hyperparameter(default=learn())
    per_output: bool = False

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    @property
    def is_gaussian(self) -> bool:  # type: ignore[override]
        return not self.per_output

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"noise": (n_outputs,)} if self.per_output else {}

    def initial_values(self, x: Array, y: Array) -> dict[str, Array]:
        each = residual_scale(x, y)
        return {"noise": each if self.per_output else jnp.sqrt(jnp.mean(each**2))}

    def noise_variance(self, n_outputs: int) -> Float[Array, " C"] | None:
        return (
            jnp.broadcast_to(jnp.asarray(self.noise), (n_outputs,)) ** 2
            if self.is_gaussian
            else None
        )

    def law(self, f: Float[Array, "*S B C"]) -> dist.Distribution:
        return dist.Normal(f, like(self.noise, f))

    def predictive(
        self, mean: Float[Array, "B C"], variance: Float[Array, "B C"]
    ) -> dist.Distribution:
        return dist.Normal(mean, jnp.sqrt(variance + like(self.noise, mean) ** 2))

    def expected_log_densities(
        self,
        y: Float[Array, "B C"],
        mean: Float[Array, "B C"],
        variance: Float[Array, "B C"],
        key: Any = None,
    ) -> Float[Array, "B C"]:
        """-log(2 pi s^2) / 2 - ((y - mean)^2 + variance) / (2 s^2)."""
        noise = like(self.noise, y) ** 2
        return -jnp.log(2 * jnp.pi * noise) / 2 - ((y - mean) ** 2 + variance) / (2 * noise)


class Heteroskedastic(Likelihood):
    """y = f + noise * exp(g) e, e ~ N(0, I), where g is a second latent function.

    Its prior is that of f.

    The first C latent functions are f, the others g.

    Args:
        noise: standard deviation where g is 0, one for each output, positive, in the units of the
            standardised target.

    Raises:
        ValueError: when a number or an initial value for `noise` is not positive and finite.

    Source: Lazaro-Gredilla & Titsias 2011.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import likelihoods
        >>> law = likelihoods.Heteroskedastic(noise=0.5).law(jnp.array([[1.0, 0.0]]))
        >>> print(law.mean, law.variance)
        [[1.]] [[0.25]]
    """

    noise: Any = hyperparameter(default=learn())

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def n_latent(self, n_outputs: int) -> int:
        return 2 * n_outputs

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"noise": (n_outputs,)}

    def initial_values(self, x: Array, y: Array) -> dict[str, Array]:
        return {"noise": residual_scale(x, y)}

    def law(self, f: Float[Array, "*S B Q"]) -> dist.Distribution:
        centre, log_scale = jnp.split(f, 2, axis=-1)
        return dist.Normal(centre, like(self.noise, centre) * jnp.exp(log_scale))

    def expected_log_densities(
        self,
        y: Float[Array, "B C"],
        mean: Float[Array, "B Q"],
        variance: Float[Array, "B Q"],
        key: Any = None,
    ) -> Float[Array, "B C"]:
        """-log(2 pi s^2) / 2 - m_g - ((y - m_f)^2 + v_f) exp(2 v_g - 2 m_g) / (2 s^2)."""
        (m_f, m_g), (v_f, v_g) = jnp.split(mean, 2, axis=-1), jnp.split(variance, 2, axis=-1)
        noise = like(self.noise, y) ** 2
        squared = ((y - m_f) ** 2 + v_f) * jnp.exp(2 * (v_g - m_g))
        return -jnp.log(2 * jnp.pi * noise) / 2 - m_g - squared / (2 * noise)
