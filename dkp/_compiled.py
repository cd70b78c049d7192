"""Compiled functions of an object, which live as long as the object."""

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import jax

__all__ = ["compiled"]

R = TypeVar("R")


def compiled(*, static_argnums: tuple[int, ...] = ()) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """``jax.jit`` of ``function(owner, *args)`` for an owner that is not an array but a model, or what is made of one.

    ``jax.jit`` with a static owner would keep every owner, its data and its programs until the process ends: a few
    hundred fits, one after another, then use up the memory mappings of the process. Here both go with the owner.

    Owners that are equal share programs, which go with the first of them.

    Args:
        static_argnums: positions of further static arguments, counted with the owner at 0.
    """
    further = tuple(i - 1 for i in static_argnums)

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        programs: weakref.WeakKeyDictionary[Any, Callable[..., R]] = weakref.WeakKeyDictionary()
        lock = threading.Lock()  # chains in threads ask for one program at the same time
        calling = threading.local()  # a program must not hold its owner, but be told it while it is traced

        def program() -> Callable[..., R]:
            def traced(*args: Any) -> R:
                return function(calling.owner, *args)

            traced.__name__ = function.__name__  # in profiles
            return jax.jit(traced, static_argnums=further)

        @functools.wraps(function)
        def call(owner: Any, *args: Any) -> R:
            with lock:
                run = programs.get(owner)
                if run is None:
                    run = programs[owner] = program()
            before = getattr(calling, "owner", None)
            calling.owner = owner
            try:
                return run(*args)
            finally:
                calling.owner = before

        return call

    return decorate
