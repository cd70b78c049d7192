"""Affine maps of columns, kept on the host in float64."""

from typing import Any

import numpy as np

from dkp._core.record import value
from dkp._core.types import Array, Float

__all__ = ["Standardization"]


@value
class Standardization:
    """The affine map z = (x - mean) / scale, column by column, on the host in float64.

    Attributes:
        mean: (D,).
        scale: (D,), positive.

    Examples:
        >>> import numpy as np
        >>> from dkp.data import Standardization
        >>> print(Standardization.fit(np.array([[0.0], [2.0], [4.0]])).apply([[6.0]]))
        [[2.]]
    """

    mean: Float[np.ndarray | Array, " D"]
    scale: Float[np.ndarray | Array, " D"]

    @classmethod
    def fit(cls, x: Float[np.ndarray, "N *space D"]) -> "Standardization":
        """Mean and unbiased standard deviation of each column; a constant column has scale 1.

        Args:
            x: finite numbers, N >= 1, or NaN, which does not count; each column has a number. A
                column whose range is rounding error counts as constant. The columns of images are
                their channels, over all pixels.
        """
        x = x.reshape(-1, x.shape[-1])
        mean = np.nanmean(x, axis=0)
        largest = np.nanmax(np.abs(x), axis=0)
        constant = (
            np.nanmax(x, axis=0) - np.nanmin(x, axis=0) <= 4 * np.finfo(np.float64).eps * largest
        )
        deviation = np.where(constant, 0.0, x - mean)
        # The largest deviation is taken out first: squares of numbers near 1e200 or 1e-200 leave
        # the floats.
        peak = np.where(constant, 1.0, np.nanmax(np.abs(deviation), axis=0))
        count = np.maximum(np.sum(~np.isnan(x), axis=0) - 1, 1)
        spread = np.sqrt(np.nansum((deviation / peak) ** 2, axis=0) / count)
        return cls(mean=mean, scale=np.where(constant, 1.0, peak * spread))

    @classmethod
    def identity(cls, n_columns: int) -> "Standardization":
        """The map that changes nothing."""
        return cls(mean=np.zeros(n_columns), scale=np.ones(n_columns))

    def apply(self, x: Any) -> Float[np.ndarray, "... D"]:
        """(x - mean) / scale, in float64; columns on the last axis."""
        return (np.asarray(x, np.float64) - np.asarray(self.mean)) / np.asarray(self.scale)

    def undo(self, z: Any) -> Float[np.ndarray, "... D"]:
        """mean + scale z, in float64; columns on the last axis."""
        return np.asarray(self.mean) + np.asarray(self.scale) * np.asarray(z, np.float64)
