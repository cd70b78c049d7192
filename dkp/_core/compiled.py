"""``jax.jit`` as the engines use it: models and data are arguments, and programs do not pile up."""

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

__all__ = ["compiled"]

R = TypeVar("R")

_KEPT = 32
_QUICK = {"xla_cpu_use_fusion_emitters": False}
"""XLA's older emitters of loops: on CPUs they compile in two thirds of the time.

Their programs are as fast. To be removed when the newer ones compile as quickly (slower in XLA of
jax 0.9 and 0.12).
"""


def compiled(
    *, static_argnums: tuple[int, ...] = ()
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """``jax.jit`` of a function of models, data and arrays.

    Equal tree structures and shapes share a program, whatever the numbers: the folds of a
    cross-validation, or priors with other parameters, compile once. The 32 programs that were used
    last are kept: each takes a few mappings of memory, of which a process has 65,530, and
    ``jax.jit`` alone would keep those of a few hundred fits until it ends.

    Args:
        static_argnums: positions of arguments that are hashable and part of the program.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        lock = threading.Lock()  # chains in threads ask for one program at the same time

        @functools.lru_cache(maxsize=_KEPT)
        def program(signature: Any) -> "_Program":
            return _Program(function, static_argnums)

        @functools.wraps(function)
        def call(*args: Any) -> R:
            with lock:
                run = program(_signature(args, static_argnums))
            return run(*args)

        return call

    return decorate


class _Program:
    """``jax.jit`` of a function, outside of other programs with the options of :func:`_options`."""

    def __init__(self, function: Callable[..., Any], static_argnums: tuple[int, ...]) -> None:
        @functools.wraps(function)  # JAX keeps programs by function: this one goes with its owner
        def traced(*args: Any) -> Any:
            return function(*args)

        self._inside = jax.jit(traced, static_argnums=static_argnums)
        self._outside = jax.jit(traced, static_argnums=static_argnums, compiler_options=_options())

    def __call__(self, *args: Any) -> Any:
        # Whatever is computed while a program is traced is a tracer, and so is what a derivative is
        # taken of.
        inside = any(isinstance(leaf, Tracer) for leaf in (*jax.tree.leaves(args), jnp.zeros(())))
        return (self._inside if inside else self._outside)(*args)


def _signature(args: tuple[Any, ...], static: tuple[int, ...]) -> tuple[Any, ...]:
    """What decides which program fits the arguments."""
    leaves, tree = jax.tree.flatten([arg for i, arg in enumerate(args) if i not in static])
    arrays = tuple((jnp.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
    return tuple(args[i] for i in static), tree, arrays


@functools.cache
def _options() -> dict[str, bool] | None:
    """What XLA knows of ``_QUICK``: on CPUs, and in versions that have it."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=_QUICK).lower(0.0).compile()
    except RuntimeError:
        return None
    return _QUICK
