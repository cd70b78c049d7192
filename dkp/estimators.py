"""Deep kernel processes as scikit-learn estimators: for tables, pipelines and grid searches."""

import os
from typing import Any, Literal

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    check_random_state,
    validate_data,
)

from dkp import likelihoods
from dkp._core import checks
from dkp.data.dataset import Dataset
from dkp.inference.gaussian.condition import condition
from dkp.inference.markov.sample import sample_hmc
from dkp.inference.variational.fit import fit_vi
from dkp.likelihoods.base import Likelihood
from dkp.model.defaults import default_model
from dkp.model.process import DeepKernelProcess
from dkp.posterior.predict import predict
from dkp.posterior.prediction import Prediction
from dkp.posterior.protocol import Posterior

__all__ = ["DKPClassifier", "DKPRegressor"]

_LARGE = 2_000  # rows beyond which steps see batches
_BATCH = 500


class _Estimator(BaseEstimator):
    """What both estimators do: options, data, engines."""

    def __init__(
        self,
        layers: Any = None,
        likelihood: Likelihood | None = None,
        *,
        inference: str = "vi",
        n_inducing: int = 100,
        batch_size: int | Literal["auto"] | None = "auto",
        steps: int | Literal["auto"] = "auto",
        chains: int = 4,
        warmup: int = 500,
        draws: int = 500,
        n_samples: int = 100,
        standardize: bool = True,
        random_state: Any = None,
        progress: bool | None = False,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 60.0,
    ) -> None:
        self.layers = layers
        self.likelihood = likelihood
        self.inference = inference
        self.n_inducing = n_inducing
        self.batch_size = batch_size
        self.steps = steps
        self.chains = chains
        self.warmup = warmup
        self.draws = draws
        self.n_samples = n_samples
        self.standardize = standardize
        self.random_state = random_state
        self.progress = progress
        self.checkpoint = checkpoint
        self.every = every

    def _fit(
        self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, likelihood: Likelihood
    ) -> None:
        checks.one_of("inference", self.inference, ("vi", "hmc", "exact"))
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        layers = default_model().layers if self.layers is None else self.layers
        model = DeepKernelProcess(layers=layers, likelihood=likelihood)
        targets = likelihood.standardises_targets
        data = Dataset.from_arrays(
            x, y, self.standardize, weights=weights, standardize_targets=targets
        )
        key, self._key = jax.random.split(jax.random.key(seed))
        self.posterior_: Posterior = self._posterior(model, data, key)

    def _posterior(self, model: DeepKernelProcess, data: Dataset, key: Any) -> Any:
        saved: dict[str, Any] = {"checkpoint": self.checkpoint, "every": self.every}
        if self.inference == "exact":
            return condition(model, data, key=key)
        if self.inference == "hmc":
            numbers: dict[str, Any] = {
                "chains": self.chains,
                "warmup": self.warmup,
                "draws": self.draws,
            }
            return sample_hmc(model, data, key=key, progress=self.progress, **numbers, **saved)
        large = data.n > _LARGE
        batch = (_BATCH if large else None) if self.batch_size == "auto" else self.batch_size
        steps = (8_000 if large else 1_000) if self.steps == "auto" else self.steps
        options: dict[str, Any] = {
            "n_inducing": self.n_inducing,
            "batch_size": batch,
            "steps": steps,
        }
        return fit_vi(model, data, key=key, progress=self.progress, **options, **saved)

    def _predict(self, X: Any) -> Prediction:
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=np.float64)
        return predict(self.posterior_, x, key=self._key, n_samples=self.n_samples)


