"""The command line: ``dkp fit``, ``dkp predict``, ``dkp report`` and ``dkp demo``.

The first works on a user's table, the next two on what it saved, the last on an embedded data set.

Exit codes: 0, 2 for input that will not do (one line says why), 130 when interrupted before there
was anything to save.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from dkp import datasets
from dkp.cli.experiment import DRAWS, Settings, run, write_csv
from dkp.cli.model_file import TableModel
from dkp.cli.report import page
from dkp.cli.table import Columns, read_columns
from dkp.posterior.predict import predict as predict_rows

__all__ = ["demo", "fit", "main", "predict", "report"]

_DEFAULTS = Settings()
_DEMO = Settings(steps=500)  # enough for the embedded data


def demo(
    *, data: str = "diabetes", out: Path = Path("dkp-demo"), settings: Settings = _DEMO
) -> None:
    """Fit the default deep kernel process to a real data set, beside simpler models.

    They are compared on held-out rows.

    Args:
        data: diabetes, digits, breast_cancer or wine (embedded), or uci/energy, uci/yacht and
            others (see dkp.datasets).
        out: directory for model.dkp, predictions.csv, posterior.nc and figure.png.
        settings: of the split and the fit.
    """
    table, target = _data_set(data)
    _run(table, target, settings, out)


def fit(
    *, data: Path, target: str, out: Path = Path("dkp-fit"), settings: Settings = _DEFAULTS
) -> None:
    """Fit a deep kernel process to a table and compare it with simpler models on held-out rows.

    Args:
        data: CSV file with a header, or Parquet. All columns but the target are features: of
            numbers, where missing cells get the median and an indicator, or of text, which becomes
            categories.
        target: name of the column to predict: numbers, classes or counts.
        out: directory for model.dkp, predictions.csv, posterior.nc and figure.png.
        settings: of the task, the split and the fit.
    """
    _run(read_columns(data), target, settings, out)


def predict(
    model: Path, /, *, data: Path, out: Path = Path("predictions.csv"), seed: int = 0
) -> None:
    """Predict the rows of a table with a model that dkp fit saved.

    Args:
        model: the model.dkp of dkp fit.
        data: CSV or Parquet file with the feature columns of the training table; others are left
            alone.
        out: CSV file for the predictions, a line for each row.
        seed: of the posterior draws.
    """
    with jax.enable_x64(True):
        fitted = TableModel.load(model)
        table = read_columns(data)
        x = fitted.features(table)
        out.parent.mkdir(parents=True, exist_ok=True)
        prediction = predict_rows(fitted.posterior, x, key=jax.random.key(seed), n_samples=DRAWS)
        write_csv(out, {"row": np.arange(table.n), **fitted.task.columns(prediction)})
    print(f"predicted {fitted.target!r} of {table.n} rows in {out}")


def report(model: Path, /, *, out: Path | None = None, seed: int = 0) -> None:
    """Write one HTML page on a model that dkp fit saved.

    It shows data, fit, scores, calibration, what the model learned, and warnings.

    Args:
        model: the model.dkp of dkp fit.
        out: the page; report.html beside the model by default.
        seed: of the posterior draws.
    """
    place = model.with_name("report.html") if out is None else out
    with jax.enable_x64(True):
        text = page(TableModel.load(model), seed=seed)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    print(f"saved {place}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (by default, the process's) and return the exit code."""
    import tyro

    try:
        tyro.extras.subcommand_cli_from_dict(
            {"demo": demo, "fit": fit, "predict": predict, "report": report},
            prog="dkp",
            description="Bayesian inference for deep kernel processes.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
        )
    except (ValueError, OSError) as error:
        print(f"dkp: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dkp: interrupted, nothing saved", file=sys.stderr)
        return 130
    return 0


def _run(table: Columns, target: str, settings: Settings, out: Path) -> None:
    double = not settings.float32 and jax.default_backend() == "cpu"
    with jax.enable_x64(double):
        run(table, target, settings, out)


def _data_set(name: str) -> tuple[Columns, str]:
    """A data set of :mod:`dkp.datasets` as columns, and its target."""
    found = datasets.load(name)
    if found.x.ndim != 2:
        raise ValueError(
            f"Expected data to name a table, such as diabetes. Got {name!r}, which are images."
        )
    columns = {
        feature: np.asarray(found.x[:, j], float) for j, feature in enumerate(found.feature_names)
    }
    columns[found.target_name] = np.asarray(found.y, float)
    places = [f"row {i}" for i in range(len(found.y))]
    return Columns(
        source=f"{name}, {found.source}", columns=columns, places=places
    ), found.target_name
