"""The data of the benchmarks.

Published splits through ``dkp.datasets``, and synthetic tables for timing.
"""

import dataclasses
from typing import Literal

import numpy as np

import dkp

__all__ = ["IMAGES", "Images", "load", "load_images", "synthetic"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of an image set is used.

    Attributes:
        source: the set.
        n_train: training points.
        n_test: test points.
        block: the side of the blocks of pixels that are averaged.
    """

    source: str
    n_train: int
    n_test: int
    block: int = 1


IMAGES = {
    "digits": Sizes(source="digits", n_train=1000, n_test=797),
    "mnist": Sizes(source="mnist", n_train=5000, n_test=1000),
    "cifar10": Sizes(source="cifar10", n_train=2000, n_test=1000),
    "mnist-14x14": Sizes(source="mnist", n_train=300, n_test=300, block=2),
    "cifar10-16x16": Sizes(source="cifar10", n_train=250, n_test=250, block=2),
}
"""The coarser ones are small enough for covariances between all pairs of locations."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Images (N, H, W, C) with values in [0, 1], and their labels."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: str


def load_images(name: str, split: int) -> Images:
    """A seeded part of the training and test images of a set in ``IMAGES``.

    Raises:
        ValueError: for another name.
    """
    if name not in IMAGES:
        raise ValueError(f"Expected name to be one of {', '.join(IMAGES)}. Got {name!r}.")
    sizes = IMAGES[name]
    if sizes.source == "digits":
        table = dkp.datasets.load("digits")
        x, y = table.x.reshape(-1, 8, 8, 1) / 16, table.y
        order = np.random.default_rng(split).permutation(len(x))
        train, test = order[: sizes.n_train], order[sizes.n_train :][: sizes.n_test]
        parts = (x[train], y[train]), (x[test], y[test])
    else:
        table, rng = dkp.datasets.load(sizes.source, split=0), np.random.default_rng(split)
        assert table.x_test is not None and table.y_test is not None
        chosen = [
            (x, y, rng.permutation(len(x))[:n])
            for x, y, n in (
                (table.x, table.y, sizes.n_train),
                (table.x_test, table.y_test, sizes.n_test),
            )
        ]
        parts = tuple((x[rows] / 255, y[rows]) for x, y, rows in chosen)
    (x, y), (x_test, y_test) = parts
    source = table.source.partition(" (")[0]  # without the path on this machine
    return Images(
        x=_coarser(x, sizes.block),
        y=y,
        x_test=_coarser(x_test, sizes.block),
        y_test=y_test,
        source=source,
    )


def _coarser(x: np.ndarray, block: int) -> np.ndarray:
    n, height, width, channels = x.shape
    return x.reshape(n, height // block, block, width // block, block, channels).mean((2, 4))


def load(name: str, split: int) -> "dkp.datasets.Table":
    """Training and test rows of one split of a data set, in original units (see
    ``dkp.datasets.load``).
    """
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
