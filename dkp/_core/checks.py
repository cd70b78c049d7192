"""Checks of what users hand over: on the host, with numpy, before anything is compiled.

Whatever can be read as numbers becomes a float64 array: lists, numpy and JAX arrays, integers,
booleans, and data frames and series, which are recognised by their ``to_numpy`` and never imported.
Everything else is a ValueError that names the argument, what came instead, and the remedy.
"""

import math
import numbers
import operator
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

__all__ = [
    "column_names",
    "features",
    "finite_array",
    "is_typed_key",
    "matrix",
    "nonnegative_number",
    "one_of",
    "positive_int",
    "positive_number",
    "random_key",
    "real_array",
    "same_length",
    "same_shape",
]


def positive_int(name: str, value: Any) -> int:
    """`value` as an int of at least 1.

    Raises:
        ValueError: for anything else; booleans and floats such as 3.0 included.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, (bool, np.bool_)) or number < 1:
        raise ValueError(f"Expected {name} to be an integer of at least 1. Got {value!r}.")
    return number


def positive_number(name: str, value: Any) -> float:
    """`value` as a finite float above 0.

    Raises:
        ValueError: for anything else; booleans included.
    """
    if not (_is_real_number(value) and math.isfinite(value) and value > 0):
        raise ValueError(f"Expected {name} to be a finite number above 0. Got {value!r}.")
    return float(value)


def nonnegative_number(name: str, value: Any) -> float:
    """`value` as a finite float of at least 0.

    Raises:
        ValueError: for anything else; booleans included.
    """
    if not (_is_real_number(value) and math.isfinite(value) and value >= 0):
        raise ValueError(f"Expected {name} to be a finite number of at least 0. Got {value!r}.")
    return float(value)


def _is_real_number(value: Any) -> bool:
    """A Python or NumPy number other than a boolean, or an array without axes that holds one."""
    if isinstance(value, (np.ndarray, jax.Array)):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def random_key(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is one random key.

    Keys of ``jax.random.key`` and of the older ``jax.random.PRNGKey`` will do.
    """
    typed = is_typed_key(value)
    raw = (
        isinstance(value, (jax.Array, np.ndarray))
        and value.dtype == np.uint32
        and value.shape == (2,)
    )
    if not ((typed and value.shape == ()) or raw):
        raise ValueError(
            f"Expected {name} to be a random key, such as jax.random.key(0). Got {value!r}."
        )


def is_typed_key(value: Any) -> bool:
    """Whether `value` is one random key of ``jax.random.key``, or an array of them."""
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def one_of(name: str, value: Any, options: Collection[Any]) -> Any:
    """`value`, when it is one of `options`.

    Raises:
        ValueError: otherwise; the message lists the options.
    """
    if value not in options:
        raise ValueError(
            f"Expected {name} to be one of {', '.join(map(repr, options))}. Got {value!r}."
        )
    return value


def same_length(name_a: str, a: np.ndarray, name_b: str, b: np.ndarray) -> None:
    """Raise ValueError unless `a` and `b` have as many rows as each other."""
    if len(a) != len(b):
        raise ValueError(
            f"Expected {name_a} and {name_b} to have equally many rows. Got {len(a)} and {len(b)}."
        )


def same_shape(name_a: str, a: np.ndarray, name_b: str, b: np.ndarray) -> None:
    """Raise ValueError unless `a` and `b` have one shape."""
    if a.shape != b.shape:
        raise ValueError(
            f"Expected {name_a} and {name_b} to have one shape. Got {a.shape} and {b.shape}."
        )


def column_names(value: Any) -> tuple[str, ...] | None:
    """The column names of a data frame, the name of a series; None where there are none."""
    if not hasattr(value, "to_numpy"):
        return None
    if hasattr(value, "columns"):
        return tuple(str(column) for column in value.columns)
    series_name = getattr(value, "name", None)
    return None if series_name is None else (str(series_name),)


def real_array(name: str, value: Any) -> Float[np.ndarray, "..."]:
    """`value` as float64, whatever its shape; missing entries (None, NA, masked) become NaN.

    Raises:
        ValueError: when it is not a rectangular array of real numbers (text, dates, complex
            numbers, objects).
    """
    if isinstance(value, np.ma.MaskedArray):
        value = np.ma.filled(value.astype(float), np.nan)
    try:
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except ValueError as error:
        raise ValueError(
            f"Expected {name} to be an array of real numbers. Got rows of unequal length."
        ) from error
    if array.dtype.kind == "O" and array.ndim in (1, 2):
        return _from_objects(name, array, column_names(value))
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"Expected {name} to be an array of real numbers. Got {_described(value, array)}."
        )
    return array.astype(np.float64)


