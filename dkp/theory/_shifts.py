"""The linear map of Gram matrices that a convolution on a circle makes."""

import numpy as np

from dkp._core import checks
from dkp._core.types import Float

__all__ = ["mean_over_shifts"]


def mean_over_shifts(
    k: Float[np.ndarray, "PS PS *more"],
    n_data: int,
    n_locations: int,
    filter_size: int,
    *,
    adjoint: bool = False,
) -> Float[np.ndarray, "PS PS *more"]:
    """(1/D) sum_d K_(i,r+d),(j,s+d) over the D offsets of a centred filter, on the first two axes.

    Or its adjoint, with r - d and s - d.

    Raises:
        ValueError: for filters that are longer than the circle.
    """
    if checks.positive_int("filter_size", filter_size) > n_locations:
        raise ValueError(
            f"Expected filter_size of at most {n_locations}, the locations. Got {filter_size}."
        )
    offsets = np.arange(filter_size) - (filter_size - 1) // 2
    total = np.zeros_like(k)
    for d in -offsets if adjoint else offsets:
        rows = (
            np.arange(n_data)[:, None] * n_locations + (np.arange(n_locations) + d) % n_locations
        ).ravel()
        total += k[np.ix_(rows, rows)]
    return total / filter_size
