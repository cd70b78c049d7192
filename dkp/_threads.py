"""How many threads the linear algebra under XLA uses."""

import contextlib
from contextlib import AbstractContextManager

__all__ = ["one_blas_thread"]


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
