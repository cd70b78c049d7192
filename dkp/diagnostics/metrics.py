"""Scores of predictions against what was observed, in the units of the target.

They are computed on the host in float64.

Observations are (N,), or (N, C) for C outputs; draws and mixture components stand on a leading axis
S. The functions with one value an output return a number for (N,) and C numbers for (N, C).

Source: T. Gneiting and A. E. Raftery (2007), Strictly proper scoring rules, prediction, and
estimation, JASA 102, section 4.2 (CRPS); E. P. Grimit et al. (2006), The continuous ranked
probability score for circular variables, QJRMS 132, equation 5 (Gaussian mixtures); C. A. T. Ferro
(2014), Fair scores for ensemble forecasts, QJRMS 140; G. W. Brier (1950), Monthly Weather Review
78; M. P. Naeini et al. (2015), AAAI (expected calibration error).
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from dkp._core import checks
from dkp._core.types import Float

__all__ = [
    "Estimate",
    "Reliability",
    "accuracy",
    "brier_score",
    "crps",
    "crps_gaussian_mixture",
    "expected_calibration_error",
    "interval_coverage",
    "interval_width",
    "mae",
    "mean_log_density",
    "mean_log_probability",
    "out_of_distribution_auroc",
    "predictive_entropy",
    "reliability",
    "rmse",
]

PerOutput = np.float64 | Float[np.ndarray, " C"]


class Estimate(NamedTuple):
    """An average over data points.

    Attributes:
        mean: the average.
        standard_error: of the mean.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> estimate = metrics.mean_log_density([-1.0, -2.0, -3.0])
        >>> print(f"{estimate.mean:.3f} +- {estimate.standard_error:.3f}")
        -2.000 +- 0.577
    """

    mean: float
    standard_error: float


class Reliability(NamedTuple):
    """What :func:`reliability` finds in the bins that have rows.

    Attributes:
        confidence: mean probability of the likeliest class.
        accuracy: share of the rows whose likeliest class is theirs.
        share: of all rows.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> probabilities = [[0.8, 0.2], [0.4, 0.6]]
        >>> bins = metrics.reliability([0, 0], probabilities, bins=5)
        >>> print(bins.confidence, bins.share)
        [0.6 0.8] [0.5 0.5]
    """

    confidence: Float[np.ndarray, " b"]
    accuracy: Float[np.ndarray, " b"]
    share: Float[np.ndarray, " b"]


def rmse(y: Any, prediction: Any) -> PerOutput:
    """Root mean squared error, sqrt(mean (y - prediction)²), of each output.

    Raises:
        ValueError: when an argument is not finite or the shapes differ; so do all functions of this
            module.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> print(metrics.rmse([1.0, 2.0], [1.0, 4.0]).round(3))
        1.414
    """
    error = np.subtract(*_pair(y, prediction, "prediction"))
    return np.sqrt(np.mean(error**2, axis=0))


def mae(y: Any, prediction: Any) -> PerOutput:
    """Mean absolute error, mean |y - prediction|, of each output.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> print(metrics.mae([1.0, 2.0], [1.0, 4.0]).round(3))
        1.0
    """
    return np.mean(np.abs(np.subtract(*_pair(y, prediction, "prediction"))), axis=0)


def mean_log_density(log_density: Any) -> Estimate:
    """Mean of N log predictive densities, and its standard error.

    The latter is the unbiased standard deviation / sqrt(N).

    Args:
        log_density: shape (N,), N >= 2. Minus infinity is a score like any other: the mean is then
            minus infinity, and the standard error NaN.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> print(f"{metrics.mean_log_density([-1.0, -2.0, -3.0]).mean:.3f}")
        -2.000
    """
    values = checks.real_array("log_density", log_density)
    if values.ndim != 1 or len(values) < 2 or np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError(
            "Expected log_density to be at least two numbers on one axis, none NaN or +inf. "
            f"Got shape {values.shape}, {int(np.isnan(values).sum())} NaN, "
            f"{int(np.isposinf(values).sum())} +inf."
        )
    with np.errstate(invalid="ignore"):  # the deviation of minus infinity from minus infinity
        return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def crps(y: Any, samples: Any, *, fair: bool = True) -> Float[np.ndarray, "N *C"]:
    """Continuous ranked probability score from draws, one value an observation; smaller is better.

    CRPS = E|X - y| - E|X - X'| / 2. With draws x_1 … x_S, sorted, the second term is
    sum_i (2i - S - 1) x_(i) / m, in O(S log S).

    Args:
        y: shape (N,) or (N, C).
        samples: shape (S, N) or (S, N, C), S >= 2.
        fair: m = S(S - 1), whose expectation is the score of the distribution that was drawn from.
            False: m = S², the score of the draws' own empirical distribution, larger by E|X - X'| /
            (2S) on average.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> print(metrics.crps([1.0], [[0.0], [1.0], [5.0]]).round(3))
        [0.]
    """
    y, samples = _with_leading(y, "samples", samples)
    s = len(samples)
    if s < 2:
        raise ValueError(f"Expected samples to have at least two draws on its first axis. Got {s}.")
    deviation = np.sort(samples - y, axis=0)  # about y: large offsets do not cancel
    weights = 2.0 * np.arange(1, s + 1) - s - 1
    gini = np.tensordot(weights, deviation, axes=1) / (s * (s - 1) if fair else s * s)
    return np.mean(np.abs(deviation), axis=0) - gini


def crps_gaussian_mixture(y: Any, mean: Any, scale: Any) -> Float[np.ndarray, "N *C"]:
    """CRPS of the mixture of S Gaussians with equal weights, one value an observation.

    It has a closed form.

    CRPS = mean_s A(y - mean_s, scale_s²) - mean_{s,t} A(mean_s - mean_t, scale_s² + scale_t²) / 2,
    where A(m, v) = E|N(m, v)| = 2 sqrt(v) phi(m / sqrt(v)) + m (2 Phi(m / sqrt(v)) - 1). Time
    O(S² N), memory O(S N).

    Args:
        y: shape (N,) or (N, C).
        mean: shape (S, N) or (S, N, C); one component (S = 1) is a Gaussian prediction.
        scale: standard deviations, positive, shaped as `mean`.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> print(metrics.crps_gaussian_mixture([0.0], [[0.0]], [[1.0]]).round(3))
        [0.234]
    """
    y, mean = _with_leading(y, "mean", mean)
    scale = checks.finite_array("scale", scale, ndim=mean.ndim)
    checks.same_shape("mean", mean, "scale", scale)
    if not (scale > 0).all():
        raise ValueError(f"Expected scale to be positive. Got {scale.min()}.")
    variance = scale**2
    pairs = sum(
        _mean_absolute(mean - m, variance + v).mean(axis=0)
        for m, v in zip(mean, variance, strict=True)
    )
    return _mean_absolute(y - mean, variance).mean(axis=0) - 0.5 * pairs / len(mean)


def interval_coverage(y: Any, lower: Any, upper: Any) -> PerOutput:
    """Fraction of the observations with lower <= y <= upper, of each output.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> print(metrics.interval_coverage([1.0, 5.0], [0.0, 0.0], [2.0, 2.0]))
        0.5
    """
    y, lower = _pair(y, lower, "lower")
    _, upper = _pair(y, upper, "upper")
    _check_ordered(lower, upper)
    return np.mean((lower <= y) & (y <= upper), axis=0)


def interval_width(lower: Any, upper: Any) -> PerOutput:
    """Mean of upper - lower, of each output.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> print(metrics.interval_width([0.0, 0.0], [2.0, 4.0]))
        3.0
    """
    lower = checks.finite_array("lower", lower, ndim=(1, 2))
    upper = checks.finite_array("upper", upper, ndim=(1, 2))
    checks.same_shape("lower", lower, "upper", upper)
    _check_ordered(lower, upper)
    return np.mean(upper - lower, axis=0)


def accuracy(labels: Any, probabilities: Any) -> float:
    """Share of the rows whose likeliest class is the observed one.

    Args:
        labels: numbers of the observed classes, (N,), from 0.
        probabilities: of K classes, (N, K), rows of which sum to one.

    Raises:
        ValueError: for labels that are none of 0, …, K - 1, and rows that are no probabilities; so
            do all functions of labels and probabilities.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> probabilities = [[0.8, 0.2], [0.4, 0.6]]
        >>> print(metrics.accuracy([0, 0], probabilities))
        0.5
    """
    labels, probabilities = _classes(labels, probabilities)
    return float(np.mean(np.argmax(probabilities, axis=1) == labels))


def mean_log_probability(labels: Any, probabilities: Any) -> Estimate:
    """Mean log probability of the observed classes, and its standard error.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> probabilities = [[0.8, 0.2], [0.4, 0.6]]
        >>> print(f"{metrics.mean_log_probability([0, 1], probabilities).mean:.3f}")
        -0.367
    """
    labels, probabilities = _classes(labels, probabilities)
    with np.errstate(divide="ignore"):
        return mean_log_density(np.log(probabilities[np.arange(len(labels)), labels]))


def brier_score(labels: Any, probabilities: Any) -> float:
    """Mean over rows of sum_k (p_k - [label = k])^2: between 0 and 2, less is better.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> probabilities = [[0.8, 0.2], [0.4, 0.6]]
        >>> print(f"{metrics.brier_score([0, 1], probabilities):.3f}")
        0.200
    """
    labels, probabilities = _classes(labels, probabilities)
    return float(
        np.mean(np.sum((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2, axis=1))
    )


def reliability(labels: Any, probabilities: Any, *, bins: int = 15) -> Reliability:
    """Confidence and accuracy in bins of rows, by the probability of their likeliest class.

    The bins have equal width.

    Args:
        bins: number of bins of [0, 1].

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> probabilities = [[0.8, 0.2], [0.4, 0.6]]
        >>> print(metrics.reliability([0, 0], probabilities, bins=5).accuracy)
        [0. 1.]
    """
    labels, probabilities = _classes(labels, probabilities)
    confidence, right = probabilities.max(axis=1), np.argmax(probabilities, axis=1) == labels
    index = np.minimum((confidence * checks.positive_int("bins", bins)).astype(int), bins - 1)
    used, place, number = np.unique(index, return_inverse=True, return_counts=True)
    means = (
        np.bincount(place, weights=values, minlength=len(used)) / number
        for values in (confidence, right)
    )
    return Reliability(*means, share=number / len(labels))


def expected_calibration_error(labels: Any, probabilities: Any, *, bins: int = 15) -> float:
    """sum_b (n_b / N) |accuracy_b - confidence_b|, over the bins of :func:`reliability`.

    Chance alone makes it positive, of the order of sqrt(bins / N).

    Args:
        bins: number of bins of [0, 1].

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> probabilities = [[0.8, 0.2], [0.4, 0.6]]
        >>> print(f"{metrics.expected_calibration_error([0, 0], probabilities, bins=5):.3f}")
        0.400
    """
    found = reliability(labels, probabilities, bins=bins)
    return float(np.sum(found.share * np.abs(found.accuracy - found.confidence)))


def predictive_entropy(probabilities: Any) -> Float[np.ndarray, " N"]:
    """-sum_k p_k log p_k of each row, in nats.

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> print(metrics.predictive_entropy([[0.5, 0.5], [1.0, 0.0]]).round(3))
        [0.693 0.   ]
    """
    return special.entr(_rows_of_probabilities(probabilities)).sum(axis=1)


def out_of_distribution_auroc(inside: Any, outside: Any) -> float:
    """Probability that a row from elsewhere has the larger predictive entropy.

    Ties count half: it is the area under the curve of a detector.

    Args:
        inside: probabilities at rows like those of training, (N, K).
        outside: at others, (M, K).

    Examples:
        >>> from dkp.diagnostics import metrics
        >>> metrics.out_of_distribution_auroc([[0.9, 0.1], [0.6, 0.4]], [[0.5, 0.5]])
        1.0
    """
    from sklearn.metrics import roc_auc_score

    entropies = [predictive_entropy(inside), predictive_entropy(outside)]
    return float(
        roc_auc_score(np.repeat([0, 1], [len(e) for e in entropies]), np.concatenate(entropies))
    )


def _classes(labels: Any, probabilities: Any) -> tuple[np.ndarray, np.ndarray]:
    probabilities = _rows_of_probabilities(probabilities)
    labels = checks.finite_array("labels", labels, ndim=1)
    checks.same_length("labels", labels, "probabilities", probabilities)
    if (
        np.any(labels != np.floor(labels))
        or labels.min() < 0
        or labels.max() >= probabilities.shape[1]
    ):
        raise ValueError(
            f"Expected labels to be integers from 0 to {probabilities.shape[1] - 1}. Got "
            f"{labels.min():g} to {labels.max():g}."
        )
    return labels.astype(int), probabilities


def _rows_of_probabilities(values: Any) -> np.ndarray:
    probabilities = checks.finite_array("probabilities", values, ndim=2)
    if probabilities.min() < 0 or np.any(np.abs(probabilities.sum(axis=1) - 1) > 1e-4):
        raise ValueError(
            "Expected rows of probabilities, non-negative and of sum one. Got sums from "
            f"{probabilities.sum(axis=1).min():g} to {probabilities.sum(axis=1).max():g}, the "
            f"least entry {probabilities.min():g}."
        )
    return probabilities


def _mean_absolute(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E|X| for X ~ N(mean, variance)."""
    scale = np.sqrt(variance)
    z = mean / scale
    return scale * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + mean * special.erf(z / np.sqrt(2))


def _pair(y: Any, other: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    y = checks.finite_array("y", y, ndim=(1, 2))
    other = checks.finite_array(name, other, ndim=(1, 2))
    checks.same_shape("y", y, name, other)
    return y, other


def _with_leading(y: Any, name: str, values: Any) -> tuple[np.ndarray, np.ndarray]:
    y = checks.finite_array("y", y, ndim=(1, 2))
    values = checks.finite_array(name, values, ndim=y.ndim + 1)
    if values.shape[1:] != y.shape:
        raise ValueError(
            f"Expected {name} to have shape (S, {', '.join(map(str, y.shape))}). Got "
            f"{values.shape}."
        )
    return y, values


def _check_ordered(lower: np.ndarray, upper: np.ndarray) -> None:
    if (lower > upper).any():
        raise ValueError(
            f"Expected lower <= upper. Got {int((lower > upper).sum())} intervals the other way "
            "round."
        )
