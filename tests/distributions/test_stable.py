"""Positive stable laws: the Laplace transform that defines them, scipy's densities, closed forms,
sampling laws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special, stats

from dkp.distributions import PositiveStable, SqrtPositiveStable
from tests.support import relaxed

CONCENTRATIONS = [0.1, 0.3, 0.5, 0.75, 0.9, 0.97]
VALUES = np.array([0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 5.0, 10.0, 1e2, 1e4, 1e8, 1e20])
N = 20_000


@jax.jit
def log_density(a, s):
    return PositiveStable(a).log_prob(s)


@jax.jit
def gradients(a, s):
    return jax.vmap(
        jax.grad(lambda a, s: PositiveStable(a).log_prob(s), argnums=(0, 1)), (None, 0)
    )(a, s)


@jax.jit
def draw(a, key):
    return PositiveStable(a).sample(key, (N,))


def where_dense(a, log_least):
    """Values at which the density is at least that; the others are replaced, so that programs are
    compiled once."""
    dense = np.asarray(log_density(jnp.asarray(a), jnp.asarray(VALUES))) > log_least
    return np.where(dense, VALUES, 1.5)


@jax.jit
def log_density_of(law, s):
    return law.log_prob(s)


def squares(a, values):
    """The density of sqrt(S) from that of S."""
    return log_density(a, values**2) + jnp.log(2 * values)


@pytest.mark.parametrize("a", CONCENTRATIONS)
@pytest.mark.rows(2)
def test_the_laplace_transform_of_the_density(a):
    """E[exp(-t S)] = exp(-t^a), by the trapezoidal rule in log s, whose integrand decays doubly
    exponentially."""
    log_s, h = np.linspace(-100, 10, 16_384, retstep=True)
    density = np.exp(np.asarray(log_density(jnp.asarray(a), jnp.asarray(np.exp(log_s)))) + log_s)
    for t in (0.3, 1.0, 4.0):
        integral = h * np.sum(density * np.exp(-t * np.exp(log_s)))
        np.testing.assert_allclose(integral, np.exp(-(t**a)), rtol=1e-11)


@pytest.mark.parametrize("a", [0.3, 0.6, 0.75, 0.9])
def test_the_density_is_scipys(a):
    s = where_dense(a, -4)  # scipy loses digits below
    truth = stats.levy_stable(a, 1, scale=np.cos(np.pi * a / 2) ** (1 / a)).logpdf(s)
    np.testing.assert_allclose(log_density(jnp.asarray(a), jnp.asarray(s)), truth, atol=1e-10)


def test_the_density_for_one_half_is_levys():
    s = np.concatenate([[1e-4, 1e-3, 1e-2], VALUES])
    truth = -np.log(4 * np.pi * s**3) / 2 - 1 / (4 * s)
    np.testing.assert_allclose(log_density(jnp.asarray(0.5), jnp.asarray(s)), truth, rtol=1e-12)
    np.testing.assert_allclose(truth[1:-3], stats.levy(scale=0.5).logpdf(s[1:-3]), rtol=1e-12)


@pytest.mark.parametrize("a", CONCENTRATIONS)
def test_tails(a):
    """p(s) ~ a / Gamma(1 - a) s^(-1 - a), and the next term of the series is of relative size
    s^-a."""
    s = 1e10 ** (1 / a)
    truth = np.log(a / special.gamma(1 - a)) - (1 + a) * np.log(s)
    np.testing.assert_allclose(log_density(jnp.asarray(a), jnp.asarray(s)), truth, atol=1e-8)


def test_as_the_concentration_tends_to_one_all_mass_is_at_one():
    s = draw(jnp.asarray(1 - 1e-6), jax.random.key(0))
    assert np.mean(np.abs(s - 1) < 1e-3) > 0.99


@pytest.mark.parametrize("a", [0.3, 0.5, 0.8])
def test_draws_have_the_laplace_transform(a):
    """|z| < 4.5 over 9 numbers: a false-alarm rate of 6e-5 over seeds."""
    s = np.asarray(draw(jnp.asarray(a), jax.random.key(1)))
    for t in (0.3, 1.0, 4.0):
        values = np.exp(-t * s)
        assert abs(values.mean() - np.exp(-(t**a))) < 4.5 * values.std() / np.sqrt(N)


def test_draws_for_one_half_are_levys_and_make_cauchy_variables():
    """p > 1e-4: a false-alarm rate of 2e-4 over seeds."""
    s = np.asarray(draw(jnp.asarray(0.5), jax.random.key(2)))
    assert stats.kstest(s, stats.levy(scale=0.5).cdf).pvalue > 1e-4
    z = np.random.default_rng(0).normal(size=N)
    assert stats.kstest(np.sqrt(2 * s) * z, stats.cauchy.cdf).pvalue > 1e-4


@pytest.mark.parametrize("a", [0.4, 0.8])
def test_mean_of_the_root(a):
    """E[S^p] = Gamma(1 - p/a) / Gamma(1 - p) where it is finite. |z| < 4.5 at p = a/3, whose
    variance is finite."""
    s, p = np.asarray(draw(jnp.asarray(a), jax.random.key(3))), a / 3
    truth = special.gamma(1 - p / a) / special.gamma(1 - p)
    assert abs(np.mean(s**p) - truth) < 4.5 * np.std(s**p) / np.sqrt(N)
    expected = special.gamma(1 - 0.5 / a) / special.gamma(0.5) if a > 0.5 else np.inf
    np.testing.assert_allclose(SqrtPositiveStable(a).mean, expected, rtol=1e-12)
    assert (
        PositiveStable(a).mean
        == PositiveStable(a).variance
        == SqrtPositiveStable(a).variance
        == np.inf
    )


@pytest.mark.parametrize("a", [0.3, 0.5, 0.9])
def test_draws_are_differentiable_in_the_concentration(a):
    @jax.jit
    def values(a):
        return jnp.log(PositiveStable(a).sample(jax.random.key(4), (50,)))

    h = 1e-6
    slope = jax.jvp(values, (jnp.asarray(a),), (jnp.ones(()),))[1]
    np.testing.assert_allclose(
        slope, (values(a + h) - values(a - h)) / (2 * h), rtol=1e-5, atol=1e-6
    )
    assert PositiveStable(a).has_rsample


@pytest.mark.parametrize("a", CONCENTRATIONS)
@pytest.mark.rows(2)
def test_gradients_of_the_density_match_finite_differences(a):
    s, h = jnp.asarray(where_dense(a, -100)), 1e-5
    in_a, in_s = gradients(jnp.asarray(a), s)
    difference = (log_density(jnp.asarray(a + h), s) - log_density(jnp.asarray(a - h), s)) / (2 * h)
    np.testing.assert_allclose(in_a, difference, rtol=1e-4, atol=1e-6)
    difference = (
        log_density(jnp.asarray(a), s * np.exp(h)) - log_density(jnp.asarray(a), s * np.exp(-h))
    ) / (2 * h)
    np.testing.assert_allclose(in_s * s, difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("a", CONCENTRATIONS)
@pytest.mark.rows(2)
def test_float32_is_close_to_float64(a):
    s = where_dense(a, -100)
    single = log_density(jnp.asarray(a, jnp.float32), jnp.asarray(s, jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(
        single, log_density(jnp.asarray(a), jnp.asarray(s)), rtol=2e-5, atol=2e-5
    )
    assert all(
        np.all(np.isfinite(g))
        for g in gradients(jnp.asarray(a, jnp.float32), jnp.asarray(s, jnp.float32))
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("a", [0.01, 0.5, 0.99])
def test_densities_far_from_all_mass_are_finite(a, dtype):
    limits = jnp.finfo(dtype)
    s = jnp.asarray([limits.tiny, 1e-20, 1e20, limits.max], dtype)
    assert np.all(np.isfinite(log_density(jnp.asarray(a, dtype), s)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_draws_of_small_concentrations_can_be_represented(dtype):
    s = draw(jnp.asarray(0.01, dtype), jax.random.key(5))
    assert s.dtype == dtype and np.all(np.isfinite(s)) and np.all(s > 0)


def test_shapes_and_batches():
    a = jnp.asarray([0.3, 0.5])
    law = PositiveStable(a)
    s = law.sample(jax.random.key(6), (4,))
    assert s.shape == (4, 2) and np.all(law.support(s))
    np.testing.assert_allclose(log_density_of(law, s)[:, 1], log_density(a[1], s[:, 1]), rtol=1e-12)
    assert log_density_of(PositiveStable(0.5), s).shape == (4, 2)
    assert dist.Independent(SqrtPositiveStable(a), 1).event_shape == (2,)


def test_a_law_made_while_tracing():
    np.testing.assert_array_equal(
        jax.jit(lambda s: PositiveStable(0.5).log_prob(s))(jnp.ones(2)),
        log_density(jnp.asarray(0.5), jnp.ones(2)),
    )


def test_root():
    law, values = SqrtPositiveStable(0.6), jnp.asarray([0.4, 1.0, 3.0])
    with relaxed():
        np.testing.assert_allclose(
            log_density_of(law, values), squares(jnp.asarray(0.6), values), rtol=1e-12
        )
        s = law.sample(jax.random.key(1), (N,)) ** 2
    np.testing.assert_allclose(s, draw(jnp.asarray(0.6), jax.random.key(1)), rtol=1e-12)


@pytest.mark.parametrize(
    "law", [PositiveStable(0.6), SqrtPositiveStable(0.6)], ids=lambda law: type(law).__name__
)
def test_pytree_round_trip(law):
    back = jax.tree.unflatten(*jax.tree.flatten(law)[::-1])
    assert type(back) is type(law) and back.concentration == 0.6
    with relaxed():
        assert log_density_of(back, jnp.asarray(2.0)) == log_density_of(law, jnp.asarray(2.0))


@pytest.mark.parametrize("make", [PositiveStable, SqrtPositiveStable])
@pytest.mark.parametrize("a", [0.0, 1.0, -0.5, 1.5, float("nan"), jnp.array([0.5, 1.0])])
def test_concentrations_outside_the_domain(make, a):
    with pytest.raises(
        ValueError, match="Expected concentration to lie between 0 and 1, both excluded. Got"
    ):
        make(a)


def test_numbers_and_integers_are_values():
    law = PositiveStable(0.5)
    expected = law.log_prob(jnp.asarray(1.0))
    np.testing.assert_array_equal(law.log_prob(1.0), expected)
    with relaxed():  # NumPyro's own check of the support promotes
        np.testing.assert_array_equal(law.log_prob(jnp.asarray([1])), [expected])
