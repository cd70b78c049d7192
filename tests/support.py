"""Helpers shared by test modules."""

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
import optax

__all__ = ["ROOT", "relaxed", "relaxed_optimizer", "run_python"]

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """Allow promotion of dtypes and ranks around third-party code that relies on it.

    NumPyro promotes when it draws several samples of an array-valued distribution, in its (inverse)
    Wishart, in ``Bernoulli.log_prob``, in NUTS and with float32 under float64; optax in Adam's bias
    correction and in L-BFGS. Put as little of our own code in the block as the test allows."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def relaxed_optimizer(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser, free to promote while the loss that it minimises stays strict."""
    return optax.GradientTransformation(relaxed()(optimizer.init), relaxed()(optimizer.update))


def run_python(code: str, *, timeout: float) -> str:
    """Standard output of `code` in a fresh interpreter, which is killed after `timeout` seconds.

    Raises:
        AssertionError: when the code fails, with its error output, or is still running at the time
            limit.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(
            f"Expected an answer within {timeout} s. Got none: it hangs."
        ) from expired
    assert done.returncode == 0, done.stderr
    return done.stdout
