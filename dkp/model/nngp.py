"""Kernels of infinitely wide networks: the NNGP kernel and the neural tangent kernel.

Both are functions of a list of layers without bottlenecks, such as ``[Affine(2.0), ReLU(),
Affine(1.0)]``. Matrices are computed tile by tile, a compiled program for every layer; the second
half of a symmetric matrix is a copy.
"""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.checks import finite_array
from dkp._core.identity import fingerprint
from dkp._core.matrix_file import MatrixFile
from dkp._core.types import Array, Float
from dkp._version import __version__
from dkp.gram.pairs import Pairs
from dkp.likelihoods import Gaussian
from dkp.model.hyperparameters import check_hyperparameters, hyperparameters, resolve
from dkp.model.process import DeepKernelProcess
from dkp.model.propagate import from_features
from dkp.model.tiles import fill, new_matrices, tile_shape

__all__ = ["kernel_block", "kernel_variances", "nngp_and_ntk_kernels", "nngp_kernel", "ntk_kernel"]


def nngp_kernel(
    layers: Any,
    x1: Any,
    x2: Any = None,
    *,
    tile: int | None = None,
    out: Any = None,
    progress: bool | None = False,
) -> np.ndarray:
    """Covariance of the outputs of an infinitely wide network with random weights, K(x1, x2).

    Args:
        layers: a list of kernels, or a model without bottlenecks. Hyperparameters to be learned
            stand at their initial values.
        x1: features (N1, D), or images (N1, H, W, C); integers and booleans count as floating-point
            numbers.
        x2: the same for N2 points; x1 by default, which halves the work.
        tile: rows and columns of the blocks that are computed at a time; chosen for the layers by
            default.
        out: array of shape (N1, N2) that takes the result, a new one by default; or the path of an
            ``.npy`` file for it, of which the memory map is returned. An interrupted computation
            with a path goes on where it stopped when it is called again: ``<path>.partial`` holds
            the matrix until it is complete.
        progress: show a progress bar.

    Returns:
        the matrix, (N1, N2), in the dtype of x1.

    Raises:
        ValueError: for bottlenecks, distributions as hyperparameters, inputs that do not fit
            together or are not finite, images that are never made vectors, a result or a tile that
            does not fit into memory, or a path with the beginning of another matrix.

    Source: Lee et al. 2018 (arXiv 1711.00165), equation 5; for images Novak et al. 2019 (arXiv
    1810.05148).

    Examples:
        >>> import numpy as np
        >>> import dkp
        >>> layers = [dkp.kernels.Affine(2.0), dkp.kernels.ReLU(), dkp.kernels.Affine(1.0)]
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(dkp.nngp_kernel(layers, x).round(3))
        [[2.    1.068]
         [1.068 1.   ]]
    """
    return _matrices(layers, x1, x2, ("nngp",), tile, out, progress)[0]


def ntk_kernel(
    layers: Any,
    x1: Any,
    x2: Any = None,
    *,
    tile: int | None = None,
    out: Any = None,
    progress: bool | None = False,
) -> np.ndarray:
    """The neural tangent kernel of an infinitely wide network.

    It is sum_p (df(x1)/dp) (df(x2)/dp) over the parameters p of the network.

    Arguments, result and errors are those of :func:`nngp_kernel`. Only layers with weights
    (``Affine``, ``Conv``, ``LocallyConnected``) have parameters; without any the kernel is 0.

    Source: Jacot, Gabriel & Hongler 2018 (arXiv 1806.07572), theorem 1; for images Arora et al.
    2019 (arXiv 1904.11955).

    Examples:
        >>> import numpy as np
        >>> import dkp
        >>> layers = [dkp.kernels.Affine(2.0), dkp.kernels.ReLU(), dkp.kernels.Affine(1.0)]
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(dkp.ntk_kernel(layers, x).round(3))
        [[4.    1.818]
         [1.818 2.   ]]
    """
    return _matrices(layers, x1, x2, ("ntk",), tile, out, progress)[0]


