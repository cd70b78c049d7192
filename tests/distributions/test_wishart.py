"""The inverse Wishart on its factor: scipy's density, autodiff's Jacobians, sampling laws, and NumPyro's interface."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density
from scipy import stats

from dkp.distributions.wishart import InverseBartlett, InverseWishartFactor, LowerProduct
from tests.support import relaxed

SIZES_AND_DF = [(1, 3.5), (2, 1.5), (4, 9.3)]


def scale_tril(size, dtype=jnp.float64):
    a = np.random.default_rng(size).normal(size=(size, size + 2))
    return jnp.asarray(np.linalg.cholesky(a @ a.T / size), dtype)


def packed(function, size):
    """A map of lower-triangular matrices as a map of vectors, for Jacobians."""
    index = np.tril_indices(size)

    def of_vector(v):
        return function(jnp.zeros((size, size), v.dtype).at[index].set(v))[index]

    return of_vector


def log_jacobian(function, tril):
    index = np.tril_indices(tril.shape[-1])
    return np.linalg.slogdet(jax.jacfwd(packed(function, tril.shape[-1]))(tril[index]))[1]


def gram(s):
    return s @ s.T


@pytest.mark.parametrize(("size", "df"), SIZES_AND_DF)
def test_density_is_scipys_times_the_jacobian(size, df):
    law = InverseWishartFactor(df, scale_tril(size))
    s = law.sample(jax.random.key(3))
    truth = stats.invwishart(df, np.asarray(gram(law.scale_tril))).logpdf(np.asarray(gram(s)))
    np.testing.assert_allclose(law.log_prob(s), truth + log_jacobian(gram, s), rtol=1e-9)


@pytest.mark.parametrize(("size", "df"), SIZES_AND_DF)
def test_whitened_density_is_the_density_at_unit_scale(size, df):
    base = InverseBartlett(df, size)
    t = base.sample(jax.random.key(4))
    truth = stats.invwishart(df, np.eye(size)).logpdf(np.asarray(gram(t))) + log_jacobian(gram, t)
    np.testing.assert_allclose(base.log_prob(t), truth, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_lower_product_is_a_bijection_with_autodiffs_jacobian(size):
    transform, t = LowerProduct(scale_tril(size)), scale_tril(size) + jnp.eye(size)
    y = transform(t)
    np.testing.assert_allclose(transform.inv(y), t, atol=1e-12)
    np.testing.assert_allclose(transform.log_abs_det_jacobian(t, y), log_jacobian(transform, t), atol=1e-10)


def test_sampled_matrix_follows_the_inverse_wishart():
    """z-scores below 4.5 and p > 1e-4: a false-alarm rate of about 3e-4 over seeds."""
    size, df, n = 3, 11.0, 20_000
    law = InverseWishartFactor(df, scale_tril(size))
    s = np.asarray(jax.jit(lambda k: law.sample(k, (n,)))(jax.random.key(0)))
    g, psi = s @ s.transpose(0, 2, 1), np.asarray(gram(law.scale_tril))
    mean = psi / (df - size - 1)
    assert np.max(np.abs((g.mean(0) - mean) / (g.std(0) / np.sqrt(n)))) < 4.5
    for j in range(size):  # a 1 x 1 block of IW(psi, df) is InverseGamma((df - size + 1) / 2, psi_jj / 2)
        marginal = stats.invgamma((df - size + 1) / 2, scale=psi[j, j] / 2)
        assert stats.kstest(g[:, j, j], marginal.cdf).pvalue > 1e-4
    reference = stats.invwishart(df, psi).rvs(n, random_state=1)
    assert stats.ks_2samp(np.linalg.slogdet(g)[1], np.linalg.slogdet(reference)[1]).pvalue > 1e-4
    assert stats.ks_2samp(g[:, 0, 1], reference[:, 0, 1]).pvalue > 1e-4


def test_samples_lie_in_the_support_and_have_the_asked_shapes():
    law = InverseWishartFactor(jnp.array([5.0, 9.0]), scale_tril(3))
    assert law.batch_shape == (2,) and law.event_shape == (3, 3)
    s = law.sample(jax.random.key(1), (4,))
    assert s.shape == (4, 2, 3, 3)
    assert np.all(law.support(s))
    np.testing.assert_array_equal(np.triu(s, 1), 0)


def test_density_of_a_batch_is_the_density_of_each():
    law = InverseWishartFactor(6.0, scale_tril(3))
    s = jnp.stack([scale_tril(3) + c * jnp.eye(3) for c in (0.0, 0.5, 1.0)])
    np.testing.assert_allclose(law.log_prob(s), [law.log_prob(one) for one in s], rtol=1e-12)


def test_a_batch_of_laws_under_vmap():
    tril = jnp.stack([scale_tril(3), 2 * scale_tril(3)])
    df = jnp.array([4.0, 7.0])
    s = scale_tril(3) + jnp.eye(3)
    batched = jax.jit(jax.vmap(lambda d, t: InverseWishartFactor(d, t).log_prob(s)))(df, tril)
    for i in range(2):
        np.testing.assert_allclose(batched[i], InverseWishartFactor(df[i], tril[i]).log_prob(s), rtol=1e-12)


@pytest.mark.parametrize("law", [InverseBartlett(5.0, 3), InverseWishartFactor(5.0, jnp.eye(3), jnp.eye(3))])
def test_pytree_round_trip(law):
    leaves, structure = jax.tree.flatten(law)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is type(law) and back.event_shape == law.event_shape
    value = scale_tril(3)
    np.testing.assert_allclose(jax.jit(lambda d: d.log_prob(value))(back), law.log_prob(value), rtol=1e-12)


@pytest.mark.parametrize("given", [True, False])
def test_inverse_of_the_scale(given):
    tril = scale_tril(3)
    law = InverseWishartFactor(5.0, tril, jnp.linalg.inv(tril) if given else None)
    np.testing.assert_allclose(law.scale_tril_inverse @ tril, np.eye(3), atol=1e-12)
    assert law.df == 5.0


def test_float32_stays_float32_and_agrees():
    single, double = (InverseWishartFactor(6.0, scale_tril(3, d)) for d in (jnp.float32, jnp.float64))
    s = single.sample(jax.random.key(2))
    assert s.dtype == single.log_prob(s).dtype == jnp.float32
    np.testing.assert_allclose(s, double.sample(jax.random.key(2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(single.log_prob(s), double.log_prob(s.astype(jnp.float64)), rtol=1e-5)


def test_density_has_the_derivatives_of_finite_differences():
    s, tril = scale_tril(3) + jnp.eye(3), scale_tril(3)

    @jax.jit
    def log_prob(df, factor):
        return InverseWishartFactor(df, factor * tril).log_prob(s)

    gradient = jax.jit(jax.grad(log_prob, (0, 1)))(6.0, 1.1)
    h = 1e-5
    np.testing.assert_allclose(gradient[0], (log_prob(6 + h, 1.1) - log_prob(6 - h, 1.1)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(gradient[1], (log_prob(6.0, 1.1 + h) - log_prob(6.0, 1.1 - h)) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("df", [1.9, 2.0, -1.0, float("nan")])
def test_too_few_degrees_of_freedom(df):
    with pytest.raises(ValueError, match="Expected degrees of freedom larger than size - 1 = 2. Got"):
        InverseWishartFactor(df, jnp.eye(3))
    with pytest.raises(ValueError, match="Expected degrees of freedom .* Got"):
        InverseBartlett(df, 3)


def test_transform_reparam_makes_the_site_independent_of_the_scale():
    """The joint density of the reparametrised model is that of T alone, and S = L T."""
    tril = scale_tril(3)

    def model():
        return numpyro.sample("gram", InverseWishartFactor(7.0, tril))

    reparametrised = numpyro.handlers.reparam(model, config={"gram": TransformReparam()})
    t = InverseBartlett(7.0, 3).sample(jax.random.key(0))
    with relaxed():
        density, trace = log_density(reparametrised, (), {}, {"gram_base": t})
    np.testing.assert_allclose(density, InverseBartlett(7.0, 3).log_prob(t), rtol=1e-10)
    np.testing.assert_allclose(trace["gram"]["value"], tril @ t, rtol=1e-12)


def test_unconstrained_space_has_the_right_dimension():
    transform = dist.biject_to(InverseBartlett(5.0, 3).support)
    with relaxed():
        t = transform(jnp.zeros(6))
        np.testing.assert_allclose(transform.inv(t), np.zeros(6), atol=1e-12)
    assert t.shape == (3, 3) and np.all(np.diagonal(t) > 0)


def test_laws_with_plain_numbers_can_be_made_while_tracing():
    made = jax.jit(lambda: InverseBartlett(5.0, 3).df)()
    assert made == 5.0
    with pytest.raises(ValueError, match="degrees of freedom"):
        jax.jit(lambda: InverseBartlett(2.0, 3).df)()
