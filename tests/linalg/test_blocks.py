"""Gram and Inputs are immutable pytrees whose missing blocks are None."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dkp.linalg.blocks import Gram, Inputs

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


def test_diagonal():
    np.testing.assert_array_equal(Gram(ii=jnp.arange(9.0).reshape(3, 3)).ii_diagonal, [0, 4, 8])
