"""Checks that every engine makes before it compiles anything."""

import numpy as np

from dkp.data.dataset import Dataset
from dkp.model.hyperparameters import hyperparameters
from dkp.model.process import DeepKernelProcess

__all__ = ["check_model_and_data", "check_plain"]


def check_model_and_data(model: DeepKernelProcess, data: Dataset) -> None:
    """Raise ValueError unless `model` and `data` are what they should be and fit together."""
    if not isinstance(model, DeepKernelProcess):
        raise ValueError(
            f"Expected model to be a dkp.DeepKernelProcess. Got {type(model).__name__}."
        )
    if not isinstance(data, Dataset):
        raise ValueError(
            "Expected data to be a dkp.Dataset; make one with Dataset.from_arrays(x, y). Got "
            f"{type(data).__name__}."
        )
    hyperparameters(model, data.d, data.n_outputs)
    _check_targets(model, data)


def check_plain(data: Dataset, remedy: str) -> None:
    """Raise ValueError when a target is missing or rows have weights, for engines that take
    neither."""
    if data.has_missing:
        missing = int(np.isnan(np.asarray(data.y)).sum())
        raise ValueError(f"Expected complete targets. Got {missing} that are missing: {remedy}.")
    if data.weights is not None:
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
