"""What every engine asks of a call before it compiles anything."""

import functools
import warnings

import numpy as np

from dkp._core.record import record
from dkp._core.records import unstorable
from dkp.data.dataset import Dataset
from dkp.model.hyperparameters import Hyperparameter, check_hyperparameters, hyperparameters
from dkp.model.process import DeepKernelProcess

__all__ = ["Problem"]


@record
class Problem:
    """A model and a data set that fit together, with the hyperparameters, asked for once a call.

    It is made by :meth:`of`, which checks them.

    Attributes:
        model: as the user wrote it.
        data: the data set.
        hyperparameters: of the model, by name.
    """

    model: DeepKernelProcess
    data: Dataset
    hyperparameters: dict[str, Hyperparameter]

    @classmethod
    def of(cls, model: DeepKernelProcess, data: Dataset) -> "Problem":
        """Raise ValueError unless `model` and `data` are what they should be and fit together.

        Warns:
            UserWarning: when ``dkp.save`` could not write the model.
        """
        if not isinstance(model, DeepKernelProcess):
            raise ValueError(
                f"Expected model to be a dkp.DeepKernelProcess. Got {type(model).__name__}."
            )
        if not isinstance(data, Dataset):
            raise ValueError(
                "Expected data to be a dkp.Dataset; make one with Dataset.from_arrays(x, y). Got "
                f"{type(data).__name__}."
            )
        found = hyperparameters(model, data.d, data.n_outputs)
        check_hyperparameters(found)
        _check_targets(model, data)
        _warn_where_unstorable(model)
        return cls(model=model, data=data, hyperparameters=found)

    @functools.cached_property
    def learned(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that are optimised."""
        return {name: h for name, h in self.hyperparameters.items() if h.is_learned}

    @functools.cached_property
    def inferred(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that have a prior."""
        return {name: h for name, h in self.hyperparameters.items() if h.is_inferred}

    def check_plain(self, remedy: str) -> None:
        """Raise ValueError when a target is missing or rows have weights.

        It is for engines that take neither.
        """
        if self.data.has_missing:
            missing = int(np.isnan(np.asarray(self.data.y)).sum())
            raise ValueError(
                f"Expected complete targets. Got {missing} that are missing: {remedy}."
            )
        if self.data.weights is not None:
            raise ValueError(f"Expected rows that count once. Got weights: {remedy}.")


def _check_targets(model: DeepKernelProcess, data: Dataset) -> None:
    likelihood, scaling = model.likelihood, data.y_standardization
    unchanged = not np.any(np.asarray(scaling.mean)) and np.all(np.asarray(scaling.scale) == 1)
    if not likelihood.standardises_targets and not unchanged:
        raise ValueError(
            f"Expected targets as they are for {likelihood!r}. Got standardised ones: "
            "Dataset.from_arrays(x, y, standardize_targets=False)."
        )
    if data.log_exposure is not None and not likelihood.takes_exposure:
        raise ValueError(
            f"Expected a likelihood of counts for data with exposures. Got {likelihood!r}."
        )
    likelihood.check_targets(np.asarray(data.y))


def _warn_where_unstorable(model: DeepKernelProcess) -> None:
    """Warn before a fit that cannot be saved: it may take hours, and is lost with its process."""
    reason = unstorable(model)
    if reason is not None:
        warnings.warn(
            f"dkp.save will not be able to write a posterior of this model. {reason}",
            UserWarning,
            stacklevel=4,
        )
