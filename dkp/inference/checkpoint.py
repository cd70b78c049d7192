"""Checkpoints: a call that was killed, made again, goes on where it was.

It ends as if nothing had happened. The state of an engine is a tree of records and arrays, saved
between compiled chunks. A file belongs to one call (model, data, key and options); the file before
it is kept, for the case that the last one is damaged.
"""

import contextlib
import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dkp._core import archive
from dkp._core.checks import positive_number
from dkp._core.identity import fingerprint
from dkp._core.records import decode, encode

__all__ = ["Checkpoint", "checkpoint_of"]

_KIND = "checkpoint"
_SIGTERM_STATUS = 128 + signal.SIGTERM


class Checkpoint:
    """The file of one call, to be used as a context: within it, SIGTERM saves and stops.

    Args:
        path: of the file; the one before it stands beside it, with ``.previous`` after its name.
        every: seconds between two files.
        identity: of the call: two calls with the same one do the same.

    Raises:
        ValueError: when `every` is not positive, or the file belongs to another call.
    """

    def __init__(self, path: str | os.PathLike[str], every: float, identity: str) -> None:
        self.path = Path(path)
        self.previous = self.path.with_name(f"{self.path.name}.previous")
        self._every, self._identity = positive_number("every", every), identity
        self._last, self._terminated, self._handler = time.monotonic(), False, None
        self._stage, self._content = self._read()

    def __enter__(self) -> "Checkpoint":
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    def found(self, stage: str) -> Any:
        """What was saved last, when it is of this stage of the engine; None where it is not."""
        return self._content if self._stage == stage else None

    @property
    def is_due(self) -> bool:
        """Whether it is time for a file."""
        return self._terminated or time.monotonic() - self._last >= self._every

    def save(self, stage: str, content: Any) -> None:
        """Write a file, and end the process where SIGTERM asked for it.

        A disk that is full costs the file, with a warning, and not the run.
        """
        try:
            if self.path.exists():
                self.path.replace(self.previous)
            arrays: dict[str, np.ndarray] = {}
            tree = encode(content, arrays)
            header = {"identity": self._identity, "stage": stage, "content": tree}
            archive.write(self.path, _KIND, header, arrays)
        except OSError as error:
            warnings.warn(
                f"The checkpoint {self.path} could not be written ({error}); the run goes on "
                "without it.",
                RuntimeWarning,
                stacklevel=2,
            )
        self._last = time.monotonic()
        if self._terminated:
            raise SystemExit(_SIGTERM_STATUS)

    def _terminate(self, *_: Any) -> None:
        self._terminated = True

    def _read(self) -> tuple[str | None, Any]:
        """The stage and what was saved there, of the last file that is whole."""
        for path in (self.path, self.previous):
            try:
                header, arrays = archive.read(path, _KIND)
                known, stage = header["identity"], header["stage"]
                if known == self._identity:
                    return stage, decode(header["content"], arrays)
            except FileNotFoundError:
                continue
            except Exception as error:  # a header that is damaged can be wrong in any way
                warnings.warn(
                    f"The checkpoint {path} is damaged and not used: {error}",
                    RuntimeWarning,
                    stacklevel=4,
                )
                continue
            raise ValueError(
                f"Expected checkpoint={str(path)!r} to be of this call. Got one of another model, "
                "data set, key or other options: delete it, or choose another path."
            )
        return None, None


def checkpoint_of(
    path: str | os.PathLike[str] | None, every: float, *call: Any
) -> contextlib.AbstractContextManager[Checkpoint | None]:
    """The checkpoint of a call, as a context; nothing where there is no path.

    The call is an engine's name, its model, data, keys and options.

    Raises:
        ValueError: as :class:`Checkpoint` does.
    """
    positive_number("every", every)
    return contextlib.nullcontext() if path is None else Checkpoint(path, every, fingerprint(*call))
