"""The inverse Wishart distribution on the Cholesky factor of its matrix.

A random Gram matrix G = S S^T is represented by its lower factor S = L T: L is the factor of the scale matrix and T,
the *whitened* factor, has a law that does not depend on L. Written as a transformed distribution, one site can be
sampled centred (S) or non-centred (T, by ``numpyro.infer.reparam.TransformReparam``).
"""

# NumPyro declares supports as properties and leaves them to be overridden by constants.
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution, TransformedDistribution, constraints
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import validate_sample

from dkp._types import Array, Float, PRNGKeyArray
from dkp.linalg.bartlett import inverse_bartlett
from dkp.linalg.blocks import diagonal
from dkp.linalg.cholesky import triangular_inverse
from dkp.linalg.special import multigammaln

__all__ = ["InverseBartlett", "InverseWishartFactor", "LowerProduct"]


class InverseBartlett(Distribution):
    """Law of a lower-triangular T (p x p, positive diagonal) with T T^T ~ IW(I, df).

    log p(T) = p log 2 - sum_j (df + j) log T_jj - ||T^-1||_F^2 / 2 - df p / 2 log 2 - logGamma_p(df / 2), j from 1:
    the inverse Wishart density times the Jacobian 2^p prod_j T_jj^(p - j + 1) of T -> T T^T.

    Args:
        df: degrees of freedom, a scalar or any batch shape, df > size - 1.
        size: p.

    Raises:
        ValueError: when a concrete `df` is not larger than size - 1.
    """

    arg_constraints = {"df": constraints.real}
    support = constraints.lower_cholesky
    reparametrized_params = ["df"]
    pytree_aux_fields = ("size",)

    def __init__(self, df: Array | float, size: int, *, validate_args: bool | None = None) -> None:
        check_degrees_of_freedom(df, size)
        self.df = jnp.asarray(df)
        self.size = size
        super().__init__(jnp.shape(self.df), (size, size), validate_args=validate_args)

    def sample(self, key: PRNGKeyArray, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*shape P P"]:
        shape = sample_shape + self.batch_shape
        df = jnp.broadcast_to(self.df, shape)
        draw = inverse_bartlett
        keys = jax.random.split(key, shape) if shape else key
        for _ in shape:
            draw = jax.vmap(draw, in_axes=(0, 0, None))
        return draw(keys, df, self.size)

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape P P"]) -> Float[Array, "*shape"]:
        p, shape = self.size, jnp.broadcast_shapes(self.df.shape, value.shape[:-2])
        df, value = jnp.broadcast_to(self.df, shape), jnp.broadcast_to(value, (*shape, p, p))
        log_diagonal = jnp.log(diagonal(value))
        j = jnp.broadcast_to(jnp.arange(1, p + 1, dtype=value.dtype), log_diagonal.shape)
        jacobian_and_determinant = jnp.sum(-(df[..., None] + j) * log_diagonal, axis=-1)
        trace = jnp.sum(triangular_inverse(value) ** 2, axis=(-2, -1))
        constant = p * jnp.log(2.0) * (1 - df / 2) - multigammaln(df / 2, p)
        return (constant + jacobian_and_determinant - trace / 2).astype(value.dtype)


class LowerProduct(Transform):
    """T -> L T for a lower-triangular L with positive diagonal; |d(L T)/dT| = prod_j L_jj^j on lower-triangular T."""

    domain = constraints.lower_cholesky
    codomain = constraints.lower_cholesky

    def __init__(self, tril: Float[Array, "*batch P P"]) -> None:
        self.tril = tril

    def __call__(self, x: Array) -> Array:
        return self.tril @ x

    def _inverse(self, y: Array) -> Array:
        return triangular_inverse(self.tril) @ y

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: object = None) -> Array:
        log_diagonal = jnp.log(diagonal(self.tril))
        j = jnp.arange(1, log_diagonal.shape[-1] + 1, dtype=log_diagonal.dtype)
        log_det = jnp.sum(j * log_diagonal, axis=-1)
        return jnp.broadcast_to(log_det, jnp.broadcast_shapes(log_det.shape, x.shape[:-2]))

    def tree_flatten(self):
        return (self.tril,), (("tril",), {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LowerProduct) and other.tril is self.tril

    __hash__ = None  # type: ignore[assignment]


class InverseWishartFactor(TransformedDistribution):
    """Law of the Cholesky factor S of G = S S^T ~ IW(L L^T, df): S = L T with T from :class:`InverseBartlett`.

    E[G] = L L^T / (df - p - 1) for df > p + 1.

    Args:
        df: degrees of freedom, df > p - 1.
        scale_tril: L, lower-triangular with positive diagonal, p x p.
        scale_tril_inverse: L^-1 where it is known already; computed on demand otherwise.

    Raises:
        ValueError: when a concrete `df` is not larger than p - 1.
    """

    pytree_data_fields = ("scale_tril", "_scale_tril_inverse")

    def __init__(
        self,
        df: Array | float,
        scale_tril: Float[Array, "*batch P P"],
        scale_tril_inverse: Float[Array, "*batch P P"] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.scale_tril = scale_tril
        self._scale_tril_inverse = scale_tril_inverse
        df = jnp.broadcast_to(
            jnp.asarray(df, scale_tril.dtype), jnp.broadcast_shapes(jnp.shape(df), scale_tril.shape[:-2])
        )
        base = InverseBartlett(df, scale_tril.shape[-1], validate_args=validate_args)
        super().__init__(base, LowerProduct(scale_tril), validate_args=validate_args)

    @property
    def df(self) -> Array:
        return self.base_dist.df  # type: ignore[attr-defined]

    @property
    def scale_tril_inverse(self) -> Float[Array, "*batch P P"]:
        inverse = self._scale_tril_inverse
        return triangular_inverse(self.scale_tril) if inverse is None else inverse


def check_degrees_of_freedom(df: Array | float, size: int) -> None:
    """Raise ValueError unless df > size - 1; traced values cannot be looked at and pass."""
    if isinstance(df, Tracer):
        return
    if not np.all(np.asarray(df) > size - 1):  # by NumPy: a number is a tracer to jnp inside of jit
        raise ValueError(f"Expected degrees of freedom larger than size - 1 = {size - 1}. Got df={df}.")
