"""What a newcomer gets on a large table.

``DKPRegressor().fit`` on 100,000 rows of 20 features: its time, its memory and its calibration on
10,000 others. Run it with ``python -m benchmarks.tables.large_table``.

The targets are a smooth function plus noise of standard deviation 0.1, so the best RMSE is 0.1, and
the best mean log density 0.884.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import store
from benchmarks.speed.timing import MEGABYTE, peak_bytes
from benchmarks.tables import datasets

__all__ = ["measure_fit"]

TEST = 10_000
PLACE = store.ROOT / "benchmarks" / "results" / "speed" / "large-table.json"


def measure_fit(n: int, d: int) -> dict[str, Any]:
    """Fit, predict and score."""
    from dkp.diagnostics import metrics
    from dkp.estimators import DKPRegressor

    x, y = datasets.synthetic(n + TEST, d)
    began = time.perf_counter()
    estimator = DKPRegressor(random_state=0).fit(x[:n], y[:n])
    fitted = time.perf_counter()
    mean, deviation = estimator.predict(x[n:], return_std=True)
    half = 1.6448536269514722 * deviation
    return {
        "rows": n,
        "features": d,
        "fit_s": fitted - began,
        "predict_s": time.perf_counter() - fitted,
        "peak_mb": peak_bytes() / MEGABYTE,
        "rmse": float(metrics.rmse(y[n:], mean)),
        "log_density": float(np.mean(estimator.log_density(x[n:], y[n:]))),
        "coverage_90": float(metrics.interval_coverage(y[n:], mean - half, mean + half)),
        "date": store.now(),
        "versions": store.versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--out", type=Path, default=PLACE)
    arguments = parser.parse_args()
    record = measure_fit(arguments.rows, arguments.features)
    store.write(arguments.out, record)
    del record["versions"]
    print(
        "; ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
    )


if __name__ == "__main__":
    main()
