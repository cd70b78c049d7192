"""Kernels of the squared distance R = k_xx - 2 k_xy + k_yy.

The points lie in the feature space of a Gram matrix.

R is per unit of width: for G = F F^T / nu it is |f_x - f_y|^2 / nu. Rounding never makes it
negative, and on the diagonal it is exactly 0.
"""

import abc
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dkp._core.description import hyperparameter, learn
from dkp._core.types import Array, Float
from dkp.kernels.base import PointwiseKernel
from dkp.linalg.special import safe_sqrt

__all__ = ["Matern", "RationalQuadratic", "SquaredExponential"]


class _Isotropic(PointwiseKernel):
    """A function of R alone: a subclass writes ``of_squared_distance``."""

    def __post_init__(self) -> None:
        self.check_hyperparameters()

    @abc.abstractmethod
    def of_squared_distance(self, r2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The kernel from R >= 0, elementwise."""

    def evaluate(
        self, kxy: Float[Array, "*#xy"], kxx: Float[Array, "*#xy"], kyy: Float[Array, "*#xy"]
    ) -> Float[Array, "*#xy"]:
        return self.of_squared_distance(_squared_distance(kxy, kxx, kyy))

    def evaluate_diagonal(self, kxx: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return self.of_squared_distance(jnp.zeros_like(kxx))


class SquaredExponential(_Isotropic):
    """k'(x, y) = variance * exp(-R / (2 lengthscale^2)), with R = k_xx - 2 k_xy + k_yy.

    Args:
        lengthscale: positive.
        variance: positive; the diagonal of the kernel.

    Raises:
        ValueError: when a number or an initial value is not positive and finite.

    Source: Rasmussen & Williams 2006, equation 4.9; as a function of a Gram matrix: Aitchison, Yang
    & Ober 2021 (arXiv 2010.01590).

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Linear(), kernels.SquaredExponential(lengthscale=1.0, variance=2.0)]
        >>> print(nngp_kernel(layers, x).round(3))
        [[2.    1.213]
         [1.213 2.   ]]
    """

    lengthscale: Any = hyperparameter(default=learn(1.0))
    variance: Any = hyperparameter(default=learn(1.0))

    def of_squared_distance(self, r2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.variance * jnp.exp(-0.5 * r2 / self.lengthscale**2)


class Matern(_Isotropic):
    """k'(x, y) = variance * 2^(1-nu) / Gamma(nu) * s^nu K_nu(s), s = sqrt(2 nu R) / lengthscale.

    For half-integer `nu` this is exp(-s) times a polynomial: exp(-s) for 1/2, (1 + s) exp(-s) for
    3/2, (1 + s + s^2/3) exp(-s) for 5/2. For 1/2 the derivative in R is infinite at R = 0, where 0
    stands in for it.

    Args:
        nu: smoothness, one of 0.5, 1.5, 2.5, …; fixed.
        lengthscale: positive.
        variance: positive; the diagonal of the kernel.

    Raises:
        ValueError: when `nu` is not a positive half-integer, or a number or an initial value is not
            positive and finite.

    Source: Rasmussen & Williams 2006, equations 4.14 and 4.16.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> layers = [kernels.Linear(), kernels.Matern(1.5, lengthscale=1.0, variance=2.0)]
        >>> print(nngp_kernel(layers, x).round(3))
        [[2.    0.967]
         [0.967 2.   ]]
    """

    nu: float
    lengthscale: Any = hyperparameter(default=learn(1.0))
    variance: Any = hyperparameter(default=learn(1.0))

    def __post_init__(self) -> None:
        if not (isinstance(self.nu, float) and self.nu > 0 and self.nu % 1 == 0.5):
            raise ValueError(
                "Expected Matern(nu, …) to be a half-integer such as 0.5, 1.5 or 2.5. Got "
                f"{self.nu!r}."
            )
        self.check_hyperparameters()

    def of_squared_distance(self, r2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.variance * _matern(self.nu, 2 * self.nu * r2 / self.lengthscale**2)


class RationalQuadratic(_Isotropic):
    """k'(x, y) = variance * (1 + R / (2 alpha lengthscale^2))^(-alpha).

    A mixture of squared exponentials over Gamma-distributed inverse squared length-scales;
    alpha -> infinity is the squared exponential.

    Args:
        alpha: shape, positive.
        lengthscale: positive.
        variance: positive; the diagonal of the kernel.

    Raises:
        ValueError: when a number or an initial value is not positive and finite.

    Source: Rasmussen & Williams 2006, equation 4.19.

    Examples:
        >>> import numpy as np
        >>> from dkp import kernels, nngp_kernel
        >>> x = np.array([[2.0, 0.0], [1.0, 1.0]])
        >>> kernel = kernels.RationalQuadratic(alpha=1.0, lengthscale=1.0, variance=2.0)
        >>> print(nngp_kernel([kernels.Linear(), kernel], x).round(3))
        [[2.    1.333]
         [1.333 2.   ]]
    """

    alpha: Any = hyperparameter(default=learn(1.0))
    lengthscale: Any = hyperparameter(default=learn(1.0))
    variance: Any = hyperparameter(default=learn(1.0))

    def of_squared_distance(self, r2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.variance * jnp.exp(
            -self.alpha * jnp.log1p(0.5 * r2 / (self.alpha * self.lengthscale**2))
        )


def _squared_distance(kxy: Array, kxx: Array, kyy: Array) -> Array:
    """R, raised to 0 where rounding made it negative.

    Its derivative is that of the formula even there.
    """
    r2 = (kxx + kyy) - 2 * kxy
    return r2 + jax.lax.stop_gradient(jnp.maximum(-r2, 0))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _matern(nu: float, u: Array) -> Array:
    """phi_nu(u) = 2^(1-nu) / Gamma(nu) * s^nu K_nu(s) at s = sqrt(u), by recurrence in nu."""
    root = safe_sqrt(u)
    below, value = jnp.exp(-root), (1 + root) * jnp.exp(-root)
    if nu == 0.5:
        return below
    for order in range(1, round(nu - 0.5)):
        below, value = value, value + u / (4 * order**2 - 1) * below
    return value


@_matern.defjvp
def _matern_jvp(nu: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # phi_nu' = -phi_(nu-1) / (4 (nu - 1)): finite and exact at u = 0, where the chain rule through
    # s is 0/0.
    (u,), (u_dot,) = primals, tangents
    if nu == 0.5:
        return jax.jvp(lambda u: jnp.exp(-safe_sqrt(u)), (u,), (u_dot,))
    return _matern(nu, u), -_matern(nu - 1, u) / (4 * (nu - 1)) * u_dot
