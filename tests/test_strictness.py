"""The strict mode that all other tests rely on is in force, and ``relaxed`` leaves it for its own
block alone."""

import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from dkp.linalg.cholesky import cholesky
from tests.support import relaxed


def mix_dtypes() -> jax.Array:
    return jnp.zeros(2, jnp.float32) + jnp.zeros(2, jnp.float64)


def mix_ranks() -> jax.Array:
    return jnp.zeros(2) + jnp.zeros((2, 2))


def test_shapes_of_signatures_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError):
        cholesky(jnp.zeros((2, 3)))


def test_default_is_float64():
    assert jnp.zeros(2).dtype == jnp.float64


def test_dtypes_are_not_promoted():
    with pytest.raises(ValueError, match="dtype_promotion"):
        mix_dtypes()


def test_ranks_are_not_promoted():
    with pytest.raises(ValueError, match="rank_promotion"):
        mix_ranks()


def test_relaxed_allows_promotion_inside_and_only_there():
    with relaxed():
        assert mix_dtypes().dtype == jnp.float64
        assert mix_ranks().shape == (2, 2)
    with pytest.raises(ValueError, match="dtype_promotion"):
        mix_dtypes()


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match="anything"):
        warnings.warn("anything", stacklevel=1)
