"""The file that ``dkp fit`` leaves: a posterior, and beside it what the table needs.

:func:`dkp.load` reads the posterior.
"""

import dataclasses
from pathlib import Path

import numpy as np

from dkp.cli.encoding import Encoding
from dkp.cli.table import Columns
from dkp.cli.tasks import TASKS, Task
from dkp.io import load_with, save_with
from dkp.posterior.protocol import Posterior

__all__ = ["TableModel"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableModel:
    """A posterior with its way from table to features and targets, and the held-out rows.

    Attributes:
        posterior: of the model.
        encoding: from the table's columns to features.
        task: what the target column asks for.
        target: the name of that column.
        source: where the table came from.
        x_test: encoded features of the rows that were held out.
        y_test: encoded targets of these rows.
        scores: of each model on them, by name.
    """

    posterior: Posterior
    encoding: Encoding
    task: Task
    target: str
    source: str
    x_test: np.ndarray
    y_test: np.ndarray
    scores: dict[str, dict[str, str]]

    def save(self, path: Path) -> None:
        """Write one file.

        Raises:
            OSError: when it cannot be written.
        """
        table = {
            "encoding": self.encoding.as_dict(),
            "task": next(name for name, kind in TASKS.items() if isinstance(self.task, kind)),
            "classes": self.task.classes,
            **{
                name: getattr(self, name)
                for name in ("target", "source", "x_test", "y_test", "scores")
            },
        }
        save_with(self.posterior, path, table)

    @classmethod
    def load(cls, path: Path) -> "TableModel":
        """Read a file.

        Raises:
            FileNotFoundError: when there is none.
            ValueError: when ``dkp fit`` did not write it, or it is damaged.
        """
        posterior, table = load_with(path)
        if table is None:
            raise ValueError(
                f"Expected {path} to be a model of dkp fit. Got a posterior without a table: use "
                "dkp.load."
            )
        try:
            return cls(
                posterior=posterior,
                encoding=Encoding.from_dict(table["encoding"]),
                task=TASKS[table["task"]](classes=table["classes"]),
                **{
                    name: table[name] for name in ("target", "source", "x_test", "y_test", "scores")
                },
            )
        except (KeyError, TypeError) as error:  # a header that somebody made up
            raise ValueError(f"Expected {path} to be a model of dkp fit. Got {error!r}.") from error

    def features(self, table: Columns) -> np.ndarray:
        """Features of the rows of a table."""
        return self.encoding.transform(table)
