"""A progress bar for loops that run in chunks on the host.

On a terminal and in a notebook it is tqdm's bar, rewritten in place. Anywhere else (a log file, a
batch job) it is off unless asked for, and then prints at most ten lines.
"""

import sys
import time
from typing import Any

from tqdm.std import tqdm

__all__ = ["Progress"]

_LOG_LINES = 10


class Progress:
    """Shows how far a loop of `total` steps has come, some values, and the time left.

    Use it as a context manager::

        with Progress(8000, label="fit_vi") as progress:
            progress.update(100, elbo=-1.3)

    Args:
        total: number of steps, at least 1.
        label: what is running, shown in front.
        enabled: True shows it, False does not; None shows it on a terminal and in a notebook only.
        stream: a text file to write to; standard error by default.
    """

    def __init__(
        self, total: int, *, label: str, enabled: bool | None = None, stream: Any = None
    ) -> None:
        self._total, self._label = total, label
        self._stream = sys.stderr if stream is None else stream
        self._live = _rewrites_lines(self._stream)
        self._enabled = self._live if enabled is None else enabled
        self._bar: tqdm | None = None
        self._logged = 0
        self._start = time.monotonic()
        self._offset = 0

    def __enter__(self) -> "Progress":
        self._start = time.monotonic()
        if self._enabled and self._live:
            self._bar = tqdm(
                total=self._total, desc=self._label, file=self._stream, dynamic_ncols=True
            )
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def offset(self, steps: int) -> "Progress":
        """The same bar for a later stage.

        What it counts from now on comes after the first `steps`.
        """
        self._offset = steps
        return self

    def update(self, done: int, **values: Any) -> None:
        """Show how far this stage is.

        Args:
            done: steps of this stage that are behind us, counted from its start.
            values: numbers to show, to 4 digits.
        """
        done += self._offset
        shown = ", ".join(f"{name}={float(value):.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._enabled:
            self._log(done, shown)

    def _log(self, done: int, shown: str) -> None:
        tenth = done * _LOG_LINES // self._total
        if tenth > self._logged:
            self._logged = tenth
            elapsed = time.monotonic() - self._start
            line = tqdm.format_meter(
                done, self._total, elapsed, prefix=self._label, postfix=shown, ncols=100
            )
            print(line, file=self._stream, flush=True)


def _rewrites_lines(stream: Any) -> bool:
    """A terminal, or a notebook's output."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel")
