"""What a description says, apart from which object says it: equal descriptions share compiled
programs, and a checkpoint recognises its call."""

import dataclasses
import functools
import hashlib
import types
import weakref
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import lazy_property

from dkp._core.checks import is_typed_key
from dkp._core.description import Learn, Spec

__all__ = ["fingerprint", "plain", "structure"]


def structure(node: Any) -> Any:
    """`node` as nested tuples that compare and hash by what it says.

    Descriptions, dataclasses that compare by their fields, arrays, containers, and NumPyro's
    distributions, transforms and constraints are taken apart. Anything else is itself where it has
    a hash, and known by its identity where not. Numbers keep their type: 1 and 1.0 are not the same
    to a compiler."""
    if isinstance(node, Spec) or _is_compared_by_fields(node):
        return (
            type(node),
            *(structure(getattr(node, field.name)) for field in dataclasses.fields(node)),
        )  # type: ignore[arg-type]
    if isinstance(node, Learn):
        return (Learn, structure(node.init))
    if isinstance(node, (np.ndarray, np.generic, jax.Array)) and not isinstance(node, Tracer):
        return _structure_of_array(node)
    if isinstance(node, (tuple, list)):
        return (type(node), *(structure(item) for item in node))
    if isinstance(node, dict):
        return (dict, *((name, structure(node[name])) for name in sorted(node, key=repr)))
    if isinstance(node, (Distribution, Transform, Constraint)):
        return (type(node), *_attributes(node))
    if isinstance(node, types.MethodType):
        return (types.MethodType, node.__func__, structure(node.__self__))
    if isinstance(node, (bool, int, float)):
        return (type(node), node)
    return node if _has_hash(node) else _Same(node)


def fingerprint(*nodes: Any) -> str:
    """A digest of the structure of `nodes` that is the same in every process: classes are known by
    name, functions by their code and what they close over."""
    digest = hashlib.sha256()
    _feed(digest, structure(nodes))
    return digest.hexdigest()


def plain(array: Any) -> np.ndarray:
    """An array as numbers: of random keys, their data."""
    return np.asarray(jax.random.key_data(array) if is_typed_key(array) else array)


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


def _structure_of_array(array: Any) -> Any:
    numbers = plain(array)
    if numbers.dtype.hasobject:
        return _Same(array)
    digest = hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).digest()
    return (str(numbers.dtype), numbers.shape, getattr(array, "weak_type", False), digest)


def _attributes(node: Any) -> list[tuple[str, Any]]:
    """Of a part of NumPyro: all but what it computed once and keeps. In the order of their names,
    because NumPyro's own differs from process to process."""
    kept = (lazy_property, functools.cached_property)
    return [
        (name, structure(value))
        for name, value in sorted(vars(node).items())
        if not isinstance(value, weakref.ref)
        and not isinstance(getattr(type(node), name, None), kept)
    ]


def _has_hash(node: Any) -> bool:
    try:
        hash(node)
    except TypeError:
        return False
    return True


def _feed(digest: Any, node: Any, inside: tuple[types.FunctionType, ...] = ()) -> None:
    """Take in a structure, within functions that are being taken in: one that calls itself closes
    over itself."""
    if isinstance(node, tuple):
        digest.update(f"({len(node)}:".encode())
        for item in node:
            _feed(digest, item, inside)
    # a constant of code, whose order differs from process to process
    elif isinstance(node, frozenset):
        _feed(digest, tuple(sorted(map(repr, node))), inside)
    elif isinstance(node, bytes):
        digest.update(f"{len(node)}:".encode() + node)
    elif isinstance(node, types.FunctionType) and node not in inside:
        cells = [cell.cell_contents for cell in node.__closure__ or ()]
        _feed(
            digest,
            (
                node.__module__,
                node.__qualname__,
                node.__code__,
                structure((node.__defaults__, cells)),
            ),
            (*inside, node),
        )
    elif isinstance(node, types.CodeType):
        _feed(digest, (node.co_code, node.co_names, *node.co_consts), inside)
    else:
        named = isinstance(node, (type, types.FunctionType))
        text = f"{node.__module__}.{node.__qualname__}" if named else repr(node)
        digest.update(f"{len(text)}:{text}".encode())
