"""The codec of files: trees of records as JSON and arrays, and what a file may name.

A tree is made of records (dataclasses of this package, and those that users register), containers,
numbers, text, arrays and random keys. A file says which they are and holds their fields; reading it
looks names up in the register and builds the records, and calls nothing else.
"""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core.checks import is_typed_key

__all__ = [
    "Leaves",
    "Refused",
    "Sort",
    "decode",
    "encode",
    "register",
    "register_sort",
    "unstorable",
]

T = TypeVar("T")

_REGISTER: dict[str, Any] = {}
_SORTS: dict[str, "Sort"] = {}


class Refused(ValueError):
    """Why a tree cannot be written, or a file that may be in order cannot be read here."""


class Sort(NamedTuple):
    """Things that are no dataclasses, and how they become parts of which they can be made again.

    Attributes:
        belongs: whether something is of this sort.
        encode: from such a thing to a tree; raises :class:`Refused` where it cannot.
        decode: from that tree to the thing.
    """

    belongs: Callable[[Any], bool]
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class Leaves:
    """A tree of any classes, of which the leaves are stored, by their order alone.

    It is read with :meth:`like`, which takes the structure from a template: states of optimisers
    are made of classes of other packages, which files do not name.
    """

    def __init__(self, tree: Any) -> None:
        self._leaves = jax.tree.leaves(tree)

    def like(self, template: T) -> T:
        """The tree, with the structure of `template`.

        Raises:
            ValueError: when the leaves have other shapes or dtypes.
        """
        leaves, structure = jax.tree.flatten(template)
        known = [(np.shape(leaf), getattr(leaf, "dtype", None)) for leaf in leaves]
        if known != [(np.shape(leaf), getattr(leaf, "dtype", None)) for leaf in self._leaves]:
            raise ValueError(
                "Expected a checkpoint of this program. Got one of another version: delete it."
            )
        return jax.tree.unflatten(structure, self._leaves)


def register(member: T) -> T:
    """Let files name a class or a function: as a decorator, or called.

    Kernels, bottlenecks, likelihoods and guides are registered when they are defined. Others are by
    this: a frozen dataclass, a NumPyro distribution, or a function that a kernel holds, such as the
    activation of ``kernels.Activation``. The same line must run before a file is loaded, because
    loading imports nothing.

    Args:
        member: a class or a function, known by its module and name.

    Returns:
        the same.

    Raises:
        ValueError: for anything else.

    Examples:
        >>> import jax
        >>> import dkp
        >>> @dkp.io.register
        ... def softplus_squared(u):
        ...     return jax.nn.softplus(u) ** 2
    """
    if not callable(member) or not hasattr(_unwrapped(member), "__qualname__"):
        raise ValueError(f"Expected a class or a function to register. Got {member!r}.")
    _REGISTER[_name(member)] = member
    return member


def register_sort(name: str, sort: Sort) -> None:
    """Let files hold another sort of things, under a name of its own."""
    _SORTS[name] = sort


def unstorable(tree: Any) -> str | None:
    """Why a tree cannot be written to a file; None where it can."""
    try:
        encode(tree, {})
    except Refused as error:
        return str(error)
    return None


