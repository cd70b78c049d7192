"""How wide should the bottlenecks be? The evidence of several widths, and what they predict.

    p(width | x, y) = p(width) p(y | x, width) / sum over the widths that are compared

Only the width varies: the other parts of the model, the data and the random key are the same for
all of them.
"""

import math
import numbers
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dkp._core import checks
from dkp._core.machine import allowed_memory
from dkp._core.progress import Progress
from dkp._core.record import record
from dkp._core.types import Float, PRNGKeyArray
from dkp.bottlenecks.wishart import Wishart
from dkp.data.dataset import Dataset
from dkp.inference.checks import Problem
from dkp.inference.tempered.evidence import Evidence, evidence_plan, log_evidence
from dkp.kernels.inputs import Linear
from dkp.model.process import DeepKernelProcess
from dkp.posterior.predict import predict

__all__ = ["WIDTHS", "WidthComparison", "compare_widths", "with_width"]

WIDTHS = (1, 2, 4, 8, 16, 64, math.inf)


@record
class WidthComparison:
    """Widths side by side, one entry each.

    Attributes:
        widths: infinity is the network without the bottlenecks.
        log_evidence: nats, all data, standardised targets.
        log_evidence_se: standard error of `log_evidence`.
        probability: of each width, given that it is one of them.
        held_out_log_density: sum of log p(y | x) over the held-out points, original units; None
            without such points.
        evidences: with posteriors to predict from.
    """

    widths: Float[np.ndarray, " W"]
    log_evidence: Float[np.ndarray, " W"]
    log_evidence_se: Float[np.ndarray, " W"]
    probability: Float[np.ndarray, " W"]
    held_out_log_density: Float[np.ndarray, " W"] | None
    evidences: tuple[Evidence, ...]

    @property
    def best(self) -> float:
        """The width of highest probability."""
        return float(self.widths[np.argmax(self.probability)])

    def summary(self) -> dict[str, Any]:
        """What to look at: the columns of the table, by name, and the best width."""
        names = ("widths", "log_evidence", "log_evidence_se", "probability", "held_out_log_density")
        columns = {name: getattr(self, name) for name in names}
        return {name: None if c is None else c.tolist() for name, c in columns.items()} | {
            "best": self.best
        }

    def __str__(self) -> str:
        """A table, with the log evidence relative to the largest."""
        lines = [
            f"{'width':>8} {'log evidence':>13} {'relative':>10} {'error':>7} {'probability':>12} "
            f"{'held out':>10}"
        ]
        held_out = (
            np.full(len(self.widths), np.nan)
            if self.held_out_log_density is None
            else self.held_out_log_density
        )
        columns = (self.widths, self.log_evidence, self.log_evidence_se, self.probability, held_out)
        for width, value, error, probability, density in zip(*columns, strict=True):
            relative = value - self.log_evidence.max()
            shown = "-" if np.isnan(density) else f"{density:.2f}"
            lines.append(
                f"{width:>8g} {value:>13.2f} {relative:>10.2f} {error:>7.2f} {probability:>12.3g} "
                f"{shown:>10}"
            )
        return "\n".join(lines)


def compare_widths(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    widths: Sequence[float | int] = WIDTHS,
    key: PRNGKeyArray,
    prior: Sequence[float | int] | None = None,
    held_out: tuple[Any, Any] | None = None,
    n_samples: int = 200,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
    **options: Any,
) -> WidthComparison:
    """Compare widths of the Wishart bottlenecks by their evidence.

    An interruption from the keyboard returns the widths that are finished, if any.

    Args:
        model: with one or more Wishart bottlenecks, which all get the width; inverse Wishart
            bottlenecks stay.
        data: training data.
        widths: integers of at least 1, real numbers of at least the number of points, or infinity,
            which leaves the bottlenecks out.
        key: the same for every width.
        prior: weights of the widths, at least 0; equal by default.
        held_out: x and y, original units, on which the widths are compared by prediction too.
        n_samples: posterior draws of those predictions.
        progress: show a progress bar; None shows it on a terminal and in a notebook only.
        checkpoint: start of the names of the files for the state of the call, one for each width;
            see :func:`dkp.fit_vi`. every: seconds between two of them.
        options: of :func:`dkp.log_evidence`, such as ``particles`` and ``runs``.

    Raises:
        ValueError: for a model without a Wishart bottleneck, widths, weights or held-out data that
            do not fit, and as in :func:`dkp.log_evidence`.

    Source: Aitchison 2020 (arXiv 1910.08013), section 2.

    Examples:
        >>> import jax
        >>> import dkp
        >>> kernel = dkp.kernels.SquaredExponential(1.0, 1.0)
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[kernel, dkp.Wishart(2), kernel], likelihood=dkp.likelihoods.Gaussian(0.1)
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 0.0, 1.0])
        >>> comparison = dkp.compare_widths(
        ...     model, data, widths=[1, 2], key=jax.random.key(0), particles=64, runs=2, move="pcn"
        ... )
        >>> print(comparison.widths, comparison.probability.shape)
        [1. 2.] (2,)
    """
    Problem.of(model, data)
    checks.random_key("key", key)
    checks.positive_int("n_samples", n_samples)
    values = _check_widths(widths)
    models = [with_width(model, width) for width in values]
    # for all, since those before take some of it
    options["max_memory"] = allowed_memory(options.get("max_memory"))
    for candidate in models:
        # nothing that a later width cannot do is found out late
        evidence_plan(candidate, data, **options)
    weights = _check_prior(prior, len(values))
    held_out = None if held_out is None else _check_held_out(held_out, data)
    evidences, densities = [], []
    try:
        with Progress(len(values), label="compare_widths", enabled=progress) as bar:
            for done, candidate in enumerate(models, start=1):
                file = (
                    None if checkpoint is None else f"{os.fspath(checkpoint)}.{values[done - 1]:g}"
                )
                evidence = log_evidence(
                    candidate,
                    data,
                    key=key,
                    progress=False,
                    checkpoint=file,
                    every=every,
                    **options,
                )
                densities.append(_held_out_log_density(evidence, held_out, key, n_samples))
                evidences.append(evidence)
                bar.update(done, width=values[done - 1], log_evidence=evidence.log_evidence)
    except KeyboardInterrupt:
        if not evidences:
            raise
    return _compare(values, evidences, densities[: len(evidences)], weights, held_out is not None)


