"""Steps of variational inference: Adam, and natural gradients of the outputs.

Adam has one rate for each kind of parameter.

Optimisers are functions, which equal themselves alone: equal ones are made once, so that fits share
programs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dkp._core.description import Pace
from dkp._core.types import Array

__all__ = [
    "FROM_KERNEL",
    "FROM_KERNEL_NOT_GAUSSIAN",
    "FROM_NOTHING",
    "FROM_SUBSET",
    "default_optimizer",
    "natural_outputs",
    "start_optimizer",
    "warmup_steps",
]

FROM_KERNEL, FROM_SUBSET, FROM_NOTHING = 3e-3, 5e-3, 2e-2
"""Rates of kernels and inducing points, by where a fit starts."""

FROM_KERNEL_NOT_GAUSSIAN = 1e-2
"""Of likelihoods other than Gaussian noise: at 0.003 the bound was lower on MNIST, digits,
breast_cancer and wine. With Gaussian noise and minibatches 0.01 was worse on kin8nm and naval."""

_START = 0.02
_NATURAL_STEP = 0.1
_WARMUP = 300


def default_optimizer(
    steps: int, *, paces: dict[str, Any], rate: float = FROM_KERNEL, warmup: int = 0
) -> optax.GradientTransformation:
    """Adam with a cosine decay to 1% and one learning rate for each pace.

    Adam moves every entry by its learning rate whatever the gradient's noise. The guides' matrices
    move slowly (0.001), kernels and inducing points at a `rate` that depends on how far they have
    to go: 0.003 from the network without noise (0.01 where that of the outputs is not Gaussian),
    0.005 from a fit to a subset, 0.02 from nowhere. What is measured in standard deviations of a
    guide moves faster (0.05), and so do the logarithms of concentrations (0.03).

    Rates rise from 0 over the first `warmup` steps: outputs that are not integrated out start at
    nothing, and while they do, everything else would move towards a model that needs none. On a
    large set (power) the bound then stayed 1 nat a point lower for ten thousand steps.

    Args:
        steps: over which the rates fall.
        paces: of every parameter, as :meth:`VariationalFamily.paces` gives them.
        rate: of the pace "kernel".
        warmup: steps over which the rates rise.
    """
    names, structure = jax.tree.flatten(paces)
    return _adam(steps, rate, warmup, tuple(names), structure)


@functools.lru_cache(maxsize=32)
def _adam(
    steps: int, rate: float, warmup: int, paces: tuple[Pace, ...], structure: Any
) -> optax.GradientTransformation:
    rates: dict[Pace, float] = {
        "matrix": 1e-3,
        "kernel": rate,
        "deviation": 5e-2,
        "concentration": 3e-2,
    }
    schedules: Any = {
        pace: optax.adam(_ramped(optax.cosine_decay_schedule(rate, steps, alpha=0.01), warmup))
        for pace, rate in rates.items()
    }
    declared = jax.tree.unflatten(structure, paces)
    return optax.multi_transform(schedules, functools.partial(_declared, declared))


def _declared(paces: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """The pace of each parameter; the outputs, which have none, are somebody else's."""
    return {
        name: paces[name] if name in paces else jax.tree.map(lambda _: "kernel", value)
        for name, value in parameters.items()
    }


@functools.lru_cache(maxsize=32)
def start_optimizer(steps: int, *, warmup: int) -> optax.GradientTransformation:
    """Adam, from 0.02 to a tenth of it, for the first stage.

    It moves all parameters but those of the outputs, which take natural gradients, and of the
    guides of bottlenecks and hyperparameters, which stay.
    """
    schedule = _ramped(optax.cosine_decay_schedule(_START, steps, alpha=0.1), warmup)
    return optax.multi_transform(
        {"guides": optax.set_to_zero(), "others": natural_outputs(optax.adam(schedule), steps)},
        _labels({"bottlenecks": "guides", "inferred": "guides"}),
    )


def _ramped(schedule: optax.Schedule, warmup: int) -> optax.Schedule:
    """A schedule that rises from 0 over its first `warmup` steps."""
    return lambda step: schedule(step) * jnp.minimum((step + 1) / max(warmup, 1), 1.0)


def warmup_steps(steps: int) -> int:
    """How many of so many steps go to outputs that start at nothing.

    Everything else hardly moves while they do.
    """
    return min(_WARMUP, steps // 10)


@functools.lru_cache(maxsize=32)
def natural_outputs(
    optimizer: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    """`optimizer` for all parameters but those of the outputs.

    The outputs take steps along their natural gradient.

    Their step length falls from 0.1 to 0.01, a weighted mean over about as many batches as it has
    inverse units.
    """

    def step_length(count: Any) -> Array:
        done = jnp.minimum(jnp.asarray(count, jnp.float32) / steps, 1)
        return _NATURAL_STEP * (0.1 + 0.45 * (1 + jnp.cos(jnp.pi * done)))

    return optax.multi_transform(
        {"outputs": optax.sgd(step_length), "others": optimizer},
        _labels({"outputs": "outputs"}),
    )


def _labels(of: dict[str, str]) -> Callable[[dict[str, Any]], Any]:
    """A label for each parameter by the group that it stands in.

    It is "others" where the group has none.
    """
    return lambda parameters: {
        name: jax.tree.map(lambda _, name=name: of.get(name, "others"), value)
        for name, value in parameters.items()
    }
