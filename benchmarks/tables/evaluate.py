"""One run from data to record: fit, predict, score. Runs inside a worker process."""

import dataclasses
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dkp
from benchmarks import store
from benchmarks.config import NETWORKS, TABLES, Run
from benchmarks.tables import datasets, networks
from benchmarks.tables import everyday as tables
from benchmarks.tables.methods import METHODS
from dkp.diagnostics import metrics

__all__ = ["CURVE_POINTS", "curve", "evaluate", "evaluate_together", "score"]

CURVE_POINTS = 40


def evaluate(run: Run) -> dict[str, Any]:
    """Fit, predict and score; the record of a finished run.

    Raises:
        ValueError: when the method is not known.
        FloatingPointError: when a metric is not finite.
    """
    _check(run)
    if run.suite in TABLES:
        return _record(run, tables.evaluate(run))
    return _record(
        run, networks.evaluate(run) if run.method in NETWORKS else _regressions([run])[0]
    )


def evaluate_together(runs: list[Run]) -> list[dict[str, Any]]:
    """:func:`evaluate` for several splits of one data set by one method, fitted in one program
    where it can.

    Raises:
        ValueError: when the runs differ in more than their split.
    """
    if len({dataclasses.replace(run, split=0) for run in runs}) != 1:
        raise ValueError("Expected runs that differ in their split alone. Got others.")
    if runs[0].method not in METHODS:
        return [evaluate(run) for run in runs]
    _check(runs[0])
    return [_record(run, result) for run, result in zip(runs, _regressions(runs), strict=True)]


def _check(run: Run) -> None:
    known = tuple(tables.METHODS) if run.suite in TABLES else (*METHODS, *NETWORKS)
    if run.method not in known:
        raise ValueError(f"Expected method to be one of {', '.join(known)}. Got {run.method!r}.")
    if (default := jnp.result_type(float)) != run.dtype:
        raise ValueError(
            f"Expected JAX_ENABLE_X64 to be set for {run.dtype}. Got {default} as JAX's default."
        )


def _record(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    _check_finite(result["metrics"])
    return {
        **json.loads(run.to_json()),
        "status": "finished",
        **result,
        "date": store.now(),
        "versions": store.versions(),
        "device": jax.devices()[0].device_kind,
    }


def _regressions(runs: list[Run]) -> list[dict[str, Any]]:
    """Fit all, then predict and score one by one; a fit's time is that of all by their number."""
    run, method = runs[0], METHODS[runs[0].method]
    tables = [datasets.load(r.dataset, r.split) for r in runs]
    keys = [jax.random.split(jax.random.fold_in(jax.random.key(r.seed), r.split), 3) for r in runs]
    data = [dkp.Dataset.from_arrays(table.x, table.y) for table in tables]
    start = time.perf_counter()
    if len(runs) > 1 and method.fit_many is not None:
        posteriors = method.fit_many(data, jnp.stack([k[0] for k in keys]), run.settings)
    else:
        posteriors = [method.fit(d, k[0], run.settings) for d, k in zip(data, keys, strict=True)]
    seconds = (time.perf_counter() - start) / len(runs)
    return [
        _regression(method, run, posterior, table, k, seconds)
        for posterior, table, k in zip(posteriors, tables, keys, strict=True)
    ]


def _regression(
    method: Any, run: Run, posterior: Any, table: Any, keys: Any, fit_seconds: float
) -> dict[str, Any]:
    assert table.x_test is not None and table.y_test is not None
    start = time.perf_counter()
    prediction = method.predict(posterior, table.x_test, keys[1], run.settings)
    scores = score(prediction, np.asarray(table.y_test))
    predict_seconds = time.perf_counter() - start
    if method.elbo is not None:
        scores["elbo"] = method.elbo(posterior, keys[2])
    return {
        "metrics": scores,
        "fit": _scalars(method.summary(posterior)),
        "curve": curve(trace)
        if (trace := getattr(posterior, "elbo_trace", None)) is not None
        else None,
        "n_train": len(table.x),
        "n_test": len(table.x_test),
        "model": repr(getattr(posterior, "model", run.method)),
        "source": table.source.partition(" (")[0],  # without the path on this machine
        "times": {
            "fit": fit_seconds,
            "predict": predict_seconds,
            "total": fit_seconds + predict_seconds,
        },
    }


def score(prediction: Any, y: np.ndarray) -> dict[str, float]:
    """Scores of a predictive distribution at test targets `y` (N,), in original units."""
    density = metrics.mean_log_density(prediction.log_density(y))
    lower, upper = prediction.quantile(0.05), prediction.quantile(0.95)
    return {
        "log_density": density.mean,
        "log_density_se": density.standard_error,
        "rmse": float(metrics.rmse(y, prediction.mean)),
        "crps": float(np.mean(metrics.crps(y, prediction.samples))),
        "coverage_90": float(metrics.interval_coverage(y, lower, upper)),
    }


def curve(trace: np.ndarray) -> list[float | None]:
    """The learning curve of a fit: means over equal parts of a trace, of which there are
    `CURVE_POINTS`, or one for each step of a shorter trace. Steps without a finite value do not
    count; None where a part has no other.
    """
    parts = np.array_split(np.asarray(trace, np.float64), max(1, min(CURVE_POINTS, len(trace))))
    finite = [part[np.isfinite(part)] for part in parts]
    return [float(np.mean(part)) if len(part) else None for part in finite]


def _scalars(summary: dict[str, Any]) -> dict[str, Any]:
    """The entries that are one value, as plain Python; JSON has no infinities, so those become
    text.
    """
    plain = {
        name: np.asarray(value).item() for name, value in summary.items() if np.size(value) == 1
    }
    infinite = {n: str(v) for n, v in plain.items() if isinstance(v, float) and not np.isfinite(v)}
    return plain | infinite


def _check_finite(scores: dict[str, Any]) -> None:
    bad = [f"{name} = {value}" for name, value in scores.items() if not np.isfinite(float(value))]
    if bad:
        raise FloatingPointError(f"Expected finite scores. Got {', '.join(bad)}.")
