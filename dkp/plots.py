"""Figures of a posterior and its predictions.

Every function draws into the Matplotlib axes that it is given and returns them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from dkp._core import checks
from dkp._core.types import Float
from dkp.diagnostics import metrics
from dkp.diagnostics.grams import GramDraws
from dkp.inference.tempered.widths import WidthComparison
from dkp.posterior.prediction import Prediction

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

__all__ = [
    "band",
    "calibration",
    "coverage_curve",
    "elbo_trace",
    "gram_matrices",
    "kernel_matrix",
    "observed_against_predicted",
    "overview",
    "reliability",
    "widths",
]


def band(
    ax: "matplotlib.axes.Axes",
    x: Any,
    prediction: Prediction,
    *,
    level: float = 0.9,
    label: str | None = None,
    color: str = "C0",
) -> "matplotlib.axes.Axes":
    """Predictive mean and the central interval of probability `level`, over one feature.

    Args:
        x: (B,) or (B, 1), the points that were predicted, in any order.
        prediction: at `x`, of one output.

    Raises:
        ValueError: when x has several columns or another length than the prediction, or `level` is
            not between 0 and 1.
    """
    x = _one_column(x)
    mean = _vector("prediction.mean", prediction.mean)
    checks.same_length("x", x, "prediction.mean", mean)
    lower, upper = prediction.quantile([(1 - level) / 2, (1 + level) / 2]).reshape(2, -1)
    order = np.argsort(x, kind="stable")
    ax.plot(x[order], mean[order], color=color, label=label)
    ax.fill_between(x[order], lower[order], upper[order], color=color, alpha=0.2, linewidth=0)
    return ax


def kernel_matrix(
    ax: "matplotlib.axes.Axes",
    matrix: Any,
    *,
    title: str | None = None,
    largest: float | None = None,
) -> "matplotlib.axes.Axes":
    """A kernel matrix as an image, symmetric about zero in colour.

    Args:
        matrix: (P, P).
        largest: end of the colour scale; the largest absolute entry by default.
    """
    values = checks.finite_array("matrix", matrix, ndim=2)
    largest = float(np.abs(values).max()) if largest is None else largest
    ax.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)
    return ax


def gram_matrices(axes: Any, draws: GramDraws, *, order: Any = None) -> Any:
    """Posterior means of the Gram matrices (first row).

    Below them are those of the deterministic network (second row).

    Args:
        axes: Matplotlib axes, an array of shape (2, L) for the L matrices of `draws`.
        order: (P,) permutation of the inducing points.

    Raises:
        ValueError: when the shape of `axes` does not fit.
    """
    n = len(draws.learned)
    if np.shape(axes) != (2, n):
        raise ValueError(
            f"Expected axes of shape (2, {n}), as of plt.subplots(2, {n}, squeeze=False). Got "
            f"{np.shape(axes)}."
        )
    order = np.arange(draws.learned[0].shape[-1]) if order is None else np.asarray(order)
    for layer in range(n):
        pair = [np.asarray(grams[layer]).mean(axis=0)[np.ix_(order, order)] for grams in draws]
        largest = max(float(np.abs(matrix).max()) for matrix in pair)
        name = "K of the outputs" if layer == n - 1 else f"G{layer + 1}"
        for ax, matrix, kind in zip(axes[:, layer], pair, ("learned", "fixed"), strict=True):
            kernel_matrix(ax, matrix, title=f"{name}, {kind}", largest=largest)
    return axes


def elbo_trace(
    ax: "matplotlib.axes.Axes", trace: Float[np.ndarray, " T"], *, skip: float = 0.0
) -> "matplotlib.axes.Axes":
    """Evidence lower bound in nats per data point, step by step.

    Args:
        trace: ``posterior.elbo_trace``.
        skip: share of the steps to leave out at the start, in [0, 1), so that the rise of the first
            steps does not hide the rest.
    """
    first = int(skip * len(trace))
    ax.plot(np.arange(first, len(trace)) + 1, trace[first:], linewidth=0.7)
    ax.set(xlabel="step", ylabel="ELBO / N")
    return ax


def observed_against_predicted(
    ax: "matplotlib.axes.Axes", prediction: Prediction, y: Any, *, level: float = 0.9
) -> "matplotlib.axes.Axes":
    """Observations (N,) against predictive means, and the diagonal.

    Bars are central intervals of probability `level`.
    """
    mean, y = _vector("prediction.mean", prediction.mean), _vector("y", y)
    checks.same_length("y", y, "prediction.mean", mean)
    lower, upper = prediction.quantile([(1 - level) / 2, (1 + level) / 2]).reshape(2, -1)
    # The mean of a skewed mixture may lie outside its central interval: the bar then starts at the
    # mean.
    bars = np.maximum([mean - lower, upper - mean], 0)
    ax.errorbar(mean, y, xerr=bars, fmt="o", markersize=3, elinewidth=0.7, alpha=0.6)
    ax.axline((float(y.mean()), float(y.mean())), slope=1, color="black", linewidth=0.8)
    ax.set(xlabel=f"predicted, with {level:.0%} interval", ylabel="observed")
    return ax


def coverage_curve(samples: Any, y: Any, levels: Any) -> Float[np.ndarray, " L"]:
    """Share of the observations inside the central interval of each level of their draws.

    The place of an observation among the S predictive draws decides: (rank + 1/2) / (S + 1) lies in
    the central interval of a level with that probability, up to 1 / (S + 1), when the predictions
    are right.

    Args:
        samples: (S, N), ``prediction.samples``.
        y: (N,).
        levels: (L,) probabilities.

    Raises:
        ValueError: when the shapes do not fit.
    """
    y, draws = _vector("y", y), checks.finite_array("samples", samples, ndim=2)
    checks.same_length("y", y, "the columns of samples", draws.T)
    place = (np.sum(draws < y, axis=0) + 0.5) / (len(draws) + 1)
    return np.mean(2 * np.abs(place - 0.5)[None, :] <= np.asarray(levels, float)[:, None], axis=1)


def calibration(
    ax: "matplotlib.axes.Axes", prediction: Prediction, y: Any, *, label: str | None = None
) -> "matplotlib.axes.Axes":
    """Observed against nominal coverage of central predictive intervals.

    Calibrated predictions follow the diagonal.
    """
    levels = np.linspace(0.05, 0.95, 19)
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    ax.plot(
        levels, coverage_curve(prediction.samples, y, levels), marker="o", markersize=3, label=label
    )
    ax.set(
        xlabel="nominal coverage",
        ylabel="observed coverage",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    return ax


def reliability(
    ax: "matplotlib.axes.Axes", labels: Any, probabilities: Any, *, bins: int = 10
) -> "matplotlib.axes.Axes":
    """Accuracy against confidence: rows in bins by the probability of their likeliest class.

    Calibrated probabilities follow the diagonal. Areas grow with the number of rows in a bin.

    Args:
        labels: (N,) integers from 0.
        probabilities: (N, K).
        bins: of equal width between 0 and 1.
    """
    found = metrics.reliability(labels, probabilities, bins=bins)
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    ax.plot(found.confidence, found.accuracy, linewidth=0.7)
    ax.scatter(found.confidence, found.accuracy, s=20 + 200 * found.share)
    ax.set(
        xlabel="probability of the likeliest class",
        ylabel="accuracy",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    return ax


def overview(
    prediction: Prediction, y: Any, trace: Float[np.ndarray, " T"]
) -> "matplotlib.figure.Figure":
    """One figure of a fit: observed `y` against predicted, calibration, and the ELBO's `trace`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    observed_against_predicted(axes[0], prediction, y)
    calibration(axes[1], prediction, y)
    elbo_trace(axes[2], trace, skip=0.1)
    return figure