def with_width(model: DeepKernelProcess, width: float | int) -> DeepKernelProcess:
    """The model with another width of all Wishart bottlenecks.

    For infinity it is the model without them.

    Raises:
        ValueError: when it has none, or when the width is none.
    """
    if not any(isinstance(layer, Wishart) for layer in model.layers):
        raise ValueError(
            "Expected a model with a dkp.Wishart(width=…) bottleneck, whose widths can be "
            "compared. "
            f"Got {model.layers!r}."
        )
    if math.isinf(width) and width > 0:
        layers = [layer for layer in model.layers if not isinstance(layer, Wishart)]
        return DeepKernelProcess(layers=layers or [Linear()], likelihood=model.likelihood)
    layers = [
        Wishart(width=width) if isinstance(layer, Wishart) else layer for layer in model.layers
    ]
    return DeepKernelProcess(layers=layers, likelihood=model.likelihood)


def _compare(
    widths: Sequence[float],
    evidences: Sequence[Evidence],
    densities: Sequence[float],
    weights: np.ndarray,
    held_out: bool,
) -> WidthComparison:
    n = len(evidences)
    values = np.asarray([evidence.log_evidence for evidence in evidences])
    # Largest exponents first: evidences are far outside of the floating-point numbers.
    scores = weights[:n] * np.exp(
        values - np.max(np.where(weights[:n] > 0, values, -np.inf), initial=values.min())
    )
    return WidthComparison(
        widths=np.asarray(widths[:n], float),
        log_evidence=values,
        log_evidence_se=np.asarray([evidence.standard_error for evidence in evidences]),
        probability=scores / scores.sum() if scores.sum() > 0 else np.full(n, np.nan),
        held_out_log_density=np.asarray(densities, float) if held_out else None,
        evidences=tuple(evidences),
    )


def _held_out_log_density(
    evidence: Evidence, held_out: Any, key: PRNGKeyArray, n_samples: int
) -> float:
    if held_out is None:
        return math.nan
    prediction = predict(
        evidence.posterior, held_out[0], key=jax.random.fold_in(key, 1), n_samples=n_samples
    )
    return float(np.sum(prediction.log_density(held_out[1])))


def _check_widths(widths: Any) -> list[float]:
    given = list(widths) if isinstance(widths, (list, tuple, np.ndarray, range)) else []
    good = all(
        isinstance(w, numbers.Real) and not isinstance(w, (bool, np.bool_)) and w > 0 for w in given
    )
    if not given or not good or len(set(given)) < len(given):
        raise ValueError(
            "Expected widths to be a list of different positive numbers, such as [1, 2, 4, "
            f"math.inf]. Got {widths!r}."
        )
    return [float(w) for w in given]


def _check_prior(prior: Any, n: int) -> np.ndarray:
    if prior is None:
        return np.full(n, 1 / n)
    weights = checks.finite_array("prior", prior, ndim=1)
    if len(weights) != n or np.any(weights < 0) or weights.sum() == 0:
        raise ValueError(
            f"Expected prior to be {n} weights of at least 0, one a width, not all 0. Got "
            f"{prior!r}."
        )
    return weights / weights.sum()


def _check_held_out(held_out: Any, data: Dataset) -> tuple[Any, Any]:
    if not (isinstance(held_out, (tuple, list)) and len(held_out) == 2):
        raise ValueError(f"Expected held_out to be a pair (x, y). Got {type(held_out).__name__}.")
    x, y = held_out
    rows, targets = data.standardize_inputs(x), checks.matrix("held_out y", y)
    if targets.shape != (len(rows), data.n_outputs):
        raise ValueError(
            f"Expected held_out y of shape ({len(rows)}, {data.n_outputs}), one row per row of x. "
            f"Got {np.shape(y)}."
        )
    return x, y
