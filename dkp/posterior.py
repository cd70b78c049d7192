"""What every engine returns: something that draws networks, conditioned on the data.

A draw fixes the hyperparameters, the Gram factors at the inducing points and the law of the outputs; the function
values at any point follow from it by :func:`latent_moments`, in the same way for every engine.
"""

from typing import Any, Protocol, runtime_checkable

import jax

from dkp._types import Array, Float, PRNGKeyArray
from dkp._value import value
from dkp.bottlenecks import Bottleneck
from dkp.data import Dataset
from dkp.distributions.outputs import OutputLaw
from dkp.linalg.blocks import Gram, Inputs
from dkp.linalg.cholesky import cholesky
from dkp.model import DeepKernelProcess, propagate
from dkp.priors import resolve

__all__ = ["Draw", "Posterior", "latent_moments", "resolve_draw"]


@value
class Draw:
    """One posterior draw of a network (or a stack of draws, along a leading axis of every array).

    values: hyperparameters by name. inducing: (P, D). factors: S_l of every bottleneck. outputs: law of f.
    """

    values: dict[str, Array]
    inducing: Float[Array, "*S P D"]
    factors: tuple[Array, ...]
    outputs: OutputLaw


@runtime_checkable
class Posterior(Protocol):
    """A posterior over deep kernel processes."""

    model: DeepKernelProcess
    data: Dataset

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """A stack of n independent draws; a posterior that is known exactly may return a single one."""
        ...

    def summary(self) -> dict[str, Any]:
        """What a user should look at before trusting the fit."""
        ...


def resolve_draw(model: DeepKernelProcess, draw: Draw, n_outputs: int) -> DeepKernelProcess:
    """The model with the hyperparameters of one draw."""
    return resolve(model, draw.values, draw.inducing.dtype, draw.inducing.shape[-1], n_outputs)


def latent_moments(
    model: DeepKernelProcess, draw: Draw, key: PRNGKeyArray, x: Float[Array, "B D"], n_outputs: int
) -> tuple[Float[Array, "B Q"], Float[Array, "B Q"]]:
    """Mean and variance of the latent functions at `x`, given one draw; `key` is for the data blocks of the Grams."""

    def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
        layer_key = jax.random.fold_in(key, index)
        return layer.condition(layer_key, kernel, cholesky(kernel.ii), draw.factors[index - 1])

    resolved = resolve_draw(model, draw, n_outputs)
    gram = propagate(resolved.layers, Inputs(i=draw.inducing, t=x), bottleneck)
    return draw.outputs.moments(gram)
