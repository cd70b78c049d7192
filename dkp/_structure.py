"""What a description says, apart from which object says it: equal descriptions share compiled programs, and a
checkpoint recognises its call."""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform

from dkp._spec import Learn, Spec

__all__ = ["fingerprint", "plain", "structure"]


def structure(node: Any) -> Any:
    """`node` as nested tuples that compare and hash by what it says.

    Descriptions, dataclasses that compare by their fields, arrays, containers, and NumPyro's distributions, transforms
    and constraints are taken apart. Anything else is itself where it has a hash, and known by its identity where not.
    Numbers keep their type: 1 and 1.0 are not the same to a compiler.
    """
    if isinstance(node, Spec) or _is_compared_by_fields(node):
        return (type(node), *(structure(getattr(node, field.name)) for field in dataclasses.fields(node)))
    if isinstance(node, Learn):
        return (Learn, structure(node.init))
    if isinstance(node, (np.ndarray, np.generic, jax.Array)) and not isinstance(node, Tracer):
        array = plain(node)
        return (str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes())
    if isinstance(node, (tuple, list)):
        return tuple(structure(item) for item in node)
    if isinstance(node, dict):
        return tuple((name, structure(item)) for name, item in sorted(node.items()))
    if isinstance(node, (Distribution, Transform, Constraint)):
        # In the order of their names: NumPyro's own differs from process to process.
        return (type(node), *((name, structure(vars(node).get(name))) for name in sorted(_fields(node))))
    if isinstance(node, (bool, int, float)):
        return (type(node), node)
    return node if _has_hash(node) else _Same(node)


def fingerprint(*nodes: Any) -> str:
    """A digest of the structure of `nodes` that is the same in every process: classes and functions are known by
    name."""
    digest = hashlib.sha256()
    _feed(digest, structure(nodes))
    return digest.hexdigest()


def plain(array: Any) -> np.ndarray:
    """An array as numbers: of random keys, their data."""
    is_key = isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)


class _Same:
    """An object without a hash, equal to itself alone."""

    def __init__(self, node: Any) -> None:
        self.node = node

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.node is other.node

    def __hash__(self) -> int:
        return id(self.node)

    def __repr__(self) -> str:
        return repr(self.node)


def _is_compared_by_fields(node: Any) -> bool:
    is_instance = dataclasses.is_dataclass(node) and not isinstance(node, type)
    return is_instance and type(node).__eq__ is not object.__eq__


def _fields(node: Any) -> tuple[str, ...]:
    if isinstance(node, Distribution):
        return (*type(node).gather_pytree_data_fields(), *type(node).gather_pytree_aux_fields())
    return tuple(node.tree_flatten()[1][0])


def _has_hash(node: Any) -> bool:
    try:
        hash(node)
    except TypeError:
        return False
    return True


def _feed(digest: Any, node: Any) -> None:
    if isinstance(node, tuple):
        digest.update(f"({len(node)}".encode())
        for item in node:
            _feed(digest, item)
    elif isinstance(node, bytes):
        digest.update(node)
    else:
        text = f"{node.__module__}.{node.__qualname__}" if hasattr(node, "__qualname__") else repr(node)
        digest.update(f"{text};".encode())
