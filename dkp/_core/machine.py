"""The machine: free memory, threads of linear algebra, and JAX's configuration in threads."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from dkp._core import checks

__all__ = ["allowed_memory", "free_memory", "one_blas_thread", "this_configuration"]

_CONTEXTS = (
    "enable_x64",
    "default_device",
    "numpy_dtype_promotion",
    "numpy_rank_promotion",
    "debug_nans",
)


def allowed_memory(max_memory: float | None) -> float:
    """Bytes that a result may take: what the user allows.

    By default it is half of what is free on the first device and on this machine.

    Raises:
        ValueError: when `max_memory` is not a finite number above 0.
    """
    if max_memory is not None:
        return checks.positive_number("max_memory", max_memory)
    return min(free_memory(device=device) for device in (False, True)) / 2


def free_memory(*, device: bool) -> float:
    """Bytes that are free for arrays on the first device, or on this machine.

    It is infinity where nobody knows.
    """
    statistics = jax.devices()[0].memory_stats() if device else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(
            1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def this_configuration() -> Callable[[], AbstractContextManager[object]]:
    """A context, to be entered in another thread, in which JAX is configured as it is here and now.

    Contexts such as ``jax.enable_x64(True)`` hold for the thread in which they were entered.
    """
    values = {name: getattr(jax.config, f"jax_{name}") for name in _CONTEXTS}

    @contextlib.contextmanager
    def enter() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, value in values.items():
                stack.enter_context(getattr(jax, name)(value))
            yield

    return enter


def one_blas_thread() -> AbstractContextManager[object]:
    """Let LAPACK factorise in one thread within the context.

    XLA on processors factorises by SciPy's BLAS, whose threads wait in busy loops: for matrices of
    a few hundred rows they cost more than they give, and several chains side by side ran 3.5 times
    slower (2 cores, N = 100). Without threadpoolctl, which comes with scikit-learn, nothing
    changes.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(limits=1, user_api="blas")
