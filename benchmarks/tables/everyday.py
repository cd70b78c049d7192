"""Everyday tables: classes, counts, and targets of which some are corrupted.

The library's estimators stand beside scikit-learn's.

A method fits and predicts through scikit-learn's interface. Whatever it needs beyond its defaults
stands here.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.config import Run, Settings
from benchmarks.tables import datasets
from dkp import likelihoods
from dkp.diagnostics import metrics
from dkp.estimators import DKPClassifier, DKPRegressor

__all__ = ["METHODS", "evaluate", "score_classes", "simulated_counts", "with_outliers"]

CORRUPTED = 0.05
COUNTS = (800, 200)
"""Training and test rows of the simulated counts."""


def _dkp(estimator: Any, **options: Any) -> Callable[[Settings, int], Any]:
    """The estimator with the settings of a run; what those leave open, it chooses."""

    def make(settings: Settings, seed: int) -> Any:
        sizes = {
            "n_inducing": settings.n_inducing,
            "steps": settings.steps,
            "batch_size": settings.batch_size,
        }
        if settings.batch_size is None:
            sizes["batch_size"] = "auto"
        return estimator(
            **sizes, n_samples=settings.prediction_samples, random_state=seed, **options
        )

    return make


def _with_temperature(make: Callable[[Settings, int], Any]) -> Callable[[Settings, int], Any]:
    """Fitted without a twelfth of the rows, on which one temperature of all probabilities is
    chosen.
    """

    def calibrated(settings: Settings, seed: int) -> Any:
        held_out = StratifiedShuffleSplit(n_splits=1, test_size=1 / 12, random_state=seed)
        return CalibratedClassifierCV(make(settings, seed), method="temperature", cv=held_out)

    return calibrated


def _scaled(make: Callable[[int], Any]) -> Callable[[Settings, int], Any]:
    return lambda settings, seed: make_pipeline(StandardScaler(), make(seed))


def _gaussian_process(seed: int) -> Any:
    return GaussianProcessClassifier(
        ConstantKernel(1.0) * RBF(3.0), n_restarts_optimizer=1, random_state=seed
    )


def _with_components(make: Callable[[Settings, int], Any]) -> Callable[[Settings, int], Any]:
    """On 64 principal components, each with a variance of 1: a length-scale then belongs to what
    varies together, where that of a pixel belongs to the pixel.
    """
    return lambda settings, seed: make_pipeline(
        PCA(64, whiten=True, random_state=seed), make(settings, seed)
    )


_pixels = _dkp(DKPClassifier, standardize=False)

METHODS: dict[str, Callable[[Settings, int], Any]] = {
    "dkp-classifier": _dkp(DKPClassifier),
    "dkp-classifier-components": _with_components(_dkp(DKPClassifier)),
    "dkp-classifier-pixels": _pixels,
    "dkp-classifier-temperature": _with_temperature(_pixels),
    "gp-classifier": _scaled(_gaussian_process),
    "logistic": _scaled(lambda seed: LogisticRegression(max_iter=5000)),
    "boosting": lambda settings, seed: HistGradientBoostingClassifier(random_state=seed),
    "dkp-poisson": _dkp(DKPRegressor, likelihood=likelihoods.Poisson()),
    "dkp-negative-binomial": _dkp(DKPRegressor, likelihood=likelihoods.NegativeBinomial()),
    "dkp-gaussian": _dkp(DKPRegressor),
    "dkp-student-t": _dkp(DKPRegressor, likelihood=likelihoods.StudentT()),
    "poisson-glm": _scaled(lambda seed: PoissonRegressor(max_iter=1000)),
    "poisson-boosting": lambda settings, seed: HistGradientBoostingRegressor(
        loss="poisson", random_state=seed
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Training and test rows, and where they came from."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: str


def evaluate(run: Run) -> dict[str, Any]:
    """Fit, predict and score one method on one split."""
    split = _load(run)
    estimator = METHODS[run.method](run.settings, run.seed + run.split)
    start = time.perf_counter()
    estimator.fit(split.x, split.y)
    fitted = time.perf_counter()
    scores = (score_classes if run.suite.startswith("classification") else _score_numbers)(
        estimator, split
    )
    predicted = time.perf_counter()
    posterior: Any = getattr(estimator, "posterior_", None)
    return {
        "metrics": scores,
        "fit": {}
        if posterior is None
        else {"jitter": posterior.jitter, "skipped": posterior.skipped},
        "n_train": len(split.x),
        "n_test": len(split.x_test),
        "model": repr(estimator) if posterior is None else repr(posterior.model),
        "source": split.source,
        "times": {"fit": fitted - start, "predict": predicted - fitted, "total": predicted - start},
    }


def score_classes(estimator: Any, split: Split) -> dict[str, float]:
    """Of probabilities of classes."""
    probabilities = np.asarray(estimator.predict_proba(split.x_test), float)
    labels = np.searchsorted(estimator.classes_, split.y_test)
    density = metrics.mean_log_probability(labels, probabilities)
    return {
        "accuracy": metrics.accuracy(labels, probabilities),
        "class_log_density": density.mean,
        "class_log_density_se": density.standard_error,
        "brier": metrics.brier_score(labels, probabilities),
        "calibration_error": metrics.expected_calibration_error(labels, probabilities),
    }


def _score_numbers(estimator: Any, split: Split) -> dict[str, float]:
    """Of counts and real numbers; scikit-learn's regressions of counts have Poisson laws."""
    mean = np.asarray(estimator.predict(split.x_test), float)
    if hasattr(estimator, "log_density"):
        values = estimator.log_density(split.x_test, split.y_test)
    else:
        values = stats.poisson.logpmf(split.y_test, np.maximum(mean, 1e-9))
    density = metrics.mean_log_density(values)
    return {
        "log_density": density.mean,
        "log_density_se": density.standard_error,
        "rmse": float(metrics.rmse(split.y_test, mean)),
        "mae": float(metrics.mae(split.y_test, mean)),
    }


