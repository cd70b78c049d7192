"""Classification by regression: a posterior over centred one-hot targets.

Its probabilities are calibrated on points that it did not see.

The regression's means m_c(x) rank the classes; probabilities are softmax(m_c(x) / T), where the
temperature T maximises the likelihood of held-out labels: by default those of leave-one-out
prediction, which costs no data.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from dkp._core import checks
from dkp._core.record import record
from dkp._core.types import Float
from dkp.data.dataset import Dataset
from dkp.inference.gaussian.regularisation import check_linear_predictor
from dkp.posterior.protocol import LinearPredictor

__all__ = ["CalibratedClassifier", "calibrate"]

_LARGEST_LOG_GAIN = 12.0


@record
class CalibratedClassifier:
    """Class probabilities softmax(m(x) / temperature) of a regression posterior with mean m.

    Attributes:
        posterior: the regression.
        temperature: that maximises the likelihood of the held-out labels.
        log_density: mean over the held-out labels that chose the temperature.
        accuracy: likewise.

    Examples:
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_labels([[0.0], [1.0], [2.0], [3.0]], ["a", "a", "b", "b"])
        >>> classifier = dkp.calibrate(dkp.condition(model, data))
        >>> print(classifier.classes, classifier.probabilities([[0.0]]).shape)
        ('a', 'b') (1, 2)
    """

    posterior: LinearPredictor
    temperature: float
    log_density: float
    accuracy: float

    @property
    def diag_reg(self) -> float:
        """The regularisation of the posterior, as :func:`calibrate` chose it."""
        return self.posterior.diag_reg

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels, in the order of the probabilities' columns."""
        return self.posterior.data.classes

    def probabilities(self, x: Any, *, chunk: int = 1000) -> Float[np.ndarray, "B C"]:
        """Class probabilities at B new points, in the original units.

        Args:
            chunk: rows that are computed at a time.

        Raises:
            ValueError: when x does not have the features of the training data.
        """
        return special.softmax(self._scores(x, chunk), axis=1)

    def classify(self, x: Any, *, chunk: int = 1000) -> np.ndarray:
        """The most probable label of each point."""
        return np.asarray(self.classes)[np.argmax(self.probabilities(x, chunk=chunk), axis=1)]

    def log_density_of(self, x: Any, labels: Any, *, chunk: int = 1000) -> Float[np.ndarray, " B"]:
        """log p(label | x) for each point.

        Raises:
            ValueError: also when a label is none of the classes.
        """
        index = _index_of(self.posterior.data, labels)
        scores = self._scores(x, chunk)
        checks.same_length("x", scores, "labels", index)
        return special.log_softmax(scores, axis=1)[np.arange(len(index)), index]

    def _scores(self, x: Any, chunk: int) -> np.ndarray:
        return _means(self.posterior, x, chunk) / self.temperature


def calibrate(
    posterior: Any,
    *,
    diag_reg: Sequence[float] | None = None,
    validation: tuple[Any, Any] | None = None,
) -> CalibratedClassifier:
    """Turn a regression on centred one-hot targets into a classifier with calibrated probabilities.

    Args:
        posterior: of ``dkp.condition``, ``dkp.gradient_flow`` or ``dkp.fit_augmented``, on data of
            ``Dataset.from_labels``.
        diag_reg: regularisations to choose from, by the mean log density of the held-out labels;
            that of the posterior by default.
        validation: (x, labels) that were held out; by default every training point is predicted
            from all the others.

    Raises:
        ValueError: for data without classes, a posterior without leave-one-out predictions, an
            empty list of regularisations, or validation points that do not fit.

    Source: temperatures: Guo et al. 2017 (arXiv 1706.04599), section 4.2; one-hot regression: Lee
    et al. 2020 (arXiv 2007.15801).

    Examples:
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_labels([[0.0], [1.0], [2.0], [3.0]], ["a", "a", "b", "b"])
        >>> classifier = dkp.calibrate(dkp.condition(model, data))
        >>> print(classifier.classify([[0.0], [3.0]]))
        ['a' 'b']
    """
    check_linear_predictor(posterior, diag_reg)
    if not posterior.data.classes:
        raise ValueError(
            "Expected data with classes. Got none: make them with dkp.Dataset.from_labels(x, "
            "labels)."
        )
    candidates = [posterior.diag_reg] if diag_reg is None else list(diag_reg)
    found = [_scored(posterior, value, validation) for value in candidates]
    best = min(range(len(found)), key=lambda i: found[i].loss)
    return CalibratedClassifier(
        posterior=posterior if diag_reg is None else posterior.with_diag_reg(candidates[best]),
        temperature=found[best].temperature,
        log_density=found[best].log_density,
        accuracy=found[best].accuracy,
    )


class _Scores(NamedTuple):
    loss: float
    temperature: float
    log_density: float
    accuracy: float


def _scored(
    posterior: LinearPredictor, diag_reg: float, validation: tuple[Any, Any] | None
) -> _Scores:
    """The best temperature for predictions with a regularisation, and how good they are."""
    if validation is None:
        means, index = (
            posterior.leave_one_out_mean(diag_reg),
            np.argmax(np.asarray(posterior.data.y), axis=1),
        )
    else:
        same = diag_reg == posterior.diag_reg
        means = _means(
            posterior if same else posterior.with_diag_reg(diag_reg), validation[0], 1000
        )
        index = _index_of(posterior.data, validation[1])
        checks.same_length("the validation points", means, "their labels", index)
    temperature, loss = _best_temperature(means, index)
    log_density = special.log_softmax(means / temperature, axis=1)[np.arange(len(index)), index]
    accuracy = np.mean(np.argmax(means, axis=1) == index)
    return _Scores(loss, temperature, float(log_density.mean()), float(accuracy))


def _best_temperature(means: np.ndarray, index: np.ndarray) -> tuple[float, float]:
    """The temperature with the least mean log loss, and that loss.

    One observation is added whose label is any class with equal probability: without it, classes
    that are perfectly separated would have temperature 0. The loss is convex in 1 / temperature, so
    it has one minimum.
    """
    from scipy import optimize  # not by `import dkp`

    n = len(index)

    def loss(log_gain: float) -> float:
        log_probabilities = special.log_softmax(np.exp(log_gain) * means, axis=1)
        own = np.sum(log_probabilities[np.arange(n), index])
        return -float(own + np.mean(log_probabilities)) / (n + 1)

    bounds = (-_LARGEST_LOG_GAIN, _LARGEST_LOG_GAIN)
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(-found.x)), float(found.fun)


def _means(posterior: LinearPredictor, x: Any, chunk: int) -> np.ndarray:
    """Predictive means at new points, (B, C)."""
    chunk = checks.positive_int("chunk", chunk)
    return np.asarray(posterior.latent_mean(posterior.data.standardize_inputs(x), chunk), float)


def _index_of(data: Dataset, labels: Any) -> np.ndarray:
    classes, given = np.asarray(data.classes), np.asarray(labels)
    index = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
    unknown = classes[index] != given
    if given.ndim != 1 or np.any(unknown):
        wrong = f"shape {given.shape}" if given.ndim != 1 else repr(given[unknown].tolist()[0])
        raise ValueError(f"Expected labels of shape (B,) among {classes.tolist()}. Got {wrong}.")
    return index
