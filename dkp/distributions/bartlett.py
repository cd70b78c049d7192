"""The law of a Bartlett factor: a lower-trapezoidal matrix with independent entries.

It is the base of the laws of all Gram factors: what a sampler sees when a site is written
non-centred.
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
from jax.scipy.special import gammaln
from numpyro.distributions import Distribution, biject_to, constraints
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import validate_sample

from dkp._core.types import Array, Bool, Float, PRNGKeyArray
from dkp.linalg.bartlett import bartlett
from dkp.linalg.diagonals import diagonal, embed_diagonal

__all__ = ["Bartlett", "LowerTrapezoidal", "LowerTrapezoidalTransform"]


class LowerTrapezoidal(constraints.Constraint):
    """Lower-trapezoidal p x m matrices, p >= m, with positive diagonal."""

    event_dim = 2

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def __call__(self, x: Array) -> Bool[Array, "..."]:
        strictly_above = jnp.triu(jnp.ones((self.rows, self.columns), bool), 1)
        zeros = jnp.all(jnp.where(strictly_above, x == 0, True), axis=(-2, -1))
        return zeros & jnp.all(diagonal(x) > 0, axis=-1)

    def feasible_like(self, prototype: Array) -> Array:
        return jnp.broadcast_to(
            jnp.eye(self.rows, self.columns, dtype=prototype.dtype), prototype.shape
        )

    def tree_flatten(self) -> Any:
        return (), ((), {"rows": self.rows, "columns": self.columns})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LowerTrapezoidal) and (self.rows, self.columns) == (
            other.rows,
            other.columns,
        )

    def __hash__(self) -> int:
        return hash((LowerTrapezoidal, self.rows, self.columns))


class LowerTrapezoidalTransform(Transform):
    """From vectors to lower-trapezoidal matrices.

    A vector has the entries below the diagonal, row by row, then logarithms of the diagonal.
    """

    domain = constraints.real_vector

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    @property
    def codomain(self) -> LowerTrapezoidal:
        return LowerTrapezoidal(self.rows, self.columns)

    @property
    def size(self) -> int:
        """Number of free entries, p m - m (m - 1) / 2."""
        return self.rows * self.columns - self.columns * (self.columns - 1) // 2

    def __call__(self, x: Float[Array, "*batch K"]) -> Float[Array, "*batch P M"]:
        return self.matrix(x[..., : -self.columns], jnp.exp(x[..., -self.columns :]))

    def matrix(
        self, below: Float[Array, "*batch L"], on: Float[Array, "*batch M"]
    ) -> Float[Array, "*batch P M"]:
        """The matrix with these entries below the diagonal, row by row, and on it."""
        # A gather: its derivative, a scatter-add, is as cheap; a scatter forward is not.
        padded = jnp.concatenate([below, jnp.zeros((*below.shape[:-1], 1), below.dtype)], axis=-1)
        return padded[..., self._places] + embed_diagonal(on, self.rows)

    def entries(
        self, y: Float[Array, "*batch P M"]
    ) -> tuple[Float[Array, "*batch L"], Float[Array, "*batch M"]]:
        """The entries below the diagonal, row by row, and those on it; inverts :meth:`matrix`."""
        i, j = self._below
        return y[..., i, j], diagonal(y)

    def _inverse(self, y: Float[Array, "*batch P M"]) -> Float[Array, "*batch K"]:
        below, on = self.entries(y)
        return jnp.concatenate([below, jnp.log(on)], axis=-1)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: object = None) -> Array:
        return jnp.sum(x[..., -self.columns :], axis=-1)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.rows, self.columns)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], self.size)

    @property
    def _below(self) -> tuple[np.ndarray, np.ndarray]:
        return np.tril_indices(self.rows, -1, self.columns)

    @property
    def _places(self) -> np.ndarray:
        """Where each entry of the matrix stands in the vector of entries below the diagonal.

        The others stand last.
        """
        i, j = self._below
        places = np.full((self.rows, self.columns), len(i))
        places[i, j] = np.arange(len(i))
        return places

    def tree_flatten(self) -> Any:
        return (), ((), {"rows": self.rows, "columns": self.columns})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LowerTrapezoidalTransform) and self.codomain == other.codomain

    __hash__ = None  # type: ignore[assignment]


@biject_to.register(LowerTrapezoidal)
def _to_lower_trapezoidal(constraint: LowerTrapezoidal) -> LowerTrapezoidalTransform:
    return LowerTrapezoidalTransform(constraint.rows, constraint.columns)


class Bartlett(Distribution):
    """Law of a lower-trapezoidal A (p x m) with A_jj^2 ~ chi^2(df_j) and A_ij ~ N(0, 1) below.

    All are independent.

    log p(A) = sum_j [(1 - df_j / 2) log 2 - logGamma(df_j / 2) + (df_j - 1) log A_jj - A_jj^2 / 2]
               - sum_{i > j} (A_ij^2 + log 2 pi) / 2

    Args:
        df: degrees of freedom of the diagonal, positive, (*batch, m).
        rows: p >= m.

    Raises:
        ValueError: when a concrete `df` is not positive, or when there are more columns than rows.

    Source: Bartlett 1933; singular (m < p): Ober & Aitchison 2021 (arXiv 2107.10125).

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.distributions import Bartlett
        >>> law = Bartlett(jnp.array([5.0, 4.0]), rows=3)
        >>> print(f"{law.log_prob(jnp.eye(3, 2)):.3f}")
        -5.774
    """

    arg_constraints = {"df": constraints.real_vector}
    reparametrized_params = ["df"]
    pytree_aux_fields = ("rows",)

    def __init__(
        self, df: Float[Array, "*batch M"], rows: int, *, validate_args: bool | None = None
    ) -> None:
        columns = df.shape[-1]
        if columns > rows:
            raise ValueError(
                f"Expected at most as many columns as rows, {rows}. Got {columns} degrees of "
                "freedom."
            )
        if not isinstance(df, Tracer) and not np.all(np.asarray(df) > 0):
            raise ValueError(f"Expected positive degrees of freedom. Got {np.min(np.asarray(df))}.")
        self.df, self.rows = df, rows
        super().__init__(df.shape[:-1], (rows, columns), validate_args=validate_args)

    @property
    def support(self) -> LowerTrapezoidal:
        return LowerTrapezoidal(*self.event_shape)

    def sample(
        self, key: PRNGKeyArray, sample_shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape P M"]:
        shape = sample_shape + self.batch_shape
        df = jnp.broadcast_to(self.df, (*shape, self.df.shape[-1]))
        draw = bartlett
        keys = jax.random.split(key, shape) if shape else key
        for _ in shape:
            draw = jax.vmap(draw, in_axes=(0, 0, None))
        return draw(keys, df, self.rows)

    @validate_sample
    def log_prob(self, value: Float[Array, "*shape P M"]) -> Float[Array, "*shape"]:
        (rows, columns), squares = self.event_shape, jnp.sum(value**2, axis=(-2, -1))
        df = (
            jnp.broadcast_to(self.df, (*value.shape[:-2], columns))
            if value.ndim > self.df.ndim + 1
            else self.df
        )
        entries = jnp.sum(
            (df - 1) * jnp.log(diagonal(value)) - gammaln(df / 2) - (df / 2 - 1) * math.log(2),
            axis=-1,
        )
        below = rows * columns - columns * (columns + 1) // 2
        return entries - squares / 2 - below * math.log(2 * math.pi) / 2