def _load(run: Run) -> Split:
    if run.suite == "counts":
        return simulated_counts(run.split)
    table = datasets.load(run.dataset, run.split)
    assert table.x_test is not None and table.y_test is not None
    x, x_test = (np.asarray(a, float).reshape(len(a), -1) for a in (table.x, table.x_test))
    if run.suite == "classification-large":  # pixels share one scale
        mean, scale = x.mean(), x.std()
        x, x_test = (x - mean) / scale, (x_test - mean) / scale
    y = table.y if run.suite != "robust" else with_outliers(table.y, run.split)
    return Split(
        x=x,
        y=y,
        x_test=x_test,
        y_test=np.asarray(table.y_test),
        source=table.source.partition(" (")[0],
    )


def with_outliers(y: np.ndarray, split: int) -> np.ndarray:
    """Targets of which 5% are moved by 5 to 10 standard deviations, up or down."""
    rng = np.random.default_rng(split)
    y, rows = np.array(y, float), rng.choice(len(y), round(CORRUPTED * len(y)), replace=False)
    y[rows] += y.std() * rng.uniform(5, 10, len(rows)) * rng.choice([-1, 1], len(rows))
    return y


def simulated_counts(split: int) -> Split:
    """Counts whose logarithmic rate is a smooth function of three of five features, with more
    spread than a Poisson law has: negative binomial with concentration 3.
    """
    rng, n = np.random.default_rng(split), sum(COUNTS)
    x = rng.uniform(-2, 2, (n, 5))
    rate = np.exp(1 + np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2])
    y = rng.poisson(rate * rng.gamma(3.0, 1 / 3.0, n)).astype(float)
    k = COUNTS[0]
    return Split(
        x=x[:k], y=y[:k], x_test=x[k:], y_test=y[k:], source="simulated, see benchmarks/tables.py"
    )