def encode(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A tree as JSON; its arrays go into `arrays`.

    Raises:
        Refused: for what is none of the things that files hold.
    """
    if node is None or isinstance(node, (bool, int, str)):
        return node
    if isinstance(node, float):
        return {"float": node.hex()}
    if is_typed_key(node):
        return {
            "key": str(jax.random.key_impl(node)),
            "data": _array(jax.random.key_data(node), arrays),
        }
    if isinstance(node, (np.ndarray, np.generic, jax.Array)):
        return _array(node, arrays)
    if type(node) in (tuple, list):
        return {type(node).__name__: [encode(item, arrays) for item in node]}
    if isinstance(node, dict):
        return {"dict": {_text(key): encode(item, arrays) for key, item in node.items()}}
    if isinstance(node, Leaves):
        return {"leaves": [encode(leaf, arrays) for leaf in node._leaves]}
    for name, sort in _SORTS.items():
        if sort.belongs(node):
            return {name: encode(sort.encode(node), arrays)}
    if _REGISTER.get(_name(node)) is node and callable(node):
        return {"named": _name(node)}
    if _REGISTER.get(_name(type(node))) is type(node) and dataclasses.is_dataclass(node):
        fields = {f.name: encode(getattr(node, f.name), arrays) for f in dataclasses.fields(node)}
        return {"record": _name(type(node)), "fields": fields}
    raise Refused(_unknown(node))


def decode(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The tree that :func:`encode` took.

    Raises:
        Refused: for names that are not registered here, and arrays of another precision.
        Exception: of any kind, for JSON that somebody made up.
    """
    if node is None or isinstance(node, (bool, int, str)):
        return node
    kind = next(iter(node))
    content = node[kind]
    match kind:
        case "float":
            return float.fromhex(content)
        case "array":
            return _device_array(arrays[content]) if node["device"] else arrays[content]
        case "key":
            return jax.random.wrap_key_data(decode(node["data"], arrays), impl=content)
        case "tuple" | "list":
            items = [decode(item, arrays) for item in content]
            return items if kind == "list" else tuple(items)
        case "dict":
            return {key: decode(item, arrays) for key, item in content.items()}
        case "leaves":
            return Leaves([decode(item, arrays) for item in content])
        case "named":
            return _member(content)
        case "record":
            fields = {name: decode(value, arrays) for name, value in node["fields"].items()}
            return _record(_member(content), fields)
    if kind not in _SORTS:
        raise ValueError(f"an entry of the unknown kind {kind!r}")
    # Files of format 1 wrote a distribution beside its arguments.
    return _SORTS[kind].decode(decode(content, arrays) if len(node) == 1 else _old(node, arrays))


def _old(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    name, arguments = node.values()
    return [name, decode(arguments, arrays)]


def _record(cls: Any, fields: dict[str, Any]) -> Any:
    """A record with these fields: whatever its constructor computes is among them already.

    Fields that a file of an older version lacks get their defaults; a class whose fields changed
    otherwise says how, in a classmethod ``from_fields``.
    """
    known = {f.name: f for f in dataclasses.fields(cls)}
    if known.keys() != fields.keys() and hasattr(cls, "from_fields"):
        return cls.from_fields(fields)
    missing = known.keys() - fields.keys()
    if fields.keys() - known.keys() or any(_has_no_default(known[name]) for name in missing):
        raise ValueError(f"the fields {sorted(fields)} for {cls.__name__}")
    record = object.__new__(cls)
    for name in known:
        value = fields[name] if name in fields else known[name].default
        object.__setattr__(record, name, value)
    return record


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _member(name: str) -> Any:
    if name not in _REGISTER and ":" not in name:
        name = _today(name)
    if name not in _REGISTER:
        raise Refused(
            f"{name}, which is not known here: import the module that defines it first, and "
            "register it with dkp.io.register where it is no kernel, bottleneck, likelihood or "
            "guide."
        )
    return _REGISTER[name]


def _today(name: str) -> str:
    """The name of a class of this package from that in an old file.

    Old names had the module of the class, and there were other classes for kernels of features.
    """
    room, *_, last = name.split(".")
    return f"{room}.{last.removeprefix('_Input')}"


def _name(member: Any) -> str:
    """Of a class or a function: the name under which files know it.

    Within this package it is the room and the name, so that files outlive moves of modules;
    elsewhere the module and the name.
    """
    member = _unwrapped(member)
    module = getattr(member, "__module__", None) or ""
    name = getattr(member, "__qualname__", "")
    return f"{module.split('.')[1]}.{name}" if module.startswith("dkp.") else f"{module}:{name}"


def _unwrapped(member: Any) -> Any:
    return member if isinstance(member, type) else getattr(member, "__wrapped__", member)


def _unknown(node: Any) -> str:
    is_named = isinstance(node, (type, types.FunctionType)) or hasattr(node, "__wrapped__")
    what = _name(node) if is_named else f"{type(node).__name__} ({_name(type(node))})"
    return (
        f"Expected parts that a file can name: of this package, priors of numpyro.distributions, "
        f"or registered with dkp.io.register. Got {what}."
    )


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise Refused(f"Expected names to be text. Got {key!r}.")
    return key


def _array(node: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    name = f"array{len(arrays)}"
    arrays[name] = np.asarray(node)
    return {"array": name, "device": isinstance(node, jax.Array)}


def _device_array(array: np.ndarray) -> jax.Array:
    if array.dtype == np.float64 and jnp.result_type(float) != np.float64:
        raise Refused(
            'arrays of float64: set jax.config.update("jax_enable_x64", True) first, as when it '
            "was saved."
        )
    return jnp.asarray(array)