def widths(axes: Any, comparison: WidthComparison) -> Any:
    """Log evidence relative to the best width with bars of two standard errors.

    Beside it is the held-out log-density.

    The axis of widths is logarithmic, and infinity stands at its right end, apart.

    Args:
        axes: Matplotlib axes; an array of two of them where there are held-out data, else one.

    Raises:
        ValueError: when there are held-out data and the axes are not two.
    """
    flat = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    densities = comparison.held_out_log_density
    expected = 1 if densities is None else 2
    if len(flat) != expected:
        raise ValueError(
            f"Expected {expected} axes, as of plt.subplots(1, {expected}). Got {len(flat)}."
        )
    relative = comparison.log_evidence - comparison.log_evidence.max()
    places = _width_axis(flat[0], comparison.widths)
    flat[0].errorbar(
        places, relative, yerr=2 * comparison.log_evidence_se, fmt="o-", markersize=4, capsize=3
    )
    flat[0].set(ylabel="log evidence, relative to the best")
    if densities is not None:
        flat[1].plot(_width_axis(flat[1], comparison.widths), densities, "o-", markersize=4)
        flat[1].set(ylabel="held-out log-density")
    return axes


def _one_column(x: Any) -> Float[np.ndarray, " B"]:
    values = checks.matrix("x", x)
    if values.shape[1] != 1:
        raise ValueError(
            f"Expected x to be one feature. Got {values.shape[1]} columns: choose one of them."
        )
    return values[:, 0]


def _vector(name: str, values: Any) -> Float[np.ndarray, " N"]:
    values = checks.matrix(name, values)
    if values.shape[1] != 1:
        raise ValueError(f"Expected {name} to be of one output. Got {values.shape[1]}.")
    return values[:, 0]


def _width_axis(
    ax: "matplotlib.axes.Axes", widths: Float[np.ndarray, " W"]
) -> Float[np.ndarray, " W"]:
    """Places of widths on a logarithmic axis, which gets their names."""
    finite = widths[np.isfinite(widths)]
    end = 4 * finite.max() if len(finite) else 1.0
    places = np.where(np.isfinite(widths), widths, end)
    ax.set_xscale("log")
    ax.set_xticks(places, [f"{w:g}" if np.isfinite(w) else "∞" for w in widths])
    ax.minorticks_off()
    ax.set(xlabel="width")
    return places
