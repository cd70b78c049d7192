"""Kernels over features: where a list of layers starts.

They alone see the inputs; every layer after them sees Gram matrices only.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dkp._core.description import hyperparameter, learn
from dkp._core.types import Array, Float
from dkp.gram.pairs import Features, Pairs
from dkp.kernels.base import InputKernel

__all__ = ["Linear"]


class Linear(InputKernel):
    """k(x, z) = (1/D) sum_d a_d^2 x_d z_d + bias.

    Args:
        ard: give every feature its own weight (automatic relevance determination), learned unless
            `weights` says otherwise.
        weights: the factors a_d of the features, positive; shape (D,) with `ard`, a scalar (1
            unless given) without. ``dkp.distributions.SqrtPositiveStable(alpha / 2)`` makes the
            weights of each feature alpha-stable.
        bias: variance of a constant feature, nonnegative.

    Raises:
        ValueError: when a number or an initial value lies outside its domain, or, when called, if
            the number of weights is not the number of features.

    Source: Rasmussen & Williams 2006, section 4.2.2; with infinitely wide layers on top, Neal 1996,
    chapter 2.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Linear(bias=1.0)], x).round(3))
        [[3. 2.]
         [2. 2.]]
    """

    ard: bool = False
    weights: Any = hyperparameter(default=1.0)
    bias: Any = hyperparameter(default=0.0, domain="nonnegative")

    def __post_init__(self) -> None:
        # By identity: weights that a user gives are kept, even if they equal the default.
        if self.ard and self.weights is type(self).weights:
            object.__setattr__(self, "weights", learn())
        self.check_hyperparameters()

    def hyperparameter_shapes(self, n_features: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
        return {"weights": (n_features,)} if self.ard else {}

    def pairs(self, block: Features) -> Pairs:
        x, y = self._weighted(block.x), self._weighted(block.y)
        if block.all_locations:
            xy, own = self._products("mhwc,nijc->mnhiwj", x, y), "mhwc,mijc->mhiwj"
        else:
            xy, own = self._products("m...c,n...c->mn...", x, y), "m...c,m...c->m..."
        first = Pairs(
            xy=xy,
            xx=self._products(own, x, x),
            yy=self._products(own, y, y),
            tangent=jnp.zeros_like(xy) if block.tangent else None,
            equal=block.equal,
        )
        return first.replace(xy=first.on_diagonal(xy, first.variances()[0]))

    def _weighted(self, x: Float[Array, "N *space D"]) -> Float[Array, "N *space D"]:
        weights = jnp.asarray(self.weights, x.dtype)
        if weights.shape not in ((), x.shape[-1:]):
            raise ValueError(
                "Expected Linear(weights=…) to be one number, or one for each of the "
                f"{x.shape[-1]} features. Got shape {weights.shape}."
            )
        return x * jnp.broadcast_to(weights, (1,) * (x.ndim - 1) + x.shape[-1:])

    def _products(
        self, axes: str, x: Float[Array, "N *space D"], z: Float[Array, "M *space D"]
    ) -> Array:
        # The full precision of the dtype on accelerators too: distances come from differences of
        # these numbers.
        products = jnp.einsum(axes, x, z, precision=jax.lax.Precision.HIGHEST) / x.shape[-1]
        return products + jnp.asarray(self.bias, x.dtype)
