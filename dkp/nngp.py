"""Kernels of infinitely wide networks: the NNGP kernel and the neural tangent kernel of a list of layers.

Both are functions of a list of layers without bottlenecks, such as ``[Affine(2.0), ReLU(), Affine(1.0)]``. Matrices are
computed tile by tile with one compiled program, of which the second half of a symmetric matrix is a copy.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._check import finite_array, positive_int
from dkp._types import Array, Float
from dkp.likelihoods import Gaussian
from dkp.linalg.pairs import Pairs
from dkp.model import DeepKernelProcess, from_features
from dkp.priors import hyperparameters, resolve
from dkp.progress import Progress

__all__ = ["nngp_and_ntk_kernels", "nngp_kernel", "ntk_kernel"]

_TILE_ENTRIES = 2**20
"""Numbers in one tile: few enough to stay in a processor's cache, many enough to hide the cost of a call."""


def nngp_kernel(
    layers: Any,
    x1: Any,
    x2: Any = None,
    *,
    tile: int | None = None,
    out: np.ndarray | None = None,
    progress: bool | None = False,
) -> np.ndarray:
    """Covariance of the outputs of an infinitely wide network with random weights, K(x1, x2).

    Args:
        layers: a list of kernels, or a model without bottlenecks. Hyperparameters to be learned stand at their initial
            values.
        x1: features (N1, D), or images (N1, H, W, C); integers and booleans count as floating-point numbers.
        x2: the same for N2 points; x1 by default, which halves the work.
        tile: rows and columns of the blocks that are computed at a time; chosen for the layers by default.
        out: array of shape (N1, N2) that takes the result, for example a ``numpy.memmap``; a new one by default.
        progress: show a progress bar.

    Returns:
        the matrix, (N1, N2), in the dtype of x1.

    Raises:
        ValueError: for bottlenecks, distributions as hyperparameters, inputs that do not fit together or are not
            finite, or images that are never made vectors.

    Source: Lee et al. 2018 (arXiv 1711.00165), equation 5; for images Novak et al. 2019 (arXiv 1810.05148).
    """
    return _matrices(layers, x1, x2, ("nngp",), tile, (out,), progress)[0]


def ntk_kernel(
    layers: Any,
    x1: Any,
    x2: Any = None,
    *,
    tile: int | None = None,
    out: np.ndarray | None = None,
    progress: bool | None = False,
) -> np.ndarray:
    """The neural tangent kernel of an infinitely wide network, sum_p (df(x1)/dp) (df(x2)/dp) over its parameters p.

    Arguments, result and errors are those of :func:`nngp_kernel`. Only layers with weights (``Affine``, ``Conv``,
    ``LocallyConnected``) have parameters; without any the kernel is 0.

    Source: Jacot, Gabriel & Hongler 2018 (arXiv 1806.07572), theorem 1; for images Arora et al. 2019 (arXiv
        1904.11955).
    """
    return _matrices(layers, x1, x2, ("ntk",), tile, (out,), progress)[0]


def nngp_and_ntk_kernels(
    layers: Any, x1: Any, x2: Any = None, *, tile: int | None = None, progress: bool | None = False
) -> tuple[np.ndarray, np.ndarray]:
    """Both kernels, at little more than the cost of the tangent kernel, which needs the other one. See there."""
    nngp, ntk = _matrices(layers, x1, x2, ("nngp", "ntk"), tile, (None, None), progress)
    return nngp, ntk


def _matrices(
    layers: Any,
    x1: Any,
    x2: Any,
    kinds: tuple[str, ...],
    tile: int | None,
    outs: tuple[np.ndarray | None, ...],
    progress: bool | None,
) -> list[np.ndarray]:
    model = _as_model(layers)
    x = _check_features("x1", x1, None)
    y = x if x2 is None else _check_features("x2", x2, x)
    layers = _resolved(model, x)
    shape = (x.shape[0], y.shape[0])
    results = [_destination(out, shape, x.dtype) for out in outs]
    size = _tile_size(layers, x, tile)
    rows, columns = _padded(x, size), _padded(y, size)
    symmetric = x2 is None

    def write(i: int, j: int, block: tuple[Array, ...]) -> None:
        here = slice(i, min(i + size, shape[0])), slice(j, min(j + size, shape[1]))
        for result, values in zip(results, block, strict=True):
            values = np.asarray(values)[: here[0].stop - i, : here[1].stop - j]
            result[here] = values
            if symmetric and i != j:
                result[here[1], here[0]] = values.T

    tiles = [(i, j) for i in range(0, shape[0], size) for j in range(i if symmetric else 0, shape[1], size)]
    pending: tuple[int, int, tuple[Array, ...]] | None = None
    with Progress(len(tiles), label="kernel", enabled=progress) as bar:
        for done, (i, j) in enumerate(tiles):
            # The next tile is computed while the last one is copied.
            block = _tile(layers, rows, columns, i, j, size, kinds, symmetric)
            if pending is not None:
                write(*pending)
            pending = (i, j, block)
            bar.update(done)
        if pending is not None:
            write(*pending)
    return results