def nngp_and_ntk_kernels(
    layers: Any, x1: Any, x2: Any = None, *, tile: int | None = None, progress: bool | None = False
) -> tuple[np.ndarray, np.ndarray]:
    """Both kernels, at little more than the cost of the tangent kernel, which needs the other one.

    See :func:`nngp_kernel` and :func:`ntk_kernel`.

    Examples:
        >>> import numpy as np
        >>> import dkp
        >>> layers = [dkp.kernels.Affine(2.0), dkp.kernels.ReLU(), dkp.kernels.Affine(1.0)]
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> nngp, ntk = dkp.nngp_and_ntk_kernels(layers, x)
        >>> print(nngp.round(3)[0], ntk.round(3)[0])
        [2.    1.068] [4.    1.818]
    """
    nngp, ntk = _matrices(layers, x1, x2, ("nngp", "ntk"), tile, None, progress)
    return nngp, ntk


def _matrices(
    layers: Any,
    x1: Any,
    x2: Any,
    kinds: tuple[str, ...],
    tile: int | None,
    out: Any,
    progress: bool | None,
) -> list[np.ndarray]:
    model = _as_model(layers)
    x = _check_features("x1", x1, None)
    y = x if x2 is None else _check_features("x2", x2, x)
    layers, symmetric = _resolved(model, x), x2 is None
    shape = (x.shape[0], y.shape[0])
    size = tile_shape(_entries(layers, x), x.dtype, shape, tile)
    rows, columns = _padded(x, size[0]), _padded(y, size[1])
    compute = functools.partial(
        _tile, layers, rows, columns, size=size, kinds=kinds, symmetric=symmetric
    )
    run = functools.partial(
        fill, compute=compute, size=size, symmetric=symmetric, progress=progress
    )
    if isinstance(out, (str, os.PathLike)):
        with MatrixFile(
            out, shape, x.dtype, _fingerprint(layers, x, y, (kinds, size, symmetric))
        ) as file:
            run([file.matrix], start=file.done, finished=file.finished)
        return [file.matrix]
    results = new_matrices(len(kinds), shape, x.dtype) if out is None else [_given(out, shape)]
    run(results)
    return results


def kernel_block(
    layers: Sequence[Any], x: Array, y: Array, equal: Array | None = None, *, tangent: bool = False
) -> Pairs:
    """What the layers make of features x (M, …) and y (N, …).

    It is an ordinary JAX function, under any transformation.

    Args:
        layers: kernels whose hyperparameters are numbers or arrays.
        equal: where a point of y is that point of x, (M, N); its kernel is then exactly its
            variance.
        tangent: compute the tangent kernel as well.
    """
    return from_features(layers)[0].between(x, y, equal, tangent=tangent)


def kernel_variances(model: DeepKernelProcess, x: Float[Array, "N *space D"]) -> Float[Array, " N"]:
    """The NNGP kernel of every point with itself, K(x, x)."""
    layers = _resolved(model, x)
    size = tile_shape(_entries(layers, x), x.dtype, (x.shape[0], 1))[0]
    rows = _padded(x, size)
    parts = [
        kernel_block(layers, rows[i : i + size], rows[:1]).xx for i in range(0, x.shape[0], size)
    ]
    return jnp.concatenate(parts)[: x.shape[0]]


def _tile(
    layers: Any,
    x: Array,
    y: Array,
    i: int,
    j: int,
    *,
    size: tuple[int, int],
    kinds: tuple[str, ...],
    symmetric: bool,
) -> tuple[Array, ...]:
    rows, columns, equal = _points(x, y, i, j, size, symmetric)
    block = kernel_block(layers, rows, columns, equal, tangent="ntk" in kinds)
    found: dict[str, Any] = {"nngp": block.xy, "ntk": block.tangent}
    return tuple(found[kind] for kind in kinds)


