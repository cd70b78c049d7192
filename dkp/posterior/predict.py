"""Predictions of any posterior, in the original units.

The predictive law of a point is a mixture with one component per posterior draw. The random numbers
behind a row of x depend on the contents of the row alone, so a prediction does not change with the
other rows or with the chunks in which they are computed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from dkp._core import checks
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.dataset import Dataset, log_exposures
from dkp.model.hyperparameters import check_hyperparameters, hyperparameters, substitute
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw
from dkp.posterior.prediction import Prediction
from dkp.posterior.protocol import Posterior

__all__ = ["predict", "prior_predictive"]


def predict(
    posterior: Posterior,
    x: Any,
    *,
    key: PRNGKeyArray,
    n_samples: int = 100,
    chunk: int = 1000,
    draws: Draw | None = None,
    exposure: Any = None,
) -> Prediction:
    """Predict y at new points.

    Args:
        posterior: of any engine.
        x: (B, D) in the original units: array, list or data frame.
        key: for the posterior draws and the data blocks of the Gram matrices.
        n_samples: posterior draws, the components of the predictive mixture (an exact posterior has
            one).
        chunk: rows computed at a time; the result does not depend on it.
        draws: the posterior draws to use, such as ``posterior.sample(key, n)``; drawn here by
            default.
        exposure: B positive numbers, for likelihoods of counts; 1 by default.

    Raises:
        ValueError: when x does not have the features of the training data, or holds anything but
            finite numbers; for exposures that are not positive, or that the likelihood does not
            take.

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> prediction = dkp.predict(dkp.condition(model, data), [[0.5]], key=jax.random.key(0))
        >>> print(prediction.mean.round(3))
        [0.657]
    """
    if not isinstance(posterior, Posterior):
        raise ValueError(
            "Expected posterior to come from an engine, such as dkp.fit_vi. Got "
            f"{type(posterior).__name__}."
        )
    checks.random_key("key", key)
    n_samples, chunk = (
        checks.positive_int("n_samples", n_samples),
        checks.positive_int("chunk", chunk),
    )
    data = posterior.data
    rows = data.standardize_inputs(x)
    if exposure is not None and not posterior.model.likelihood.takes_exposure:
        raise ValueError(
            f"Expected a likelihood of counts for an exposure. Got {posterior.model.likelihood!r}."
        )
    offset = None if exposure is None else log_exposures(exposure, len(rows))
    key_draws, key_rows, key_y = jax.random.split(key, 3)
    draws = posterior.sample(key_draws, n_samples) if draws is None else draws
    mean, variance = posterior.latent_moments(draws, key_rows, rows, chunk)
    if offset is not None:
        mean = mean + jnp.asarray(offset, mean.dtype)[None]
    return Prediction(
        posterior=posterior,
        draws=draws,
        x=rows,
        latent_mean=mean,
        latent_variance=variance,
        key=key_y,
        n_samples=n_samples,
    )


def prior_predictive(
    model: DeepKernelProcess, x: Any, *, key: PRNGKeyArray, n_samples: int = 100, n_outputs: int = 1
) -> Float[np.ndarray, "S N C"]:
    """Draws of y from the prior, jointly over all rows of x.

    The cost is cubic in N. Learned hyperparameters stand at their start.

    Args:
        x: (N, D), taken as they are, or a ``Dataset``, whose standardised inputs are used and whose
            units are returned.
        n_outputs: C.

    Returns:
        (n_samples, N, C).

    Raises:
        ValueError: when x is not a matrix of finite numbers.

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> draws = dkp.prior_predictive(model, [[0.0], [1.0]], key=jax.random.key(0), n_samples=5)
        >>> print(draws.shape)
        (5, 2, 1)
    """
    if not isinstance(model, DeepKernelProcess):
        raise ValueError(
            f"Expected model to be a dkp.DeepKernelProcess. Got {type(model).__name__}."
        )
    checks.random_key("key", key)
    n_samples, n_outputs = (
        checks.positive_int("n_samples", n_samples),
        checks.positive_int("n_outputs", n_outputs),
    )
    data = x if isinstance(x, Dataset) else None
    features = (
        data.x if data is not None else jnp.asarray(checks.features("x", x), jnp.result_type(float))
    )
    columns = data.n_outputs if data is not None else n_outputs
    targets = (
        data.y if data is not None else jnp.zeros((features.shape[0], columns), features.dtype)
    )
    names = hyperparameters(model, features.shape[-1], columns)
    check_hyperparameters(names)
    start = substitute(
        model, {n: h.initial(features, targets) for n, h in names.items() if h.is_learned}
    )

    def one(key: PRNGKeyArray) -> Array:
        with numpyro.handlers.seed(rng_seed=key), numpyro.handlers.block():
            return start.numpyro(features, n_outputs=columns)

    y = np.asarray(jax.lax.map(one, jax.random.split(key, n_samples)), float)
    return data.y_standardization.undo(y) if data is not None else y
