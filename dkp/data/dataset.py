"""A data set as models see it: checked, standardised, and able to undo the standardisation.

Means and scales are computed on the host in float64 and stay there, so that targets of scale 1e6 or
1e-6 survive in float32: what is cast is already standardised.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.record import static, value
from dkp._core.types import Array, Float
from dkp.data.standardization import Standardization

__all__ = ["Dataset"]


@value
class Dataset:
    """Standardised inputs and targets, and the way back to the original units.

    :meth:`from_arrays` makes one.

    Attributes:
        x: standardised features, (N, D), or images (N, H, W, D).
        y: standardised targets, (N, C).
        x_standardization: how x was standardised.
        y_standardization: how y was standardised.
        feature_names: D names.
        target_names: C names.
        y_was_vector: whether y came without its last axis.
        classes: what the columns of one-hot targets stand for; empty for other targets.
        has_missing: whether some targets are NaN.
        weights: how often each row counts, (N,), or None.
        log_exposure: logarithms of the exposures of counts, (N, 1), or None.

    Examples:
        >>> import dkp
        >>> data = dkp.Dataset.from_arrays([[0.0], [2.0], [4.0]], [1.0, 2.0, 3.0])
        >>> print(data.y)
        [[-1.]
         [ 0.]
         [ 1.]]
        >>> print(data.undo_targets(data.y))
        [1. 2. 3.]
    """

    x: Float[Array, "N *space D"]
    y: Float[Array, "N C"]
    x_standardization: Standardization
    y_standardization: Standardization
    feature_names: tuple[str, ...] = static()
    target_names: tuple[str, ...] = static()
    y_was_vector: bool = static()
    classes: tuple[Any, ...] = static()
    has_missing: bool = static()
    weights: Float[Array, " N"] | None = None
    log_exposure: Float[Array, "N 1"] | None = None

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        standardize: bool = True,
        *,
        standardize_targets: bool | None = None,
        weights: Any = None,
        exposure: Any = None,
        feature_names: tuple[str, ...] | list[str] | None = None,
        target_names: tuple[str, ...] | list[str] | None = None,
        dtype: Any = None,
    ) -> "Dataset":
        """Check, standardise and cast a data set.

        Args:
            x: N rows of D features: array, list, data frame, series. N numbers on one axis are one
                feature. Or images (N, H, W, D), which are standardised channel by channel.
            y: N targets, or N rows of C targets. With several targets NaN means that one is
                missing: it takes no part in the fit.
            standardize: give the columns of x (and of y) mean 0 and unbiased standard deviation 1.
            standardize_targets: the same for y alone; by default what `standardize` says. False for
                class labels and counts.
            weights: N non-negative numbers, how often each row counts.
            exposure: N positive numbers for counts, of which the means are proportional to them:
                times, areas, populations.
            feature_names: D names; by default those of the frame, else "x0", "x1", ….
            target_names: C names; by default those of the frame or series, else "y", or "y0", "y1",
                ….
            dtype: float32 or float64; by default JAX's, which is float64 when ``jax_enable_x64`` is
                set.

        Raises:
            ValueError: when x or y is not numeric, is empty, holds infinities or has the wrong
                number of axes, when x or a single target holds NaN or a column of targets nothing
                else, when rows or names do not match, and for weights or exposures out of range.
        """
        x_values, y_values = checks.features("x", x), _targets(y)
        checks.same_length("x", x_values, "y", y_values)
        dtype = _floating(dtype)
        both = (
            (x_values, standardize),
            (y_values, standardize if standardize_targets is None else standardize_targets),
        )
        maps = [
            Standardization.fit(v) if wanted else Standardization.identity(v.shape[1])
            for v, wanted in both
        ]
        return cls(
            x=_cast("x", maps[0].apply(x_values), dtype),
            y=_cast("y", maps[1].apply(y_values), dtype),
            x_standardization=maps[0],
            y_standardization=maps[1],
            feature_names=_names(
                "feature_names", feature_names, x, _default_names("x", x_values.shape[-1])
            ),
            target_names=_names(
                "target_names", target_names, y, _default_target_names(y_values.shape[1])
            ),
            y_was_vector=np.ndim(y) == 1,
            classes=(),
            has_missing=bool(np.isnan(y_values).any()),
            weights=None if weights is None else jnp.asarray(_weights(weights, x_values), dtype),
            log_exposure=None
            if exposure is None
            else jnp.asarray(log_exposures(exposure, len(x_values)), dtype),
        )

    @classmethod
    def from_labels(
        cls, x: Any, labels: Any, standardize: bool = True, *, dtype: Any = None
    ) -> "Dataset":
        """A data set for classification by regression.

        The targets are centred one-hot codes, [label = c] - 1/C.

        Args:
            x: as for :meth:`from_arrays`.
            labels: N class labels, numbers or text. The classes are the different ones, in sorted
                order.
            standardize: give the columns of x mean 0 and standard deviation 1.
            dtype: as for :meth:`from_arrays`.

        Raises:
            ValueError: as for :meth:`from_arrays`; and when there are fewer than two classes.

        Source: Lee et al. 2020 (arXiv 2007.15801), section 2.

        Examples:
            >>> import dkp
            >>> data = dkp.Dataset.from_labels([[0.0], [2.0], [4.0]], ["a", "b", "a"])
            >>> print(data.y)
            [[ 0.5 -0.5]
             [-0.5  0.5]
             [ 0.5 -0.5]]
        """
        given = np.asarray(labels)
        if given.ndim != 1:
            raise ValueError(f"Expected labels of shape (N,). Got shape {given.shape}.")
        # NaN is not itself
        missing = sum(label is None or label != label for label in given.tolist())
        if missing:
            raise ValueError(
                f"Expected labels without gaps. Got {missing} that are missing: leave out those "
                "rows."
            )
        classes, index = np.unique(given, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"Expected at least two classes among the labels. Got {classes.tolist()}."
            )
        codes = np.eye(len(classes))[index] - 1 / len(classes)
        names = [str(c) for c in classes.tolist()]
        data = cls.from_arrays(
            x, codes, standardize, standardize_targets=False, target_names=names, dtype=dtype
        )
        return dataclasses.replace(data, classes=tuple(classes.tolist()))

    @property
    def rows(self) -> tuple[Array, Array, Array | None, Array | None]:
        """What depends on the data point: features, targets, weights and log exposures."""
        return self.x, self.y, self.weights, self.log_exposure

    @property
    def is_plain(self) -> bool:
        """Whether all rows count once and no target is missing."""
        return not self.has_missing and self.weights is None

    @property
    def rates(self) -> Float[Array, "N C"]:
        """Targets by their exposure."""
        return self.y if self.log_exposure is None else self.y * jnp.exp(-self.log_exposure)

    @property
    def n(self) -> int:
        """Number of data points N."""
        return self.x.shape[0]

    @property
    def d(self) -> int:
        """Number of features D, or of the channels of images."""
        return self.x.shape[-1]

    @property
    def n_outputs(self) -> int:
        """Number of targets C."""
        return self.y.shape[1]

    def standardize_inputs(self, x: Any) -> Float[Array, "B *space D"]:
        """New inputs in this data set's standardised units and dtype.

        Args:
            x: B rows of D features in original units; a data frame's columns are named as in the
                training data and stand in the same order. With one feature, B numbers on one axis
                will do.

        Raises:
            ValueError: see :meth:`from_arrays`; and when the number of features or their names
                differ.
        """
        axes = self.x.ndim
        values = checks.finite_array("x", x, ndim=(1, 2) if (axes, self.d) == (2, 1) else axes)
        values = values[:, None] if values.ndim == 1 else values
        if values.shape[1:-1] != self.x.shape[1:-1]:
            raise ValueError(
                f"Expected images of {self.x.shape[1:-1]} pixels, as in training. Got "
                f"{values.shape[1:-1]}."
            )
        self._check_columns("x", values, x, self.feature_names, _default_names("x", self.d))
        return _cast("x", self.x_standardization.apply(values), self.x.dtype)

    def standardize_targets(self, y: Any) -> Float[Array, "B C"]:
        """New targets, B numbers or B rows of C, in this data set's standardised units and dtype.

        Raises:
            ValueError: see :meth:`from_arrays`; and when the number of targets or their names
                differ.
        """
        values = checks.matrix("y", y)
        self._check_columns(
            "y", values, y, self.target_names, _default_target_names(self.n_outputs)
        )
        return _cast("y", self.y_standardization.apply(values), self.y.dtype)

    def undo_targets(self, z: Any) -> Float[np.ndarray, "..."]:
        """Standardised targets (..., C) in original units and float64.

        The last axis is left out if y came without it.
        """
        y = self.y_standardization.undo(z)
        return y[..., 0] if self.y_was_vector else y

    @staticmethod
    def _check_columns(
        name: str, values: np.ndarray, given: Any, names: tuple[str, ...], default: tuple[str, ...]
    ) -> None:
        if values.shape[-1] != len(names):
            raise ValueError(
                f"Expected {name} to have {len(names)} columns, as in training. Got "
                f"{values.shape[-1]}."
            )
        found = checks.column_names(given)
        if found is not None and names not in (found, default):
            raise ValueError(
                f"Expected the columns of {name} to be {list(names)}, in this order. Got "
                f"{list(found)}: select and order them by name, {name}[[…]]."
            )


def _targets(y: Any) -> Float[np.ndarray, "N C"]:
    """Several targets may be missing here and there; a single one may not."""
    several = np.ndim(y) == 2 and np.shape(y)[1] > 1
    values = checks.matrix("y", y, allow_nan=several)
    empty = np.flatnonzero(np.isnan(values).all(axis=0))
    if empty.size:
        names = checks.column_names(y)
        columns = ", ".join(str(j) if names is None else names[j] for j in empty)
        raise ValueError(
            f"Expected a target in every column of y. Got none in {columns}: leave these columns "
            "out."
        )
    return values


def _weights(weights: Any, x: np.ndarray) -> Float[np.ndarray, " N"]:
    values = checks.finite_array("weights", weights, ndim=1)
    checks.same_length("x", x, "weights", values)
    if values.min() < 0 or values.max() == 0:
        raise ValueError(
            f"Expected weights to be non-negative, and some to be positive. Got {values.min():g} "
            f"to {values.max():g}."
        )
    return values


def log_exposures(exposure: Any, n: int) -> Float[np.ndarray, "N 1"]:
    """Logarithms of n exposures.

    Raises:
        ValueError: unless they are n positive numbers.
    """
    values = checks.finite_array("exposure", exposure, ndim=1)
    if len(values) != n or values.min() <= 0:
        raise ValueError(
            f"Expected exposure to be {n} positive numbers. Got {len(values)} from "
            f"{values.min():g}."
        )
    return np.log(values)[:, None]


def _default_names(prefix: str, n: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{j}" for j in range(n))


def _default_target_names(n: int) -> tuple[str, ...]:
    return ("y",) if n == 1 else _default_names("y", n)


def _names(name: str, given: Any, values: Any, default: tuple[str, ...]) -> tuple[str, ...]:
    names = (
        tuple(str(n) for n in given)
        if given is not None
        else checks.column_names(values) or default
    )
    if len(names) != len(default) or len(set(names)) != len(names):
        raise ValueError(f"Expected {name} to be {len(default)} different names. Got {names}.")
    return names


def _floating(dtype: Any) -> np.dtype:
    chosen = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    if chosen not in (np.float32, np.float64):
        raise ValueError(f"Expected dtype to be float32 or float64. Got {chosen}.")
    if chosen == np.float64 and jnp.result_type(float) != np.float64:
        raise ValueError(
            "Expected jax_enable_x64 to be set for dtype float64. Got it unset: jax.config.update "
            "it first."
        )
    return chosen


def _cast(name: str, values: np.ndarray, dtype: Any) -> Array:
    """To the device; what does not fit into `dtype` is an error rather than an infinity."""
    largest = float(np.nanmax(np.abs(values)))
    if largest > float(np.finfo(dtype).max):
        raise ValueError(
            f"Expected {name} to fit into {np.dtype(dtype)}. Got {largest:.1e}: standardize it."
        )
    return jnp.asarray(values, dtype)