def kernel_block(
    layers: Sequence[Any], x: Array, y: Array, equal: Array | None = None, *, tangent: bool = False
) -> Pairs:
    """What the layers make of features x (M, …) and y (N, …): an ordinary JAX function, under any transformation.

    Args:
        layers: kernels whose hyperparameters are numbers or arrays.
        equal: where a point of y is that point of x, (M, N); its kernel is then exactly its variance.
        tangent: compute the tangent kernel as well.
    """
    return from_features(layers)[0].block(x, y, equal, tangent=tangent)


def kernel_variances(model: DeepKernelProcess, x: Float[Array, "N *space D"]) -> Float[Array, " N"]:
    """The NNGP kernel of every point with itself, K(x, x)."""
    layers = _resolved(model, x)
    return _variances(layers, x, _tile_size(layers, x, None))


@functools.partial(jax.jit, static_argnums=2)
def _variances(layers: Any, x: Array, at_a_time: int) -> Array:
    def of_point(point: Array) -> Array:
        return kernel_block(layers, point[None], point[None]).xx[0]

    return jax.lax.map(of_point, x, batch_size=at_a_time)


@functools.partial(jax.jit, static_argnames=("size", "kinds", "symmetric"))
def _tile(
    layers: Any, x: Array, y: Array, i: Any, j: Any, size: int, kinds: tuple[str, ...], symmetric: bool
) -> tuple[Array, ...]:
    rows, columns = jax.lax.dynamic_slice_in_dim(x, i, size), jax.lax.dynamic_slice_in_dim(y, j, size)
    index = jnp.arange(size)
    equal = (index[:, None] + i) == (index[None, :] + j) if symmetric else None
    block = kernel_block(layers, rows, columns, equal, tangent="ntk" in kinds)
    found: dict[str, Any] = {"nngp": block.xy, "ntk": block.tangent}
    return tuple(found[kind] for kind in kinds)


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
    dtype = jnp.result_type(x.dtype if floating else float)
    if like is not None and (values.shape[1:] != like.shape[1:] or dtype != like.dtype):
        raise ValueError(
            f"Expected {name} to have the dtype of x1 and its shape after the first axis, {like.dtype} and "
            f"{like.shape[1:]}. Got {dtype} and {values.shape[1:]}."
        )
    return jnp.asarray(values, dtype)


def _resolved(model: DeepKernelProcess, x: Array) -> tuple[Any, ...]:
    """Layers with numbers for all hyperparameters: those to be learned stand at their start."""
    values = {}
    for name, h in hyperparameters(model, x.shape[-1], 1).items():
        if h.is_inferred:
            raise ValueError(f"Expected {name} to be a number or learn(init). Got a distribution: choose a value.")
        if h.is_learned:
            values[name] = h.initial(x, jnp.zeros((x.shape[0], 1), x.dtype))
    return resolve(model, values, x.dtype, x.shape[-1], 1).layers


def _destination(out: np.ndarray | None, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape:
        raise ValueError(f"Expected out of shape {shape}. Got shape {out.shape}.")
    return out


def _tile_size(layers: Sequence[Any], x: Array, tile: int | None) -> int:
    if tile is not None:
        return min(positive_int("tile", tile), x.shape[0])
    locations = math.prod(x.shape[1:3]) if x.ndim == 4 else 1
    each = locations**2 if any(layer.pools for layer in layers) else locations
    return max(1, min(x.shape[0], math.isqrt(_TILE_ENTRIES // each)))


def _padded(x: Array, size: int) -> Array:
    """With rows of ones behind the last point, so that every tile has the same shape (zeros may divide by zero)."""
    missing = -x.shape[0] % size
    return jnp.concatenate([x, jnp.ones((missing, *x.shape[1:]), x.dtype)]) if missing else x
