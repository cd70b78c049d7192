"""What every bottleneck obeys: a new bottleneck is one more row of this table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dkp
from dkp.bottlenecks import Bottleneck
from dkp.linalg.blocks import Gram
from dkp.linalg.cholesky import cholesky

P, B = 3, 2
BOTTLENECKS = [dkp.InverseWishart(delta=4.5), dkp.InverseWishart(delta=200.0)]
LIMITS = [dkp.InverseWishart(delta=1e13)]  # so concentrated that G = K

bottlenecks = pytest.mark.parametrize("layer", BOTTLENECKS, ids=repr)


def kernel(dtype=jnp.float64):
    x = np.random.default_rng(1).normal(size=(P + B, 2))
    k = 1.3 * np.exp(-0.5 * ((x[:, None] - x[None]) ** 2).sum(-1))
    k = jnp.asarray(k, dtype)
    return Gram(ii=k[:P, :P], ti=k[P:, :P], tt=jnp.diagonal(k)[P:])


@jax.jit
def draw(layer, gram, key):
    """The factor and the Gram matrix of one prior draw."""
    key_factor, key_data = jax.random.split(key)
    scale = cholesky(gram.ii)
    factor = layer.prior(scale).sample(key_factor)
    return factor, layer.condition(key_data, gram, scale, factor)


@bottlenecks
def test_pytree_round_trip(layer):
    leaves, structure = jax.tree.flatten(layer)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is type(layer) and isinstance(back, Bottleneck)
    assert jax.tree.leaves(back) == leaves and jax.tree.structure(back) == structure


@bottlenecks
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
def test_prior_draws(layer, dtype):
    resolved = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), layer)
    factor, gram = draw(resolved, kernel(dtype), jax.random.key(0))
    assert factor.shape[0] == P and factor.dtype == dtype
    np.testing.assert_array_equal(np.triu(factor, 1), 0)
    assert (gram.ii.shape, gram.ti.shape, gram.tt.shape) == ((P, P), (B, P), (B,))
    assert gram.ii.dtype == gram.ti.dtype == gram.tt.dtype == dtype
    np.testing.assert_allclose(gram.ii, factor @ factor.T, rtol=1e-5)
    assert all(bool(jnp.all(jnp.isfinite(block))) for block in jax.tree.leaves(gram))


@bottlenecks
def test_prior_draws_lie_in_the_support_and_have_a_density(layer):
    law = layer.prior(cholesky(kernel().ii))
    factor = law.sample(jax.random.key(0))
    assert law.event_shape == factor.shape and law.batch_shape == ()
    assert bool(law.support(factor)) and bool(jnp.isfinite(law.log_prob(factor)))


@bottlenecks
def test_whitened_prior_is_the_law_of_the_whitened_factor(layer):
    """By the change of variables S = L T, whose Jacobian on lower-triangular T is prod_j L_jj^j."""
    scale = cholesky(kernel().ii)
    law, whitened = layer.prior(scale), layer.whitened_prior(P, jnp.float64)
    draw = whitened.sample(jax.random.key(0))
    log_jacobian = np.arange(1, P + 1) @ np.log(np.diag(scale.tril))
    np.testing.assert_allclose(law.log_prob(scale.tril @ draw) + log_jacobian, whitened.log_prob(draw), rtol=1e-8)


@bottlenecks
def test_a_whitened_factor_that_is_known_changes_nothing(layer):
    gram, scale = kernel(), cholesky(kernel().ii)
    factor = layer.prior(scale).sample(jax.random.key(0))
    given = layer.condition(jax.random.key(1), gram, scale, factor, scale.inverse @ factor)
    computed = layer.condition(jax.random.key(1), gram, scale, factor)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), given, computed)


@bottlenecks
def test_mean_is_the_kernel_in_every_block(layer):
    """|z| < 4.5 over 10 numbers: a false-alarm rate of 1e-4 over seeds."""
    keys = jax.random.split(jax.random.key(1), 20_000)
    blocks = jax.jit(jax.vmap(lambda layer, key: jax.tree.leaves(draw(layer, kernel(), key)[1]), in_axes=(None, 0)))
    for samples, truth in zip(blocks(layer, keys), jax.tree.leaves(kernel()), strict=True):
        z = (samples.mean(0) - truth) / (samples.std(0) / np.sqrt(len(keys)))
        assert np.max(np.abs(z)) < 4.5


@bottlenecks
def test_without_data_blocks(layer):
    gram = Gram(ii=kernel().ii)
    factor, out = draw(layer, gram, jax.random.key(0))
    np.testing.assert_allclose(out.ii, factor @ factor.T, rtol=1e-12)
    assert out.ti is None and out.tt is None


@pytest.mark.parametrize("layer", LIMITS, ids=repr)
def test_the_concentrated_limit_is_the_deterministic_network(layer):
    _, gram = draw(layer, kernel(), jax.random.key(0))
    for block, truth in zip(jax.tree.leaves(gram), jax.tree.leaves(kernel()), strict=True):
        np.testing.assert_allclose(block, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [*BOTTLENECKS, *LIMITS], ids=repr)
def test_gradients_are_finite(layer):
    def total(layer, gram):
        factor, out = draw(layer, gram, jax.random.key(0))
        return sum(jnp.sum(block) for block in jax.tree.leaves(out)) + jnp.sum(factor)

    resolved = jax.tree.map(jnp.asarray, layer)
    for leaf in jax.tree.leaves(jax.jit(jax.grad(total, (0, 1)))(resolved, kernel())):
        assert bool(jnp.all(jnp.isfinite(leaf)))


@pytest.mark.parametrize("delta", [0, 0.0, -1.0, float("inf"), float("nan"), dkp.learn(-2.0), dkp.learn(0.0)])
def test_delta_outside_its_domain(delta):
    with pytest.raises(ValueError, match=r"Expected InverseWishart\(delta=…\) to be finite and positive. Got"):
        dkp.InverseWishart(delta=delta)
