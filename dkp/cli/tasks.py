"""What a target column asks for: regression, classification or counts.

Each has its likelihood, its simpler models to compare with, and its scores.
"""

import abc
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dkp import likelihoods
from dkp.cli.table import is_missing
from dkp.data.dataset import Dataset
from dkp.diagnostics import metrics
from dkp.inference.gaussian.condition import condition
from dkp.likelihoods.base import Likelihood
from dkp.model.defaults import ard_gaussian_process
from dkp.posterior.predict import predict

__all__ = ["TASKS", "Classification", "Counts", "Regression", "Task", "guess_task"]

_LARGEST_EXACT = 2000  # training rows of the exact Gaussian process
_FEW = 10  # different whole numbers that are taken for classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """How the targets of a table are modelled and scored.

    Attributes:
        classes: their labels, sorted, as text.
    """

    classes: tuple[str, ...] = ()

    @classmethod
    @abc.abstractmethod
    def of(cls, column: np.ndarray) -> "Task":
        """The task for a column of targets, all there.

        Raises:
            ValueError: for targets that are none of this task.
        """

    @abc.abstractmethod
    def encode(self, column: np.ndarray) -> np.ndarray:
        """Targets as numbers."""

    @property
    @abc.abstractmethod
    def likelihood(self) -> Likelihood:
        """The noise of the deep model."""

    @abc.abstractmethod
    def simpler(
        self, data: Dataset, x: np.ndarray, y: np.ndarray
    ) -> dict[str, Callable[[np.ndarray], Any]]:
        """Models to compare with, fitted to training rows: by name, functions of x."""

    @abc.abstractmethod
    def scores(self, prediction: Any, y: np.ndarray) -> dict[str, str]:
        """What to print of a prediction of held-out targets, by name."""

    @abc.abstractmethod
    def columns(self, prediction: Any) -> dict[str, np.ndarray]:
        """Columns of a file of predictions."""

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Targets as in the table."""
        return y


@dataclasses.dataclass(frozen=True)
class Law:
    """A prediction of a simpler model: one law a row, with SciPy's methods."""

    law: Any
    seed: int = 0

    @property
    def mean(self) -> np.ndarray:
        return self.law.mean()

    @property
    def variance(self) -> np.ndarray:
        return self.law.var()

    @functools.cached_property
    def samples(self) -> np.ndarray:
        return self.law.rvs(size=(100, len(self.mean)), random_state=self.seed)

    def quantile(self, q: Any) -> np.ndarray:
        return np.stack([self.law.ppf(p) for p in q])

    def log_density(self, y: np.ndarray) -> np.ndarray:
        return self.law.logpmf(y) if hasattr(self.law.dist, "pmf") else self.law.logpdf(y)


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """A prediction of a simpler classifier."""

    probabilities: np.ndarray


class _Numbers(Task):
    """Targets that are numbers, with predictive quantiles."""

    @classmethod
    def of(cls, column: np.ndarray) -> "Task":
        if column.dtype.kind != "f":
            raise ValueError(
                f"Expected numbers for {cls.__name__.lower()}. Got text, such as {column[0]!r}."
            )
        return cls()

    def encode(self, column: np.ndarray) -> np.ndarray:
        return np.asarray(column, float)

    def scores(self, prediction: Any, y: np.ndarray) -> dict[str, str]:
        density = metrics.mean_log_density(prediction.log_density(y))
        coverage = metrics.interval_coverage(y, *prediction.quantile([0.05, 0.95]))
        return {
            "RMSE": f"{metrics.rmse(y, prediction.mean):.4g}",
            "test log density": f"{density.mean:.3f} ± {density.standard_error:.3f}",
            "CRPS": f"{metrics.crps(y, prediction.samples).mean():.4g}",
            "90% coverage": f"{coverage:.0%}",
        }

    def columns(self, prediction: Any) -> dict[str, np.ndarray]:
        lower, upper = prediction.quantile([0.05, 0.95])
        return {
            "mean": prediction.mean,
            "sd": np.sqrt(prediction.variance),
            "q05": lower,
            "q95": upper,
        }


class Regression(_Numbers):
    """Real numbers with Gaussian noise."""

    @property
    def likelihood(self) -> Likelihood:
        return likelihoods.Gaussian()

    def simpler(
        self, data: Dataset, x: np.ndarray, y: np.ndarray
    ) -> dict[str, Callable[[np.ndarray], Any]]:
        found: dict[str, Callable[[np.ndarray], Any]] = {}
        if data.n <= _LARGEST_EXACT:
            gp: Any = condition(ard_gaussian_process(), data)
            found["exact Gaussian process"] = lambda rows: predict(gp, rows, key=jax.random.key(0))
        else:
            print(
                f"no exact Gaussian process: it is for at most {_LARGEST_EXACT} training rows",
                file=sys.stderr,
            )
        normal = stats.norm(y.mean(), y.std(ddof=1) or 1.0)
        found["mean"] = lambda rows: Law(
            stats.norm(np.full(len(rows), normal.mean()), normal.std())
        )
        return found


