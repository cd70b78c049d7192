"""Special functions against scipy, automatic differentiation and their own limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as sp

from dkp.linalg.special import gamma_root_moments, multidigamma, multigammaln, safe_sqrt

DTYPES = [jnp.float32, jnp.float64]
TOLERANCE = {jnp.float32: 2e-5, jnp.float64: 1e-12}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 2, 7, 100])
def test_multigammaln_is_scipys(p, dtype):
    a = (p - 1) / 2 + np.array([[0.01, 0.5, 3.0], [20.0, 500.0, 1e5]])
    expected = [
        [sp.multigammaln(value, p) for value in row]
        for row in np.asarray(jnp.asarray(a, dtype), float)
    ]
    got = multigammaln(jnp.asarray(a, dtype), p)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("p", [1, 3, 100])
def test_multidigamma_is_the_derivative_and_a_sum_of_digammas(p):
    a = (p - 1) / 2 + jnp.array([0.3, 2.0, 70.0])
    expected = sum(sp.digamma(np.asarray(a) - j / 2) for j in range(p))
    np.testing.assert_allclose(multidigamma(a, p), expected, rtol=1e-12)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(lambda a: multigammaln(a, p)))(a), expected, rtol=1e-10
    )
    second = sum(sp.polygamma(1, np.asarray(a) - j / 2) for j in range(p))
    np.testing.assert_allclose(
        jax.vmap(jax.grad(lambda a: multidigamma(a, p)))(a), second, rtol=1e-10
    )


def test_multigammaln_does_not_unroll():
    def size(p):
        return len(jax.make_jaxpr(lambda a: multigammaln(a, p))(2e3).eqns)

    assert size(1000) == size(10)


@pytest.mark.parametrize("function", [multigammaln, multidigamma])
def test_outside_the_domain_is_nan(function):
    assert np.array_equal(np.isnan(function(jnp.array([0.9, 1.0, 1.1]), 3)), [True, True, False])


@pytest.mark.parametrize("p", [0, -1, True])
def test_size_must_be_a_positive_integer(p):
    with pytest.raises(ValueError, match="Expected p to be"):
        multigammaln(jnp.array(5.0), p)


# (function, truth, its derivative, points inside the domain, points where the derivative is set to
# zero)
SAFE = [
    pytest.param(
        safe_sqrt,
        np.sqrt,
        lambda x: 0.5 / np.sqrt(x),
        [1e-12, 1e-3, 0.5, 7.0, 1e20],
        [0.0, -1e-9, -3.0],
        id="sqrt",
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("function", "truth", "derivative", "inside", "outside"), SAFE)
def test_inside_the_domain_it_is_the_function(function, truth, derivative, inside, outside, dtype):
    x = jnp.asarray(inside, dtype)
    exact = np.asarray(x, float)
    np.testing.assert_allclose(function(x), truth(exact), rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(jax.grad(function)))(x), derivative(exact), rtol=TOLERANCE[dtype]
    )
    np.testing.assert_allclose(
        jax.jit(jax.vmap(jax.jacfwd(function)))(x), derivative(exact), rtol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("function", "truth", "derivative", "inside", "outside"), SAFE)
def test_outside_the_domain_it_is_constant(function, truth, derivative, inside, outside, dtype):
    x = jnp.asarray(outside, dtype)
    edge = truth(np.clip(outside, 0, np.inf))
    np.testing.assert_allclose(function(x), edge, rtol=TOLERANCE[dtype])
    for order in (
        jax.grad,
        lambda f: jax.grad(jax.grad(f)),
        lambda f: jax.grad(jax.grad(jax.grad(f))),
    ):
        assert np.array_equal(jax.jit(jax.vmap(order(function)))(x), np.zeros(len(outside)))


@pytest.mark.parametrize(("function", "truth", "derivative", "inside", "outside"), SAFE)
def test_second_derivative_is_that_of_the_derivative(function, truth, derivative, inside, outside):
    x = np.asarray(inside[1:4])
    step = 1e-6
    numeric = (derivative(x + step) - derivative(x - step)) / (2 * step)
    np.testing.assert_allclose(
        jax.vmap(jax.hessian(function))(jnp.asarray(x)), numeric, rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("function", [safe_sqrt])
def test_nan_stays_nan(function):
    assert np.isnan(function(jnp.array(jnp.nan)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_of_roots_of_gamma_variables(dtype):
    """Against SciPy's Pochhammer symbol, and the first terms of the series, on both sides of where
    ours takes over."""
    a = jnp.asarray([1e-3, 0.3, 1.0, 5.5, 15.999, 16.001, 40.0, 1e3, 1e6], dtype)
    mean, variance = gamma_root_moments(a)
    assert mean.dtype == variance.dtype == dtype
    exact = np.asarray(a, float)
    truth = sp.poch(exact, 0.5)
    np.testing.assert_allclose(mean, truth, rtol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        variance[:-2], (exact - truth**2)[:-2], rtol=1e-3 if dtype == jnp.float32 else 1e-9
    )
    np.testing.assert_allclose(
        variance[-2:], 1 / 4 - 1 / (32 * exact[-2:]), rtol=max(1e-7, TOLERANCE[dtype])
    )


def test_moments_of_roots_have_derivatives():
    a = np.array([0.3, 5.5, 15.9, 16.1, 1e3])
    mean = np.exp(sp.gammaln(a + 0.5) - sp.gammaln(a))
    slope = mean * (sp.digamma(a + 0.5) - sp.digamma(a))
    np.testing.assert_allclose(
        jax.vmap(jax.grad(lambda a: gamma_root_moments(a)[0]))(jnp.asarray(a)), slope, rtol=1e-9
    )
    np.testing.assert_allclose(
        jax.vmap(jax.grad(lambda a: gamma_root_moments(a)[1]))(jnp.asarray(a)),
        1 - 2 * mean * slope,
        atol=1e-9,
    )
