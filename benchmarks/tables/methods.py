"""The methods that are compared: a table from a name to how it fits and predicts.

A new method is one function and one row of ``METHODS``.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

import dkp
from benchmarks.config import Settings
from dkp import kernels
from dkp.model.defaults import ard_gaussian_process, deep_wishart_process, default_model

__all__ = ["METHODS", "MeanPrediction", "Method", "default_model"]


def predict(posterior: Any, x: np.ndarray, key: Any, settings: Settings) -> Any:
    """The library's own predictive distribution, in original units."""
    return dkp.predict(posterior, x, key=key, n_samples=settings.prediction_samples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a method fits, predicts and sums up its fit.

    Attributes:
        fit: (data, key, settings) -> posterior.
        fit_many: several data sets in one program, (list of data, keys, settings) -> list of
            posteriors; one by one where a method has none.
        predict: at new inputs.
        summary: of its fit.
        elbo: for variational methods, (posterior, key) -> nats per data point on standardised
            targets.
    """

    fit: Callable[[Any, Any, Settings], Any]
    fit_many: Callable[[list[Any], Any, Settings], list[Any]] | None = None
    predict: Callable[[Any, np.ndarray, Any, Settings], Any] = predict
    summary: Callable[[Any], dict[str, Any]] = lambda posterior: posterior.summary()
    elbo: Callable[[Any, Any], float] | None = None


def _exact(kernel: Any) -> Method:
    """An exact Gaussian process with one length-scale a feature."""
    return Method(
        fit=lambda data, key, settings: dkp.condition(ard_gaussian_process(kernel), data, key=key)
    )


def fit_nngp(data: "dkp.Dataset", key: Any, settings: Settings) -> Any:
    """The network whose hidden layers are all infinitely wide: the kernels of `dwp` without its
    bottlenecks.
    """
    return dkp.condition(deep_wishart_process(math.inf, settings.depth), data, key=key)


def _variational(model_of: Callable[[Any, Settings], Any], guide: str = "auto") -> Method:
    """Variational inference of a model that depends on the data by its number of features alone."""

    def options(data: "dkp.Dataset", settings: Settings) -> dict[str, Any]:
        batch = (
            settings.batch_size if settings.batch_size and settings.batch_size < data.n else None
        )
        return {
            "n_inducing": settings.n_inducing,
            "batch_size": batch,
            "steps": settings.steps,
            "samples": settings.samples,
            "start_steps": settings.start_steps,
            "guide": guide,
            "progress": False,
        }

    def fit(data: "dkp.Dataset", key: Any, settings: Settings) -> Any:
        return dkp.fit_vi(model_of(data, settings), data, key=key, **options(data, settings))

    def fit_many(data: "list[dkp.Dataset]", keys: Any, settings: Settings) -> list[Any]:
        return dkp.fit_vi_many(
            model_of(data[0], settings), data, key=keys, **options(data[0], settings)
        )

    return Method(fit=fit, fit_many=fit_many, elbo=elbo_per_point)


def _deep_wishart(data: "dkp.Dataset", settings: Settings) -> "dkp.DeepKernelProcess":
    """As wide as the data has features; with the guide "features" its posterior is that of a deep
    Gaussian process.
    """
    return deep_wishart_process(data.d, settings.depth)


def elbo_per_point(posterior: Any, key: Any) -> float:
    """From 100 draws, or fewer where many points average out what differs between draws."""
    return posterior.elbo(key, n=100 if posterior.data.n < 3000 else 10)[0] / posterior.data.n


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanPrediction:
    """The same normal distribution for each of `n` rows: the least that any model must beat."""

    centre: float
    scale: float
    n: int
    seed: int

    @property
    def mean(self) -> np.ndarray:
        return np.full(self.n, self.centre)

    @property
    def variance(self) -> np.ndarray:
        return np.full(self.n, self.scale**2)

    @property
    def samples(self) -> np.ndarray:
        return np.random.default_rng(self.seed).normal(self.centre, self.scale, (100, self.n))

    def quantile(self, q: float) -> np.ndarray:
        return np.full(self.n, stats.norm.ppf(q, self.centre, self.scale))

    def log_density(self, y: np.ndarray) -> np.ndarray:
        return stats.norm.logpdf(y, self.centre, self.scale)


def fit_mean(data: "dkp.Dataset", key: Any, settings: Settings) -> tuple[float, float]:
    """Mean and standard deviation of the training targets."""
    return data.y_standardization.mean.item(), data.y_standardization.scale.item()


def predict_mean(
    posterior: tuple[float, float], x: np.ndarray, key: Any, settings: Settings
) -> MeanPrediction:
    return MeanPrediction(centre=posterior[0], scale=posterior[1], n=len(x), seed=0)


GUIDES = {"dgp": "features", "dwp": "standard", "dwp-a": "a", "dwp-b": "b", "dwp-ab": "ab"}

METHODS = {
    "mean": Method(fit=fit_mean, predict=predict_mean, summary=lambda posterior: {}),
    "gp": _exact(None),
    "gp-matern": _exact(kernels.Matern(nu=1.5)),
    "gp-rq": _exact(kernels.RationalQuadratic()),
    "nngp": Method(fit=fit_nngp),
    "diwp": _variational(lambda data, settings: default_model()),
    "diwp-matern": _variational(lambda data, settings: default_model(kernels.Matern(nu=1.5))),
    **{name: _variational(_deep_wishart, guide) for name, guide in GUIDES.items()},
}
