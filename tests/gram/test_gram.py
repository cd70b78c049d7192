"""Gram and Inputs are immutable pytrees whose missing blocks are None."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dkp.gram.gram import Gram, Inputs
from dkp.linalg.diagonals import diagonal, embed_diagonal, squared_norms

BLOCKS = [
    Gram(ii=jnp.eye(3)),
    Gram(ii=jnp.eye(3), ti=jnp.ones((2, 3)), tt=jnp.ones(2)),
    Inputs(i=jnp.ones((3, 2))),
    Inputs(i=jnp.ones((3, 2)), t=jnp.zeros((4, 2))),
]


@pytest.mark.parametrize("blocks", BLOCKS)
def test_pytree_round_trip(blocks):
    leaves, structure = jax.tree.flatten(blocks)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is type(blocks)
    assert jax.tree.structure(back) == structure
    present = [f.name for f in dataclasses.fields(blocks) if getattr(blocks, f.name) is not None]
    assert len(leaves) == len(present)
    for name in present:
        np.testing.assert_array_equal(getattr(back, name), getattr(blocks, name))


@pytest.mark.parametrize("blocks", BLOCKS)
def test_immutable_and_keyword_only(blocks):
    first = dataclasses.fields(blocks)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(blocks, first, None)
    with pytest.raises(TypeError):
        type(blocks)(jnp.eye(2))


def test_passes_through_jit_and_vmap():
    stacked = jax.vmap(lambda s: Gram(ii=s * jnp.eye(3)))(jnp.array([1.0, 2.0]))
    doubled = jax.jit(jax.vmap(lambda g: jax.tree.map(lambda a: 2 * a, g)))(stacked)
    np.testing.assert_array_equal(doubled.ii, 2 * stacked.ii)
    assert doubled.ti is None and doubled.tt is None


def test_diagonal_of_a_gram_matrix():
    np.testing.assert_array_equal(Gram(ii=jnp.arange(9.0).reshape(3, 3)).ii_diagonal, [0, 4, 8])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (4, 2), (3, 1), (2, 5, 3)])
def test_diagonal(shape, dtype):
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    assert diagonal(matrix).dtype == dtype
    np.testing.assert_array_equal(diagonal(matrix), np.diagonal(matrix, axis1=-2, axis2=-1))
    gradient = jax.grad(lambda m: jnp.sum(diagonal(m) ** 2))(matrix)
    np.testing.assert_array_equal(
        gradient, np.where(np.eye(*shape[-2:], dtype=bool), 2 * matrix, 0)
    )


def test_diagonal_ignores_what_is_off_it():
    np.testing.assert_array_equal(diagonal(jnp.asarray([[1.0, jnp.nan], [jnp.inf, 2.0]])), [1, 2])
    np.testing.assert_array_equal(
        diagonal(jnp.asarray([[1.0, jnp.nan], [jnp.inf, 2.0], [jnp.nan] * 2])), [1, 2]
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("shape", "rows"), [((3,), 3), ((2,), 4), ((1,), 3), ((2, 3), 5)])
def test_embed_diagonal(shape, rows, dtype):
    values = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    matrix = embed_diagonal(values, rows)
    assert matrix.shape == (*shape[:-1], rows, shape[-1]) and matrix.dtype == dtype
    np.testing.assert_array_equal(diagonal(matrix), values)
    np.testing.assert_array_equal(np.where(np.eye(rows, shape[-1], dtype=bool), 0, matrix), 0)
    gradient = jax.grad(lambda v: jnp.sum(embed_diagonal(v, rows) ** 2))(values)
    np.testing.assert_array_equal(gradient, 2 * values)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_squared_norms(dtype):
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), dtype)
    assert squared_norms(matrix).dtype == dtype
    np.testing.assert_allclose(
        squared_norms(matrix), np.linalg.norm(np.asarray(matrix, float), axis=1) ** 2, rtol=1e-6
    )
