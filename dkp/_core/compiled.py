"""Compiled functions of an object: equal objects share programs."""

import collections
import functools
import threading
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from dkp._core.identity import structure

__all__ = ["compiled"]

R = TypeVar("R")

_KEPT = 32
_QUICK = {"xla_cpu_use_fusion_emitters": False}
"""XLA's older emitters of loops: on CPUs they compile in two thirds of the time, and their programs
are as fast."""


def compiled(
    *, static_argnums: tuple[int, ...] = ()
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """``jax.jit`` of ``function(owner, *args)`` for an owner that is not an array but a model, or
    what is made of one.

    ``jax.jit`` with a static owner would keep every owner, its data and its programs until the
    process ends: a few hundred fits, one after another, then use up the memory mappings of the
    process. Here no program holds its owner. Owners of one :func:`structure` share programs, for
    arguments of one shape, and the 32 that were used last are kept, with functions that are part of
    the structure: so the folds of a cross-validation are compiled once. The programs of an owner
    that is its own structure, equal to no other, go with it.

    Args:
        static_argnums: positions of further static arguments, counted with the owner at 0.
    """
    further = tuple(i - 1 for i in static_argnums)

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        alone: weakref.WeakKeyDictionary[Any, Callable[..., R]] = weakref.WeakKeyDictionary()
        shared: _Recent = _Recent()
        lock = threading.Lock()  # chains in threads ask for one program at the same time
        # a program must not hold its owner, but be told it while it is traced
        calling = threading.local()

        def program() -> Callable[..., R]:
            def traced(*args: Any) -> R:
                return function(calling.owner, *args)

            traced.__name__ = function.__name__  # in profiles
            return _Program(traced, further)

        @functools.wraps(function)
        def call(owner: Any, *args: Any) -> R:
            what = structure(owner)
            programs: MutableMapping[Any, Callable[..., R]] = alone if what is owner else shared
            key = owner if what is owner else (what, _shapes(args, further))
            with lock:
                run = programs.get(key)
                if run is None:
                    run = programs[key] = program()
            before = getattr(calling, "owner", None)
            calling.owner = owner
            try:
                return run(*args)
            finally:
                calling.owner = before

        return call

    return decorate


class _Program:
    """``jax.jit`` of a function, outside of other programs with the options of :func:`_options`."""

    def __init__(self, function: Callable[..., Any], static_argnums: tuple[int, ...]) -> None:
        self._inside = jax.jit(function, static_argnums=static_argnums)
        self._outside = jax.jit(
            function, static_argnums=static_argnums, compiler_options=_options()
        )

    def __call__(self, *args: Any) -> Any:
        # Whatever is computed while a program is traced is a tracer, and so is what a derivative is
        # taken of.
        is_inside = any(
            isinstance(leaf, Tracer) for leaf in (*jax.tree.leaves(args), jnp.zeros(()))
        )
        return (self._inside if is_inside else self._outside)(*args)


def _shapes(args: tuple[Any, ...], static: tuple[int, ...]) -> tuple[Any, ...]:
    """What decides whether a program fits arguments."""
    leaves, tree = jax.tree.flatten([arg for i, arg in enumerate(args) if i not in static])
    arrays = tuple((jnp.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
    return (tuple(args[i] for i in static), tree, arrays)


class _Recent(collections.OrderedDict[Any, Any]):
    """A dictionary of the entries that were used last."""

    def get(self, key: Any, default: Any = None) -> Any:
        if key in self:
            self.move_to_end(key)
        return super().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > _KEPT:
            self.popitem(last=False)


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
