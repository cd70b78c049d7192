"""What ``dkp fit`` does with a table: hold out rows, fit, compare on the held-out rows, save."""

import csv
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dkp._core import checks
from dkp.cli.encoding import Encoding
from dkp.cli.model_file import TableModel
from dkp.cli.table import Columns, is_missing
from dkp.cli.tasks import TASKS, Task, guess_task
from dkp.data.dataset import Dataset
from dkp.diagnostics.arviz import to_arviz
from dkp.inference.variational.fit import fit_vi
from dkp.model.defaults import default_model
from dkp.model.process import DeepKernelProcess
from dkp.plots import overview
from dkp.posterior.predict import predict

__all__ = ["DEEP", "DRAWS", "Settings", "run", "write_csv"]

_LARGEST_BATCH = 5000  # training rows that are used all at once
_BATCH = 1000
DRAWS = 200
"""Of networks, for predictions and the ArviZ file alike: one program draws both."""
DEEP = "deep inverse Wishart process"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to read, split and fit.

    Attributes:
        task: regression, classification or counts; guessed from the target by default, and said.
        ignore: columns to leave out.
        ordinal: columns of ordered categories, such as size=small,medium,large; other columns of
            text become one feature for each category.
        seed: of the split and of all random numbers.
        steps: optimisation steps of the deep model.
        n_inducing: number of inducing points of the deep model.
        test_fraction: share of the rows to hold out, drawn at random.
        float32: compute in single precision. The default is double precision on CPUs, single on
            accelerators.
    """

    task: str = "auto"
    ignore: tuple[str, ...] = ()
    ordinal: tuple[str, ...] = ()
    seed: int = 0
    steps: int = 500
    n_inducing: int = 100
    test_fraction: float = 0.1
    float32: bool = False

    def check(self) -> None:
        """Raise ValueError for a value that will not do.

        Not at construction, where tyro would wrap the message.
        """
        checks.one_of("task", self.task, ("auto", *TASKS))
        checks.positive_int("steps", self.steps)
        checks.positive_int("n-inducing", self.n_inducing)
        if not 0 < self.test_fraction < 1:
            raise ValueError(
                f"Expected test-fraction strictly between 0 and 1. Got {self.test_fraction}."
            )
        if self.seed < 0:
            raise ValueError(f"Expected seed to be at least 0. Got {self.seed}.")

    @property
    def orders(self) -> dict[str, tuple[str, ...]]:
        """Categories of the ordinal columns, from low to high."""
        found = {}
        for text in self.ordinal:
            name, equals, values = text.partition("=")
            if not (name and equals and values):
                raise ValueError(
                    f"Expected ordinal columns such as size=small,medium,large. Got {text!r}."
                )
            found[name] = tuple(value.strip() for value in values.split(","))
        return found


def run(table: Columns, target: str, settings: Settings, out: Path) -> None:
    """Fit all models, print the table of scores, and write the files into `out`.

    They are model.dkp, predictions.csv, posterior.nc and, where targets are numbers, figure.png.

    While the deep model is fitted its state is in fit.checkpoint: the same command, after it was
    killed, goes on.

    Raises:
        ValueError: for settings that will not do, or a table with too few rows or without features
            or targets.
        OSError: when `out` cannot be written.
    """
    settings.check()
    for name in settings.ignore:
        table.column(name, "ignore")
    features = table.without((target, *settings.ignore))
    task, y = _targets(table, target, settings.task)
    if not features.columns:
        raise ValueError(
            f"Expected {table.source} to have feature columns beside the target. Got only "
            f"{target!r}."
        )
    test, train = _split(len(y), settings)
    encoding = Encoding.fit(features.rows(train), settings.orders)
    x, x_test = encoding.transform(features.rows(train)), encoding.transform(features.rows(test))
    # before the fit: what cannot be saved is not worth waiting for
    out.mkdir(parents=True, exist_ok=True)
    data = Dataset.from_arrays(
        x,
        y[train],
        standardize_targets=task.likelihood.standardises_targets,
        feature_names=encoding.names,
        target_names=(target,),
    )
    print(
        f"{table.source}: {data.d} features, {data.n} training and {len(test)} test rows", end="; "
    )
    print(f"{data.x.dtype} on {jax.default_backend()}")
    keys = jax.random.split(jax.random.key(settings.seed), 5)
    posterior = _fit(data, task, settings, keys[0], out / "fit.checkpoint")
    predictions = {DEEP: predict(posterior, x_test, key=keys[2], n_samples=DRAWS)}
    for name, predict_simply in task.simpler(data, x, y[train]).items():
        predictions[name] = predict_simply(x_test)
    scores = {name: task.scores(prediction, y[test]) for name, prediction in predictions.items()}
    print(_lines(scores))
    model = TableModel(
        posterior=posterior,
        encoding=encoding,
        task=task,
        target=target,
        source=table.source,
        x_test=x_test,
        y_test=y[test],
        scores=scores,
    )
    _save(out, model, predictions[DEEP], test, keys[3])


def _targets(table: Columns, target: str, wanted: str) -> tuple[Task, np.ndarray]:
    """The task and the targets as numbers.

    Raises:
        ValueError: when the target is no column, has missing cells, or does not fit the task.
    """
    column = table.column(target)
    if is_missing(column).any():
        first = int(np.flatnonzero(is_missing(column))[0])
        raise ValueError(
            f"Expected a target in every row of {table.source}, column {target!r}. Got a missing "
            f"cell in {table.places[first]}: leave out the row."
        )
    name = guess_task(column) if wanted == "auto" else wanted
    if wanted == "auto":
        print(
            f"{target!r} looks like {name}: --task regression, classification or counts says "
            "otherwise"
        )
    task = TASKS[name].of(column)
    return task, task.encode(column)


def _split(n: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Rows to test on and to train on."""
    n_test = max(2, round(n * settings.test_fraction))
    if n - n_test < 2:
        raise ValueError(
            f"Expected at least 2 rows to train and 2 to test on. Got {n} rows, of which {n_test} "
            "are held out."
        )
    rows = np.random.default_rng(settings.seed).permutation(n)
    return np.sort(rows[:n_test]), np.sort(rows[n_test:])


