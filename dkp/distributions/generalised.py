"""Generalised singular Wishart distributions: posteriors of Wishart bottlenecks.

They are laws of a factor of the matrix.

The Bartlett factor of a Wishart matrix has chi-squared and standard normal entries. Here every
entry has parameters of its own, and rows and columns are mixed:

    S = L A T B,   G = S S^T,
    T_jj^2 ~ Gamma(alpha_j, beta_j),   T_ij ~ N(mu_ij, sigma_ij^2) for i > j

Laws are over the lower-trapezoidal S (p x m, m = min(p, nu), positive diagonal), which G
determines; the density of G follows from |d(S S^T)/dS| = 2^m prod_j S_jj^(p - j + 1).
"""

# NumPyro declares supports as properties and leaves them to be overridden by constants: until its
# base classes annotate them as attributes (seen in 0.22).
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import digamma, gammaln
from numpyro.distributions import Distribution, TransformedDistribution, constraints
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import validate_sample

from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.distributions.bartlett import LowerTrapezoidal
from dkp.distributions.wishart import LowerProduct
from dkp.linalg.bartlett import trapezoid
from dkp.linalg.cholesky import triangular_inverse
from dkp.linalg.diagonals import diagonal, embed_diagonal
from dkp.linalg.random import gamma_and_normal
from dkp.linalg.special import gamma_root_moments

__all__ = ["ColumnProduct", "GeneralisedBartlett", "GeneralisedWishartFactor", "RowProduct"]


class GeneralisedBartlett(Distribution):
    """Law of a lower-trapezoidal T (p x m): T_jj^2 ~ Gamma(alpha_j, beta_j).

    Below the diagonal T_ij ~ N(mu_ij, sigma_ij^2).

    log q(T) = sum_j [log 2 T_jj + log Gamma(T_jj^2; alpha_j, beta_j)] + sum_{i > j} log N(T_ij;
    mu_ij, sigma_ij^2)

    alpha_j = (nu - j + 1) / 2, beta = 1/2, mu = 0 and sigma = 1 is
    :class:`~dkp.distributions.bartlett.Bartlett`.

    Args:
        concentration: alpha, positive, (*batch, m).
        rate: beta, positive, (*batch, m).
        loc: mu, (*batch, p, m), p >= m; entries on and above the diagonal are not used.
        scale: sigma, positive, of the same shape.

    Raises:
        ValueError: when concrete parameters are not positive (an underflow of their logarithms, for
            example), or shapes do not fit.

    Source: Ober & Aitchison 2021 (arXiv 2107.10125), generalised singular Wishart.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.distributions import GeneralisedBartlett
        >>> one, zero = jnp.ones((3, 2)), jnp.zeros((3, 2))
        >>> law = GeneralisedBartlett(concentration=one[0], rate=one[0], loc=zero, scale=one)
        >>> print(f"{law.log_prob(jnp.eye(3, 2)):.3f}")
        -3.371
    """

    arg_constraints = {
        "concentration": constraints.real_vector,
        "rate": constraints.real_vector,
        "loc": constraints.real_matrix,
        "scale": constraints.real_matrix,
    }
    reparametrized_params = ["concentration", "rate", "loc", "scale"]

    def __init__(
        self,
        concentration: Float[Array, "*batch M"],
        rate: Float[Array, "*batch M"],
        loc: Float[Array, "*batch P M"],
        scale: Float[Array, "*batch P M"],
        *,
        validate_args: bool | None = None,
    ) -> None:
        rows, columns = loc.shape[-2:]
        if columns > rows or concentration.shape[-1] != columns:
            raise ValueError(
                f"Expected at most as many columns as rows, {rows}, and one concentration a "
                f"column. Got {columns} columns and {concentration.shape[-1]} concentrations."
            )
        for name, value in {"concentration": concentration, "rate": rate, "scale": scale}.items():
            if not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
                raise ValueError(
                    f"Expected a positive {name}. Got a smallest value of "
                    f"{np.min(np.asarray(value))}: parameters on "
                    "a logarithmic scale may have underflowed."
                )
        self.concentration, self.rate, self.loc, self.scale = concentration, rate, loc, scale
        super().__init__(loc.shape[:-2], (rows, columns), validate_args=validate_args)

    @property
    def support(self) -> LowerTrapezoidal:
        return LowerTrapezoidal(*self.event_shape)

    @property
    def moments(self) -> tuple[Array, Array, Array]:
        """E T and Var T, entry by entry (p x m), and E log T_jj^2 (m)."""
        mean, variance = gamma_root_moments(self.concentration)
        rows = self.event_shape[0]
        on_mean, on_variance = (
            embed_diagonal(mean / jnp.sqrt(self.rate), rows),
            variance / self.rate,
        )
        return (
            jnp.tril(self.loc, -1) + on_mean,
            jnp.tril(self.scale, -1) ** 2 + embed_diagonal(on_variance, rows),
            digamma(self.concentration) - jnp.log(self.rate),
        )

    def sample(
        self, key: PRNGKeyArray, sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape P M"]:
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        concentration = jnp.broadcast_to(self.concentration, (*shape[:-2], shape[-1]))
        squares, noise = gamma_and_normal(key, concentration, shape)
        loc, scale, rate = (
            _prepended(a, len(sample_shape)) for a in (self.loc, self.scale, self.rate)
        )
        return jnp.tril(loc + scale * noise, -1) + embed_diagonal(
            jnp.sqrt(squares / rate), shape[-2]
        )

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape P M"]) -> Float[Array, "*shape"]:
        extra = value.ndim - self.loc.ndim
        alpha, beta, loc, scale = (
            _prepended(a, extra) for a in (self.concentration, self.rate, self.loc, self.scale)
        )
        on = diagonal(value)
        squares = (
            alpha * jnp.log(beta)
            - gammaln(alpha)
            + math.log(2)
            + (2 * alpha - 1) * jnp.log(on)
            - beta * on**2
        )
        z = (value - loc) / scale
        below = jnp.tril(-(z**2 + math.log(2 * math.pi)) / 2 - jnp.log(scale), -1)
        return jnp.sum(squares, axis=-1) + jnp.sum(below, axis=(-2, -1))


class ColumnProduct(Transform):
    """T -> T B for a lower-triangular B (m x m) with positive diagonal.

    T is lower-trapezoidal (p x m).

    |d(T B)/dT| = prod_j B_jj^(p - j + 1).
    """

    def __init__(self, tril: Float[Array, "*batch M M"], rows: int) -> None:
        self.tril, self.rows = tril, rows

    @property
    def domain(self) -> LowerTrapezoidal:
        return LowerTrapezoidal(self.rows, self.tril.shape[-1])

    codomain = domain

    def __call__(self, x: Array) -> Array:
        return x @ self.tril

    def _inverse(self, y: Array) -> Array:
        return y @ triangular_inverse(self.tril)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: object = None) -> Array:
        log_diagonal = jnp.log(diagonal(self.tril))
        log_det = log_diagonal @ (
            self.rows - jnp.arange(self.tril.shape[-1], dtype=log_diagonal.dtype)
        )
        return jnp.broadcast_to(log_det, jnp.broadcast_shapes(log_det.shape, x.shape[:-2]))

    def tree_flatten(self) -> Any:
        return (self.tril,), (("tril",), {"rows": self.rows})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ColumnProduct) and other.tril is self.tril and other.rows == self.rows
        )

    __hash__ = None  # type: ignore[assignment]


