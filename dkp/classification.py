"""Classification by regression: a posterior over centred one-hot targets, and probabilities calibrated on points that
it did not see.

The regression's means m_c(x) rank the classes; probabilities are softmax(m_c(x) / T), where the temperature T
maximises the likelihood of held-out labels: by default those of leave-one-out prediction, which costs no data.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from scipy import special

from dkp import _check
from dkp._types import Array, Float
from dkp.data import Dataset
from dkp.posterior import Posterior

__all__ = ["CalibratedClassifier", "calibrate"]

_LARGEST_LOG_GAIN = 12.0


@runtime_checkable
class _Regularised(Posterior, Protocol):
    """A posterior that predicts its own data one by one, for any regularisation."""

    def leave_one_out(self) -> tuple[Array, Array]: ...

    def with_diag_reg(self, diag_reg: float) -> Any: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibratedClassifier:
    """Class probabilities softmax(m(x) / temperature) of a regression posterior with mean m.

    diag_reg: chosen by :func:`calibrate`, or None for that of the posterior. log_density, accuracy: means over the
        held-out labels that chose the temperature.
    """

    posterior: Posterior
    temperature: float
    diag_reg: float | None
    log_density: float
    accuracy: float

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels, in the order of the probabilities' columns."""
        return self.posterior.data.classes

    def probabilities(self, x: Any, *, chunk: int = 1000) -> Float[np.ndarray, "B C"]:
        """Class probabilities at B new points, in the original units; `chunk` rows are computed at a time.

        Raises:
            ValueError: when x does not have the features of the training data.
        """
        return special.softmax(_means(self.posterior, x, chunk) / self.temperature, axis=1)

    def classify(self, x: Any, *, chunk: int = 1000) -> np.ndarray:
        """The most probable label of each point."""
        return np.asarray(self.classes)[np.argmax(self.probabilities(x, chunk=chunk), axis=1)]

    def log_density_of(self, x: Any, labels: Any, *, chunk: int = 1000) -> Float[np.ndarray, " B"]:
        """log p(label | x) for each point.

        Raises:
            ValueError: also when a label is none of the classes.
        """
        index = _index_of(self.posterior.data, labels)
        scores = _means(self.posterior, x, chunk) / self.temperature
        _check.same_length("x", scores, "labels", index)
        return special.log_softmax(scores, axis=1)[np.arange(len(index)), index]


def calibrate(
    posterior: Any, *, diag_reg: Sequence[float] | None = None, validation: tuple[Any, Any] | None = None
) -> CalibratedClassifier:
    """Turn a regression on centred one-hot targets into a classifier with calibrated probabilities.

    Args:
        posterior: of ``dkp.condition``, ``dkp.gradient_flow`` or ``dkp.fit_augmented``, on data of
            ``Dataset.from_labels``.
        diag_reg: regularisations to choose from, by the mean log density of the held-out labels; that of the posterior
            by default.
        validation: (x, labels) that were held out; by default every training point is predicted from all the others.

    Raises:
        ValueError: for data without classes, a posterior without leave-one-out predictions, an empty list of
            regularisations, or validation points that do not fit.

    Source: temperatures: Guo et al. 2017 (arXiv 1706.04599), section 4.2; one-hot regression: Lee et al. 2020 (arXiv
        2007.15801).
    """
    if not isinstance(posterior, _Regularised):
        raise ValueError(
            "Expected a posterior of dkp.condition, dkp.gradient_flow or dkp.fit_augmented. "
            f"Got {type(posterior).__name__}."
        )
    if not posterior.data.classes:
        raise ValueError("Expected data with classes. Got none: make them with dkp.Dataset.from_labels(x, labels).")
    if diag_reg is not None and not len(diag_reg):
        raise ValueError("Expected diag_reg to hold at least one number. Got an empty list.")
    candidates = [None] if diag_reg is None else list(diag_reg)
    fitted = [_calibrated(posterior, value, validation) for value in candidates]
    return max(fitted, key=lambda classifier: classifier.log_density)


def _calibrated(
    posterior: _Regularised, diag_reg: float | None, validation: tuple[Any, Any] | None
) -> CalibratedClassifier:
    chosen = posterior if diag_reg is None else posterior.with_diag_reg(diag_reg)
    if validation is None:
        means, index = np.asarray(chosen.leave_one_out()[0], float), np.argmax(np.asarray(chosen.data.y), axis=1)
    else:
        means, index = _means(chosen, validation[0], 1000), _index_of(chosen.data, validation[1])
        _check.same_length("the validation points", means, "their labels", index)
    log_gain, log_density = _best_gain(means, index)
    return CalibratedClassifier(
        posterior=chosen,
        temperature=float(np.exp(-log_gain)),
        diag_reg=diag_reg,
        log_density=log_density,
        accuracy=float(np.mean(np.argmax(means, axis=1) == index)),
    )


def _best_gain(means: np.ndarray, index: np.ndarray) -> tuple[float, float]:
    """The log of 1 / temperature with the highest mean log density, and that density; it has one maximum, because the
    log density is concave in 1 / temperature."""

    from scipy import optimize  # not by `import dkp`

    def loss(log_gain: float) -> float:
        chosen = special.log_softmax(np.exp(log_gain) * means, axis=1)[np.arange(len(index)), index]
        return -float(np.mean(chosen))

    bounds = (-_LARGEST_LOG_GAIN, _LARGEST_LOG_GAIN)
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(found.x), -float(found.fun)


def _means(posterior: Posterior, x: Any, chunk: int) -> np.ndarray:
    """Predictive means at new points, (B, C); the members of an ensemble are averaged."""
    key = jax.random.key(0)  # nothing is random in these posteriors
    chunk = _check.positive_int("chunk", chunk)
    mean, _ = posterior.latent_moments(posterior.sample(key, 1), key, posterior.data.standardize_inputs(x), chunk)
    return np.mean(np.asarray(mean, float), axis=0)


def _index_of(data: Dataset, labels: Any) -> np.ndarray:
    classes, given = np.asarray(data.classes), np.asarray(labels)
    index = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
    unknown = classes[index] != given
    if given.ndim != 1 or np.any(unknown):
        wrong = f"shape {given.shape}" if given.ndim != 1 else repr(given[unknown][0].item())
        raise ValueError(f"Expected labels of shape (B,) among {classes.tolist()}. Got {wrong}.")
    return index
