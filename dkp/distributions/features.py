"""Features of a layer, as columns of a matrix.

They are independent draws of one Gaussian process at the inducing points.
"""

# NumPyro declares supports as properties and leaves them to be overridden by constants: until its
# base classes annotate them as attributes (seen in 0.22).
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

import math

import jax.numpy as jnp
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample

from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.linalg.cholesky import log_determinant, triangular_inverse
from dkp.linalg.random import normal

__all__ = ["FeatureNormal"]


class FeatureNormal(Distribution):
    """Law of a p x m matrix with independent columns f_j ~ N(mu_j, R R^T).

    Args:
        loc: mu, (*batch, p, m).
        scale_tril: R, lower-triangular with positive diagonal, (*batch, p, p); None for the
            identity.

    Source: Ober & Aitchison 2021 (arXiv 2005.08140), the features of a deep Gaussian process.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.distributions import FeatureNormal
        >>> law = FeatureNormal(jnp.zeros((2, 3)), jnp.eye(2))
        >>> print(f"{law.log_prob(jnp.zeros((2, 3))):.3f}")
        -5.514
    """

    arg_constraints = {"loc": constraints.real_matrix}
    pytree_data_fields = ("scale_tril",)
    support = constraints.real_matrix
    reparametrized_params = ["loc", "scale_tril"]

    def __init__(
        self,
        loc: Float[Array, "*batch P M"],
        scale_tril: Float[Array, "*batch P P"] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale_tril = loc, scale_tril
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=validate_args)

    def sample(
        self, key: PRNGKeyArray, sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape P M"]:
        noise = normal(key, (*sample_shape, *self.loc.shape), self.loc.dtype)
        return _prepended(self.loc, noise) + (
            noise if self.scale_tril is None else self.scale_tril @ noise
        )

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape P M"]) -> Float[Array, "*shape"]:
        rows, columns = self.event_shape
        residual, log_det = value - _prepended(self.loc, value), jnp.zeros((), value.dtype)
        if self.scale_tril is not None:
            residual, log_det = (
                triangular_inverse(self.scale_tril) @ residual,
                log_determinant(self.scale_tril),
            )
        constant = rows * columns * math.log(2 * math.pi)
        return -(jnp.sum(residual**2, axis=(-2, -1)) + columns * log_det + constant) / 2


def _prepended(array: Array, like: Array) -> Array:
    return array.reshape((1,) * (like.ndim - array.ndim) + array.shape)
