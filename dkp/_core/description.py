"""Immutable descriptions (kernels, bottlenecks, likelihoods, models) and their hyperparameters.

A description is a frozen dataclass and a pytree. Its *hyperparameter* fields are leaves: in a
description that a user wrote they hold a number, a :func:`learn` marker or a NumPyro distribution;
in a *resolved* description, the only kind that computes anything, they hold arrays. Its *part*
fields are further descriptions, and all other fields are static. Unflattening does not call
``__init__``, so a class may check what its user wrote in ``__post_init__`` and is never asked to
check a tracer.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer

from dkp._core.records import Sort, register, register_sort

__all__ = ["DOMAINS", "Learn", "Pace", "Spec", "hyperparameter", "learn", "part"]

Pace = Literal["kernel", "matrix", "deviation", "concentration"]
"""How fast an optimiser moves a parameter, said where the parameter is made.

The paces are those of kernels (and inducing points), of entries of the matrices of guides, of what
is measured in standard deviations of a guide, and of logarithms of concentrations.
"""

DOMAINS: dict[str, Callable[[np.ndarray], Any]] = {
    "positive": lambda v: v > 0,
    "nonnegative": lambda v: v >= 0,
    "real": np.isfinite,
    "unit_interval": lambda v: (v >= 0) & (v <= 1),
}


@jax.tree_util.register_pytree_node_class
class Learn:
    """A hyperparameter that an engine optimises: see :func:`learn`.

    Attributes:
        init: where it starts, or None where the data decide. The only child of the pytree: models
            that differ in numbers alone share compiled programs.
    """

    __slots__ = ("init",)

    def __init__(self, init: Any = None) -> None:
        self.init = init

    def __repr__(self) -> str:
        return f"learn({'' if self.init is None else self.init})"

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        return (self.init,), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: tuple[Any]) -> "Learn":
        return cls(*children)


register_sort("learn", Sort(lambda node: isinstance(node, Learn), lambda node: node.init, Learn))


def learn(init: Any = None) -> Any:
    """Mark a hyperparameter as optimised, starting from `init`.

    Args:
        init: a number, or an array of the hyperparameter's shape, in the hyperparameter's own
            domain (a length-scale is positive, and so on). Without it, the engine starts from a
            value computed from the data.

    Raises:
        ValueError: when `init` is not finite.

    Examples:
        >>> import dkp
        >>> print(dkp.learn(2.0))
        learn(2.0)
    """
    if init is not None and not np.all(np.isfinite(np.asarray(init, dtype=float))):
        raise ValueError(f"Expected a finite initial value in learn(init). Got {init!r}.")
    return Learn(init)


def hyperparameter(
    default: Any = dataclasses.MISSING, *, domain: str = "positive", pace: Pace = "kernel"
) -> Any:
    """A dataclass field that holds a hyperparameter.

    Args:
        default: what it is where the user says nothing.
        domain: of its values, a key of ``DOMAINS``.
        pace: how fast an optimiser moves it, see :data:`Pace`.

    Examples:
        >>> import dkp
        >>> class Scaled(dkp.kernels.PointwiseKernel):
        ...     factor: float = dkp.hyperparameter(default=dkp.learn(1.0))
        ...     def evaluate(self, kxy, kxx, kyy):
        ...         return self.factor * kxy
        ...     def evaluate_diagonal(self, kxx):
        ...         return self.factor * kxx
        >>> print(Scaled())
        Scaled()
        >>> print(Scaled(2.0).factor)
        2.0
    """
    metadata = {"role": "hyperparameter", "domain": domain, "pace": pace}
    return dataclasses.field(default=default, metadata=metadata)


def part(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that holds another description, or a tuple of them."""
    return dataclasses.field(default=default, metadata={"role": "part"})


def _is_dynamic(field: dataclasses.Field) -> bool:
    return "role" in field.metadata


@dataclass_transform(
    frozen_default=True,
    eq_default=False,
    field_specifiers=(hyperparameter, part, dataclasses.field),
)
class Spec(abc.ABC):
    """Base of all descriptions: subclasses become frozen dataclasses and pytrees.

    What a subclass must write is an abstract method of its base: a description without it cannot be
    made, and says what is missing.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls))
        jax.tree_util.register_pytree_with_keys(
            cls, _flatten_with_keys, functools.partial(_unflatten, cls)
        )

    def __repr__(self) -> str:
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.repr and repr(value) != repr(field.default):
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def replace(self, **changes: Any) -> Any:
        """A copy with some fields changed; nothing is checked."""
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(new, field.name, changes.pop(field.name, getattr(self, field.name)))
        if changes:
            raise TypeError(f"Expected fields of {type(self).__name__}. Got {sorted(changes)}.")
        return new

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the hyperparameters that are not scalars, by field name."""
        return {}

    def initial_values(self, x: Any, y: Any) -> dict[str, Any]:
        """Starting values computed from the standardised data, by field name.

        A field of which nothing is said starts at 1.
        """
        return {}

    def check_hyperparameters(self) -> None:
        """Raise ValueError when a number or an initial value lies outside its domain.

        A class calls it in ``__post_init__``.
        """
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.metadata.get("role") != "hyperparameter":
                continue
            value = getattr(self, field.name)
            value = value.init if isinstance(value, Learn) else value
            if value is None and isinstance(getattr(self, field.name), Learn):
                continue  # the start is computed from the data
            if isinstance(value, Tracer) or hasattr(value, "log_prob"):
                continue  # being computed, or a distribution
            domain = field.metadata["domain"]
            numbers = _as_numbers(value)
            if not (np.all(np.isfinite(numbers)) and np.all(DOMAINS[domain](numbers))):
                name = f"{type(self).__name__}({field.name}=…)"
                raise ValueError(
                    f"Expected {name} to be finite and {domain.replace('_', ' ')}. Got {value!r}."
                )


def _as_numbers(value: Any) -> np.ndarray:
    """NaN, which lies in no domain, for what is no number: text and truth values included."""
    try:
        array = np.asarray(value)
        return array.astype(float) if array.dtype.kind in "iuf" else np.asarray(np.nan)
    except (TypeError, ValueError):
        return np.asarray(np.nan)


def _flatten_with_keys(spec: Spec) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    fields = dataclasses.fields(spec)  # type: ignore[arg-type]
    children = [
        (jax.tree_util.GetAttrKey(f.name), getattr(spec, f.name)) for f in fields if _is_dynamic(f)
    ]
    return children, tuple(getattr(spec, f.name) for f in fields if not _is_dynamic(f))


def _unflatten(cls: type[Spec], aux: tuple[Any, ...], leaves: Any) -> Spec:
    spec = object.__new__(cls)
    static, dynamic = iter(aux), iter(leaves)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        object.__setattr__(spec, field.name, next(dynamic) if _is_dynamic(field) else next(static))
    return spec
