"""Hyperparameters of a model: found by name, resolved to arrays.

A hyperparameter's name is its path in the description, such as ``layers.0.weights`` or
``likelihood.noise``. A number is fixed, ``learn(init)`` is optimised, a NumPyro distribution is
inferred.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from dkp._core.description import Learn, Pace, Spec
from dkp._core.types import Array

__all__ = [
    "Hyperparameter",
    "check_hyperparameters",
    "hyperparameters",
    "resolve",
    "substitute",
]

_CONSTRAINTS = {
    "positive": constraints.positive,
    # Optimised values are kept inside the domain, so the closed and the open half-line are one.
    "nonnegative": constraints.positive,
    "real": constraints.real,
    "unit_interval": constraints.unit_interval,
}

SpecT = TypeVar("SpecT", bound=Spec)


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter as the user wrote it: a number, ``learn`` or a distribution.

    With it go its domain and shape, and how fast an optimiser moves it.
    """

    name: str
    value: Any
    domain: str
    pace: Pace
    shape: tuple[int, ...]
    owner: Spec

    @property
    def is_learned(self) -> bool:
        return isinstance(self.value, Learn)

    @property
    def is_inferred(self) -> bool:
        return isinstance(self.value, dist.Distribution)

    @property
    def constraint(self) -> constraints.Constraint:
        """The support of the user's distribution, or the domain of the hyperparameter."""
        return (
            cast(constraints.Constraint, self.prior.support)
            if self.is_inferred
            else _CONSTRAINTS[self.domain]
        )

    @property
    def prior(self) -> dist.Distribution:
        """The user's distribution, expanded to the hyperparameter's shape as one event."""
        missing = self.shape[: len(self.shape) - len(self.value.shape())]
        prior = self.value.expand(missing + self.value.batch_shape) if missing else self.value
        return prior.to_event(len(prior.batch_shape))

    def constrain(self, unconstrained: Array) -> Array:
        """From the reals to the hyperparameter's domain: the exponential, for positive numbers."""
        return jnp.asarray(dist.biject_to(self.constraint)(unconstrained))

    def unconstrain(self, value: Array) -> Array:
        """From the hyperparameter's domain to the reals: the logarithm, for positive numbers."""
        return jnp.asarray(dist.biject_to(self.constraint).inv(value))

    def initial(self, x: Array, y: Array) -> Array:
        """Starting value of a learned hyperparameter.

        It is the user's, else one computed from the data, else 1.
        """
        start = self.value.init
        if start is None:
            start = self.owner.initial_values(x, y).get(self.name.rsplit(".", 1)[-1], 1.0)
        start = jnp.broadcast_to(jnp.asarray(start, dtype=x.dtype), self.shape)
        # 0 has no logarithm: a variance that starts at nothing starts at almost nothing.
        return jnp.maximum(start, 1e-6) if self.domain == "nonnegative" else start


def hyperparameters(model: Spec, n_features: int, n_outputs: int) -> dict[str, Hyperparameter]:
    """All hyperparameters of a description, by name, in the order of the description.

    Nothing is checked, so that they may be arrays of a program that is being traced.
    """
    found: dict[str, Hyperparameter] = {}

    def visit(owner: Spec, field: dataclasses.Field, name: str, value: Any) -> Any:
        shape = owner.hyperparameter_shapes(n_features, n_outputs).get(field.name, ())
        about = field.metadata
        found[name] = Hyperparameter(name, value, about["domain"], about["pace"], shape, owner)
        return value

    _map(model, "", visit)
    return found


def check_hyperparameters(found: Mapping[str, Hyperparameter]) -> None:
    """Raise ValueError when a value does not fit the shape or the domain of its hyperparameter."""
    for h in found.values():
        _check_shape(h)
        if h.is_inferred:
            _check_support(h)
            _check_declared(h)


def resolve(
    model: SpecT, values: Mapping[str, Array], dtype: jnp.dtype, n_features: int, n_outputs: int
) -> SpecT:
    """The description with every hyperparameter replaced by an array.

    The array is one of `values`, or the number that the hyperparameter is.
    """

    def visit(owner: Spec, field: dataclasses.Field, name: str, value: Any) -> Any:
        shape = owner.hyperparameter_shapes(n_features, n_outputs).get(field.name, ())
        return jnp.broadcast_to(jnp.asarray(values.get(name, value), dtype=dtype), shape)

    return _map(model, "", visit)


def substitute(model: SpecT, values: Mapping[str, Any]) -> SpecT:
    """The description with the named hyperparameters replaced, and the others as they were."""
    return _map(model, "", lambda owner, field, name, value: values.get(name, value))


def _map(spec: Any, path: str, visit: Callable[[Spec, dataclasses.Field, str, Any], Any]) -> Any:
    changes = {}
    for field in dataclasses.fields(spec):
        role, value = field.metadata.get("role"), getattr(spec, field.name)
        name = f"{path}{field.name}"
        if role == "hyperparameter":
            changes[field.name] = visit(spec, field, name, value)
        elif role == "part" and isinstance(value, tuple):
            changes[field.name] = tuple(
                _map(item, f"{name}.{i}.", visit) for i, item in enumerate(value)
            )
        elif role == "part":
            changes[field.name] = _map(value, f"{name}.", visit)
    return spec.replace(**changes)


def _check_shape(h: Hyperparameter) -> None:
    value = h.value.init if h.is_learned else h.value
    shape = value.shape() if h.is_inferred else () if value is None else np.shape(value)
    try:
        fits = jnp.broadcast_shapes(shape, h.shape) == h.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"Expected {h.name} to be a scalar or of shape {h.shape}. Got shape {shape}."
        )


def _check_support(h: Hyperparameter) -> None:
    support = h.value.support
    if getattr(support, "is_discrete", False):
        raise ValueError(
            f"Expected a continuous distribution for {h.name}. Got {type(h.value).__name__}, "
            "which is discrete: "
            "dkp.compare_widths compares widths."
        )
    if h.domain in ("positive", "nonnegative") and not _is_nonnegative(support):
        raise ValueError(
            f"Expected a distribution over {h.domain} numbers for {h.name}. Got "
            f"{type(h.value).__name__}."
        )


def _is_nonnegative(support: constraints.Constraint) -> bool:
    # of a distribution whose batch was made an event
    support = getattr(support, "base_constraint", support)
    if support in (
        constraints.positive,
        constraints.softplus_positive,
        constraints.nonnegative,
        constraints.unit_interval,
    ):
        return True
    lower = getattr(support, "lower_bound", None)

    return lower is not None and bool(np.all(np.asarray(lower) >= 0))


def _check_declared(h: Hyperparameter) -> None:
    """Programs take priors as their arguments: what a law does not declare to NumPyro is lost."""
    leaves, tree = jax.tree.flatten(h.value)
    copy = jax.tree.unflatten(tree, leaves)
    lost = [name for name in vars(h.value) if not name.startswith("_") and not hasattr(copy, name)]
    if lost:
        raise ValueError(
            f"Expected the prior of {h.name} to declare its parameters to NumPyro. Got "
            f"{type(h.value).__name__}, which does not declare {', '.join(lost)}: name them in its "
            "arg_constraints or pytree_data_fields (in pytree_aux_fields where they are no arrays)."
        )
