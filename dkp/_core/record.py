"""Immutable records: of results, and of arrays in ``jit``, ``vmap`` and ``scan``.

A :func:`value` is like ``jax.tree_util.register_dataclass``, but unflattening does not call
``__init__``: a record that leaves ``vmap`` has batch axes that its annotations do not mention, and
a record that JAX rebuilds may hold tracers or placeholders.
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

from dkp._core.records import register

__all__ = ["record", "static", "value"]

T = TypeVar("T")


def static(default: Any = dataclasses.MISSING) -> Any:
    """A field of a value that is not an array: part of the structure, hashable."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False)
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only dataclass that files can hold.

    Such a record equals itself alone.
    """
    return register(dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls))


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    eq_default=False,
    field_specifiers=(static, dataclasses.field),
)
def value(cls: type[T]) -> type[T]:
    """Make a class a :func:`record` and a pytree.

    All fields but :func:`static` ones are children.
    """
    made = record(cls)
    fields = dataclasses.fields(made)  # type: ignore[arg-type]
    children = [f.name for f in fields if not f.metadata.get("static")]
    constants = [f.name for f in fields if f.metadata.get("static")]

    def flatten(record: T) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        pairs = [(jax.tree_util.GetAttrKey(name), getattr(record, name)) for name in children]
        return pairs, tuple(getattr(record, name) for name in constants)

    def unflatten(aux: tuple[Any, ...], leaves: Any) -> T:
        new = object.__new__(made)
        for name, leaf in [
            *zip(children, leaves, strict=True),
            *zip(constants, aux, strict=True),
        ]:
            object.__setattr__(new, name, leaf)
        return new

    jax.tree_util.register_pytree_with_keys(made, flatten, unflatten)
    return made
