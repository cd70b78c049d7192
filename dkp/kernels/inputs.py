"""Kernels over features: where a list of layers starts.

They alone see the inputs; every layer after them sees Gram matrices only.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dkp._spec import hyperparameter, learn
from dkp._types import Array, Float, Scalar
from dkp.kernels.base import InputKernel
from dkp.linalg.blocks import Gram, Inputs

__all__ = ["Linear"]


class Linear(InputKernel):
    """k(x, z) = (1/D) sum_d a_d^2 x_d z_d + bias.

    Args:
        ard: give every feature its own weight (automatic relevance determination), learned unless `weights` says
            otherwise.
        weights: the factors a_d of the features, positive; shape (D,) with `ard`, a scalar (1 unless given) without.
        bias: variance of a constant feature, nonnegative.

    Raises:
        ValueError: when a number or an initial value lies outside its domain, or, when called, if the number of
            weights is not the number of features.

    Source: Rasmussen & Williams 2006, section 4.2.2; with infinitely wide layers on top, Neal 1996, chapter 2.
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

    def __call__(self, inputs: Inputs) -> Gram:
        i = self._weighted(inputs.i)
        if inputs.t is None:
            return Gram(ii=self._products(i, i))
        t = self._weighted(inputs.t)
        return Gram(ii=self._products(i, i), ti=self._products(t, i), tt=self._squares(t))

    def _weighted(self, x: Float[Array, "N D"]) -> Float[Array, "N D"]:
        weights = jnp.asarray(self.weights, x.dtype)
        if weights.shape not in ((), x.shape[-1:]):
            raise ValueError(
                f"Expected Linear(weights=…) to be one number, or one for each of the {x.shape[-1]} features. "
                f"Got shape {weights.shape}."
            )
        return x * jnp.broadcast_to(weights, x.shape[-1:])[None, :]

    def _products(self, x: Float[Array, "N D"], z: Float[Array, "M D"]) -> Float[Array, "N M"]:
        # The full precision of the dtype on accelerators too: distances come from differences of these numbers.
        return jnp.matmul(x, z.T, precision=jax.lax.Precision.HIGHEST) / x.shape[-1] + self._bias(x)

    def _squares(self, x: Float[Array, "N D"]) -> Float[Array, " N"]:
        return jnp.sum(x * x, axis=-1) / x.shape[-1] + self._bias(x)

    def _bias(self, x: Float[Array, "N D"]) -> Scalar:
        return jnp.asarray(self.bias, x.dtype)
