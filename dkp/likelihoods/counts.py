"""Counts, with the exponential of the latent function as their mean."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln, xlogy

from dkp._core.description import hyperparameter, learn
from dkp._core.types import Array, Float
from dkp.likelihoods.base import PointwiseLikelihood, check_integers, like

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflatedPoisson"]


class _Poisson(dist.Poisson):
    """Its density keeps the precision of the rate, where NumPyro's takes JAX's default.

    Needed until NumPyro computes it in the dtype of the rate (seen in 0.22;
    https://github.com/pyro-ppl/numpyro/issues/2181 made it the default dtype on purpose).
    """

    def log_prob(self, value: Any) -> Array:
        rate = jnp.asarray(self.rate)
        count = jnp.asarray(value, rate.dtype)
        return xlogy(count, rate) - gammaln(count + 1) - rate


class _Counts(PointwiseLikelihood):
    """y with mean rate * exp(f), times the exposure of the row."""

    standardises_targets = False
    takes_exposure = True

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"rate": (n_outputs,)}

    def initial_values(self, x: Array, y: Array) -> dict[str, Array]:
        return {"rate": jnp.maximum(jnp.nanmean(y, axis=0), 0.1)}

    def check_targets(self, y: Float[np.ndarray, "N C"]) -> None:
        check_integers(type(self).__name__, y)

    def _log_mean(self, f: Array) -> Array:
        return f + jnp.log(like(self.rate, f))  # type: ignore[attr-defined]


class Poisson(_Counts):
    """y ~ Poisson(rate exp(f)).

    Args:
        rate: of each output where f is 0, positive; starts at the mean of the targets.

    Raises:
        ValueError: when a number or an initial value is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import likelihoods
        >>> law = likelihoods.Poisson(rate=2.0).law(jnp.array([[0.0], [1.0]]))
        >>> print(np.asarray(law.mean).round(3))
        [[2.   ]
         [5.437]]
    """

    rate: Any = hyperparameter(default=learn())

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def law(self, f: Float[Array, "*S B C"]) -> dist.Distribution:
        return _Poisson(jnp.exp(self._log_mean(f)))

    def expected_log_densities(
        self,
        y: Float[Array, "B C"],
        mean: Float[Array, "B C"],
        variance: Float[Array, "B C"],
        key: Any = None,
    ) -> Float[Array, "B C"]:
        """y (log rate + mean) - rate exp(mean + variance / 2) - log y!."""
        centre = self._log_mean(mean)
        return y * centre - jnp.exp(centre + variance / 2) - gammaln(y + 1)


class NegativeBinomial(_Counts):
    """y with mean m = rate exp(f) and variance m + m^2 / concentration.

    Args:
        rate: of each output where f is 0, positive; starts at the mean of the targets.
        concentration: of each output, positive; Poisson where it is large.

    Raises:
        ValueError: when a number or an initial value is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import likelihoods
        >>> law = likelihoods.NegativeBinomial(rate=2.0, concentration=4.0).law(jnp.array([[0.0]]))
        >>> print(np.asarray(law.mean).round(3), np.asarray(law.variance).round(3))
        [[2.]] [[3.]]
    """

    rate: Any = hyperparameter(default=learn())
    concentration: Any = hyperparameter(default=learn(1.0))

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"rate": (n_outputs,), "concentration": (n_outputs,)}

    def law(self, f: Float[Array, "*S B C"]) -> dist.Distribution:
        concentration = like(self.concentration, f)
        return dist.NegativeBinomialLogits(
            concentration, self._log_mean(f) - jnp.log(concentration)
        )


class ZeroInflatedPoisson(_Counts):
    """y = 0 with probability `gate`, else y ~ Poisson(rate exp(f)).

    Args:
        rate: of each output where f is 0, positive; starts at the mean of the targets.
        gate: probability of a zero that is no count, of each output.

    Raises:
        ValueError: when a number or an initial value lies outside its domain.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import likelihoods
        >>> law = likelihoods.ZeroInflatedPoisson(rate=2.0, gate=0.25).law(jnp.array([[0.0]]))
        >>> print(np.asarray(law.mean).round(3))
        [[1.5]]
    """

    rate: Any = hyperparameter(default=learn())
    gate: Any = hyperparameter(default=learn(0.2), domain="unit_interval")

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"rate": (n_outputs,), "gate": (n_outputs,)}

    def law(self, f: Float[Array, "*S B C"]) -> dist.Distribution:
        return dist.ZeroInflatedDistribution(
            _Poisson(jnp.exp(self._log_mean(f))), gate=like(self.gate, f)
        )
