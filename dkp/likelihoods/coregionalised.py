"""Outputs that are linear mixtures of fewer, or more, latent functions."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from dkp._core.checks import positive_int
from dkp._core.description import hyperparameter, learn, part
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.likelihoods.base import Likelihood, PointwiseLikelihood

__all__ = ["LinearCoregionalization"]


class LinearCoregionalization(Likelihood):
    """p(y_c | h_c) of another likelihood, where h = W f mixes Q latent functions.

    Outputs share what they have in common.

    Args:
        likelihood: of outputs that depend on one function each, such as ``Gaussian()``.
        n_functions: Q.
        mixing: W, (C, Q), real numbers. It starts at the principal components of the targets.

    Raises:
        ValueError: when `likelihood` is none of that sort, or `n_functions` no positive integer.

    Source: Journel & Huijbregts 1978; Alvarez, Rosasco & Lawrence 2012 (arXiv 1106.6251), section
    4.2.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import likelihoods
        >>> mixing = jnp.array([[1.0], [2.0]])
        >>> gaussian = likelihoods.Gaussian(noise=0.5)
        >>> mixed = likelihoods.LinearCoregionalization(gaussian, 1, mixing=mixing)
        >>> print(mixed.law(jnp.array([[3.0]])).mean)
        [[3. 6.]]
    """

    likelihood: Likelihood = part()
    n_functions: int
    mixing: Any = hyperparameter(default=learn(), domain="real")

    def __post_init__(self) -> None:
        positive_int("n_functions", self.n_functions)
        if not isinstance(self.likelihood, PointwiseLikelihood):
            raise ValueError(
                "Expected likelihood to be one of outputs that depend on one latent function each, "
                f"such as Gaussian(). Got {self.likelihood!r}."
            )
        self.check_hyperparameters()

    @property
    def standardises_targets(self) -> bool:  # type: ignore[override]
        return self.likelihood.standardises_targets

    def n_latent(self, n_outputs: int) -> int:
        return self.n_functions

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"mixing": (n_outputs, self.n_functions)}

    def initial_values(self, x: Array, y: Array) -> dict[str, Array]:
        """Principal directions times the standard deviations along them.

        Where there are more functions than directions, a little of each function is everywhere.
        """
        centred = np.nan_to_num(np.asarray(y) - np.nanmean(np.asarray(y), axis=0))
        _, values, directions = np.linalg.svd(centred / np.sqrt(len(centred)), full_matrices=False)
        found = min(self.n_functions, len(values))
        mixing = np.full((y.shape[1], self.n_functions), 0.1)
        mixing[:, :found] = directions[:found].T * np.maximum(values[:found], 0.1)
        return {"mixing": jnp.asarray(mixing, x.dtype)}

    def check_targets(self, y: Float[np.ndarray, "N C"]) -> None:
        self.likelihood.check_targets(y)

    def law(self, f: Float[Array, "*S B Q"]) -> Distribution:
        return self.likelihood.law(f @ self._mixing(f).T)

    def predictive(
        self, mean: Float[Array, "B Q"], variance: Float[Array, "B Q"]
    ) -> Distribution | None:
        return self.likelihood.predictive(*self._mix(mean, variance))

    def expected_log_densities(
        self,
        y: Float[Array, "B C"],
        mean: Float[Array, "B Q"],
        variance: Float[Array, "B Q"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B C"]:
        return self.likelihood.expected_log_densities(y, *self._mix(mean, variance), key)

    def _mixing(self, f: Array) -> Float[Array, "C Q"]:
        return jnp.asarray(self.mixing, f.dtype)

    def _mix(self, mean: Array, variance: Array) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
        """Moments of h = W f, for f independent over Q."""
        mixing = self._mixing(mean)
        return mean @ mixing.T, variance @ (mixing**2).T
