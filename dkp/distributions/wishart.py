"""Wishart and inverse Wishart distributions on a factor of their matrix.

A random Gram matrix G = S S^T is represented by a lower-trapezoidal factor S = L T: L is the factor
of the scale matrix and T, the *whitened* factor, has a law that does not depend on L. Written as a
transformed distribution, one site can be sampled centred (S) or non-centred (by
``numpyro.infer.reparam.TransformReparam``): the sampler then sees the
:class:`~dkp.distributions.bartlett.Bartlett` factor A, whose entries are independent. T is A for
the Wishart and A^-1 for the inverse Wishart.
"""

# NumPyro declares supports as properties and leaves them to be overridden by constants: until its
# base classes annotate them as attributes (seen in 0.22).
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import TransformedDistribution
from numpyro.distributions.transforms import Transform

from dkp._core.types import Array, Float
from dkp.distributions.bartlett import Bartlett, LowerTrapezoidal
from dkp.linalg.bartlett import inverse_wishart_df, wishart_df
from dkp.linalg.cholesky import triangular_inverse
from dkp.linalg.diagonals import diagonal

__all__ = ["InverseWishartFactor", "LowerProduct", "TriangularInverse", "WishartFactor"]


class LowerProduct(Transform):
    """T -> L T for a lower-triangular L (p x p) with positive diagonal.

    T is lower-trapezoidal (p x m).

    |d(L T)/dT| = prod_j L_jj^min(j, m).

    Args:
        tril: L.
        inverse: L^-1 where it is known already; computed on demand otherwise.
        columns: m.
    """

    def __init__(
        self,
        tril: Float[Array, "*batch P P"],
        columns: int,
        inverse: Float[Array, "*batch P P"] | None = None,
    ) -> None:
        self.tril, self.columns, self.inverse = tril, columns, inverse

    @property
    def domain(self) -> LowerTrapezoidal:
        return LowerTrapezoidal(self.tril.shape[-1], self.columns)

    codomain = domain

    def __call__(self, x: Array) -> Array:
        return self.tril @ x

    def _inverse(self, y: Array) -> Array:
        return (triangular_inverse(self.tril) if self.inverse is None else self.inverse) @ y

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: object = None) -> Array:
        log_diagonal = jnp.log(diagonal(self.tril))
        power = jnp.minimum(
            jnp.arange(1, self.tril.shape[-1] + 1, dtype=log_diagonal.dtype), self.columns
        )
        log_det = log_diagonal @ power
        return jnp.broadcast_to(log_det, jnp.broadcast_shapes(log_det.shape, x.shape[:-2]))

    def tree_flatten(self) -> Any:
        return (self.tril, self.inverse), (("tril", "inverse"), {"columns": self.columns})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LowerProduct)
            and other.tril is self.tril
            and other.columns == self.columns
        )

    __hash__ = None  # type: ignore[assignment]


class TriangularInverse(Transform):
    """A -> A^-1 on lower-triangular p x p matrices with positive diagonal.

    |d A^-1 / dA| = prod_j A_jj^-(p + 1).
    """

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def domain(self) -> LowerTrapezoidal:
        return LowerTrapezoidal(self.size, self.size)

    codomain = domain

    def __call__(self, x: Array) -> Array:
        return triangular_inverse(x)

    def _inverse(self, y: Array) -> Array:
        return triangular_inverse(y)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: object = None) -> Array:
        return -(self.size + 1) * jnp.sum(jnp.log(diagonal(x)), axis=-1)

    def tree_flatten(self) -> Any:
        return (), ((), {"size": self.size})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TriangularInverse) and other.size == self.size

    __hash__ = None  # type: ignore[assignment]


