"""What the commands do with a table: hold out rows, fit, compare on the held-out rows, save."""

import csv
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import special

from dkp import _check
from dkp.data import Dataset
from dkp.datasets import Table
from dkp.defaults import ard_gaussian_process, default_model
from dkp.diagnostics import metrics
from dkp.diagnostics.arviz import to_arviz
from dkp.inference.exact import condition
from dkp.inference.vi import fit_vi
from dkp.plots import overview
from dkp.predict import predict

__all__ = ["Settings", "run"]

_LARGEST_EXACT = 2000  # training rows of the exact Gaussian process
_LARGEST_BATCH = 5000  # training rows that are used all at once
_BATCH = 1000
_DRAWS = 200  # of networks, for predictions and the ArviZ file alike: one program draws both
_DEEP, _EXACT, _MEAN = "deep inverse Wishart process", "exact Gaussian process", "mean"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to split and fit.

    Attributes:
        seed: of the split and of all random numbers.
        steps: optimisation steps of the deep model.
        n_inducing: number of inducing points of the deep model.
        test_fraction: share of the rows to hold out, drawn at random.
        float32: compute in single precision. The default is double precision on CPUs, single on accelerators.
    """

    seed: int = 0
    steps: int = 500
    n_inducing: int = 100
    test_fraction: float = 0.1
    float32: bool = False

    def check(self) -> None:
        """Raise ValueError for a value that will not do; not at construction, where tyro would wrap the message."""
        _check.positive_int("steps", self.steps)
        _check.positive_int("n-inducing", self.n_inducing)
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"Expected test-fraction strictly between 0 and 1. Got {self.test_fraction}.")
        if self.seed < 0:
            raise ValueError(f"Expected seed to be at least 0. Got {self.seed}.")


class Normal:
    """The same normal distribution for every row: what can be said without features."""

    def __init__(self, y: np.ndarray, n: int, seed: int) -> None:
        self.mean = np.full(n, y.mean())
        self.scale = y.std(ddof=1) or 1.0
        self.samples = self.mean + self.scale * np.random.default_rng(seed).standard_normal((100, n))

    def quantile(self, q: Any) -> np.ndarray:
        return self.mean + self.scale * special.ndtri(q)[:, None]

    def log_density(self, y: np.ndarray) -> np.ndarray:
        return -(((y - self.mean) / self.scale) ** 2) / 2 - np.log(self.scale * np.sqrt(2 * np.pi))


def run(table: Table, settings: Settings, out: Path) -> None:
    """Fit all models, print the table of scores, and write predictions.csv, posterior.nc and figure.png into `out`.

    Raises:
        ValueError: for settings that will not do, or a table with too few rows.
        OSError: when `out` cannot be written.
    """
    settings.check()
    test, train = _split(len(table.y), settings)
    out.mkdir(parents=True, exist_ok=True)  # before the fit: what cannot be saved is not worth waiting for
    data = Dataset.from_arrays(
        table.x[train], table.y[train], feature_names=table.feature_names, target_names=(table.target_name,)
    )
    print(f"{table.source}: {data.d} features, {data.n} training and {len(test)} test rows", end="; ")
    print(f"{data.x.dtype} on {jax.default_backend()}")
    keys = jax.random.split(jax.random.key(settings.seed), 5)
    posteriors = _fit(data, settings, keys[:2])
    predictions: dict[str, Any] = {
        name: predict(posterior, table.x[test], key=keys[2], n_samples=_DRAWS) for name, posterior in posteriors.items()
    }
    predictions[_MEAN] = Normal(table.y[train], len(test), settings.seed)
    print(_scores(predictions, table.y[test]))
    _save(out, posteriors[_DEEP], predictions, test, table.y[test], keys[3])


def _split(n: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Rows to test on and to train on."""
    n_test = max(2, round(n * settings.test_fraction))
    if n - n_test < 2:
        raise ValueError(
            f"Expected at least 2 rows to train and 2 to test on. Got {n} rows, of which {n_test} are held out."
        )
    rows = np.random.default_rng(settings.seed).permutation(n)
    return np.sort(rows[:n_test]), np.sort(rows[n_test:])


def _fit(data: Dataset, settings: Settings, keys: jax.Array) -> dict[str, Any]:
    fitted: dict[str, Any] = {}
    batch = None if data.n <= _LARGEST_BATCH else _BATCH
    deep = fit_vi(
        default_model(),
        data,
        key=keys[0],
        n_inducing=settings.n_inducing,
        batch_size=batch,
        steps=settings.steps,
        progress=True,
    )
    if deep.stopped == "interrupted":
        print(f"interrupted after {len(deep.elbo_trace)} steps: going on with the best state so far", file=sys.stderr)
    fitted[_DEEP] = deep
    if data.n <= _LARGEST_EXACT:
        fitted[_EXACT] = condition(ard_gaussian_process(), data)
    else:
        print(f"no {_EXACT}: it is for at most {_LARGEST_EXACT} training rows", file=sys.stderr)
    return fitted


def _scores(predictions: dict[str, Any], y: np.ndarray) -> str:
    """The table: one line a model."""
    lines = [f"{'':30}{'RMSE':>10}  {'test log density':>20}{'CRPS':>10}{'90% coverage':>14}"]
    for name, prediction in predictions.items():
        density = metrics.mean_log_density(prediction.log_density(y))
        coverage = metrics.interval_coverage(y, *prediction.quantile([0.05, 0.95]))
        crps = metrics.crps(y, prediction.samples).mean()
        score = f"{density.mean:.3f} ± {density.standard_error:.3f}"
        lines.append(f"{name:30}{metrics.rmse(y, prediction.mean):10.4g}  {score:>20}{crps:10.4g}{coverage:14.0%}")
    return "\n".join(lines)


def _save(out: Path, deep: Any, predictions: dict[str, Any], rows: np.ndarray, y: np.ndarray, key: jax.Array) -> None:
    _write_predictions(out / "predictions.csv", predictions, rows, y)
    overview(predictions[_DEEP], y, deep.elbo_trace).savefig(out / "figure.png", dpi=120)
    to_arviz(deep, key=key, n_samples=_DRAWS).to_netcdf(str(out / "posterior.nc"), engine="h5netcdf")
    print(f"saved predictions.csv, figure.png and posterior.nc in {out}")


def _write_predictions(path: Path, predictions: dict[str, Any], rows: np.ndarray, y: np.ndarray) -> None:
    """One line a held-out row, counted from 0 in the table: the observation and the predictions of each model."""
    columns: dict[str, np.ndarray] = {"row": rows, "observed": y}
    for prefix, name in (("", _DEEP), ("gp_", _EXACT)):
        if (prediction := predictions.get(name)) is None:
            continue
        lower, upper = prediction.quantile([0.05, 0.95])
        columns |= {
            f"{prefix}mean": prediction.mean,
            f"{prefix}sd": np.sqrt(prediction.variance),
            f"{prefix}q05": lower,
            f"{prefix}q95": upper,
            f"{prefix}log_density": prediction.log_density(y),
        }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