class DKPRegressor(RegressorMixin, _Estimator):
    """Regression with a learned kernel and calibrated uncertainty.

    Args:
        layers: of the model, see :class:`dkp.DeepKernelProcess`; by default those of
            ``dkp.defaults.default_model``.
        likelihood: any of ``dkp.likelihoods`` for real numbers or counts; Gaussian by default.
        inference: "vi" (:func:`dkp.fit_vi`), "hmc" (:func:`dkp.sample_hmc`, up to 1000 rows) or
            "exact" (:func:`dkp.condition`, models without bottlenecks).
        n_inducing: inducing points of "vi".
        batch_size: rows a step of "vi", or None for all; "auto" takes all of up to 2000, else 500.
        steps: of "vi"; "auto" takes 1000, with batches 8000.
        chains, warmup, draws: of "hmc".
        n_samples: posterior draws of a prediction.
        standardize: give every feature mean 0 and standard deviation 1. False is for features that
            share one scale, such as pixels, after that scale was made about 1: those that are
            nearly constant would become the largest.
        random_state: seed, ``RandomState`` or None.
        progress: show a progress bar; None shows it on terminals and in notebooks.
        checkpoint: file for the state of a fit that may be killed, see :func:`dkp.fit_vi`.
        every: seconds between two checkpoints.

    Attributes:
        posterior_: of the engine, for :func:`dkp.predict`, :func:`dkp.to_arviz`, :func:`dkp.save`.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Examples:
        >>> import dkp
        >>> from dkp.estimators import DKPRegressor
        >>> kernel = dkp.kernels.SquaredExponential(1.0, 1.0)
        >>> noise = dkp.likelihoods.Gaussian(0.1)
        >>> regressor = DKPRegressor(layers=[kernel], likelihood=noise, inference="exact")
        >>> x, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 0.0, 1.0]
        >>> print(regressor.fit(x, y).predict(x).round(2))
        [0.06 0.89 0.11 0.94]
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "DKPRegressor":
        """Fit to N rows of features X and targets y, (N,) or (N, C).

        Args:
            sample_weight: how often each row counts; not with "exact".

        Raises:
            ValueError: for what the engines and scikit-learn's own checks refuse.
        """
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2
        )
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        self._fit(
            X, y, weights, likelihoods.Gaussian() if self.likelihood is None else self.likelihood
        )
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predictive means, in the units of y.

        Args:
            return_std: return the standard deviations of y (noise included), too.
        """
        found = self._predict(X)
        return (found.mean, np.sqrt(found.variance)) if return_std else found.mean

    def predict_quantiles(self, X: Any, q: Any = (0.05, 0.5, 0.95)) -> np.ndarray:
        """Quantiles of the predictive law, one row a probability in `q`."""
        return self._predict(X).quantile(q)

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """log p(y | data) of each row, in the units of y."""
        return self._predict(X).log_density(y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.non_deterministic = self.random_state is None
        return tags


class DKPClassifier(ClassifierMixin, _Estimator):
    """Classification with a learned kernel and calibrated probabilities.

    Args:
        likelihood: by default ``Bernoulli()`` for two classes and ``Categorical`` for more;
            ``Ordinal(n_classes)`` for classes whose sorted order means something.
        inference: "vi" or "hmc". The other arguments are those of :class:`DKPRegressor`.

    Attributes:
        classes_: labels, sorted: the columns of :meth:`predict_proba`.
        posterior_: of the engine.

    Examples:
        >>> import dkp
        >>> from dkp.estimators import DKPClassifier
        >>> kernel = dkp.kernels.SquaredExponential(1.0, 1.0)
        >>> classifier = DKPClassifier(layers=[kernel], n_inducing=2, steps=2, n_samples=2)
        >>> x, y = [[0.0], [1.0], [2.0], [3.0]], ["a", "b", "a", "b"]
        >>> classifier = classifier.fit(x, y)
        >>> print(classifier.classes_)
        ['a' 'b']
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "DKPClassifier":
        """Fit to N rows of features X and N labels y.

        Raises:
            ValueError: when there is one class only, and for what the engines and scikit-learn's
                own checks refuse.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        self.classes_: Any = encoder.classes_
        if len(self.classes_) < 2:
            raise ValueError(
                f"Expected labels of at least two classes. Got one class: {self.classes_.tolist()}."
            )
        if self.inference == "exact":
            raise ValueError('Expected inference="vi" or "hmc" for classification. Got "exact".')
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        default = (
            likelihoods.Bernoulli()
            if len(self.classes_) == 2
            else likelihoods.Categorical(len(self.classes_))
        )
        likelihood = default if self.likelihood is None else self.likelihood
        self._fit(X, np.asarray(encoder.transform(y), float), weights, likelihood)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, (N, K), columns as in `classes_`."""
        return self._predict(X).probabilities

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row."""
        likeliest = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[likeliest]
