"""Checks that every engine makes before it compiles anything."""

from dkp.data import Dataset
from dkp.model import DeepKernelProcess
from dkp.priors import hyperparameters

__all__ = ["check_model_and_data"]


def check_model_and_data(model: DeepKernelProcess, data: Dataset) -> None:
    """Raise ValueError unless `model` and `data` are what they should be and fit together."""
    if not isinstance(model, DeepKernelProcess):
        raise ValueError(f"Expected model to be a dkp.DeepKernelProcess. Got {type(model).__name__}.")
    if not isinstance(data, Dataset):
        raise ValueError(
            f"Expected data to be a dkp.Dataset; make one with Dataset.from_arrays(x, y). Got {type(data).__name__}."
        )
    hyperparameters(model, data.d, data.n_outputs)
