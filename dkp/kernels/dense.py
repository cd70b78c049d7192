"""Dense layers: where the weights of an infinitely wide network stand.

The tangent kernel grows in them.
"""

from typing import Any

import jax.numpy as jnp

from dkp._core.checks import one_of, positive_int
from dkp._core.description import hyperparameter
from dkp._core.types import Array
from dkp.gram.pairs import Pairs
from dkp.kernels.base import Kernel

__all__ = ["Affine", "check_parametrisation", "trained"]


class Affine(Kernel):
    """K' = weight_var K + bias_var: a dense layer, weights and biases.

    Its tangent kernel is T' = K' + weight_var T.

    In the NTK parametrisation W = sqrt(weight_var / n) w and b = sqrt(bias_var) c, where w,
    c ~ N(0, 1) are trained. In the standard parametrisation W ~ N(0, weight_var / n) and
    b ~ N(0, bias_var) are trained themselves: T' = n K + 1 + weight_var T, without the 1 where
    there is no bias, and n is the width of the layer that enters.

    A distribution for `weight_var` makes it a scale mixture: Gaussian given one random variance,
    heavy-tailed without. With ``dkp.distributions.PositiveStable(alpha / 2)`` it is a layer of a
    deep alpha-stable kernel process (Loria & Bhadra 2025, arXiv 2410.01284), whose weights are
    symmetric alpha-stable, dependent through their variance.

    Args:
        weight_var: variance of the weights times the width, positive.
        bias_var: variance of the biases, nonnegative.
        parametrisation: "ntk" or "standard"; fixed.
        width: n, the number of units that enter; the standard parametrisation needs it.

    Raises:
        ValueError: for another parametrisation, a standard one without a width, or numbers outside
            their domain.

    Source: Jacot, Gabriel & Hongler 2018 (arXiv 1806.07572), theorem 1; Lee et al. 2020
    (arXiv 2007.15801), section 2.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> print(nngp_kernel([kernels.Affine(weight_var=2.0, bias_var=1.0)], x).round(3))
        [[5. 3.]
         [3. 3.]]
    """

    weight_var: Any = hyperparameter(default=1.0)
    bias_var: Any = hyperparameter(default=0.0, domain="nonnegative")
    parametrisation: str = "ntk"
    width: int | None = None

    def __post_init__(self) -> None:
        check_parametrisation(type(self).__name__, self.parametrisation, self.width)
        self.check_hyperparameters()

    def pairs(self, block: Pairs) -> Pairs:
        return trained(self, block)


def trained(layer: Any, block: Pairs, taps: int = 1) -> Pairs:
    """K' and T' of a layer with weights, from the K and T that its weights meet.

    These are averaged over the taps of a filter.
    """

    def outgoing(k: Array) -> Array:
        return layer.weight_var * k + layer.bias_var

    xy, tangent = outgoing(block.xy), block.tangent
    if tangent is not None:
        has_bias = jnp.asarray(layer.bias_var > 0, xy.dtype)
        gain = xy if layer.parametrisation == "ntk" else layer.width * taps * block.xy + has_bias
        tangent = gain + layer.weight_var * tangent
    return block.replace(xy=xy, xx=outgoing(block.xx), yy=outgoing(block.yy), tangent=tangent)


def check_parametrisation(name: str, parametrisation: Any, width: Any) -> None:
    """Raise ValueError unless the parametrisation is "ntk", or "standard" with a width."""
    one_of(f"{name}(parametrisation=…)", parametrisation, ("ntk", "standard"))
    if parametrisation == "standard" and width is None:
        raise ValueError(
            f"Expected {name}(width=…) to be the number of units that enter: the tangent kernel of "
            "the standard parametrisation depends on it. Got none."
        )
    if width is not None:
        positive_int(f"{name}(width=…)", width)
