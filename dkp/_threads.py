"""Threads: how many the linear algebra under XLA uses, and JAX's configuration in those that run chains."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import jax

__all__ = ["one_blas_thread", "this_configuration"]

_CONTEXTS = ("enable_x64", "default_device", "numpy_dtype_promotion", "numpy_rank_promotion", "debug_nans")


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

    XLA on processors factorises by SciPy's BLAS, whose threads wait in busy loops: for matrices of a few hundred rows
    they cost more than they give, and several chains side by side ran 3.5 times slower (2 cores, N = 100). Without
    threadpoolctl, which comes with scikit-learn, nothing changes.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(limits=1, user_api="blas")
