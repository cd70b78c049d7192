"""A matrix in a file that survives an interruption of the computation that fills it."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

__all__ = ["MatrixFile"]

_SECONDS = 10.0
"""Between two records of what is done, each of which waits for the disk."""


class MatrixFile:
    """A matrix in an ``.npy`` file, which appears when it is complete.

    Until then ``<path>.partial`` holds the matrix, and ``<path>.partial.json`` how many of its
    tiles are there and the fingerprint of the computation, which goes on with them when it is
    started again. Leaving the context by an error or Ctrl-C keeps all tiles; a process that is
    killed loses those of its last ten seconds.

    Args:
        path: of the file; one that exists is replaced when the new one is complete.
        shape: of the matrix.
        dtype: of the matrix.
        fingerprint: of everything that the matrix depends on.

    Raises:
        ValueError: on entry, when the tiles that are there belong to another computation.
    """

    def __init__(
        self, path: str | os.PathLike[str], shape: tuple[int, int], dtype: Any, fingerprint: str
    ) -> None:
        self.path, self._shape, self._dtype, self._fingerprint = (
            Path(path),
            shape,
            np.dtype(dtype),
            fingerprint,
        )
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
            self.matrix = np.lib.format.open_memmap(
                self._partial, mode="w+", dtype=self._dtype, shape=self._shape
            )
        return self

    def finished(self, done: int) -> None:
        """The first `done` tiles are in the matrix."""
        self.done = done
        if time.monotonic() - self._saved > _SECONDS:
            self._save()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
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
        temporary.write_text(
            json.dumps({"done": self.done, "fingerprint": self._fingerprint}), encoding="utf-8"
        )
        temporary.replace(self._state)
        self._saved = time.monotonic()

    def _read(self) -> int:
        state = json.loads(self._state.read_text(encoding="utf-8"))
        if state["fingerprint"] != self._fingerprint:
            raise ValueError(
                f"Expected {self._partial} to be the beginning of this matrix: the same layers, "
                "inputs, kernel and "
                "tile. Got the beginning of another one: delete it, or choose another path."
            )
        return state["done"]
