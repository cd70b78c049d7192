"""Large matrices, filled tile by tile in a fixed order: in memory, or in a file that survives an interruption."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from dkp._types import Array
from dkp.progress import Progress

__all__ = ["MatrixFile", "fill", "memory"]

_SECONDS = 10.0
"""Between two records of what is done, each of which waits for the disk."""


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
    tiles = [(i, j) for i in range(0, shape[0], size[0]) for j in range(i if symmetric else 0, shape[1], size[1])]

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
            blocks, upcoming = upcoming, compute(*tiles[count + 1]) if count + 1 < len(tiles) else ()
            write(*tiles[count], blocks)
            finished(count + 1)
            bar.update(count + 1)


class MatrixFile:
    """A matrix in an ``.npy`` file, which appears when it is complete.

    Until then ``<path>.partial`` holds the matrix, and ``<path>.partial.json`` how many of its tiles are there and the
    fingerprint of the computation, which goes on with them when it is started again. Leaving the context by an error or
    Ctrl-C keeps all tiles; a process that is killed loses those of its last ten seconds.

    Args:
        path: of the file; one that exists is replaced when the new one is complete.
        shape: of the matrix.
        dtype: of the matrix.
        fingerprint: of everything that the matrix depends on.

    Raises:
        ValueError: on entry, when the tiles that are there belong to another computation.
    """

    def __init__(self, path: str | os.PathLike[str], shape: tuple[int, int], dtype: Any, fingerprint: str) -> None:
        self.path, self._shape, self._dtype, self._fingerprint = Path(path), shape, np.dtype(dtype), fingerprint
        self._partial, self._state = Path(f"{self.path}.partial"), Path(f"{self.path}.partial.json")
        self.done = 0
        self._saved = time.monotonic()
        self.matrix: np.ndarray = np.empty((0, 0))

    def __enter__(self) -> "MatrixFile":
        if self._partial.exists() and self._state.exists():
            self.done = self._read()
            self.matrix = np.lib.format.open_memmap(self._partial, mode="r+")
        else:
            self._state.unlink(missing_ok=True)
            self.matrix = np.lib.format.open_memmap(self._partial, mode="w+", dtype=self._dtype, shape=self._shape)
        return self

    def finished(self, done: int) -> None:
        """The first `done` tiles are in the matrix."""
        self.done = done
        if time.monotonic() - self._saved > _SECONDS:
            self._save()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.done == 0:
            self._partial.unlink()
            return
        self._save()
        if kind is None:
            self.matrix = np.empty((0, 0))  # closes the file
            self._partial.replace(self.path)
            self._state.unlink()
            self.matrix = np.lib.format.open_memmap(self.path, mode="r+")

    def _save(self) -> None:
        """Data first: what the record names is on the disk."""
        assert isinstance(self.matrix, np.memmap)
        self.matrix.flush()
        temporary = Path(f"{self._state}.tmp")
        temporary.write_text(json.dumps({"done": self.done, "fingerprint": self._fingerprint}), encoding="utf-8")
        temporary.replace(self._state)
        self._saved = time.monotonic()

    def _read(self) -> int:
        state = json.loads(self._state.read_text(encoding="utf-8"))
        if state["fingerprint"] != self._fingerprint:
            raise ValueError(
                f"Expected {self._partial} to be the beginning of this matrix: the same layers, inputs, kernel and "
                "tile. Got the beginning of another one: delete it, or choose another path."
            )
        return state["done"]


def memory(*, device: bool) -> float:
    """Bytes that are free for arrays on the first device, or on this machine; infinity where nobody knows."""
    statistics = jax.devices()[0].memory_stats() if device else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
