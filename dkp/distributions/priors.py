"""Distributions in files: the class, by name, and what its constructor was called with."""

import inspect
from typing import Any

import numpyro.distributions as dist
from numpyro.distributions.transforms import Transform

from dkp._core.records import Refused, Sort, register_sort

__all__: list[str] = []

_ATTRIBUTES = {"base_distribution": "base_dist"}
"""Arguments that NumPyro keeps under another name."""


def _encode(law: Any) -> list[Any]:
    """The class (its name, where NumPyro has it) and its arguments."""
    return [_name(type(law)) or type(law), _arguments(law)]


def _decode(pair: Any) -> Any:
    what, arguments = pair
    cls = _class(what) if isinstance(what, str) else what
    if not (isinstance(cls, type) and issubclass(cls, (dist.Distribution, Transform))):
        raise ValueError(f"a distribution of the unknown name {what!r}")
    return cls(**arguments)


def _name(cls: type) -> str | None:
    return cls.__name__ if _class(cls.__name__) is cls else None


def _class(name: str) -> Any:
    return getattr(dist, name, getattr(dist.transforms, name, None))


def _arguments(law: Any) -> dict[str, Any]:
    """What its constructor was called with, but for what is its default."""
    parameters = inspect.signature(type(law)).parameters
    names = [name for name in parameters if name != "validate_args"]
    missing = [name for name in names if not hasattr(law, _ATTRIBUTES.get(name, name))]
    if missing:
        raise Refused(
            "Expected a prior whose arguments are its attributes, to read them back. Got "
            f"{type(law).__name__}, which lacks {', '.join(missing)}."
        )
    found = {name: getattr(law, _ATTRIBUTES.get(name, name)) for name in names}
    return {name: v for name, v in found.items() if v is not parameters[name].default}


register_sort(
    "distribution", Sort(lambda node: isinstance(node, dist.Distribution), _encode, _decode)
)
register_sort("transform", Sort(lambda node: isinstance(node, Transform), _encode, _decode))
