"""Arc-cosine kernels against quadrature and Monte Carlo, and their accuracy where the angle is near
0 or pi."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dkp.gram.gram import Gram
from dkp.kernels import ArcCosine, Repeat
from dkp.kernels.angular import angle

COVARIANCES = [
    (0.3, 1.0, 2.0),
    (-0.9, 0.5, 1.8),
    (0.0, 1.0, 1.0),
    (1.1, 1.3, 0.95),
    (-0.999, 1.0, 1.0),
    (2e-3, 1e-6, 9.0),
]
DTYPES = [jnp.float32, jnp.float64]


def evaluate(order, *covariance, dtype=jnp.float64, normalised=False):
    return ArcCosine(order, normalised=normalised).evaluate(
        *(jnp.asarray(value, dtype) for value in covariance)
    )


def by_quadrature(order, kxy, kxx, kyy):
    """E[phi(u) phi(v)] as an integral over u > 0 of the closed conditional expectation of phi(v)
    given u."""
    spread = np.sqrt(kyy - kxy**2 / kxx)

    def integrand(z):
        mean = kxy / np.sqrt(kxx) * z
        if order == 0:
            return stats.norm.pdf(z) * stats.norm.cdf(mean / spread)
        rectified = mean * stats.norm.cdf(mean / spread) + spread * stats.norm.pdf(mean / spread)
        return np.sqrt(kxx) * z * stats.norm.pdf(z) * rectified

    return integrate.quad(integrand, 0, 12, points=[0.01, 0.1, 1.0], epsabs=1e-13, epsrel=1e-11)[0]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_expectation_by_quadrature(order, covariance):
    expected = by_quadrature(order, *covariance)
    np.testing.assert_allclose(evaluate(order, *covariance), expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(
        evaluate(order, *covariance, normalised=True), 2 * expected, rtol=1e-9, atol=1e-13
    )


@pytest.mark.parametrize("order", [0, 1])
def test_expectation_by_monte_carlo(order):
    # |z| > 5 happens by chance once in 1.7 million
    u, v = (
        np.random.default_rng(order)
        .multivariate_normal([0, 0], [[1.0, 0.3], [0.3, 2.0]], 200_000)
        .T
    )
    draws = (u > 0) * (v > 0) * (u * v) ** order
    z = (draws.mean() - evaluate(order, 0.3, 1.0, 2.0)) / (draws.std() / np.sqrt(draws.size))
    assert abs(z) < 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_perfect_correlation_and_zero_variance(dtype):
    # (k_xy, k_xx, k_yy) -> twice the expectation, order 0 and order 1
    for covariance, step, rectifier in [
        ((2.0, 1.0, 4.0), 1.0, 2.0),
        ((-2.0, 1.0, 4.0), 0.0, 0.0),
        ((0.0, 0.0, 4.0), 0.5, 0.0),
        ((0.0, 0.0, 0.0), 0.5, 0.0),
    ]:
        eps = float(jnp.finfo(dtype).eps)
        got = evaluate(0, *covariance, dtype=dtype, normalised=True)
        np.testing.assert_allclose(got, step, atol=eps)
        got = evaluate(1, *covariance, dtype=dtype, normalised=True)
        np.testing.assert_allclose(got, rectifier, atol=eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_slopes_at_perfect_correlation_and_zero_variance(dtype):
    slopes = jax.grad(ArcCosine(1).evaluate, argnums=(0, 1, 2))
    for covariance, expected in [
        ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)),
        ((-1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 1.0), (0.5, 0.0, 0.0)),
    ]:
        got = slopes(*(jnp.asarray(value, dtype) for value in covariance))
        np.testing.assert_allclose(got, expected, atol=2 * float(jnp.finfo(dtype).eps) ** 0.5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_near_the_diagonal_float32_is_accurate_to_a_few_units_in_the_last_place(sign):
    # the textbook formula sqrt(k_xx k_yy - k_xy^2) + (pi - t) k_xy has errors of 1e-4 here
    angles = np.logspace(-5, np.log10(np.pi / 2), 400)
    kxx, kyy = np.float32(1.3), np.float32(0.7)
    kxy = (sign * np.cos(angles) * np.sqrt(float(kxx) * float(kyy))).astype(np.float32)
    covariance = [jnp.asarray(np.broadcast_to(value, 400)) for value in (kxy, kxx, kyy)]
    cosine = np.clip(kxy.astype(float) / np.sqrt(float(kxx) * float(kyy)), -1, 1)
    t = np.arccos(cosine)
    expected = np.sqrt(float(kxx) * float(kyy)) * (np.sin(t) + (np.pi - t) * cosine) / np.pi
    np.testing.assert_allclose(
        ArcCosine(1).evaluate(*covariance), expected, atol=3 * np.finfo(np.float32).eps, rtol=0
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_angle_is_arccos_to_a_few_units_in_the_last_place(dtype):
    eps = np.finfo(dtype).eps
    gaps = np.logspace(np.log10(eps), 0, 2000)
    cosine = np.concatenate([1 - gaps, gaps - 1, [-1, 0, 1]]).astype(dtype)
    np.testing.assert_allclose(
        angle(jnp.asarray(cosine)), np.arccos(cosine.astype(float)), rtol=4 * eps, atol=0
    )
    np.testing.assert_array_equal(
        angle(jnp.asarray([1.5, -1.5], dtype)), np.asarray([0, np.pi], dtype)
    )


def test_scaling_a_point_scales_the_rectifier_and_not_the_step():
    small, large = (0.3e-8, 1e-16, 1.0), (0.3e8, 1e16, 1.0)
    for covariance, scale in ((small, 1e-8), (large, 1e8)):
        np.testing.assert_allclose(
            evaluate(1, *covariance), scale * evaluate(1, 0.3, 1.0, 1.0), rtol=1e-14
        )
        np.testing.assert_allclose(evaluate(0, *covariance), evaluate(0, 0.3, 1.0, 1.0), rtol=1e-14)


def test_fifty_rectified_layers_in_float32_are_those_in_float64():
    x = np.random.default_rng(0).normal(size=(12, 3))
    x = np.concatenate([x, x[:2], x[2:4] + 1e-3, -x[4:5]]).astype(np.float32)
    gram = x.astype(float) @ x.astype(float).T / 3
    deep = jax.jit(Repeat(ArcCosine(1), depth=50))
    narrow, wide = (
        deep(Gram(ii=jnp.asarray(gram, jnp.float32))).ii,
        deep(Gram(ii=jnp.asarray(gram))).ii,
    )
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)


def test_normalised_rectifier_keeps_the_diagonal():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    gram = jnp.asarray(x @ x.T)
    np.testing.assert_array_equal(jnp.diagonal(ArcCosine(1)(Gram(ii=gram)).ii), jnp.diagonal(gram))


@pytest.mark.parametrize("order", [-1, 3])
def test_unknown_order(order):
    with pytest.raises(ValueError, match=r"Expected ArcCosine\(order"):
        ArcCosine(order)