def _fit(data: Dataset, task: Task, settings: Settings, key: jax.Array, checkpoint: Path) -> Any:
    posterior = fit_vi(
        DeepKernelProcess(layers=default_model().layers, likelihood=task.likelihood),
        data,
        key=key,
        n_inducing=settings.n_inducing,
        batch_size=None if data.n <= _LARGEST_BATCH else _BATCH,
        steps=settings.steps,
        progress=True,
        checkpoint=checkpoint,
    )
    for file in checkpoint.parent.glob(f"{checkpoint.name}*"):
        file.unlink()
    if posterior.stopped == "interrupted":
        print(
            f"interrupted after {len(posterior.elbo_trace)} steps: going on with the best state "
            "so far",
            file=sys.stderr,
        )
    return posterior


def _lines(scores: dict[str, dict[str, str]]) -> str:
    """The table: one line a model."""
    names = list(next(iter(scores.values())))
    widths = [max(len(name), *(len(row[name]) for row in scores.values())) + 2 for name in names]
    first = max(map(len, scores)) + 2
    lines = [
        " " * first + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    ]
    for model, row in scores.items():
        lines.append(
            f"{model:{first}}"
            + "".join(f"{row[n]:>{w}}" for n, w in zip(names, widths, strict=True))
        )
    return "\n".join(lines)


def _save(out: Path, model: TableModel, prediction: Any, rows: np.ndarray, key: jax.Array) -> None:
    posterior: Any = model.posterior
    model.save(out / "model.dkp")
    observed = model.task.decode(model.y_test)
    write_csv(
        out / "predictions.csv",
        {"row": rows, "observed": observed, **model.task.columns(prediction)},
    )
    to_arviz(posterior, key=key, n_samples=DRAWS).to_netcdf(
        str(out / "posterior.nc"), engine="h5netcdf"
    )
    files = ["model.dkp", "predictions.csv", "posterior.nc"]
    if not model.task.classes:
        files.append("figure.png")
        overview(prediction, model.y_test, posterior.elbo_trace).savefig(
            out / "figure.png", dpi=120
        )
    print(f"saved {', '.join(files)} in {out}; next: dkp report {out / 'model.dkp'}")


def write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Columns of equal length, below their names."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(
            zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
        )
