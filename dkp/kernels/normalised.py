"""A kernel of the angle between points that keeps their norms: homogeneous of degree 1, like a rectifier's."""

from typing import Any

import jax
import jax.numpy as jnp

from dkp._spec import hyperparameter, learn
from dkp._types import Array, Float
from dkp.kernels._angles import correlation, inverse_sqrt, sqrt
from dkp.kernels.base import PointwiseKernel

__all__ = ["NormalisedGaussian"]


class NormalisedGaussian(PointwiseKernel):
    """k'(x, y) = variance * sqrt(k_xx k_yy) exp(c - 1), with c = k_xy / sqrt(k_xx k_yy).

    This is a squared exponential of unit length-scale on points that are scaled to norm 1, because then
    |x - y|^2 / 2 = 1 - c, times their norms. The diagonal is variance * k_xx, and multiplying the Gram matrix by a
    number multiplies the kernel by it: in a deep network variances neither saturate nor vanish.

    A point of variance k_xx = 0 has k'(x, y) = 0 and c = 0. The derivative in k_xx, which is infinite there, is 0.

    Args:
        variance: positive.

    Raises:
        ValueError: when a number or an initial value is not positive and finite.

    Source: Milsom, Anson & Aitchison 2024 (arXiv 2410.06171), the "normalised Gaussian" kernel of their code.
    """

    variance: Any = hyperparameter(default=learn(1.0))

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return self.variance * _normalised_gaussian(kxy, kxx, kyy)

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.variance * kxx

    def derivative(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return self.variance * jnp.exp(correlation(kxy, kxx, kyy) - 1)

    def derivative_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.variance * jnp.ones_like(kxx)


@jax.custom_jvp
def _normalised_gaussian(kxy: Array, kxx: Array, kyy: Array) -> Array:
    return (sqrt(kxx) * sqrt(kyy)) * jnp.exp(correlation(kxy, kxx, kyy) - 1)


@_normalised_gaussian.defjvp
def _normalised_gaussian_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # d/dk_xy = exp(c - 1) and d/dk_xx = (1 - c) exp(c - 1) sqrt(k_yy / k_xx) / 2: the plain chain rule divides by
    # k_xx k_yy, which underflows for small variances.
    (kxy, kxx, kyy), (kxy_dot, kxx_dot, kyy_dot) = primals, tangents
    cosine = correlation(kxy, kxx, kyy)
    slope = jnp.exp(cosine - 1)
    from_x = sqrt(kyy) * (inverse_sqrt(kxx) * kxx_dot)
    from_y = sqrt(kxx) * (inverse_sqrt(kyy) * kyy_dot)
    return _normalised_gaussian(kxy, kxx, kyy), slope * (kxy_dot + (1 - cosine) / 2 * (from_x + from_y))
