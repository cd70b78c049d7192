"""Draws against scipy's distributions, and the gradient of the gamma draws against quantile
functions.

Statistical tests have fixed seeds. A Kolmogorov-Smirnov test fails below p = 1e-4 and a z-score
above 4.5 in absolute value (1e-5): were the seeds drawn anew, the whole file would raise a false
alarm in about one of 250 runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as sp
import scipy.stats
from jax.scipy.special import digamma, gammaln

from dkp.linalg.random import (
    _acceptance,
    _at_fixed_quantile,
    chi,
    chi_square,
    gamma,
    gamma_and_normal,
    log_gamma,
    normal,
)
from tests.support import relaxed

DTYPES = [jnp.float32, jnp.float64]
CONCENTRATIONS = [0.05, 0.5, 1.0, 1.7, 10.0, 1e4]
# one row a sampler: the draws, the law they must follow, and the arguments to try
SAMPLERS = [
    pytest.param(gamma, scipy.stats.gamma, [0.3, 1.0, 1.7, 10.0, 1e4], id="gamma"),
    pytest.param(log_gamma, scipy.stats.loggamma, [0.01, 0.5, 1.0, 40.0], id="log_gamma"),
    pytest.param(chi_square, scipy.stats.chi2, [0.7, 2.0, 3.3, 100.0], id="chi_square"),
    pytest.param(chi, scipy.stats.chi, [0.7, 2.0, 3.3, 100.0], id="chi"),
]


def z_scores(samples, expected):
    """Distance of the sample means (over axis 0) from `expected`, in standard errors."""
    samples = np.asarray(samples, float)
    return (samples.mean(0) - expected) / (samples.std(0, ddof=1) / np.sqrt(len(samples)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sampler", "law", "arguments"), SAMPLERS)
def test_draws_follow_their_law(sampler, law, arguments, dtype, key):
    draws = sampler(key, jnp.asarray(arguments, dtype), (20_000,))
    assert draws.dtype == dtype
    assert draws.shape == (20_000, len(arguments))
    for column, argument in zip(
        np.asarray(draws, float).T, np.asarray(arguments, dtype), strict=True
    ):
        assert scipy.stats.kstest(column, law(float(argument)).cdf).pvalue > 1e-4, argument


def test_gamma_moments(key):
    a = np.array(CONCENTRATIONS)
    x = np.asarray(gamma(key, jnp.asarray(a), (20_000,)))
    assert np.all(np.abs(z_scores(x, a)) < 4.5)
    assert np.all(np.abs(z_scores((x - a) ** 2, a)) < 4.5)
    assert np.all(np.abs(z_scores(log_gamma(key, jnp.asarray(a), (20_000,)), sp.digamma(a))) < 4.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gamma_and_normal(dtype, key):
    """Each follows its law, and they are uncorrelated: |z| < 4.5."""
    x, z = gamma_and_normal(key, jnp.full(20_000, 2.5, dtype), (20_000,))
    assert x.dtype == z.dtype == dtype
    x, z = np.asarray(x, float), np.asarray(z, float)
    assert scipy.stats.kstest(x, scipy.stats.gamma(2.5).cdf).pvalue > 1e-4
    assert scipy.stats.kstest(z, scipy.stats.norm.cdf).pvalue > 1e-4
    assert abs(z_scores((x - x.mean()) * z, 0)) < 4.5


def test_the_samplers_agree_draw_by_draw(key):
    a = jnp.array(CONCENTRATIONS)
    x = gamma(key, a, (50,))
    np.testing.assert_allclose(jnp.exp(log_gamma(key, a, (50,))), x, rtol=1e-12)
    np.testing.assert_allclose(chi_square(key, 2 * a, (50,)), 2 * x, rtol=1e-12)
    np.testing.assert_allclose(chi(key, 2 * a, (50,)), jnp.sqrt(2 * x), rtol=1e-12)


def test_acceptance_is_the_ratio_of_densities_and_seldom_small():
    a = np.array([1.0, 1.3, 2.0, 10.0, 300.0, 1e6])
    z, step = np.linspace(-5.4, 5.4, 2001, retstep=True)
    d = a - 1 / 3
    v = (1 + z[:, None] / np.sqrt(9 * d)) ** 3
    with np.errstate(invalid="ignore"):
        ratio = np.where(v > 0, np.exp(z[:, None] ** 2 / 2 + d - d * v + d * np.log(v)), 0)
    t = jnp.asarray(z[:, None] / np.sqrt(9 * d), jnp.float32)
    got = _acceptance(t, jnp.broadcast_to(jnp.asarray(d, jnp.float32), t.shape))
    error = np.abs(np.asarray(got, float) - ratio)
    density = scipy.stats.norm.pdf(z)
    assert np.all(density @ error * step < 1e-6)
    assert np.all(1 - density @ ratio * step < 0.0485)
    assert 0.0485**7 < 1e-9


def slope(a, x):
    """dx/da at a fixed quantile."""
    return jax.jvp(lambda a: _at_fixed_quantile(a, x), (a,), (jnp.ones_like(a),))[1]


QUANTILES = np.array([1e-8, 1e-4, 0.1, 0.4, 0.5, 0.7])  # of both tails


@pytest.mark.parametrize("a", [1.0, 1.4, 3.0, 7.9, 8.1, 50.0, 1e3, 1e6])
def test_slope_is_that_of_the_quantile_function(a):
    step = 1e-4 * np.sqrt(a)
    for quantile in (sp.gammaincinv, sp.gammainccinv):
        numeric = (quantile(a - 2 * step, QUANTILES) - quantile(a + 2 * step, QUANTILES)) / 12
        numeric += (quantile(a + step, QUANTILES) - quantile(a - step, QUANTILES)) * 2 / 3
        got = slope(jnp.full(QUANTILES.shape, a), jnp.asarray(quantile(a, QUANTILES)))
        np.testing.assert_allclose(got, numeric / step, rtol=2e-8)


@pytest.mark.parametrize("a", [1.0, 1.4, 7.9, 8.1, 50.0, 1e3])
def test_slope_is_jaxs_implicit_gradient(a):
    x = np.concatenate(
        [sp.gammaincinv(a, QUANTILES), sp.gammainccinv(a, QUANTILES), [a, np.nextafter(a, 0)]]
    )
    with relaxed():
        expected = jax.lax.random_gamma_grad(jnp.full(x.shape, a), jnp.asarray(x))
    np.testing.assert_allclose(slope(jnp.full(x.shape, a), jnp.asarray(x)), expected, rtol=1e-9)


@pytest.mark.parametrize("function", [log_gamma, chi])
def test_gradients_of_expectations(function, key):
    a = jnp.array([0.2, 0.8, 1.0, 3.0, 200.0])
    _, by_draw = jax.jvp(lambda a: function(key, a, (20_000,)), (a,), (jnp.ones_like(a),))
    truth = {
        log_gamma: digamma,
        chi: lambda a: jnp.sqrt(2.0) * jnp.exp(gammaln((a + 1) / 2) - gammaln(a / 2)),
    }[function]
    assert np.all(np.abs(z_scores(by_draw, jax.vmap(jax.grad(truth))(a))) < 4.5)


def test_second_derivatives_of_expectations(key):
    a = jnp.array([0.8, 1.0, 3.0, 20.0])

    def first(a):
        return jax.jvp(lambda a: log_gamma(key, a, (20_000,)), (a,), (jnp.ones_like(a),))[1]

    _, second = jax.jvp(first, (a,), (jnp.ones_like(a),))
    assert np.all(np.abs(z_scores(second, sp.polygamma(2, np.asarray(a)))) < 4.5)


def test_mean_has_gradient_one(key):
    gradient = jax.grad(lambda a: jnp.sum(gamma(key, a, (20_000,))) / 20_000)(jnp.array(2.5))
    _, by_draw = jax.jvp(lambda a: gamma(key, a, (20_000,)), (jnp.array(2.5),), (jnp.array(1.0),))
    np.testing.assert_allclose(gradient, jnp.mean(by_draw), rtol=1e-12)
    assert abs(z_scores(by_draw, 1.0)) < 4.5


def test_float32_is_close_to_float64(key):
    a = np.array([0.5, 0.9, 1.0, 2.0, 7.0, 9.0, 300.0, 1e5])

    def draws(dtype):
        a_ = jnp.asarray(a, dtype)
        return jax.jvp(lambda a: gamma(key, a, (200,)), (a_,), (jnp.ones_like(a_),))

    (x32, g32), (x64, g64) = draws(jnp.float32), draws(jnp.float64)
    assert x32.dtype == g32.dtype == jnp.float32
    np.testing.assert_allclose(x32, x64, rtol=3e-5)
    np.testing.assert_allclose(g32, g64, rtol=3e-5)


def test_vmap_is_the_loop(key):
    keys, a = jax.random.split(key, 3), jnp.array([[0.3, 4.0], [1.0, 2.0], [50.0, 0.9]])

    def draw_and_gradient(key, a):
        return jax.value_and_grad(lambda a: jnp.sum(chi(key, a, (4,)) ** 3))(a)

    loop = [draw_and_gradient(k, row) for k, row in zip(keys, a, strict=True)]
    values, gradients = jax.jit(jax.vmap(draw_and_gradient))(keys, a)
    np.testing.assert_allclose(values, [value for value, _ in loop], rtol=1e-12)
    np.testing.assert_allclose(gradients, [gradient for _, gradient in loop], rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_finite_where_draws_underflow(dtype, key):
    a = jnp.asarray(1e-3, dtype)
    assert jnp.min(gamma(key, a, (100,))) == 0
    for sampler in (gamma, log_gamma, chi, chi_square):
        gradient = jax.grad(lambda a, sampler=sampler: jnp.sum(sampler(key, a, (100,))))(a)
        assert np.isfinite(gradient), sampler.__name__
    assert np.all(np.isfinite(log_gamma(key, a, (100,))))


@pytest.mark.parametrize("sampler", [gamma, log_gamma, chi, chi_square])
def test_bad_arguments(sampler, key):
    with pytest.raises(ValueError, match=r"Expected .* to be positive\. Got"):
        sampler(key, jnp.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="floating dtype"):
        sampler(key, jnp.array([1, 2]))
    assert np.array_equal(
        np.isnan(jax.jit(sampler)(key, jnp.array([1.0, -0.5, 0.0]))), [False, True, True]
    )


def test_normal_draws_are_float32_draws_widened(key):
    narrow, wide = normal(key, (20_000,), jnp.float32), normal(key, (20_000,), jnp.float64)
    assert (narrow.dtype, wide.dtype) == (jnp.float32, jnp.float64)
    assert np.array_equal(narrow.astype(jnp.float64), wide)
    assert scipy.stats.kstest(np.asarray(wide), "norm").pvalue > 1e-4
    with pytest.raises(ValueError, match="floating dtype"):
        normal(key, (3,), jnp.int32)
