"""The data of the benchmarks: published splits through ``dkp.datasets``, and synthetic tables for timing."""

from typing import Literal

import numpy as np

import dkp

__all__ = ["load", "synthetic"]


def load(name: str, split: int) -> "dkp.datasets.Table":
    """Training and test rows of one split of a data set, in original units (see ``dkp.datasets.load``)."""
    return dkp.datasets.load(name, split=split)


def synthetic(
    n: int, d: int, *, seed: int = 0, dtype: Literal["float64", "float32"] = "float64"
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth function of `d` standard normal features, plus noise of standard deviation 0.1.

    y = sin(x w) + x v + 0.1 e, where w and v have entries of variance 1/d.

    Returns:
        Features of shape (n, d) and targets of shape (n,).
    """
    rng = np.random.default_rng(seed)
    w, v = rng.standard_normal((2, d)) / np.sqrt(d)
    x = rng.standard_normal((n, d), dtype=dtype)
    y = np.sin(x @ w.astype(dtype)) + x @ v.astype(dtype)
    y += rng.standard_normal(n, dtype=dtype) * np.asarray(0.1, dtype)
    return x, y
