"""One draw of a network from a posterior, and the latent functions that follow from it.

They follow in the same way for every engine.
"""

import jax

from dkp._core.record import value
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.bottlenecks.base import Bottleneck
from dkp.gram.gram import Gram, Inputs
from dkp.linalg.cholesky import cholesky
from dkp.model.hyperparameters import resolve
from dkp.model.outputs import OutputLaw
from dkp.model.process import DeepKernelProcess
from dkp.model.propagate import propagate

__all__ = ["Draw", "latent_moments", "resolve_draw"]


@value
class Draw:
    """One posterior draw of a network, or a stack of draws.

    A stack has a leading axis of draws in every array.

    Attributes:
        values: hyperparameters by name.
        inducing: (P, D), or images (P, H, W, D).
        factors: S_l of every bottleneck, any root of its Gram matrix, G = S S^T, with rows as in
            `inducing`.
        outputs: law of f; None where the posterior itself computes the latent functions.
        f: latent functions at the inducing points, (P, Q), where they are part of the draw.
    """

    values: dict[str, Array]
    inducing: Float[Array, "..."]
    factors: tuple[Array, ...]
    outputs: OutputLaw | None = None
    f: Float[Array, "..."] | None = None


def resolve_draw(model: DeepKernelProcess, draw: Draw, n_outputs: int) -> DeepKernelProcess:
    """The model with the hyperparameters of one draw."""
    return resolve(model, draw.values, draw.inducing.dtype, draw.inducing.shape[-1], n_outputs)


def latent_moments(
    model: DeepKernelProcess,
    draw: Draw,
    key: PRNGKeyArray,
    x: Float[Array, "B *space D"],
    n_outputs: int,
) -> tuple[Float[Array, "B Q"], Float[Array, "B Q"]]:
    """Mean and variance of the latent functions at `x`, given one draw.

    The key is for the data blocks of the Gram matrices.
    """

    def bottleneck(index: int, layer: Bottleneck, kernel: Gram) -> Gram:
        layer_key = jax.random.fold_in(key, index)
        return layer.condition(layer_key, kernel, cholesky(kernel.ii), draw.factors[index - 1])

    resolved = resolve_draw(model, draw, n_outputs)
    gram = propagate(resolved.layers, Inputs(i=draw.inducing, t=x), bottleneck)
    assert draw.outputs is not None
    return draw.outputs.moments(gram)
