"""Checks that the modules of theory share."""

from collections.abc import Sequence

import numpy as np

from dkp._core import checks
from dkp._core.types import Float

__all__ = ["gram_matrix", "locations_gram", "positive_widths"]


def gram_matrix(name: str, matrix: np.ndarray) -> Float[np.ndarray, "P P"]:
    """`matrix` as float64, exactly symmetric.

    Raises:
        ValueError: when it is not symmetric and positive semi-definite.
    """
    values = checks.finite_array(name, matrix, ndim=2)
    if values.shape[0] != values.shape[1] or not np.allclose(
        values, values.T, rtol=1e-8, atol=1e-10
    ):
        raise ValueError(
            f"Expected {name} to be a symmetric matrix. Got shape {values.shape}, or another "
            "transpose."
        )
    smallest, largest = np.linalg.eigvalsh(values)[[0, -1]]
    if smallest < -1e-8 * max(largest, 1e-300):
        raise ValueError(
            f"Expected {name} to be positive semi-definite. Got the eigenvalue {smallest:.3g}."
        )
    return (values + values.T) / 2


def positive_widths(
    name: str, widths: Sequence[float | int], *, kind: type = int
) -> Float[np.ndarray, " L"]:
    """`widths` as float64: positive integers, or positive numbers for `kind` float.

    Raises:
        ValueError: for others, and none.
    """
    values = np.asarray(list(widths), float)
    whole = kind is float or bool(np.all(values == np.round(values)))
    if (
        values.ndim != 1
        or values.size == 0
        or not np.all(np.isfinite(values) & (values > 0))
        or not whole
    ):
        what = "positive numbers" if kind is float else "positive integers"
        raise ValueError(f"Expected {name} to be {what}, at least one. Got {widths}.")
    return values


def locations_gram(name: str, matrix: np.ndarray) -> Float[np.ndarray, "PS PS"]:
    """A Gram matrix of P data at S locations, (P, S, P, S), with one axis for both.

    Raises:
        ValueError: for other shapes, and as in :func:`gram_matrix`.
    """
    shape = np.shape(matrix)
    if len(shape) != 4 or shape[:2] != shape[2:]:
        raise ValueError(f"Expected {name} of shape (P, S, P, S). Got {shape}.")
    return gram_matrix(name, np.reshape(matrix, (shape[0] * shape[1],) * 2))
