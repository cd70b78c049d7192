"""Immutable records of arrays that pass through ``jit``, ``vmap`` and ``scan``.

Like ``jax.tree_util.register_dataclass``, but unflattening does not call ``__init__``: a record
that leaves ``vmap`` has batch axes that its annotations do not mention, and a record that JAX
rebuilds may hold tracers or placeholders."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

__all__ = ["static", "value"]

T = TypeVar("T")


def static() -> Any:
    """A field of a record that is not an array: part of the structure, hashable."""
    return dataclasses.field(metadata={"static": True})


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(static, dataclasses.field)
)
def value(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only dataclass and a pytree; all fields but :func:`static`
    ones are children."""
    record = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(record)  # type: ignore[arg-type]
    children = [f.name for f in fields if not f.metadata.get("static")]
    constants = [f.name for f in fields if f.metadata.get("static")]

    def flatten(record: T) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        pairs = [(jax.tree_util.GetAttrKey(name), getattr(record, name)) for name in children]
        return pairs, tuple(getattr(record, name) for name in constants)

    def unflatten(aux: tuple[Any, ...], leaves: Any) -> T:
        new = object.__new__(record)
        for name, leaf in [*zip(children, leaves, strict=True), *zip(constants, aux, strict=True)]:
            object.__setattr__(new, name, leaf)
        return new

    jax.tree_util.register_pytree_with_keys(record, flatten, unflatten)
    return record