@functools.partial(jax.jit, static_argnames=("size", "symmetric"))
def _points(
    x: Array, y: Array, i: Any, j: Any, size: tuple[int, int], symmetric: bool
) -> tuple[Array, Array, Array | None]:
    """The points of a tile, and where they are the same."""
    equal = (
        (jnp.arange(size[0])[:, None] + i) == (jnp.arange(size[1])[None, :] + j)
        if symmetric
        else None
    )
    return (
        jax.lax.dynamic_slice_in_dim(x, i, size[0]),
        jax.lax.dynamic_slice_in_dim(y, j, size[1]),
        equal,
    )


def _as_model(layers: Any) -> DeepKernelProcess:
    if not isinstance(layers, DeepKernelProcess):
        layers = layers if isinstance(layers, Sequence) else [layers]
        layers = DeepKernelProcess(layers=layers, likelihood=Gaussian(noise=1.0))
    if layers.bottlenecks:
        raise ValueError(
            "Expected layers without bottlenecks: they have one kernel, not a random one. "
            f"Got {layers.bottlenecks[0]!r}; use dkp.fit_vi for a model with it."
        )
    return layers


def _check_features(name: str, x: Any, like: Array | None) -> Array:
    """Numbers as they are, in their own floating-point width."""
    values = finite_array(name, x, ndim=(2, 4))
    floating = isinstance(x, (np.ndarray, jax.Array)) and jnp.issubdtype(x.dtype, jnp.floating)
    dtype = jax.dtypes.canonicalize_dtype(x.dtype) if floating else jnp.result_type(float)
    if dtype not in (np.float32, np.float64):
        raise ValueError(
            f"Expected {name} in float32 or float64. Got {dtype}: kernels lose all digits in it, "
            "cast it."
        )
    if like is not None and (values.shape[1:] != like.shape[1:] or dtype != like.dtype):
        raise ValueError(
            f"Expected {name} to have the dtype of x1 and its shape after the first axis, "
            f"{like.dtype} and "
            f"{like.shape[1:]}. Got {dtype} and {values.shape[1:]}."
        )
    return jnp.asarray(values, dtype)


def _resolved(model: DeepKernelProcess, x: Array) -> tuple[Any, ...]:
    """Layers with numbers for all hyperparameters: those to be learned stand at their start."""
    values = {}
    found = hyperparameters(model, x.shape[-1], 1)
    check_hyperparameters(found)
    for name, h in found.items():
        if h.is_inferred:
            raise ValueError(
                f"Expected {name} to be a number or learn(init). Got a distribution: choose a "
                "value."
            )
        if h.is_learned:
            values[name] = h.initial(x, jnp.zeros((x.shape[0], 1), x.dtype))
    return resolve(model, values, x.dtype, x.shape[-1], 1).layers


def _given(out: Any, shape: tuple[int, int]) -> np.ndarray:
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype.kind != "f":
        got = (
            f"shape {out.shape} of {out.dtype}"
            if isinstance(out, np.ndarray)
            else type(out).__name__
        )
        raise ValueError(
            f"Expected out of shape {shape}: a NumPy array of floating-point numbers. Got {got}."
        )
    return out


def _entries(layers: Sequence[Any], x: Array) -> int:
    """Numbers that one pair of points needs.

    For images it is one a location, or one a pair of locations.
    """
    locations = math.prod(x.shape[1:3]) if x.ndim == 4 else 1
    return locations**2 if any(layer.pools for layer in layers) else locations


def _fingerprint(layers: Any, x: Array, y: Array, rest: tuple[Any, ...]) -> str:
    """Of everything that a matrix depends on.

    What a function of the user's own does is known by the kernel of a few points.
    """
    probe = kernel_block(layers, x[:2], y[:2]).xy
    return fingerprint(layers, x, y, rest, __version__, probe)


def _padded(x: Array, size: int) -> Array:
    """With rows of ones behind the last point, so that every tile has the same shape.

    Zeros may divide by zero.
    """
    missing = -x.shape[0] % size
    return jnp.concatenate([x, jnp.ones((missing, *x.shape[1:]), x.dtype)]) if missing else x
