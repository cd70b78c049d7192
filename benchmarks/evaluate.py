"""One run from data to record: fit, predict, score. Runs inside a worker process."""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dkp
from benchmarks import datasets, networks, store
from benchmarks.config import NETWORKS, Run
from benchmarks.methods import METHODS
from dkp.diagnostics import metrics

__all__ = ["evaluate", "score"]


def evaluate(run: Run) -> dict[str, Any]:
    """Fit, predict and score; the record of a finished run.

    Raises:
        ValueError: when the method is not known.
        FloatingPointError: when a metric is not finite.
    """
    if run.method not in (*METHODS, *NETWORKS):
        raise ValueError(f"Expected method to be one of {', '.join((*METHODS, *NETWORKS))}. Got {run.method!r}.")
    if (default := jnp.result_type(float)) != run.dtype:
        raise ValueError(f"Expected JAX_ENABLE_X64 to be set for {run.dtype}. Got {default} as JAX's default.")
    result = networks.evaluate(run) if run.method in NETWORKS else _regression(run)
    _check_finite(result["metrics"])
    return {
        **json.loads(run.to_json()),
        "status": "finished",
        **result,
        "date": store.now(),
        "versions": store.versions(),
        "device": jax.devices()[0].device_kind,
    }


def _regression(run: Run) -> dict[str, Any]:
    method, table = METHODS[run.method], datasets.load(run.dataset, run.split)
    assert table.x_test is not None and table.y_test is not None
    fit_key, predict_key, elbo_key = jax.random.split(jax.random.fold_in(jax.random.key(run.seed), run.split), 3)
    data = dkp.Dataset.from_arrays(table.x, table.y)

    start = time.perf_counter()
    posterior = jax.block_until_ready(method.fit(data, fit_key, run.settings))
    fitted = time.perf_counter()
    prediction = method.predict(posterior, table.x_test, predict_key, run.settings)
    scores = score(prediction, np.asarray(table.y_test))
    end = time.perf_counter()

    if method.elbo is not None:
        scores["elbo"] = method.elbo(posterior, elbo_key)
    return {
        "metrics": scores,
        "fit": _scalars(method.summary(posterior)),
        "n_train": len(table.x),
        "n_test": len(table.x_test),
        "model": repr(getattr(posterior, "model", run.method)),
        "source": table.source.partition(" (")[0],  # without the path on this machine
        "times": {"fit": fitted - start, "predict": end - fitted, "total": end - start},
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


def _scalars(summary: dict[str, Any]) -> dict[str, Any]:
    """The entries that are one value, as plain Python; JSON has no infinities, so those become text."""
    plain = {name: np.asarray(value).item() for name, value in summary.items() if np.size(value) == 1}
    infinite = {n: str(v) for n, v in plain.items() if isinstance(v, float) and not np.isfinite(v)}
    return plain | infinite


def _check_finite(scores: dict[str, Any]) -> None:
    bad = [f"{name} = {value}" for name, value in scores.items() if not np.isfinite(float(value))]
    if bad:
        raise FloatingPointError(f"Expected finite scores. Got {', '.join(bad)}.")
