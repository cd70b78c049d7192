"""What every bottleneck obeys: a new bottleneck is one more row of this table."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import dkp
from dkp import kernels, likelihoods
from dkp.bottlenecks.base import Bottleneck
from dkp.gram.gram import Gram
from dkp.linalg.cholesky import cholesky

P, B = 3, 2
BOTTLENECKS = [
    dkp.InverseWishart(delta=4.5),
    dkp.InverseWishart(delta=200.0),
    dkp.Wishart(width=2),  # below P: singular
    dkp.Wishart(width=3),
    dkp.Wishart(width=7),
    dkp.Wishart(width=50.5),
]
LIMITS = [dkp.InverseWishart(delta=1e13), dkp.Wishart(width=1e13)]  # so concentrated that G = K

bottlenecks = pytest.mark.parametrize("layer", BOTTLENECKS, ids=repr)


def columns(layer):
    """The rank of G."""
    return min(P, int(layer.width)) if isinstance(layer, dkp.Wishart) else P


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


draw_from = jax.jit(lambda law, key: law.sample(key))
log_density = jax.jit(lambda law, value: law.log_prob(value))


@jax.jit
def condition(layer, key, gram, factor, whitened):
    return layer.condition(key, gram, cholesky(gram.ii), factor, whitened)


@jax.jit
def draw_many(layer, gram, keys):
    return jax.vmap(draw, (None, None, 0))(layer, gram, keys)[1]


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
    assert factor.shape == (P, columns(layer)) and factor.dtype == dtype
    np.testing.assert_array_equal(np.triu(factor, 1), 0)
    assert (gram.ii.shape, gram.ti.shape, gram.tt.shape) == ((P, P), (B, P), (B,))
    assert gram.ii.dtype == gram.ti.dtype == gram.tt.dtype == dtype
    np.testing.assert_allclose(gram.ii, factor @ factor.T, rtol=1e-5)
    assert all(bool(jnp.all(jnp.isfinite(block))) for block in jax.tree.leaves(gram))


@bottlenecks
def test_prior_draws_lie_in_the_support_and_have_a_density(layer):
    law = layer.prior(cholesky(kernel().ii))
    factor = draw_from(law, jax.random.key(0))
    assert law.event_shape == factor.shape and law.batch_shape == ()
    assert bool(law.support(factor)) and bool(jnp.isfinite(log_density(law, factor)))


@bottlenecks
def test_whitened_prior_is_the_law_of_the_whitened_factor(layer):
    """By the change of variables S = L T, whose Jacobian on trapezoids of m columns is prod_j
    L_jj^min(j, m)."""
    scale = cholesky(kernel().ii)
    law, whitened = layer.prior(scale), layer.whitened_prior(P, jnp.float64)
    t = draw_from(whitened, jax.random.key(0))
    log_jacobian = np.minimum(np.arange(1, P + 1), columns(layer)) @ np.log(np.diag(scale.tril))
    np.testing.assert_allclose(
        log_density(law, scale.tril @ t) + log_jacobian, log_density(whitened, t), rtol=1e-8
    )


@bottlenecks
def test_a_whitened_factor_that_is_known_changes_nothing(layer):
    gram, scale = kernel(), cholesky(kernel().ii)
    factor = draw_from(layer.prior(scale), jax.random.key(0))
    given = condition(layer, jax.random.key(1), gram, factor, scale.inverse @ factor)
    computed = condition(layer, jax.random.key(1), gram, factor, None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), given, computed)


@bottlenecks
def test_mean_is_the_kernel_in_every_block(layer):
    """|z| < 4.5 over 10 numbers: a false-alarm rate of 1e-4 over seeds."""
    keys = jax.random.split(jax.random.key(1), 20_000)
    blocks = jax.tree.leaves(draw_many(layer, kernel(), keys))
    for samples, truth in zip(blocks, jax.tree.leaves(kernel()), strict=True):
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

    resolved = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), layer)
    for leaf in jax.tree.leaves(jax.jit(jax.grad(total, (0, 1)))(resolved, kernel())):
        assert bool(jnp.all(jnp.isfinite(leaf)))


@pytest.mark.parametrize(
    "delta", [0, 0.0, -1.0, float("inf"), float("nan"), dkp.learn(-2.0), dkp.learn(0.0)]
)
def test_delta_outside_its_domain(delta):
    with pytest.raises(
        ValueError, match=r"Expected InverseWishart\(delta=…\) to be finite and positive. Got"
    ):
        dkp.InverseWishart(delta=delta)


@pytest.mark.parametrize(
    "width",
    [0, 0.0, -1, -1.0, float("nan"), -float("inf"), "wide", "8", True, None, [2.0, float("nan")]],
)
def test_width_outside_its_domain(width):
    with pytest.raises(
        ValueError, match=r"Expected Wishart\(width=…\) to be finite and positive. Got"
    ):
        dkp.Wishart(width=width)


@pytest.mark.parametrize(
    "layers", [[kernels.SquaredExponential()], []], ids=["a kernel", "nothing else"]
)
def test_an_infinite_width_is_no_bottleneck(layers):
    with pytest.warns(UserWarning, match="infinite width is no bottleneck.*made without it"):
        model = dkp.DeepKernelProcess(
            layers=[*layers, dkp.Wishart(width=float("inf"))], likelihood=likelihoods.Gaussian()
        )
    assert model.bottlenecks == () and len(model.layers) == 1


@pytest.mark.parametrize("start", [(), (8.0,)], ids=["no start", "a start"])
def test_a_width_is_not_learned(start):
    with pytest.raises(
        ValueError, match=r"Expected Wishart\(width=…\) to be a number or a distribution. Got learn"
    ):
        dkp.Wishart(width=dkp.learn(*start))


@pytest.mark.parametrize(
    "width", [2, 2.0, np.int64(2), np.float32(2), np.asarray(2), jnp.asarray(2)], ids=repr
)
def test_integers_of_any_type_are_ranks(width):
    assert dkp.Wishart(width=width).whitened_prior(P, jnp.float64).event_shape == (P, 2)


@pytest.mark.parametrize("width", [1.5, 0.5])
def test_a_real_width_below_the_number_of_points(width):
    with pytest.raises(
        ValueError,
        match="Expected degrees of freedom to be one integer of at least 1, or larger than",
    ):
        dkp.Wishart(width=width).whitened_prior(P, jnp.float64)
    with pytest.raises(
        ValueError,
        match=r"Expected Wishart\(width=…\) to be an integer, or real numbers of at least",
    ):
        dkp.Wishart(width=width).check_points(P)


BELOW = [2.999, dist.LogNormal(3.0, 0.1), dist.Uniform(2.0, 9.0)]
ENOUGH = [1, 2, 3.0, 3.5, dist.Uniform(3.0, 9.0), dist.Uniform(jnp.full(2, 3.0), 9.0).to_event(1)]


@pytest.mark.parametrize("width", BELOW)
def test_check_points_of_widths_that_may_be_too_small(width):
    with pytest.raises(ValueError, match="of at least the number of points, 3"):
        dkp.Wishart(width=width).check_points(3)


@pytest.mark.parametrize("width", ENOUGH)
def test_check_points_of_widths_that_will_do(width):
    dkp.Wishart(width=width).check_points(3)


def test_an_inverse_wishart_has_a_law_for_any_number_of_points():
    dkp.InverseWishart().check_points(10**6)


def test_the_description_of_a_width_is_what_the_user_wrote():
    assert repr(dkp.Wishart(width=8)) == "Wishart(width=8)"
