"""The command line: ``dkp demo`` on an embedded data set, ``dkp fit`` on a user's CSV file.

Exit codes: 0, 2 for input that will not do (one line says why), 130 when interrupted before there was anything to save.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from dkp import datasets
from dkp.cli.experiment import Settings, run
from dkp.cli.table import read_csv
from dkp.datasets import Table

__all__ = ["demo", "fit", "main"]

_DEFAULTS = Settings()
_DEMO = Settings(steps=500)  # enough for the embedded data


def demo(*, data: str = "diabetes", out: Path = Path("dkp-demo"), settings: Settings = _DEMO) -> None:
    """Fit the default deep kernel process to a real data set and compare it with simpler models on held-out rows.

    Args:
        data: a regression data set: diabetes (embedded), or uci/energy, uci/yacht and others (see dkp.datasets).
        out: directory for predictions.csv, posterior.nc and figure.png.
        settings: of the split and the fit.
    """
    _run(_regression_set(data), settings, out)


def fit(*, data: Path, target: str, out: Path = Path("dkp-fit"), settings: Settings = _DEFAULTS) -> None:
    """Fit the default deep kernel process to a CSV file and compare it with simpler models on held-out rows.

    Args:
        data: CSV file of numbers with a header; all columns but the target are features.
        target: name of the column to predict.
        out: directory for predictions.csv, posterior.nc and figure.png.
        settings: of the split and the fit.
    """
    _run(read_csv(data, target), settings, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (those of the process by default) and return the exit code."""
    import tyro

    try:
        tyro.extras.subcommand_cli_from_dict(
            {"demo": demo, "fit": fit},
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


def _run(table: Table, settings: Settings, out: Path) -> None:
    double = not settings.float32 and jax.default_backend() == "cpu"
    with jax.enable_x64(double):
        run(table, settings, out)


def _regression_set(name: str) -> Table:
    table = datasets.load(name)
    if table.y.dtype.kind != "f":
        raise ValueError(
            f"Expected data to name a regression data set, such as diabetes. Got {name!r}, whose targets are classes."
        )
    return dataclasses.replace(table, source=f"{name}, {table.source}")