class RowProduct(Transform):
    """T -> the lower-trapezoidal T' with T' T'^T = A T T^T A^T, for any invertible A (p x p).

    |dT'/dT| = |det A|^m prod_j (T_jj / T'_jj)^(m - j). A lower-triangular A is better multiplied
    into the factor of the scale: see :class:`~dkp.distributions.wishart.LowerProduct`.

    Source: derived; agrees with the Jacobian of automatic differentiation (tests).
    """

    def __init__(self, matrix: Float[Array, "P P"], columns: int) -> None:
        self.matrix, self.columns = matrix, columns

    @property
    def domain(self) -> LowerTrapezoidal:
        return LowerTrapezoidal(self.matrix.shape[-1], self.columns)

    codomain = domain

    def __call__(self, x: Array) -> Array:
        return _each(trapezoid, self.matrix @ x)

    def _inverse(self, y: Array) -> Array:
        return _each(trapezoid, jnp.linalg.inv(self.matrix) @ y)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: object = None) -> Array:
        power = self.columns - 1 - jnp.arange(self.columns, dtype=x.dtype)
        log_det = self.columns * jnp.linalg.slogdet(self.matrix)[1]
        return log_det + (jnp.log(diagonal(x)) - jnp.log(diagonal(y))) @ power

    def tree_flatten(self) -> Any:
        return (self.matrix,), (("matrix",), {"columns": self.columns})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RowProduct)
            and other.matrix is self.matrix
            and other.columns == self.columns
        )

    __hash__ = None  # type: ignore[assignment]


class GeneralisedWishartFactor(TransformedDistribution):
    """Law of the lower-trapezoidal factor S of G = S S^T, where S S^T = (L A T B) (L A T B)^T.

    At A = B = I with the parameters of :class:`~dkp.distributions.bartlett.Bartlett` it is
    :class:`~dkp.distributions.wishart.WishartFactor`.

    Args:
        scale_tril: L, lower-triangular with positive diagonal, p x p. A lower-triangular A belongs
            in here: pass L A.
        entries: the law of T.
        columns: B, lower-triangular with positive diagonal, m x m; None for the identity.
        rows: A, any invertible p x p matrix; None for the identity. Its divergences have no closed
            form.

    Source: Ober & Aitchison 2021 (arXiv 2107.10125); mixing of rows and columns: Ober, Anson,
    Milsom & Aitchison 2023 (arXiv 2305.14454), densities derived for the construction above.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.distributions import GeneralisedBartlett, GeneralisedWishartFactor
        >>> one, zero = jnp.ones((3, 2)), jnp.zeros((3, 2))
        >>> entries = GeneralisedBartlett(concentration=one[0], rate=one[0], loc=zero, scale=one)
        >>> law = GeneralisedWishartFactor(2 * jnp.eye(3), entries)
        >>> print(f"{law.log_prob(jnp.eye(3, 2)):.3f}")
        -6.723
    """

    pytree_data_fields = ("scale_tril", "columns", "rows")

    def __init__(
        self,
        scale_tril: Float[Array, "*batch P P"],
        entries: GeneralisedBartlett,
        columns: Float[Array, "*batch M M"] | None = None,
        rows: Float[Array, "P P"] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        p, m = entries.event_shape
        self.scale_tril, self.columns, self.rows = scale_tril, columns, rows
        transforms: list[Any] = [] if columns is None else [ColumnProduct(columns, p)]
        transforms += [] if rows is None else [RowProduct(rows, m)]
        super().__init__(
            entries, [*transforms, LowerProduct(scale_tril, m)], validate_args=validate_args
        )


def _prepended(array: Array, axes: int) -> Array:
    return array.reshape((1,) * axes + array.shape)


def _each(function: Any, matrices: Array) -> Array:
    for _ in range(matrices.ndim - 2):
        function = jax.vmap(function)
    return function(matrices)