def finite_array(
    name: str, value: Any, *, ndim: int | tuple[int, ...], allow_nan: bool = False
) -> Float[np.ndarray, "..."]:
    """`value` as float64, with one of the numbers of axes `ndim`, not empty, every entry finite.

    Args:
        name: the argument's name, for the message.
        value: see :func:`real_array`.
        ndim: the number, or numbers, of axes that will do.
        allow_nan: let NaN pass (it then means a missing entry).

    Raises:
        ValueError: when any of this fails.
    """
    array = real_array(name, value)
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in allowed:
        axes = " or ".join(map(str, allowed))
        remedy = (
            ". Give images an axis of channels, x[..., None]"
            if array.ndim == 3 and 4 in allowed
            else ""
        )
        raise ValueError(
            f"Expected {name} to have {axes} axes. Got {array.ndim}: shape {array.shape}{remedy}."
        )
    if array.size == 0:
        raise ValueError(
            f"Expected {name} to hold at least one number. Got an empty array of shape "
            f"{array.shape}."
        )
    bad = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if bad.any():
        raise ValueError(_not_finite(name, array, bad, column_names(value), allow_nan))
    return array


def matrix(name: str, value: Any, *, allow_nan: bool = False) -> Float[np.ndarray, "N D"]:
    """`value` as a float64 matrix, one row a data point.

    N numbers on one axis are N rows of one column.

    Raises:
        ValueError: see :func:`finite_array`.
    """
    array = finite_array(name, value, ndim=(1, 2), allow_nan=allow_nan)
    return array[:, None] if array.ndim == 1 else array


def features(name: str, value: Any) -> Float[np.ndarray, "N *space D"]:
    """`value` as a float64 matrix, as :func:`matrix` does, or as images (N, H, W, channels).

    Raises:
        ValueError: see :func:`finite_array`.
    """
    array = finite_array(name, value, ndim=(1, 2, 4))
    return array[:, None] if array.ndim == 1 else array


def _described(value: Any, array: np.ndarray) -> str:
    """What `array` holds instead of real numbers, with the remedy."""
    remedies = {
        "U": "text: encode it as numbers first",
        "S": "text: encode it as numbers first",
        "c": "complex numbers: pass the real and imaginary parts as columns",
        "M": "dates: turn them into numbers first, for example days since the first one",
        "m": "durations: turn them into numbers first, for example seconds",
    }
    if hasattr(value, "toarray"):
        return "a sparse matrix: pass its .toarray()"
    return remedies.get(array.dtype.kind, f"{type(value).__name__} of dtype {array.dtype}")


def _is_missing(entry: Any) -> bool:
    return entry is None or type(entry).__name__ in ("NAType", "NaTType")


def _from_objects(name: str, array: np.ndarray, names: tuple[str, ...] | None) -> np.ndarray:
    """An array of Python objects as float64, when each is a real number or missing."""
    missing = (
        np.vectorize(_is_missing, otypes=[bool])(array)
        if array.size
        else np.zeros(array.shape, bool)
    )
    not_real = [not isinstance(entry, (numbers.Real, np.bool_)) for entry in array.ravel()]
    bad = np.array(not_real, bool).reshape(array.shape) & ~missing
    if bad.any():
        sample = array[bad][0]
        raise ValueError(
            f"Expected {name} to be an array of real numbers. Got {type(sample).__name__} such as "
            f"{sample!r}"
            f"{_in_columns(bad, names)}: encode text as numbers first, one column of 0 and 1 for "
            "each category."
        )
    return np.where(missing, np.nan, array).astype(np.float64)


def _in_columns(bad: np.ndarray, names: tuple[str, ...] | None) -> str:
    if bad.ndim == 1:
        return f" in {names[0]!r}" if names else ""
    columns = np.flatnonzero(bad.any(axis=0))
    shown = ", ".join(repr(names[j]) if names else str(j) for j in columns[:5])
    more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
    return f" in {'column' if len(columns) == 1 else 'columns'} {shown}{more}"


def _not_finite(
    name: str, array: np.ndarray, bad: np.ndarray, names: tuple[str, ...] | None, allow_nan: bool
) -> str:
    where = np.argwhere(bad)[0]
    place = f"row {where[0]}" if array.ndim else "its only entry"
    if array.ndim == 2:
        place += f", column {names[where[1]] if names else where[1]!s}"
    n_nan = 0 if allow_nan else int(np.isnan(array).sum())
    return (
        f"Expected {name} to be finite. Got {n_nan} missing (NaN) and "
        f"{int(np.isinf(array).sum())} infinite of "
        f"{array.size} entries, the first at {place}: fill in, or leave out, those rows."
    )
