"""Large matrices of pairs of points, filled tile by tile, and the memory that this takes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dkp._core.checks import positive_int
from dkp._core.machine import free_memory
from dkp._core.progress import Progress
from dkp._core.types import Array

__all__ = ["fill", "new_matrices", "tile_shape"]

_TILE_ENTRIES = 2**18
"""Numbers in one tile: few enough to stay in a processor's cache, many enough to hide the cost of a
call."""
_BUFFERS = 8
"""Arrays of the size of a tile in memory at a time: a layer's input, its output and what lies
between."""


def fill(
    results: Sequence[np.ndarray],
    compute: Callable[[int, int], Sequence[Array]],
    *,
    size: tuple[int, int],
    symmetric: bool,
    progress: bool | None,
    start: int = 0,
    finished: Callable[[int], None] = lambda count: None,
) -> None:
    """Write ``compute(i, j)`` to the tile of each result that starts at row i and column j.

    Args:
        results: matrices of one shape.
        compute: makes as many tiles of shape `size`, of which the part inside of the matrix counts.
        size: rows and columns of a tile.
        symmetric: compute the upper triangle of tiles only, which are square, and copy it.
        progress: show a progress bar.
        start: number of tiles that are there already.
        finished: called with the number of tiles that are there, after each of them.
    """
    shape = results[0].shape
    tiles = [
        (i, j)
        for i in range(0, shape[0], size[0])
        for j in range(i if symmetric else 0, shape[1], size[1])
    ]

    def write(i: int, j: int, blocks: Sequence[Array]) -> None:
        rows, columns = slice(i, min(i + size[0], shape[0])), slice(j, min(j + size[1], shape[1]))
        for result, block in zip(results, blocks, strict=True):
            values = np.asarray(block)[: rows.stop - i, : columns.stop - j]
            result[rows, columns] = values
            if symmetric and i != j:
                result[columns, rows] = values.T

    with Progress(len(tiles), label="kernel", enabled=progress) as bar:
        upcoming = compute(*tiles[start]) if start < len(tiles) else ()
        for count in range(start, len(tiles)):
            # The next tile is computed while this one is copied.
            blocks, upcoming = (
                upcoming,
                compute(*tiles[count + 1]) if count + 1 < len(tiles) else (),
            )
            write(*tiles[count], blocks)
            finished(count + 1)
            bar.update(count + 1)


def new_matrices(count: int, shape: tuple[int, int], dtype: Any) -> list[np.ndarray]:
    """Matrices for results.

    Raises:
        ValueError: when they do not fit into memory.
    """
    needed, free = count * math.prod(shape) * np.dtype(dtype).itemsize, free_memory(device=False)
    if needed > free:
        raise ValueError(
            f"Expected a result of shape {shape} to fit into memory. Got {needed:,} bytes where "
            f"{free:,.0f} are free: "
            "give out=, the path of a file."
        )
    return [np.empty(shape, dtype) for _ in range(count)]


def tile_shape(
    entries: int, dtype: Any, shape: tuple[int, int], tile: int | None = None
) -> tuple[int, int]:
    """Rows and columns of the tiles of a matrix of pairs of points.

    Args:
        entries: numbers that one pair needs while its kernel is computed.
        dtype: of these numbers.
        shape: of the matrix.
        tile: rows and columns that the user asks for; chosen for speed and memory by default.

    Raises:
        ValueError: when a tile does not fit into memory.
    """
    free, bytes_each = free_memory(device=True), _BUFFERS * entries * np.dtype(dtype).itemsize
    if tile is None:
        # Powers of two: matrices of almost the same shape share their compiled programs.
        shape = 1 << (shape[0] - 1).bit_length(), 1 << (shape[1] - 1).bit_length()
        size = _tile_of(max(1, int(min(_TILE_ENTRIES // entries, free / bytes_each))), shape)
    else:
        side = positive_int("tile", tile)
        size = min(shape[0], side), min(shape[1], side)
    needed = math.prod(size) * bytes_each
    if needed > free:
        one = size == (1, 1)
        what = "one pair of images" if one else f"tiles of {size[0]} x {size[1]} points"
        way = (
            "smaller images, or Flatten() and strides where the layers pool"
            if one
            else "a smaller tile"
        )
        raise ValueError(
            f"Expected {what} with {entries:,} numbers a pair to fit into memory. Got {needed:,} "
            "bytes where "
            f"{free:,.0f} are free: use {way}."
        )
    return size


def _tile_of(pairs: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a tile.

    It is a square, or up to eight times as long where a few points meet many.
    """
    side = math.isqrt(pairs)
    short = min(side, *shape)
    long = side if short == side else min(max(shape), pairs // short, 8 * side)
    return (short, long) if shape[0] <= shape[1] else (long, short)
