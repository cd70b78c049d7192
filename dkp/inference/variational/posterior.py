"""The variational posterior that ``dkp.fit_vi`` returns."""

import functools
from typing import Any

import jax
import numpy as np

from dkp._core import checks
from dkp._core.compiled import compiled
from dkp._core.record import record
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.inference.variational.family import VariationalFamily
from dkp.inference.variational.importance import log_weights
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw
from dkp.posterior.rows import moments_row_by_row

__all__ = ["VariationalPosterior"]

_MANY_SKIPPED = 0.1


@record
class VariationalPosterior:
    """A fitted variational posterior.

    Attributes:
        family: the family, and with it the model.
        parameters: of the best state.
        data: the data set.
        elbo_trace: nats per data point on the standardised targets, every step.
        jitter: the largest added to a diagonal.
        skipped: steps that were not finite and changed nothing.
        stopped: "finished", "converged", "interrupted", or "failed" where every step was skipped.
        seconds: of optimisation, compilation included.

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 0.0, 1.0])
        >>> posterior = dkp.fit_vi(
        ...     model, data, key=jax.random.key(0), n_inducing=2, steps=2, start_steps=0
        ... )
        >>> print(posterior.elbo_trace.shape)
        (2,)
    """

    family: VariationalFamily
    parameters: Any
    data: Dataset
    elbo_trace: np.ndarray
    jitter: float
    skipped: int
    stopped: str
    seconds: float

    @property
    def model(self) -> DeepKernelProcess:
        """The model that was fitted."""
        return self.family.model

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Values of the learned hyperparameters, by name."""
        return {name: np.asarray(v) for name, v in self.family.learned(self.parameters).items()}

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against trusting the fit; empty where nothing does."""
        steps = len(self.elbo_trace)
        if self.skipped <= _MANY_SKIPPED * steps:
            return ()
        where = "all" if self.skipped == steps else f"{self.skipped} of {steps}"
        return (
            f"{where} steps of the fit were skipped, because the bound or its gradient was not "
            "finite: look at the scale of the data and of the targets, at the priors, and at the "
            "precision (float64)"
            + (". The parameters are those of the start." if self.stopped == "failed" else "."),
        )

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """A stack of n draws of networks."""
        return _draws(self.family, self.parameters, jax.random.split(key, n), self.data)

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "S B Q"], Float[Array, "S B Q"]]:
        """Mean and variance of the latent functions at standardised points, given each draw."""
        return moments_row_by_row(self.model, self.data.n_outputs, draws, key, x, chunk)

    def elbo(self, key: PRNGKeyArray, n: int = 100) -> tuple[float, float]:
        """Evidence lower bound on all data from n draws, and its standard error.

        It is in nats, for standardised targets.
        """
        n = checks.positive_int("n", n)
        values = np.asarray(
            _elbos(self.family, self.parameters, jax.random.split(key, n), self.data), float
        )
        return float(values.mean()), float(values.std(ddof=min(1, n - 1)) / np.sqrt(n))

    def log_weights(self, key: PRNGKeyArray, n: int = 200) -> Float[Array, " S"]:
        """Logarithms of n importance weights of the guide of the Gram matrices.

        See :func:`dkp.inference.variational.importance.log_weights`.
        """
        return log_weights(self.family, self.parameters, self.data, key=key, n=n)

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit."""
        recent = self.elbo_trace[-100:]
        return {
            "engine": "vi",
            "guides": [self.family.guide(i + 1).name for i in range(len(self.model.bottlenecks))],
            "steps": len(self.elbo_trace),
            "elbo_per_point": float(np.nanmean(recent))
            if np.isfinite(recent).any()
            else float("nan"),
            "stopped": self.stopped,
            "skipped": self.skipped,
            "jitter": self.jitter,
            "seconds": self.seconds,
        }


@compiled()
def _draws(family: VariationalFamily, parameters: Any, keys: Array, data: Dataset) -> Draw:
    return jax.lax.map(lambda key: family.draw(parameters, key, data), keys)


@compiled()
def _elbos(family: VariationalFamily, parameters: Any, keys: Array, data: Dataset) -> Array:
    x, y, *others = data.rows
    return jax.lax.map(lambda key: family.elbo(parameters, key, x, y, len(x), *others)[0], keys)