class WishartFactor(TransformedDistribution):
    """S = L A: law of the lower-trapezoidal factor of G = S S^T ~ W(L L^T, df).

    S is p x m with m = min(p, df), and A is from :class:`~dkp.distributions.bartlett.Bartlett`.

    E[G] = df L L^T. For an integer df < p the matrix G is singular, of rank df, and its density
    with respect to its entries on and below the diagonal in the first df columns is

        log p(G) = df (df - p)/2 log pi - df p/2 log 2 - logGamma_df(df/2) - df log|L|
                   + (df - p - 1)/2 log|G_{1:df, 1:df}| - ||L^-1 S||^2 / 2

    Args:
        df: degrees of freedom: an integer, or any real number above p - 1.
        scale_tril: L, lower-triangular with positive diagonal, p x p.
        columns: m; for a `df` that is traced and may be smaller than p. By default computed from a
            concrete `df`, and p for a traced one.
        scale_tril_inverse: L^-1 where it is known already; computed on demand otherwise.

    Raises:
        ValueError: when a concrete `df` is neither an integer of at least 1 nor larger than p - 1.

    Source: Uhlig 1994 (singular Wishart); Ober & Aitchison 2021 (arXiv 2107.10125).

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.distributions import WishartFactor
        >>> law = WishartFactor(2, jnp.eye(3))
        >>> print(f"{law.log_prob(jnp.eye(3, 2)):.3f}")
        -3.983
    """

    pytree_data_fields = ("_df", "scale_tril")

    def __init__(
        self,
        df: Array | float | int,
        scale_tril: Float[Array, "*batch P P"],
        columns: int | None = None,
        scale_tril_inverse: Float[Array, "*batch P P"] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        size = scale_tril.shape[-1]
        columns = _columns(df, size) if columns is None else columns
        self.scale_tril = scale_tril
        self._df = _batch(df, scale_tril)
        base = Bartlett(wishart_df(self._df, columns), size, validate_args=validate_args)
        transform = LowerProduct(scale_tril, columns, scale_tril_inverse)
        super().__init__(base, transform, validate_args=validate_args)

    @property
    def df(self) -> Array:
        return self._df


class InverseWishartFactor(TransformedDistribution):
    """S = L A^-1: law of the Cholesky factor of G = S S^T ~ IW(L L^T, df).

    A is from :class:`~dkp.distributions.bartlett.Bartlett`.

    E[G] = L L^T / (df - p - 1) for df > p + 1.

    Args:
        df: degrees of freedom, df > p - 1.
        scale_tril: L, lower-triangular with positive diagonal, p x p.
        scale_tril_inverse: L^-1 where it is known already; computed on demand otherwise.

    Raises:
        ValueError: when a concrete `df` is not larger than p - 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.distributions import InverseWishartFactor
        >>> law = InverseWishartFactor(5.0, jnp.eye(3))
        >>> print(f"{law.log_prob(jnp.eye(3)):.3f}")
        -6.500
    """

    pytree_data_fields = ("_df", "scale_tril", "_scale_tril_inverse")

    def __init__(
        self,
        df: Array | float | int,
        scale_tril: Float[Array, "*batch P P"],
        scale_tril_inverse: Float[Array, "*batch P P"] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        size = scale_tril.shape[-1]
        check_degrees_of_freedom(df, size)
        self.scale_tril = scale_tril
        self._scale_tril_inverse = scale_tril_inverse
        self._df = _batch(df, scale_tril)
        base = Bartlett(inverse_wishart_df(self._df, size), size, validate_args=validate_args)
        transforms = [TriangularInverse(size), LowerProduct(scale_tril, size, scale_tril_inverse)]
        super().__init__(base, transforms, validate_args=validate_args)

    @property
    def df(self) -> Array:
        return self._df

    @property
    def scale_tril_inverse(self) -> Float[Array, "*batch P P"]:
        inverse = self._scale_tril_inverse
        return triangular_inverse(self.scale_tril) if inverse is None else inverse


def check_degrees_of_freedom(df: Array | float | int, size: int) -> None:
    """Raise ValueError unless df > size - 1; traced values cannot be looked at and pass."""
    if isinstance(df, Tracer):
        return
    if not np.all(np.asarray(df) > size - 1):  # by NumPy: a number is a tracer to jnp inside of jit
        raise ValueError(
            f"Expected degrees of freedom larger than size - 1 = {size - 1}. Got df={df}."
        )


def _columns(df: Array | float | int, size: int) -> int:
    if isinstance(df, Tracer) or np.all(np.asarray(df) > size - 1):
        return size
    values = np.unique(np.asarray(df, float))
    if len(values) > 1 or values[0] < 1 or values[0] != np.round(values[0]):
        raise ValueError(
            "Expected degrees of freedom to be one integer of at least 1, or larger than size - 1 "
            f"= {size - 1}. Got df={df}."
        )
    return int(values[0])


def _batch(df: Array | float | int, scale_tril: Array) -> Array:
    df = jnp.asarray(df, scale_tril.dtype)
    return jnp.broadcast_to(df, jnp.broadcast_shapes(df.shape, scale_tril.shape[:-2]))