class Counts(_Numbers):
    """0, 1, 2, … with a negative binomial law."""

    @classmethod
    def of(cls, column: np.ndarray) -> "Task":
        task = super().of(column)
        wrong = column[(column < 0) | (column != np.round(column))]
        if wrong.size:
            raise ValueError(f"Expected counts, 0, 1, 2, …. Got {wrong[0]:g}.")
        return task

    @property
    def likelihood(self) -> Likelihood:
        return likelihoods.NegativeBinomial()

    def simpler(
        self, data: Dataset, x: np.ndarray, y: np.ndarray
    ) -> dict[str, Callable[[np.ndarray], Any]]:
        regression = make_pipeline(StandardScaler(), PoissonRegressor(max_iter=1000)).fit(x, y)
        rate = max(y.mean(), 1e-12)
        return {
            "Poisson regression": lambda rows: Law(
                stats.poisson(np.maximum(regression.predict(rows), 1e-12))
            ),
            "one Poisson law": lambda rows: Law(stats.poisson(np.full(len(rows), rate))),
        }


class Classification(Task):
    """Classes, named by text or numbers."""

    @classmethod
    def of(cls, column: np.ndarray) -> "Task":
        labels = _labels(column)
        classes = tuple(sorted(set(labels.tolist()), key=_in_order))
        if len(classes) < 2:
            raise ValueError(
                f"Expected targets of at least two classes. Got {', '.join(classes)} alone."
            )
        return cls(classes=classes)

    def encode(self, column: np.ndarray) -> np.ndarray:
        labels = _labels(column)
        unknown = sorted(set(labels.tolist()) - set(self.classes))
        if unknown:
            raise ValueError(f"Expected targets among {', '.join(self.classes)}. Got {unknown[0]}.")
        places = {label: i for i, label in enumerate(self.classes)}
        return np.asarray([places[label] for label in labels], float)

    def decode(self, y: np.ndarray) -> np.ndarray:
        return np.asarray(self.classes, dtype=object)[np.asarray(y, int)]

    @property
    def likelihood(self) -> Likelihood:
        n = len(self.classes)
        return likelihoods.Bernoulli() if n == 2 else likelihoods.Categorical(n)

    def simpler(
        self, data: Dataset, x: np.ndarray, y: np.ndarray
    ) -> dict[str, Callable[[np.ndarray], Any]]:
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(x, y)
        known = regression.classes_.astype(int)

        def logistic(rows: np.ndarray) -> Probabilities:
            found = np.full((len(rows), len(self.classes)), np.finfo(float).tiny)
            found[:, known] = regression.predict_proba(rows)
            return Probabilities(found)

        shares = (np.bincount(y.astype(int), minlength=len(self.classes)) + 1) / (
            len(y) + len(self.classes)
        )
        return {
            "logistic regression": logistic,
            "frequencies": lambda rows: Probabilities(np.tile(shares, (len(rows), 1))),
        }

    def scores(self, prediction: Any, y: np.ndarray) -> dict[str, str]:
        labels, p = y.astype(int), prediction.probabilities
        density = metrics.mean_log_probability(labels, p)
        return {
            "accuracy": f"{metrics.accuracy(labels, p):.1%}",
            "test log density": f"{density.mean:.3f} ± {density.standard_error:.3f}",
            "Brier score": f"{metrics.brier_score(labels, p):.3f}",
            "calibration error": f"{metrics.expected_calibration_error(labels, p):.3f}",
        }

    def columns(self, prediction: Any) -> dict[str, np.ndarray]:
        p = prediction.probabilities
        likeliest = self.decode(np.argmax(p, axis=1))
        return {"class": likeliest} | {
            f"p({label})": p[:, i] for i, label in enumerate(self.classes)
        }


TASKS: Mapping[str, type[Task]] = {
    "regression": Regression,
    "classification": Classification,
    "counts": Counts,
}


def guess_task(column: np.ndarray) -> str:
    """A key of ``TASKS`` for a column of targets.

    Text, two values, and up to ten successive whole numbers from 0 or 1 are classes; other whole
    numbers, from 0 or 1 on, are counts; everything else is regression.
    """
    if column.dtype.kind != "f":
        return "classification"
    present = np.unique(column[~is_missing(column)])
    whole = bool(np.all(present == np.round(present)))
    if len(present) == 2:
        return "classification"
    if not whole or present.size == 0 or present[0] not in (0, 1):
        return "regression"
    successive = len(present) == present[-1] - present[0] + 1
    return "classification" if successive and len(present) <= _FEW else "counts"


def _labels(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind != "f":
        return np.asarray(column, dtype=object)
    return np.asarray([f"{value:.17g}" for value in column], dtype=object)


def _in_order(label: str) -> tuple[float, str]:
    """Numbers in their order, then text in its own."""
    try:
        return float(label), ""
    except ValueError:
        return math.inf, label
