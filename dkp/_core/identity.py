"""The fingerprint of a call: what its model, data and options say.

A file recognises the call by it.
"""

import dataclasses
import functools
import hashlib
import re
import types
import weakref
from typing import Any

import jax
import numpy as np
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import lazy_property

from dkp._core.checks import is_typed_key
from dkp._core.description import Learn

__all__ = ["fingerprint", "plain"]

_KEPT = (lazy_property, functools.cached_property)


def fingerprint(*nodes: Any) -> str:
    """A digest of what `nodes` say, the same in every process.

    Descriptions, dataclasses, arrays, containers, and NumPyro's distributions, transforms and
    constraints are taken apart; classes are known by name, functions by their code and what they
    close over. Numbers keep their type: 1 and 1.0 are not the same to a compiler.
    """
    digest = hashlib.sha256()
    _feed(digest, nodes, ())
    return digest.hexdigest()


def plain(array: Any) -> np.ndarray:
    """An array as numbers: of random keys, their data."""
    return np.asarray(jax.random.key_data(array) if is_typed_key(array) else array)


def _feed(digest: Any, node: Any, inside: tuple[types.FunctionType, ...]) -> None:
    """Take in a node, within functions that are being taken in.

    A function that calls itself closes over itself.
    """
    kind, parts = _parts(node, inside)
    digest.update(f"{len(kind)}:{kind}".encode())
    if isinstance(parts, bytes):
        digest.update(f"{len(parts)}:".encode() + parts)
        return
    within = (*inside, node) if isinstance(node, types.FunctionType) else inside
    digest.update(f"({len(parts)}".encode())
    for part in parts:
        _feed(digest, part, within)


def _parts(node: Any, inside: tuple[types.FunctionType, ...]) -> tuple[str, bytes | list[Any]]:
    """What kind of thing a node is, and its bytes or the parts that it is made of."""
    kind = f"{type(node).__module__}.{type(node).__qualname__}"
    match node:
        case np.ndarray() | np.generic() | jax.Array():
            numbers = plain(node)
            return f"array {numbers.dtype} {numbers.shape}", np.ascontiguousarray(numbers).tobytes()
        case types.FunctionType() if node not in inside:
            cells = [cell.cell_contents for cell in node.__closure__ or ()]
            return _name(node), [node.__code__, node.__defaults__, cells]
        case types.FunctionType() | type():
            return _name(node), []
        case types.MethodType():
            return kind, [node.__func__, node.__self__]
        case types.CodeType():
            return kind, [node.co_code, node.co_names, list(node.co_consts)]
        case bytes():
            return kind, node
        case dict():
            return kind, [part for name in sorted(node, key=repr) for part in (name, node[name])]
        case tuple() | list():
            return kind, list(node)
        case frozenset():  # a constant of code, whose order differs from process to process
            return kind, sorted(map(repr, node))
        case Distribution() | Transform() | Constraint():
            return kind, _attributes(node)
        case Learn():
            return kind, [node.init]
    if dataclasses.is_dataclass(node):
        return kind, [getattr(node, field.name) for field in dataclasses.fields(node)]
    function = getattr(node, "__wrapped__", None)  # of one that was compiled, such as jnp.tanh
    if function is not None:
        return kind, [function]
    return kind, re.sub(" at 0x[0-9a-f]+", "", repr(node)).encode()


def _name(node: Any) -> str:
    return f"{node.__module__}.{node.__qualname__}"


def _attributes(node: Any) -> list[Any]:
    """Of a part of NumPyro: all but what it computed once and keeps, in the order of their names.

    NumPyro's own order differs from process to process.
    """
    return [
        part
        for name, value in sorted(vars(node).items())
        if not isinstance(value, weakref.ref)
        and not isinstance(getattr(type(node), name, None), _KEPT)
        for part in (name, value)
    ]
