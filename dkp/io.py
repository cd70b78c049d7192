"""Posteriors as files: everything that prediction needs, the data included, and nothing that runs.

See :mod:`dkp._core.records` for what a file may hold. Kernels, bottlenecks, likelihoods and guides
of a user's own join by being defined; other classes and functions by :func:`register`. The engines
say before they run where a model cannot be saved.
"""

import os
from typing import Any

import numpy as np

from dkp._core import archive
from dkp._core.records import Refused, decode, encode, register
from dkp.posterior.protocol import Posterior

__all__ = ["load", "load_with", "register", "save", "save_with"]

_KIND = "posterior"


def save(posterior: Posterior, path: str | os.PathLike[str]) -> None:
    """Write a posterior of any engine to one file, from which :func:`load` makes it again.

    The file holds the standardised training data. It is written whole or not at all.

    Args:
        posterior: of any engine. Functions (of ``kernels.Activation``) and distributions of your
            own must be known by :func:`register`.
        path: conventionally ending in ``.dkp``.

    Raises:
        ValueError: for what is no posterior, and for parts of it that a file cannot name.
        OSError: when the file cannot be written.

    Examples:
        >>> import pathlib, tempfile
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "three.dkp"
        ...     dkp.save(dkp.condition(model, data), path)
        ...     print(f"{dkp.load(path).log_marginal_likelihood:.3f}")
        -6.791
    """
    save_with(posterior, path, None)


def save_with(posterior: Posterior, path: str | os.PathLike[str], beside: Any) -> None:
    """:func:`save`, with something beside it in the same file.

    It may be containers of numbers, text and arrays, or None.
    """
    if not isinstance(posterior, Posterior):
        raise ValueError(
            "Expected posterior to come from an engine, such as dkp.fit_vi. Got "
            f"{type(posterior).__name__}."
        )
    arrays: dict[str, np.ndarray] = {}
    header = {"posterior": encode(posterior, arrays), "beside": encode(beside, arrays)}
    archive.write(path, _KIND, header, arrays)


def load(path: str | os.PathLike[str]) -> Posterior:
    """The posterior in a file that :func:`save` wrote, equal to the last bit.

    Files go from one version of Python or JAX to another, and between machines with and without
    accelerators.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no such file or damaged, made by a newer version, or holds float64
            arrays while ``jax_enable_x64`` is not set. Nothing in a file is ever run.

    Examples:
        >>> import dkp
        >>> try:
        ...     dkp.load("nothing.dkp")
        ... except FileNotFoundError as error:
        ...     print(type(error).__name__)
        FileNotFoundError
    """
    return load_with(path)[0]


def load_with(path: str | os.PathLike[str]) -> tuple[Posterior, Any]:
    """:func:`load`, and what :func:`save_with` put beside it."""
    header, arrays = archive.read(path, _KIND)
    try:
        posterior, beside = (
            decode(header["posterior"], arrays),
            decode(header.get("beside"), arrays),
        )
    except Refused as error:
        raise ValueError(f"Expected {path} to load. Got {error}") from None
    except Exception as error:  # a header that somebody made up can be wrong in any way
        raise ValueError(f"Expected {path} to be a posterior. Got {error!r}.") from error
    if not isinstance(posterior, Posterior):
        raise ValueError(f"Expected {path} to be a posterior. Got {type(posterior).__name__}.")
    return posterior, beside
